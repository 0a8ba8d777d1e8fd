#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "terminal.h"

namespace icd::cli {

/// What the program tells the shell.
enum ExitStatus {
  kDone = 0,
  kFailed = 1,  ///< storage: full, unreadable, not writable
  kWrongCall = 2,
  kAnswerIsNo = 3,    ///< done, and the models are not equivalent
  kRefused = 4,       ///< an input is malformed or of a kind icd does not handle
  kNotAvailable = 5,  ///< offline, no device, a backend that was not built
  kInterrupted = 130,
};

/// What every command is given.
struct Context {
  Terminal& terminal;
  std::string command_line;  ///< as it was typed, for the record
};

/// Runs a command whose options have been parsed; returns an ExitStatus.
using Action = std::function<int(Context&)>;

// Each adds its subcommand, which sets `action` when it is the one called.
void add_advise(CLI::App& app, Action& action);
void add_graph(CLI::App& app, Action& action);
void add_objectives(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_permute(CLI::App& app, Action& action);
void add_calibrate(CLI::App& app, Action& action);
void add_solve(CLI::App& app, Action& action);
void add_apply(CLI::App& app, Action& action);
void add_convert(CLI::App& app, Action& action);
void add_reshape(CLI::App& app, Action& action);
void add_verify(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);

// Subcommands of bench.
void add_bench_kernels(CLI::App& bench, Action& action);
void add_bench_compare(CLI::App& bench, Action& action);

}  // namespace icd::cli
