// equal_blocks: how much weight of a dense correlation graph can equal blocks hold, and how
// long does each method take to find such an order? See README.md.

#include <fmt/format.h>
#include <sys/utsname.h>

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "icd/graph.h"
#include "icd/objective.h"
#include "icd/random.h"
#include "icd/version.h"
#include "methods.h"

namespace {

using icd::Index;
using nlohmann::ordered_json;

/// Activations of n channels in uneven communities, (samples, n): channel i shows
/// signal * own_i * factor of its community + common_i * one factor of all + noise. The channels
/// are shuffled, so the identity order holds nothing.
Eigen::MatrixXf latent_factor_activations(Index n, Index samples, double signal,
                                          icd::Random& random) {
  struct Channel {
    Index community;
    double own;
    double common;
  };
  std::vector<Channel> channels;
  Index communities = 0;
  for (; std::ssize(channels) < n; ++communities) {
    const auto members = 16 + random.below(145);
    for (std::uint64_t i = 0; i < members && std::ssize(channels) < n; ++i) {
      channels.push_back({communities, signal * (0.2 + 0.8 * random.uniform()), random.uniform()});
    }
  }
  const icd::Permutation shuffled = icd::random_permutation(n, random);

  Eigen::MatrixXf activations(samples, n);
  std::vector<double> factors(static_cast<std::size_t>(communities));
  for (Index row = 0; row < samples; ++row) {
    for (double& factor : factors) factor = random.normal();
    const double common = random.normal();
    for (Index i = 0; i < n; ++i) {
      const Channel& channel = channels[static_cast<std::size_t>(shuffled[i])];
      activations(row, i) =
          static_cast<float>(channel.own * factors[static_cast<std::size_t>(channel.community)] +
                             channel.common * common + random.normal());
    }
  }
  return activations;
}

/// Pearson, (n, n), exactly symmetric.
std::vector<float> correlation_of(Eigen::MatrixXf activations) {
  activations.rowwise() -= activations.colwise().mean();
  activations.colwise().normalize();
  const auto n = activations.cols();
  std::vector<float> correlation(static_cast<std::size_t>(n * n));
  Eigen::Map<Eigen::MatrixXf> r(correlation.data(), n, n);
  r.setZero();
  r.selfadjointView<Eigen::Lower>().rankUpdate(activations.transpose());
  r.triangularView<Eigen::StrictlyUpper>() = r.transpose();
  return correlation;
}

std::string machine() {
  std::ifstream file("/proc/cpuinfo");
  std::string cpu = "unknown CPU";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      cpu = line.substr(line.find(':') + 2);
      break;
    }
  }
  utsname system = {};
  uname(&system);
  return fmt::format("{}, {} {}", cpu, system.sysname, system.machine);
}

double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

/// Every method on one graph, `repeats` times in turn. Times are CPU seconds of the one thread
/// that runs: other users of the machine do not count.
ordered_json compare(Index n, icd::Blocks blocks, Index samples, double signal, int repeats,
                     std::uint64_t seed) {
  icd::Random random = icd::Random::derived(seed, static_cast<std::uint64_t>(n));
  const icd::Graph graph = icd::correlation_graph(
      correlation_of(latent_factor_activations(n, samples, signal, random)), n);

  const auto methods = icd::experiments::methods();
  std::vector<double> shares(methods.size());
  std::vector<std::vector<double>> seconds(methods.size());
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (std::size_t m = 0; m < methods.size(); ++m) {
      const std::clock_t begin = std::clock();
      const icd::Permutation order = methods[m].solve(graph, blocks);
      seconds[m].push_back(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
      shares[m] = icd::intra_block().score(graph, order, blocks);
    }
  }

  double referee = std::nan("");
  for (std::size_t m = 0; m < methods.size(); ++m) {
    if (methods[m].name == "METIS rb") referee = shares[m];
  }
  ordered_json rows = ordered_json::array();
  for (std::size_t m = 0; m < methods.size(); ++m) {
    fmt::print("| {} | {} | {:.4f} | {:.2f} | {:.3f} |\n", n, methods[m].name, shares[m],
               shares[m] / referee, median(seconds[m]));
    rows.push_back({{"method", methods[m].name},
                    {"intra_block", shares[m]},
                    {"to_metis_rb", shares[m] / referee},
                    {"cpu_seconds", seconds[m]}});
  }
  std::fflush(stdout);
  return {{"n", n}, {"block", blocks.size}, {"total_weight", graph.total_weight()}, {"rows", rows}};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Index> sizes = {768, 1536, 2560, 5120};
  icd::Blocks blocks = {.size = 64};
  Index samples = 1500;
  double signal = 1;
  int repeats = 3;
  std::uint64_t seed = 1;
  std::string out;

  CLI::App app("Intra-block weight and time of ways to order a dense correlation graph");
  app.add_option("--sizes", sizes, "numbers of channels");
  app.add_option("--block", blocks.size, "channels in a block")->check(CLI::PositiveNumber);
  app.add_option("--samples", samples, "rows of activations")->check(CLI::PositiveNumber);
  app.add_option("--signal", signal, "of the communities, against noise of 1");
  app.add_option("--repeats", repeats, "runs of every method")->check(CLI::PositiveNumber);
  app.add_option("--seed", seed, "of the activations");
  app.add_option("--out", out, "JSON record with every sample");
  CLI11_PARSE(app, argc, argv);

  std::string command;
  for (int i = 0; i < argc; ++i) command += fmt::format("{}{}", i > 0 ? " " : "", argv[i]);

  fmt::print("| n | method | intra-block share | to METIS rb | median CPU seconds |\n");
  fmt::print("|---|---|---|---|---|\n");
  ordered_json record = {
      {"experiment", "equal_blocks"}, {"icd", icd::version()}, {"machine", machine()},
      {"command", command},           {"threads", 1},          {"seed", seed},
      {"samples", samples},           {"signal", signal},      {"sizes", ordered_json::array()}};
  for (const Index n : sizes) {
    record["sizes"].push_back(compare(n, blocks, samples, signal, repeats, seed));
  }
  if (!out.empty()) std::ofstream(out) << record.dump(2) << '\n';
}
