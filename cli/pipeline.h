#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "commands.h"
#include "icd/checkpoint.h"
#include "icd/hub_cache.h"
#include "icd/language_model.h"
#include "icd/layout.h"
#include "icd/model_spec.h"
#include "icd/output_folder.h"
#include "icd/plan.h"
#include "icd/rewrite.h"
#include "icd/tokens.h"
#include "icd/verify.h"
#include "kernels/device_choice.h"

// What several commands share: options, and the steps between reading and writing. No
// algorithm is at home here.
namespace icd::cli {

/// --model and what goes with it.
struct ModelOptions {
  std::string model;
  std::string config;
  std::string layout = "auto";
  std::vector<std::string> settings;

  void add_to(CLI::App& command);

  /// The options on what the checkpoint is, without --model.
  void add_layout_to(CLI::App& command);
  LayoutRequest request() const;
};

struct LoadedModel {
  ResolvedModel resolved;
  Checkpoint checkpoint;
  ModelSpec spec;
  Layout layout;
};

/// Opens a model by path or name; warns of what is left out or not known.
LoadedModel load_model(const ModelOptions& options, Context& context);

/// The same as something that is known: what a plan was made for.
LoadedModel load_model(const ModelOptions& options, const LayoutRequest& request, Context& context);

/// What a checkpoint has to be taken for to be the plan's; --layout and --set have the last word.
LayoutRequest request_of(const Plan& plan, const ModelOptions& options);

/// Where token ids come from.
struct TokenOptions {
  std::string text;
  std::string tokens;
  std::string tokenizer;
  Index length = 512;
  std::int64_t limit = 8192;
  double heldout = 0.25;

  void add_to(CLI::App& command);
  bool is_given() const { return !text.empty() || !tokens.empty(); }
};

struct TokenSource {
  std::vector<TokenId> ids;
  std::string words;        ///< "the built-in text", "novel.txt", ...
  bool is_language = true;  ///< false for random ids, which say nothing of a model's statistics
};

/// Ids by the options: a text through the checkpoint's tokenizer, a file of ids, the
/// built-in text, or random ids if there is no tokenizer.
TokenSource token_source(const TokenOptions& options, const LoadedModel& model);

/// Adds --threads; the value is in force once the command line has been parsed.
void add_threads_option(CLI::App& command);

/// --device. The CPU unless it is given: its results are the same on any machine.
struct DeviceOptions {
  std::string device;

  void add_to(CLI::App& command, const char* about_device);
  bool is_given() const { return !device.empty(); }

  /// Where `models` models like this one run at once. Throws where a device is asked for that is
  /// not there or cannot run them.
  Place place(const LoadedModel& model, int models) const;

  /// "ran on CUDA device 0 (NVIDIA H200)", if --device was given.
  void print(const Place& place, Terminal& terminal) const;
  void add_to(nlohmann::ordered_json& json, const Place& place) const;
};

std::unique_ptr<LanguageModel<float>> model_at(const Place& place, const Checkpoint& checkpoint,
                                               const Layout& layout);

/// What verification runs, and where: a few of the ids that `options` lead to.
VerifyOptions verify_options(const TokenOptions& options, const LoadedModel& model,
                             const Place& place, bool in_double);

/// "--solver: there is no 'rmc', expected one of ...", and where they are described.
[[noreturn]] void no_such(std::string_view option, std::string_view given,
                          const std::vector<std::string_view>& names, const char* where);

nlohmann::ordered_json to_json(const VerifyReport& report);
nlohmann::ordered_json to_json(const std::vector<GroupScore>& scores);
nlohmann::ordered_json to_json(const std::vector<FileDigest>& files);

/// The model in a few words: "mamba1 in hf names, BF16, 6 layers, d_model 192, ...".
std::string in_words(const LoadedModel& model);

void print_scores(const Plan& plan, Terminal& terminal);
void print_report(const VerifyReport& report, Terminal& terminal);

/// Container to write: "same", "safetensors", "bin". Adds --format.
struct OutputOptions {
  std::string output;
  std::string format = "same";
  bool force = false;
  bool no_digests = false;

  void add_to(CLI::App& command, const char* about_output);
  Container container(const Checkpoint& checkpoint) const;
};

/// What must not be written to: the model's folder, or its only file.
std::filesystem::path input_of(const LoadedModel& model);

/// The folder that is written without -o: "<name>-icd" in the current one.
std::filesystem::path default_output(const ResolvedModel& model);

/// Throws Error{io} if the disk has too little room for what write_model() writes.
void check_room(const LoadedModel& model, const OutputFolder& folder);

/// Writes the weights and the side files into a staged folder.
RewriteReport write_model(const LoadedModel& model, const TensorMoves& moves, OutputFolder& folder,
                          const OutputOptions& options, std::vector<FileDigest>& side_files,
                          Context& context);

/// icd.json: what was done, to what, by which command.
std::string record_text(const LoadedModel& model, const Context& context,
                        const std::optional<std::uint64_t>& seed, const RewriteReport& report,
                        const std::vector<FileDigest>& others,
                        const nlohmann::ordered_json& verification);

}  // namespace icd::cli
