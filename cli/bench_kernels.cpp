// icd bench kernels [--shape S | --model X]
//
// Every order runs on the same addresses, interleaved with the identity and with the identity once
// more; see kernels/bench_run.h.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "bench_report.h"
#include "commands.h"
#include "icd/digest.h"
#include "icd/layer_activations.h"
#include "icd/synthetic.h"
#include "kernels/bench_run.h"
#include "kernels/device.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

constexpr std::int64_t kTokens = 1024;  // of a checkpoint's text, repeated as often as needed

struct Options {
  ModelOptions model;
  Index layer = -1;
  std::string plan;
  std::vector<std::string> shapes = {"mamba-130m", "mamba-2.8b"};
  std::vector<std::int64_t> batches = {1, 64};
  std::vector<std::int64_t> lengths = {2048};
  BenchRequest request;
  std::string counters = "auto";
  std::string commit;
  std::string markdown;
  bool json = false;
  bool ranges = false;
};

CounterMode mode_of(const std::string& word) {
  return word == "cupti" ? CounterMode::cupti
         : word == "ncu" ? CounterMode::ncu
         : word == "off" ? CounterMode::off
                         : CounterMode::automatic;
}

std::string digest_of(const BenchInputs& inputs) {
  Sha256 digest;
  const auto add = [&](const auto& values) { digest.update(std::as_bytes(std::span(values))); };
  for (const auto* values : {&inputs.A, &inputs.D, &inputs.dt_bias, &inputs.conv, &inputs.timescale,
                             &inputs.u, &inputs.dt, &inputs.z, &inputs.B, &inputs.C}) {
    add(*values);
  }
  for (const std::vector<float>& row : inputs.sparse_rows) add(row);
  add(inputs.is_active);
  add(inputs.is_kept);
  digest.update(std::as_bytes(inputs.solved.gather()));
  return digest.hex();
}

/// The values of a layer of a checkpoint, and the order that a plan has for it.
BenchInputs inputs_of_model(const Options& options, const LoadedModel& model, Context& context) {
  if (model.spec.architecture != "mamba1" || !has_model(model.layout)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {}: expected a Mamba-1 language model", model.layout.name));
  }
  const Index layer = options.layer >= 0 ? options.layer : model.spec.n_layer / 2;
  const std::string group = fmt::format("layers.{}/inner", layer);
  Plan plan;
  if (!options.plan.empty()) {
    plan = Plan::read(options.plan);
    check_plan(plan, model.checkpoint, model.layout);
  } else {
    PlanOptions wanted;
    wanted.groups.layers = {std::to_string(layer)};
    plan = plan_for(model, wanted, {}, "", context);
  }
  const auto solved = plan.groups.find(group);
  if (solved == plan.groups.end()) {
    throw Error(ErrorCode::input,
                fmt::format("plan: has no order of {}, which --layer asks for", group));
  }
  TokenSource source = token_source({}, model);
  if (std::ssize(source.ids) > kTokens) source.ids.resize(kTokens);
  const auto forward = fast_model(model.checkpoint, model.spec);
  return layer_inputs(
      layer_activations(model.checkpoint, model.spec, *forward, layer, source.ids), solved->second,
      fmt::format("layer {} of {} on {} tokens of {}; solved: {} on {}", layer, options.model.model,
                  source.ids.size(), source.words, plan.solver, plan.objective));
}

std::vector<BenchShape> shapes_of(const Options& options, const LoadedModel* model) {
  std::vector<BenchShape> sizes;
  if (model != nullptr) {
    sizes.push_back({.model = std::filesystem::path(options.model.model).filename().string(),
                     .d_model = model->spec.d_model,
                     .d_inner = model->spec.d_inner,
                     .d_state = model->spec.d_state,
                     .d_conv = model->spec.d_conv});
  } else {
    for (const std::string& name : options.shapes) {
      const auto shape = published_shape(name);
      if (!shape) {
        throw Error(
            ErrorCode::usage,
            fmt::format("--shape: there is no '{}', expected mamba-130m to mamba-2.8b", name));
      }
      sizes.push_back({.model = name,
                       .d_model = shape->d_model,
                       .d_inner = shape->d_inner(),
                       .d_state = shape->d_state,
                       .d_conv = shape->d_conv});
    }
  }
  std::vector<BenchShape> shapes;
  for (BenchShape shape : sizes) {
    for (const std::int64_t batch : options.batches) {
      for (const std::int64_t length : options.lengths) {
        shape.batch = batch;
        shape.length = length;
        shapes.push_back(shape);
      }
    }
  }
  return shapes;
}

/// This program and what makes it run the same cells once, for a parent's ncu to watch.
std::vector<std::string> child_of(const Options& options) {
  std::vector<std::string> child = {std::filesystem::read_symlink("/proc/self/exe").string(),
                                    "--quiet",
                                    "bench",
                                    "kernels",
                                    "--ranges",
                                    "--counters",
                                    "off",
                                    "--seed",
                                    std::to_string(options.request.seed)};
  const auto add = [&](const char* name, const auto& values) {
    for (const auto& value : values) {
      child.insert(child.end(), {name, fmt::format("{}", value)});
    }
  };
  if (!options.model.model.empty()) {
    add("--model", std::vector{options.model.model});
    if (options.layer >= 0) add("--layer", std::vector{options.layer});
    if (!options.plan.empty()) add("--plan", std::vector{options.plan});
  } else {
    add("--shape", options.shapes);
  }
  add("--batch", options.batches);
  add("--length", options.lengths);
  add("--kernel", options.request.kernels);
  add("--cache", options.request.caches);
  return child;
}

