#include "pipeline.h"

#include <fmt/ranges.h>
#include <omp.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "icd/digest.h"
#include "icd/error.h"
#include "icd/text_file.h"
#include "icd/tokenizer.h"
#include "icd/version.h"
#include "kernels/gpu_model.h"

namespace icd::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kMaxTextBytes = std::int64_t{1} << 30;

const char* environment(const char* name) { return std::getenv(name); }

/// Ids of a text through the tokenizer of the model, or the one that was named.
std::vector<TokenId> encoded(std::string_view text, const TokenOptions& options,
                             const LoadedModel& model) {
  const fs::path file = options.tokenizer.empty() ? model.checkpoint.folder() / "tokenizer.json"
                                                  : fs::path(options.tokenizer);
  if (!fs::exists(file)) {
    throw Error(ErrorCode::input, fmt::format("{}: no such file", file.string()),
                "--tokenizer FILE names a tokenizer.json, --tokens FILE gives ids");
  }
  return Tokenizer::open(file).encode(text);
}

/// `source`, which a person has chosen, if the model can run on it.
TokenSource checked(TokenSource source, const LoadedModel& model) {
  constexpr std::size_t kFewest = 4;  // a sequence of two to solve on, another to score on
  if (source.ids.size() < kFewest) {
    throw Error(ErrorCode::input, fmt::format("{}: has {} tokens, expected at least {}",
                                              source.words, source.ids.size(), kFewest));
  }
  for (std::size_t i = 0; i < source.ids.size(); ++i) {
    if (source.ids[i] >= 0 && source.ids[i] < model.spec.vocab) continue;
    throw Error(ErrorCode::input,
                fmt::format("{}: token {} is {}, expected 0 to {}, the model's vocabulary",
                            source.words, i, source.ids[i], model.spec.vocab - 1),
                "ids have to come from this model's tokenizer");
  }
  return source;
}

bool has_tokenizer(const TokenOptions& options, const LoadedModel& model) {
  return !options.tokenizer.empty() || fs::exists(model.checkpoint.folder() / "tokenizer.json");
}

std::uint64_t available_bytes(const fs::path& folder) {
  std::error_code failure;
  const fs::space_info space = fs::space(folder, failure);
  return failure ? UINT64_MAX : space.available;
}

}  // namespace

void ModelOptions::add_to(CLI::App& command) {
  command
      .add_option("--model", model, "a folder, a weight file, or a name in the Hugging Face cache")
      ->required()
      ->type_name("X");
  add_layout_to(command);
}

void ModelOptions::add_layout_to(CLI::App& command) {
  command.add_option("--config", config, "a config.json that is not beside the weights")
      ->type_name("FILE");
  command
      .add_option("--layout", layout, "what it is: auto, mixers, a table by name or a FILE.layout")
      ->type_name("L")
      ->capture_default_str();
  command.add_option("--set", settings, "a size that shapes and config do not tell: ngroups=2")
      ->delimiter(',')
      ->type_name("NAME=N");
}

LayoutRequest ModelOptions::request() const {
  LayoutRequest request{.name = layout, .settings = {}};
  for (const std::string& setting : settings) {
    const auto equals = setting.find('=');
    Index value = 0;
    const char* end = setting.data() + setting.size();
    if (equals != std::string::npos) {
      const auto parsed = std::from_chars(setting.data() + equals + 1, end, value);
      if (parsed.ec == std::errc() && parsed.ptr == end && value >= 0 && equals > 0) {
        request.settings[setting.substr(0, equals)] = value;
        continue;
      }
    }
    throw Error(ErrorCode::usage,
                fmt::format("--set: '{}' is no setting, expected NAME=N", setting),
                "for example --set ngroups=2");
  }
  return request;
}

LoadedModel load_model(const ModelOptions& options, Context& context) {
  return load_model(options, options.request(), context);
}

namespace {

/// A few by name; of many, as around mixers in a larger network, how many there are.
void warn_of_strangers(const Layout& layout, Terminal& terminal) {
  constexpr std::size_t kFew = 4;
  const auto& names = layout.strangers;
  for (std::size_t i = 0; i < names.size() && i < kFew; ++i) {
    terminal.warn(
        fmt::format("tensor '{}': is not part of {}: carried as it is", names[i], layout.name));
  }
  if (names.size() > kFew) {
    terminal.warn(
        fmt::format("and {} more tensors: carried as they are; `icd inspect --json` "
                    "lists them",
                    names.size() - kFew));
  }
}

}  // namespace

