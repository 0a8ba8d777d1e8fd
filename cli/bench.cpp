// icd bench rewrite --model X | --shape mamba-1.4b
// icd bench forward --model X
// icd bench model --shape mamba-1.4b -o OUT
// icd bench kernels, compare: bench_kernels.cpp, bench_compare.cpp
//
// Samples, all of them; interleaved, so that a noisy machine is noisy for every contender.
#include <unistd.h>

#include <chrono>
#include <memory>

#include "commands.h"
#include "icd/bench_forward.h"
#include "icd/bench_statistics.h"
#include "icd/digest.h"
#include "icd/random.h"
#include "icd/synthetic.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::string shape;
  std::string folder = ".";
  std::string output;
  int shards = 1;
  int repeats = 3;
  int threads = 0;
  Index sequences = 4;
  Index length = 512;
  bool json = false;
};

/// The samples of one contender.
struct Series {
  std::string name;
  std::vector<double> seconds;
};

nlohmann::ordered_json to_json(const std::vector<Series>& all) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Series& series : all) {
    json.push_back({{"name", series.name},
                    {"median_s", median(series.seconds)},
                    {"samples_s", series.seconds}});
  }
  return json;
}

template <typename Work>
void sample(Series& series, Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  series.seconds.push_back(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

/// A folder that is gone afterwards.
class Workplace {
 public:
  explicit Workplace(const fs::path& parent)
      : path_(fs::absolute(parent) / fmt::format("icd-bench-{}", getpid())) {
    fs::create_directories(path_);
  }
  ~Workplace() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

Mamba1Shape shape_of(const Options& options) {
  const auto shape = published_shape(options.shape);
  if (!shape) {
    throw Error(
        ErrorCode::usage,
        fmt::format("--shape: there is no '{}', expected mamba-130m to mamba-2.8b", options.shape));
  }
  return *shape;
}

int run_model(const Options& options, Context& context) {
  OutputFolder folder(options.output, OutputFolder::Existing::refuse, {});
  write_synthetic(shape_of(options), options.shards, 0, folder.staging(), context.terminal);
  folder.publish();
  context.terminal.print("wrote {}: random weights of {}'s shapes", options.output, options.shape);
  return kDone;
}

int run_rewrite(const Options& options, Context& context) {
  const Workplace workplace(options.folder);
  ModelOptions chosen = options.model;
  if (chosen.model.empty()) {
    const fs::path made = workplace / "model";
    fs::create_directories(made);
    write_synthetic(shape_of(options), options.shards, 0, made, context.terminal);
    chosen.model = made.string();
  }
  const LoadedModel model = load_model(chosen, context);
  PlanOptions plan_options;
  plan_options.solver = "random";
  plan_options.graph.data_free = true;
  const Plan plan = plan_for(model, plan_options, {}, "", context);
  const TensorMoves moves = expand(model.checkpoint, model.layout, plan.groups);

  std::vector<Series> all = {{"copy, on disk", {}},
                             {"SHA-256 of input and output, one after another", {}},
                             {"rewrite without digests, on disk", {}},
                             {"rewrite with digests, on disk", {}}};
  const fs::path target = workplace / "out";
  const auto rewrite_once = [&](bool digests) {
    OutputFolder folder(target, OutputFolder::Existing::refuse, {});
    rewrite(model.checkpoint, moves, folder.staging(),
            {.container = model.checkpoint.container(), .digests = digests}, context.terminal);
    folder.publish();
  };
  for (int i = 0; i < options.repeats; ++i) {
    sample(all[0], [&] {
      OutputFolder folder(target, OutputFolder::Existing::refuse, {});
      for (const auto& file : model.checkpoint.files()) folder.copy(file->path, file->name);
      folder.publish();
    });
    sample(all[1], [&] {
      for (const auto& file : model.checkpoint.files()) {
        sha256_of_file(file->path);
        sha256_of_file(target / file->name);
      }
    });
    fs::remove_all(target);
    sample(all[2], [&] { rewrite_once(false); });
    fs::remove_all(target);
    sample(all[3], [&] { rewrite_once(true); });
    fs::remove_all(target);
  }
  std::int64_t bytes = 0;
  for (const auto& file : model.checkpoint.files()) bytes += file->bytes;
  const double copy = median(all[0].seconds);
  const double copy_and_hash = copy + median(all[1].seconds);
  const double plain_ratio = median(all[2].seconds) / copy;
  const double digest_ratio = median(all[3].seconds) / copy_and_hash;
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.bench.rewrite/1"},
                                 {"bytes", bytes},
                                 {"series", to_json(all)},
                                 {"rewrite_to_copy", plain_ratio},
                                 {"rewrite_with_digests_to_copy_and_hash", digest_ratio}});
    return kDone;
  }
  context.terminal.print("{} of weights, {} rounds, interleaved", bytes_text(bytes),
                         options.repeats);
  for (const Series& series : all) {
    context.terminal.print("  {:48} {:8.3f} s  [{:.3f}]", series.name, median(series.seconds),
                           fmt::join(series.seconds, ", "));
  }
  context.terminal.print("rewrite / copy = {:.2f}; with digests / (copy + hashes) = {:.2f}",
                         plain_ratio, digest_ratio);
  return kDone;
}