int run(const Options& options, Context& context) {
  BenchRequest request = options.request;
  request.counters = mode_of(options.counters);
  request.child = child_of(options);
  cells_of(request);  // a kernel that there is not is said before anything is read
  if (const std::string why = why_no_device(); !why.empty()) {
    throw Error(ErrorCode::unavailable, why, "`icd doctor` says what this machine has");
  }
  std::unique_ptr<LoadedModel> model;
  if (!options.model.model.empty()) {
    model = std::make_unique<LoadedModel>(load_model(options.model, context));
  }
  request.shapes = shapes_of(options, model.get());

  BenchRecord record{.command = context.command_line,
                     .commit = options.commit,
                     .rounds = request.rounds,
                     .seed = request.seed,
                     .inputs = {}};
  std::map<std::string, BenchInputs> made;
  const BenchInputsOf inputs = [&](const BenchShape& shape) -> const BenchInputs& {
    const auto found = made.find(shape.model);
    if (found != made.end()) return found->second;
    const BenchInputs& values =
        made.emplace(shape.model, model ? inputs_of_model(options, *model, context)
                                        : synthetic_inputs(shape, request.seed))
            .first->second;
    record.inputs.push_back({shape.model, values.source, digest_of(values)});
    return values;
  };
  if (options.ranges) {
    run_ranges(request, inputs);
    return kDone;
  }
  const auto cells = static_cast<std::int64_t>(cells_of(request).size());
  context.terminal.start("measuring", cells, "cells");
  bool is_first = true;
  const BenchResult result = run_bench(request, inputs, [&](const std::string& next) {
    // an empty line is a round: a chance for Ctrl-C
    context.terminal.advance(next.empty() || is_first ? 0 : 1, next);
    if (!next.empty()) is_first = false;
  });
  if (!options.markdown.empty()) write_atomically(options.markdown, markdown_of(result, record));
  if (options.json) {
    context.terminal.print("{}", json_of(result, record));
  } else {
    for (const BenchCell& cell : result.cells) {
      context.terminal.print("{}", cell_name(cell));
      if (!cell.skipped.empty()) {
        context.terminal.print("  skipped: {}", cell.skipped);
        continue;
      }
      for (const BenchSeries& one : cell.series) {
        const std::optional<double> counted = cell.counted(one);
        context.terminal.print(
            "  {:12} {:10.2f} us  {:.3f} [{:.3f}, {:.3f}]  predicted {:5.2f}  counted {:>5}  {}",
            one.order, one.median_us(), one.ratio.median, one.ratio.low, one.ratio.high,
            one.predicted, counted ? fmt::format("{:.2f}", *counted) : "-", to_string(one.verdict));
      }
      context.terminal.print("  A/A {:.2f} %, bar {:.2f} %: {} control, {}", 100 * cell.noise,
                             100 * cell.bar, to_string(cell.kernel.control),
                             to_string(cell.outcome()));
    }
    for (const std::string& line : summary_of(result)) context.terminal.print("{}", line);
  }
  return controls_hold(result) ? kDone : kAnswerIsNo;
}

}  // namespace

void add_bench_kernels(CLI::App& bench, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *bench.add_subcommand("kernels", "what orders of channels do to GPU kernels, with controls");
  command.add_option("--model", options->model.model, "a checkpoint, for real activations")
      ->type_name("X");
  command.add_option("--layer", options->layer, "of the model; its middle one if not given")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber)
      ->needs("--model");
  command.add_option("--plan", options->plan, "the solved order of the layer, else it is solved")
      ->type_name("PLAN")
      ->needs("--model");
  command.add_option("--shape", options->shapes, "sizes of models, with random values")
      ->type_name("S")
      ->excludes("--model")
      ->capture_default_str();
  command.add_option("--batch", options->batches, "sequences")
      ->type_name("N")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--length", options->lengths, "tokens, for kernels over sequences")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--kernel", options->request.kernels, "only these: name, or 'name layout'")
      ->type_name("K");
  command.add_option("--cache", options->request.caches, "state of L2: cold, warm")
      ->type_name("C")
      ->check(CLI::IsMember({"cold", "warm"}))
      ->capture_default_str();
  command.add_option("--rounds", options->request.rounds, "samples of each order")
      ->type_name("N")
      ->check(CLI::Range(2, 10000))
      ->capture_default_str();
  command.add_option("--seed", options->request.seed, "of values and random orders")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--counters", options->counters, "auto, cupti, ncu or off")
      ->type_name("M")
      ->check(CLI::IsMember({"auto", "cupti", "ncu", "off"}))
      ->capture_default_str();
  command.add_option("--cupti", options->request.cupti, "libcupti.so or its folder")
      ->type_name("PATH");
  command.add_option("--ncu", options->request.ncu, "Nsight Compute's program")
      ->type_name("PROG")
      ->capture_default_str();
  command.add_option("--commit", options->commit, "of this program's sources, for the record")
      ->type_name("TEXT");
  command.add_option("--markdown", options->markdown, "a report to write")->type_name("FILE");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.add_flag("--ranges", options->ranges)->group("");  // of a child under ncu
  command.footer("Example: icd bench kernels --shape mamba-2.8b --kernel selective-scan");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