LoadedModel load_model(const ModelOptions& options, const LayoutRequest& request,
                       Context& context) {
  LoadedModel model;
  model.resolved = resolve_model(options.model, environment);
  OpenOptions open;
  if (!options.config.empty()) open.config = options.config;
  model.checkpoint = Checkpoint::open(model.resolved.path, open);
  model.layout = layout_of(model.checkpoint, request);
  model.spec = model.layout.spec;
  for (const std::string& name : model.checkpoint.left_out()) {
    context.terminal.warn(
        fmt::format("{}: other weights, in the old order: not carried along", name));
  }
  if (model.layout.name == "mixers" && request.name == "auto") {
    context.terminal.warn(fmt::format(
        "{}: no table knows this model: its mixers are re-ordered, each by itself, and no more",
        model.resolved.path.string()));
  }
  warn_of_strangers(model.layout, context.terminal);
  return model;
}

void TokenOptions::add_to(CLI::App& command) {
  auto* text_option = command.add_option("--text", text, "text to run the model on (UTF-8)");
  text_option->type_name("FILE")->check(CLI::ExistingFile);
  command.add_option("--tokens", tokens, "or token ids: .npy, .safetensors or text")
      ->type_name("FILE")
      ->check(CLI::ExistingFile)
      ->excludes(text_option);
  command.add_option("--tokenizer", tokenizer, "a tokenizer.json that is not beside the weights")
      ->type_name("FILE");
  command.add_option("--length", length, "tokens in a sequence")
      ->type_name("N")
      ->check(CLI::Range(2, 1 << 20).description(""))
      ->capture_default_str();
  command.add_option("--limit", limit, "tokens in all")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{4}, std::int64_t{1} << 32).description(""))
      ->capture_default_str();
  command.add_option("--heldout", heldout, "share of the sequences that is only scored on")
      ->type_name("X")
      ->check(CLI::Range(0.0, 0.9).description(""))
      ->capture_default_str();
}

TokenSource token_source(const TokenOptions& options, const LoadedModel& model) {
  if (!options.tokens.empty()) {
    return checked({read_tokens(options.tokens), fs::path(options.tokens).filename().string()},
                   model);
  }
  if (!options.text.empty()) {
    const std::string words = fs::path(options.text).filename().string();
    const std::string text = read_text(options.text, kMaxTextBytes);
    try {
      return checked({encoded(text, options, model), words}, model);
    } catch (const Error& error) {  // the tokenizer knows the text, not its file
      if (!std::string_view(error.what()).starts_with("text: ")) throw;
      throw Error(error.code(), words + std::string(error.what()).substr(4), error.hint());
    }
  }
  if (has_tokenizer(options, model)) {
    return checked({encoded(builtin_text(), options, model), "the built-in text"}, model);
  }
  return {random_tokens(model.spec.vocab, options.limit, 0), "random ids", false};
}

void no_such(std::string_view option, std::string_view given,
             const std::vector<std::string_view>& names, const char* where) {
  throw Error(ErrorCode::usage,
              fmt::format("{}: there is no '{}', expected one of {}", option, given,
                          fmt::join(names, ", ")),
              where);
}

void add_threads_option(CLI::App& command) {
  command
      .add_option_function<int>(
          "-t,--threads", [](int threads) { omp_set_num_threads(threads); },
          "threads to compute with; the result does not depend on it")
      ->type_name("N")
      ->check(CLI::Range(1, 1024).description(""));
}

void DeviceOptions::add_to(CLI::App& command, const char* about_device) {
  command.add_option("--device", device, about_device)->type_name("D");
}

Place DeviceOptions::place(const LoadedModel& model, int models) const {
  const DeviceRequest request = is_given() ? DeviceRequest::parse(device) : DeviceRequest();
  Place place = choose_place(request);
  if (!place.device) return place;
  try {
    check_gpu_model(model.checkpoint, model.layout, *place.device, models);
  } catch (const Error& error) {
    const bool is_choosing = request.kind == DeviceRequest::Kind::automatic;
    const bool is_about_device =
        error.code() == ErrorCode::unsupported || error.code() == ErrorCode::unavailable;
    if (!is_choosing || !is_about_device) throw;
    return cpu_because(error.what());
  }
  return place;
}

