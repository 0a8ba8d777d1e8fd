// icd reshape --model X --headdim P -o OUT
//
// Cuts the heads of Mamba-2 into smaller ones, or joins heads that are copies: an exact rewrite,
// and the repair for a checkpoint whose headdim breaks a kernel's rule. What was written is read
// again, undone, and compared with the original byte for byte; and both are run, block by block.
#include "icd/reshape.h"

#include <memory>

#include "commands.h"
#include "icd/digest.h"
#include "icd/kernel_rules.h"
#include "icd/verify.h"
#include "pipeline.h"

namespace icd::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  Index headdim = 0;
  std::string output;
  bool force = false;
  bool json = false;
};

std::vector<FileDigest> write_side_files(const LoadedModel& model, const Reshaping& reshaping,
                                         OutputFolder& folder) {
  std::vector<FileDigest> written;
  const auto add = [&](const std::string& name) {
    const fs::path file = folder.staging() / name;
    written.push_back({name, static_cast<std::int64_t>(fs::file_size(file)), sha256_of_file(file)});
  };
  if (!reshaping.config.empty()) {
    folder.write("config.json", reshaping.config);
    add("config.json");
  }
  for (const std::string& name : model.checkpoint.side_files()) {
    if (name == "config.json") continue;
    folder.copy(model.checkpoint.folder() / name, name);
    add(name);
  }
  return written;
}

/// Where the first weight file, or their index, stands in a folder.
fs::path model_in(const fs::path& folder, const Checkpoint& like) {
  return like.index_file().empty() ? folder / like.files().front()->name : folder;
}

/// What of the rules of a block does not hold, with the exception of FlashInfer's.
void warn_of_rules(const Block& block, Context& context) {
  for (const KernelRule& rule : kernel_rules(block)) {
    if (rule.holds || rule.reach == KernelRule::Reach::flashinfer) continue;
    context.terminal.warn(
        fmt::format("{}: does not hold: {} ({})", rule.id, rule.requirement, rule.where));
  }
}

int run(const Options& options, Context& context) {
  const LoadedModel model = load_model(options.model, context);
  const Reshaping reshaping = reshape_heads(model.checkpoint, model.layout, options.headdim);
  if (reshaping.blocks.empty()) {
    context.terminal.print("headdim is {} already: nothing is written", options.headdim);
    return kDone;
  }
  OutputFolder folder(
      options.output,
      options.force ? OutputFolder::Existing::replace : OutputFolder::Existing::refuse,
      {input_of(model)});
  check_room(model, folder);
  const RewriteReport report =
      write_reshaped(model.checkpoint, reshaping, folder.staging(), context.terminal);
  const std::vector<FileDigest> others = write_side_files(model, reshaping, folder);
  const Checkpoint written = Checkpoint::open(model_in(folder.staging(), model.checkpoint));
  if (const std::string fault = reshaping_fault(model.checkpoint, written, reshaping);
      !fault.empty()) {
    throw Error(ErrorCode::io, fmt::format("{}: {}", folder.target().string(), fault),
                "what was written is not what was read; is the disk in order?");
  }
  const double difference =
      reshaping_difference(model.checkpoint, written, model.layout, reshaping, context.terminal);
  const std::string words = fmt::format(
      "blocks in f32 on {} random rows: max|difference| / max|output| = {:.2g} (tolerance {:.0e})",
      kReshapeTokens, difference, kToleranceF32);
  if (!(difference <= kToleranceF32)) {
    context.terminal.print("{}\nNOT equivalent: nothing is written", words);
    return kAnswerIsNo;
  }
  const nlohmann::ordered_json verification = {{"undoing_gives_back_every_byte", true},
                                               {"blocks",
                                                {{"arithmetic", "f32"},
                                                 {"rows", kReshapeTokens},
                                                 {"relative", difference},
                                                 {"tolerance", kToleranceF32}}}};
  folder.write("icd.json", record_text(model, context, {}, report, others, verification));
  folder.publish();
  for (const Block& block : model.layout.blocks) {
    if (block.prefix == reshaping.blocks.front()) {
      warn_of_rules(reshaped_block(block, reshaping.headdim), context);
    }
  }
  if (!reshaping.config_says_so) {
    context.terminal.warn(fmt::format(
        "no config.json states the heads: make the module with headdim={}", reshaping.headdim));
  }
  if (options.json) {
    context.terminal.print_json(
        {{"schema", "icd.reshape/1"},
         {"output", folder.target().string()},
         {"blocks", reshaping.blocks},
         {"heads", {{"before", reshaping.heads_before}, {"after", reshaping.heads}}},
         {"headdim", {{"before", reshaping.headdim_before}, {"after", reshaping.headdim}}},
         {"changed_tensors", report.moved_tensors},
         {"verification", verification},
         {"files", to_json(report.outputs)}});
  } else {
    context.terminal.print("{} block{}: {} heads of {} channels are {} of {}",
                           reshaping.blocks.size(), reshaping.blocks.size() == 1 ? "" : "s",
                           reshaping.heads_before, reshaping.headdim_before, reshaping.heads,
                           reshaping.headdim);
    context.terminal.print("undoing it gives back every byte");
    context.terminal.print("{}", words);
    context.terminal.print("wrote {}: {} of {} tensors changed", options.output,
                           report.moved_tensors, report.tensors);
  }
  return kDone;
}

}  // namespace

void add_reshape(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("reshape", "cut Mamba-2 heads into smaller ones, exactly, or join them");
  options->model.add_to(command);
  command.add_option("--headdim", options->headdim, "channels of a head")
      ->required()
      ->type_name("P")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("-o,--output", options->output, "the folder to write")
      ->required()
      ->type_name("OUT");
  command.add_flag("--force", options->force, "replace an output folder that is there");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer("Example: icd reshape --model net.pt --headdim 8 --set ngroups=1 -o OUT");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
