// icd convert --model X --to hf|mamba-ssm -o OUT [--format auto|safetensors|bin]
//
// The same Mamba-1 or Mamba-2 language model with the names, the config.json and the container
// of the other library. Every tensor keeps its bytes, which is checked on what was written.
#include "icd/convert.h"

#include <memory>

#include "commands.h"
#include "icd/digest.h"
#include "pipeline.h"

namespace icd::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::string to;
  std::string output;
  std::string format = "auto";
  bool force = false;
  bool json = false;
};

Container container_for(const Options& options, const Conversion& conversion, Context& context) {
  if (options.format == "auto") return conversion.container();
  const Container chosen = options.format == "bin" ? Container::torch : Container::safetensors;
  if (chosen != conversion.container() && conversion.to == Dialect::mamba_ssm) {
    context.terminal.warn("mamba-ssm's from_pretrained reads pytorch_model.bin only");
  }
  return chosen;
}

std::vector<FileDigest> write_side_files(const LoadedModel& model, const Conversion& conversion,
                                         OutputFolder& folder) {
  folder.write("config.json", conversion.config);
  std::vector<FileDigest> written;
  for (const std::string& name : model.checkpoint.side_files()) {
    if (name != "config.json") folder.copy(model.checkpoint.folder() / name, name);
    const fs::path file = folder.staging() / name;
    written.push_back({name, static_cast<std::int64_t>(fs::file_size(file)), sha256_of_file(file)});
  }
  return written;
}

int run(const Options& options, Context& context) {
  const LoadedModel model = load_model(options.model, context);
  const Dialect to = options.to == "hf" ? Dialect::hf : Dialect::mamba_ssm;
  const Conversion conversion = conversion_of(model.checkpoint, model.layout, to);
  const Container container = container_for(options, conversion, context);
  OutputFolder folder(
      options.output,
      options.force ? OutputFolder::Existing::replace : OutputFolder::Existing::refuse,
      {input_of(model)});
  check_room(model, folder);
  const RewriteReport report =
      write_converted(model.checkpoint, conversion, container, folder.staging(), context.terminal);
  const std::vector<FileDigest> others = write_side_files(model, conversion, folder);
  const std::string fault =
      conversion_fault(model.checkpoint, Checkpoint::open(folder.staging()), conversion);
  if (!fault.empty()) {
    throw Error(ErrorCode::io, fmt::format("{}: {}", folder.target().string(), fault),
                "what was written is not what was read; is the disk in order?");
  }
  folder.write("icd.json", record_text(model, context, {}, report, others,
                                       {{"every_tensor_has_its_bytes", true}}));
  folder.publish();
  for (const std::string& note : conversion.notes) context.terminal.warn(note);
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.convert/1"},
                                 {"output", folder.target().string()},
                                 {"from", model.layout.spec.dialect},
                                 {"to", dialect_name(to)},
                                 {"tensors", report.tensors},
                                 {"every_tensor_has_its_bytes", true},
                                 {"notes", conversion.notes},
                                 {"files", to_json(report.outputs)}});
  } else {
    context.terminal.print("wrote {}: {} in {} names, {}; all {} tensors have the bytes they had",
                           options.output, model.layout.name, dialect_name(to),
                           report.outputs.front().name, report.tensors);
  }
  return kDone;
}

}  // namespace

void add_convert(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "convert", "from mamba-ssm's names, config and file to transformers', or back");
  options->model.add_to(command);
  command.add_option("--to", options->to, "hf (transformers) or mamba-ssm")
      ->required()
      ->type_name("D")
      ->check(CLI::IsMember({"hf", "mamba-ssm"}));
  command.add_option("-o,--output", options->output, "the folder to write")
      ->required()
      ->type_name("OUT");
  command
      .add_option("--format", options->format,
                  "auto (what the library loads), safetensors or bin (pytorch_model.bin)")
      ->type_name("F")
      ->check(CLI::IsMember({"auto", "safetensors", "bin"}))
      ->capture_default_str();
  command.add_flag("--force", options->force, "replace an output folder that is there");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer(
      "Example: icd convert --model experiments/models/mamba-novels-2m-hf --to mamba-ssm -o OUT");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