void DeviceOptions::print(const Place& place, Terminal& terminal) const {
  if (!is_given()) return;
  terminal.print("ran on {}{}", place.words,
                 place.why_cpu.empty() ? "" : fmt::format(" ({})", place.why_cpu));
}

void DeviceOptions::add_to(Json& json, const Place& place) const {
  if (!is_given()) return;
  json["ran_on"] = place.words;
  if (!place.why_cpu.empty()) json["why_cpu"] = place.why_cpu;
}

std::unique_ptr<LanguageModel<float>> model_at(const Place& place, const Checkpoint& checkpoint,
                                               const Layout& layout) {
  if (!place.device) return fast_model(checkpoint, layout);
  return gpu_model(checkpoint, layout, {.device = *place.device});
}

VerifyOptions verify_options(const TokenOptions& options, const LoadedModel& model,
                             const Place& place, bool in_double) {
  // Enough to meet every channel in many states; the plain reference is a hundred times slower.
  constexpr Index kLength = 64;
  constexpr Index kSequences = 4;
  VerifyOptions verify;
  verify.in_double = in_double;
  verify.make_model = [place](const Checkpoint& checkpoint, const Layout& layout) {
    return model_at(place, checkpoint, layout);
  };
  if (!has_model(model.layout)) return verify;  // blocks are run on random inputs
  const TokenSource source = token_source(options, model);
  const auto ids = static_cast<std::int64_t>(source.ids.size());
  verify.shape.length = static_cast<Index>(std::min<std::int64_t>(kLength, ids));
  verify.shape.sequences = static_cast<Index>(
      std::min<std::int64_t>(kSequences, ids / std::max<Index>(verify.shape.length, 1)));
  verify.tokens.assign(source.ids.begin(), source.ids.begin() + verify.shape.rows());
  return verify;
}

Json to_json(const VerifyReport& report) {
  Json json = {{"equivalent", report.equivalent()}, {"proof", report.proof}};
  if (report.bytes_equal) json["undoing_gives_back_every_byte"] = *report.bytes_equal;
  if (!report.first_byte_fault.empty()) json["first_byte_fault"] = report.first_byte_fault;
  if (!report.first_apart.empty()) json["first_apart"] = report.first_apart;
  json["logits"] = Json::array();
  for (const LogitDifference& logits : report.logits) {
    json["logits"].push_back({{"arithmetic", logits.arithmetic},
                              {"tokens", logits.rows},
                              {"largest_logit", logits.largest_logit},
                              {"max_abs", logits.max_abs},
                              {"relative", logits.relative()},
                              {"tolerance", logits.tolerance},
                              {"relative_l2", logits.relative_l2},
                              {"mean_kl_nats", logits.mean_kl},
                              {"top1_agreement", logits.top1_agreement},
                              {"non_finite", logits.non_finite}});
  }
  if (!report.blocks.empty()) json["blocks"] = Json::array();
  for (const BlockDifference& block : report.blocks) {
    json["blocks"].push_back({{"block", block.block},
                              {"type", block.type},
                              {"arithmetic", block.arithmetic},
                              {"rows", block.rows},
                              {"largest", block.largest},
                              {"max_abs", block.max_abs},
                              {"relative", block.relative()},
                              {"tolerance", block.tolerance}});
  }
  if (!report.not_run.empty()) json["not_run"] = report.not_run;
  return json;
}

Json to_json(const std::vector<GroupScore>& scores) {
  Json json = Json::array();
  for (const GroupScore& score : scores) {
    Json row = {{"group", score.group},
                {"objective", score.objective},
                {"calibration",
                 {{"before", score.calibration_before}, {"after", score.calibration_after}}}};
    if (score.heldout_before) {
      row["heldout"] = {{"before", *score.heldout_before}, {"after", *score.heldout_after}};
    }
    json.push_back(std::move(row));
  }
  return json;
}

