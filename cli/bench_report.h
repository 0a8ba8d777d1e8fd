#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/bench_run.h"

namespace icd::cli {

/// What a benchmark of kernels ran on, beside the device.
struct BenchRecord {
  std::string command;
  std::string commit;  ///< of the sources, if the caller says it
  int rounds = 0;
  std::uint64_t seed = 0;

  struct Inputs {
    std::string model;
    std::string source;  ///< in words
    std::string digest;  ///< SHA-256 of the values
  };
  std::vector<Inputs> inputs;
};

/// icd.bench.kernels/1: everything, all samples, as text: a line for each cell, since indented
/// samples would be mostly spaces.
std::string json_of(const BenchResult& result, const BenchRecord& record);

/// The same in words and tables, without samples and, for positive controls, the orders that say
/// little.
std::string markdown_of(const BenchResult& result, const BenchRecord& record);

/// A few lines: did the controls hold, and what does the solved order do?
std::vector<std::string> summary_of(const BenchResult& result);

/// Whether a control held, and none failed.
bool controls_hold(const BenchResult& result);

}  // namespace icd::cli