int run_forward(const Options& options, Context& context) {
  const LoadedModel model = load_model(options.model, context);
  const ForwardBench bench =
      bench_forward(model.checkpoint, model.spec, {options.sequences, options.length},
                    options.threads, options.repeats);
  std::vector<Series> all;
  const auto add = [&](const char* name, const std::vector<double>& seconds) {
    if (!seconds.empty()) all.push_back({name, seconds});
  };
  add("forward, fixed order", bench.fixed_order);
  add("forward, oneDNN", bench.onednn);
  add("its matrix products alone, fixed order", bench.gemms_fixed_order);
  add("its matrix products alone, oneDNN", bench.gemms_onednn);
  if (options.json) {
    context.terminal.print_json(
        {{"schema", "icd.bench.forward/1"}, {"tokens", bench.tokens}, {"series", to_json(all)}});
    return kDone;
  }
  context.terminal.print("{} x {} tokens, {} rounds, interleaved", options.sequences,
                         options.length, options.repeats);
  for (const Series& series : all) {
    context.terminal.print("  {:40} {:10.0f} tokens/s  [{:.3f} s]", series.name,
                           static_cast<double>(bench.tokens) / median(series.seconds),
                           fmt::join(series.seconds, ", "));
  }
  return kDone;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& bench =
      *app.add_subcommand("bench", "time what icd does against plain peers, in one run");
  bench.require_subcommand(1);
  bench.footer("Example: icd bench forward --model experiments/models/mamba-novels-2m-hf");

  const auto common = [&](CLI::App& command) {
    command.add_option("--model", options->model.model, "the checkpoint to use")->type_name("X");
    command.add_option("--repeats", options->repeats, "rounds")
        ->type_name("N")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command.add_flag("--json", options->json, "one JSON object on standard output");
  };
  CLI::App& rewrite_command =
      *bench.add_subcommand("rewrite", "re-ordering against copying and hashing");
  common(rewrite_command);
  rewrite_command
      .add_option("--shape", options->shape, "make a random checkpoint: mamba-130m to mamba-2.8b")
      ->type_name("S")
      ->excludes(rewrite_command.get_option("--model"));
  rewrite_command.add_option("--shards", options->shards, "files of the made checkpoint")
      ->type_name("N")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  rewrite_command
      .add_option("--folder", options->folder, "where to work; takes three times the checkpoint")
      ->type_name("DIR")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  rewrite_command.footer("Example: icd bench rewrite --shape mamba-130m --folder /tmp");
  rewrite_command.callback([options, &action] {
    if (options->model.model.empty() && options->shape.empty()) {
      throw CLI::ValidationError("bench rewrite", "--model or --shape is required");
    }
    action = [options](Context& context) { return run_rewrite(*options, context); };
  });

  CLI::App& forward_command =
      *bench.add_subcommand("forward", "the model on the CPU against its matrix products");
  common(forward_command);
  forward_command.get_option("--model")->required();
  forward_command.add_option("--sequences", options->sequences, "sequences of the batch")
      ->type_name("N")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  forward_command.add_option("--length", options->length, "tokens in a sequence")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  forward_command.add_option("-t,--threads", options->threads, "threads; 0 as many as there are")
      ->type_name("N")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  forward_command.footer(
      "Example: icd bench forward --model experiments/models/mamba-novels-2m-hf");
  forward_command.callback([options, &action] {
    action = [options](Context& context) { return run_forward(*options, context); };
  });

  CLI::App& model_command = *bench.add_subcommand(
      "model", "a checkpoint of a published shape, for timing by other means");
  model_command.add_option("--shape", options->shape, "mamba-130m to mamba-2.8b")
      ->type_name("S")
      ->required();
  model_command.add_option("--shards", options->shards, "files of the checkpoint")
      ->type_name("N")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  model_command.add_option("-o,--output", options->output, "the folder to write")
      ->type_name("OUT")
      ->required();
  model_command.footer("Example: icd bench model --shape mamba-130m -o /tmp/mamba-130m");
  model_command.callback([options, &action] {
    action = [options](Context& context) { return run_model(*options, context); };
  });

  add_bench_kernels(bench, action);
  add_bench_compare(bench, action);
}

}  // namespace icd::cli