Json to_json(const std::vector<FileDigest>& files) {
  Json json = Json::array();
  for (const FileDigest& file : files) {
    json.push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return json;
}

std::string in_words(const LoadedModel& model) {
  const ModelSpec& spec = model.spec;
  std::set<std::string> dtypes;
  std::int64_t bytes = 0;
  for (const StoredTensor& tensor : model.checkpoint.tensors()) dtypes.insert(tensor.dtype_text);
  for (const auto& file : model.checkpoint.files()) bytes += file->bytes;
  std::vector<std::string> sizes;
  const auto add = [&](std::string_view what, Index size) {
    if (size > 0) sizes.push_back(fmt::format("{} {}", what, size));
  };
  if (spec.n_layer > 0) sizes.push_back(fmt::format("{} layers", spec.n_layer));
  add("d_model", spec.d_model);
  add("d_inner", spec.d_inner);
  add("d_state", spec.d_state);
  if (spec.n_layer == 0) sizes = {fmt::format("{} mixers", model.layout.blocks.size())};
  const std::string names = spec.dialect.empty() ? "" : fmt::format(" in {} names", spec.dialect);
  return fmt::format(
      "{}{}, {}, {} {} file{}, {}; {}", spec.architecture, names, fmt::join(dtypes, "/"),
      model.checkpoint.files().size(), container_name(model.checkpoint.container()),
      model.checkpoint.files().size() == 1 ? "" : "s", bytes_text(bytes), fmt::join(sizes, ", "));
}

void print_scores(const Plan& plan, Terminal& terminal) {
  if (plan.scores.empty()) return;
  terminal.print("{:24} {:>22} {:>22}", plan.objective, "calibration", "held out");
  for (const GroupScore& score : plan.scores) {
    const std::string heldout =
        score.heldout_before
            ? fmt::format("{:8.4f} -> {:8.4f}", *score.heldout_before, *score.heldout_after)
            : "";
    terminal.print(
        "  {:22} {:>22} {:>22}", score.group,
        fmt::format("{:8.4f} -> {:8.4f}", score.calibration_before, score.calibration_after),
        heldout);
  }
}

namespace {

/// The worst block of each arithmetic, and how many were run.
void print_blocks(const VerifyReport& report, Terminal& terminal) {
  for (const std::string_view arithmetic : {"f32", "f64"}) {
    const BlockDifference* worst = nullptr;
    for (const BlockDifference& block : report.blocks) {
      if (block.arithmetic != arithmetic) continue;
      if (worst == nullptr || block.relative() > worst->relative()) worst = &block;
    }
    if (worst == nullptr) continue;
    terminal.print(
        "{}, in {}: max|difference| / max|output| = {:.2g} at most (tolerance {:.0e}), in '{}'",
        report.proof, arithmetic, worst->relative(), worst->tolerance, worst->block);
  }
  if (!report.not_run.empty()) {
    terminal.print("{} of a kind that icd cannot run: {}",
                   report.bytes_equal ? "compared by bytes alone, being" : "not compared, being",
                   fmt::join(report.not_run, ", "));
  }
}

}  // namespace

void print_report(const VerifyReport& report, Terminal& terminal) {
  if (report.bytes_equal) {
    terminal.print("undoing the plan {}",
                   *report.bytes_equal
                       ? "gives back every byte"
                       : "does not give back the original: " + report.first_byte_fault);
  }
  for (const LogitDifference& logits : report.logits) {
    terminal.print(
        "logits in {} on {} tokens: max|difference| / max|logit| = {:.2g} (tolerance {:.0e})",
        logits.arithmetic, logits.rows, logits.relative(), logits.tolerance);
    terminal.print(
        "  max|difference| {:.3g}, relative L2 {:.2g}, KL {:.2g} nats, same top-1 {:.2f} %",
        logits.max_abs, logits.relative_l2, logits.mean_kl, 100 * logits.top1_agreement);
    if (logits.non_finite > 0) {
      terminal.print("  {} logits are NaN or infinite in both models alike", logits.non_finite);
    }
  }
  print_blocks(report, terminal);
  if (!report.first_apart.empty())
    terminal.print("the outputs first part at {}", report.first_apart);
  terminal.print("{}", report.equivalent() ? "equivalent" : "NOT equivalent");
}

void OutputOptions::add_to(CLI::App& command, const char* about_output) {
  command.add_option("-o,--output", output, about_output)->type_name("OUT");
  command.add_option("--format", format, "same, safetensors or bin (pytorch_model.bin)")
      ->type_name("F")
      ->check(CLI::IsMember({"same", "safetensors", "bin"}).description(""))
      ->capture_default_str();
  command.add_flag("--force", force, "replace an output folder that is there");
  command.add_flag("--no-digests", no_digests, "do not compute SHA-256 of weight files");
}

Container OutputOptions::container(const Checkpoint& checkpoint) const {
  if (format == "same") return checkpoint.container();
  return format == "bin" ? Container::torch : Container::safetensors;
}

LayoutRequest request_of(const Plan& plan, const ModelOptions& options) {
  LayoutRequest request = plan.request();
  LayoutRequest asked = options.request();
  if (asked.name != "auto") request.name = asked.name;
  asked.settings.merge(request.settings);
  request.settings = std::move(asked.settings);
  return request;
}

fs::path input_of(const LoadedModel& model) {
  return fs::is_directory(model.resolved.path) ? model.checkpoint.folder() : model.resolved.path;
}

fs::path default_output(const ResolvedModel& model) {
  std::string name;
  if (model.repository.empty()) {
    const fs::path path = fs::weakly_canonical(model.path / ".");
    name = (path.has_filename() ? path : path.parent_path()).stem().string();
    if (fs::is_directory(model.path)) {
      name = (path.has_filename() ? path : path.parent_path()).filename().string();
    }
  } else {
    name = model.repository.substr(model.repository.find('/') + 1);
  }
  return name + "-icd";
}

void check_room(const LoadedModel& model, const OutputFolder& folder) {
  const Checkpoint& checkpoint = model.checkpoint;
  std::uint64_t needed = 0;
  for (const auto& file : checkpoint.files()) needed += static_cast<std::uint64_t>(file->bytes);
  for (const std::string& name : checkpoint.side_files()) {
    needed += fs::file_size(checkpoint.folder() / name);
  }
  if (const std::uint64_t available = available_bytes(folder.staging()); available < needed) {
    throw Error(
        ErrorCode::io,
        fmt::format("{}: the disk has {} left, the model takes {}", folder.target().string(),
                    bytes_text(static_cast<std::int64_t>(available)),
                    bytes_text(static_cast<std::int64_t>(needed))),
        "free some space, or name another place with -o");
  }
}

RewriteReport write_model(const LoadedModel& model, const TensorMoves& moves, OutputFolder& folder,
                          const OutputOptions& options, std::vector<FileDigest>& side_files,
                          Context& context) {
  const Checkpoint& checkpoint = model.checkpoint;
  RewriteOptions rewriting{.container = options.container(checkpoint),
                           .digests = !options.no_digests};
  if (model.spec.tied_head && rewriting.container != checkpoint.container()) {
    // safetensors hold a tied tensor once; mamba-ssm wants both names in a pytorch_model.bin.
    if (rewriting.container == Container::safetensors) {
      rewriting.omitted.insert(model.spec.head());
    } else {
      rewriting.aliases.emplace(model.spec.head(), model.spec.embedding());
    }
  }
  RewriteReport report = rewrite(checkpoint, moves, folder.staging(), rewriting, context.terminal);
  for (const std::string& name : report.non_finite) {
    context.terminal.warn(
        fmt::format("tensor '{}': holds NaN or infinity, carried bit for bit", name));
  }
  for (const std::string& name : checkpoint.side_files()) {
    folder.copy(checkpoint.folder() / name, name);
    side_files.push_back({name, static_cast<std::int64_t>(fs::file_size(folder.staging() / name)),
                          sha256_of_file(folder.staging() / name)});
  }
  if (checkpoint.config_path() != checkpoint.folder() / "config.json") {
    folder.write("config.json", checkpoint.config_text());
  }
  return report;
}

std::string record_text(const LoadedModel& model, const Context& context,
                        const std::optional<std::uint64_t>& seed, const RewriteReport& report,
                        const std::vector<FileDigest>& others, const Json& verification) {
  Json source = {{"path", fs::absolute(model.resolved.path).lexically_normal().string()}};
  if (!model.resolved.repository.empty()) {
    source["repository"] = model.resolved.repository;
    source["revision"] = model.resolved.revision;
    source["commit"] = model.resolved.commit;
  }
  auto outputs = report.outputs;
  outputs.insert(outputs.end(), others.begin(), others.end());
  Json record = {{"schema", "icd.record/1"},
                 {"icd", version()},
                 {"command", context.command_line},
                 {"source", std::move(source)}};
  if (seed) record["seed"] = *seed;
  record["inputs"] = to_json(report.inputs);
  record["outputs"] = to_json(outputs);
  record["moved"] = {{"tensors", report.moved_tensors}, {"bytes", report.moved_bytes}};
  record["verification"] = verification;
  return record.dump(2) + "\n";
}

}  // namespace icd::cli
