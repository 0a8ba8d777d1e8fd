// icd: the program. Parses the command line, runs one command, turns what went wrong into
// one line and an exit status. The only catch is here.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>

#include "commands.h"
#include "icd/language_model.h"
#include "icd/version.h"
#include "kernels/device.h"

namespace {

using namespace std::string_view_literals;
using icd::ErrorCode;
namespace cli = icd::cli;

int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::io:
      return cli::kFailed;
    case ErrorCode::usage:
      return cli::kWrongCall;
    case ErrorCode::input:
    case ErrorCode::unsupported:
      return cli::kRefused;
    case ErrorCode::unavailable:
      return cli::kNotAvailable;
    case ErrorCode::interrupted:
      return cli::kInterrupted;
  }
  return cli::kFailed;
}

/// The call as it could be typed again.
std::string quoted(int argc, char** argv) {
  std::string line = "icd";
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n\"'\\$`*?[]{}()<>|&;#~"sv) == word.npos;
    if (plain) {
      line += fmt::format(" {}", word);
      continue;
    }
    std::string inside;
    for (const char c : word) inside += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += fmt::format(" '{}'", inside);
  }
  return line;
}

/// What is wrong with a call. A word that means nothing goes first: it is often the reason why
/// something else seems to be missing.
icd::Error refusal_of(const CLI::App& app, const CLI::ParseError& error) {
  const auto commands = app.get_subcommands();
  const std::string call = commands.empty() ? "icd" : "icd " + commands[0]->get_name();
  const std::string hint = fmt::format("`{} --help`", call);
  const std::vector<std::string> strangers = app.remaining(true);
  if (!strangers.empty()) {
    const std::string& word = strangers.front();
    const char* what = word.starts_with('-') ? "no option of"
                       : commands.empty()    ? "no command of"
                                             : "a word too many for";
    return {ErrorCode::usage, fmt::format("{}: is {} `{}`", word, what, call), hint};
  }
  if (commands.empty()) {
    return {ErrorCode::usage, "command: there is none, expected `icd COMMAND ...`", hint};
  }
  return {ErrorCode::usage, error.what(), hint};
}

int run(int argc, char** argv, cli::Terminal& terminal) {
  CLI::App app("icd re-orders a Mamba checkpoint without changing what it computes, and proves it.",
               "icd");
  app.set_version_flag("--version", fmt::format("icd {} (oneDNN: {}, CUDA: {})", icd::version(),
                                                icd::is_built_with_onednn() ? "yes" : "no",
                                                icd::is_built_with_cuda() ? "yes" : "no"));
  app.require_subcommand(1);
  app.fallthrough();
  bool quiet = false;
  bool verbose = false;
  app.add_flag("-q,--quiet", quiet, "no progress and no warnings");
  app.add_flag("-v,--verbose", verbose, "a line for each step");
  app.footer(
      "Exit status: 0 done, 1 failed, 2 wrong call, 3 not equivalent, 4 input refused,\n"
      "5 not available, 130 interrupted\n\n"
      "Example: icd permute --model experiments/models/mamba-novels-2m-hf");

  cli::Action action;
  cli::add_permute(app, action);
  cli::add_advise(app, action);
  cli::add_objectives(app, action);
  cli::add_calibrate(app, action);
  cli::add_graph(app, action);
  cli::add_solve(app, action);
  cli::add_plan(app, action);
  cli::add_apply(app, action);
  cli::add_convert(app, action);
  cli::add_reshape(app, action);
  cli::add_verify(app, action);
  cli::add_inspect(app, action);
  cli::add_bench(app, action);
  cli::add_doctor(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    throw refusal_of(app, error);
  }
  if (quiet) terminal.set_quiet();
  if (verbose) terminal.set_verbose();
  cli::Context context{terminal, quoted(argc, argv)};
  const int status = action(context);
  if (std::fflush(stdout) != 0)
    throw icd::Error(ErrorCode::io, "standard output: cannot be written");
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  cli::Terminal terminal;
  cli::watch_for_interrupts();
  try {
    return run(argc, argv, terminal);
  } catch (const icd::Error& error) {
    terminal.show(error);
    return status_of(error.code());
  } catch (const std::filesystem::filesystem_error& error) {
    terminal.show({ErrorCode::io, error.what()});
  } catch (const std::bad_alloc&) {
    terminal.show({ErrorCode::io, "memory: there is not enough of it"});
  } catch (const std::exception& error) {
    terminal.show(
        {ErrorCode::io, fmt::format("unexpected: {}", error.what()), "this is a fault of icd"});
  }
  return cli::kFailed;
}
