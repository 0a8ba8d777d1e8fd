// equal_blocks: how much weight of a dense correlation graph can equal blocks hold, and how
// long does each solver take to find such an order? See README.md.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "../machine.h"
#include "icd/axis_facts.h"
#include "icd/calibration.h"
#include "icd/graph.h"
#include "icd/objective.h"
#include "icd/random.h"
#include "icd/solver.h"
#include "icd/version.h"

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

double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

struct Comparison {
  icd::Blocks blocks;
  std::vector<std::string> solvers;
  int repeats = 3;
};

/// Every solver on one graph, `repeats` times in turn. Times are CPU seconds of the one thread
/// that runs: other users of the machine do not count.
ordered_json compare(const std::string& name, icd::Graph graph, const Comparison& comparison) {
  icd::AxisFacts facts{.size = graph.size(),
                       .graph = std::make_shared<const icd::Graph>(std::move(graph))};
  const auto problem =
      icd::find_objective("intra-block")->problem(facts, {.block = comparison.blocks.size});

  const std::size_t count = comparison.solvers.size();
  std::vector<double> shares(count);
  std::vector<std::vector<double>> seconds(count);
  for (int repeat = 0; repeat < comparison.repeats; ++repeat) {
    for (std::size_t s = 0; s < count; ++s) {
      const icd::Solver& solver = *icd::find_solver(comparison.solvers[s]);
      const std::clock_t begin = std::clock();
      const icd::Permutation order = solver.solve(*problem, {.seed = 1});
      seconds[s].push_back(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
      shares[s] = problem->score(order);
    }
  }

  const auto metis = std::find(comparison.solvers.begin(), comparison.solvers.end(), "metis");
  const double referee = metis == comparison.solvers.end()
                             ? std::nan("")
                             : shares[static_cast<std::size_t>(metis - comparison.solvers.begin())];
  ordered_json rows = ordered_json::array();
  for (std::size_t s = 0; s < count; ++s) {
    fmt::print("| {} | {} | {:.4f} | {:.2f} | {:.3f} |\n", name, comparison.solvers[s], shares[s],
               shares[s] / referee, median(seconds[s]));
    rows.push_back({{"solver", comparison.solvers[s]},
                    {"intra_block", shares[s]},
                    {"to_metis", shares[s] / referee},
                    {"cpu_seconds", seconds[s]}});
  }
  std::fflush(stdout);
  return {{"graph", name},
          {"n", facts.size},
          {"edges", facts.graph->edges()},
          {"total_weight", facts.graph->total_weight()},
          {"rows", rows}};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Index> sizes = {768, 1536, 2560, 5120};
  Comparison comparison;
  for (const icd::Solver& solver : icd::all_solvers()) {
    if (solver.name != "anneal" && solver.name != "sort") {
      comparison.solvers.emplace_back(solver.name);
    }
  }
  Index samples = 1500;
  double signal = 1;
  std::uint64_t seed = 1;
  std::string statistics;
  std::string wanted = "gated";
  std::vector<std::string> groups;
  std::string out;

  CLI::App app("Intra-block weight and time of ways to order a dense correlation graph");
  app.add_option("--sizes", sizes, "numbers of channels");
  app.add_option("--block", comparison.blocks.size, "channels in a block")
      ->check(CLI::PositiveNumber);
  app.add_option("--solvers", comparison.solvers, "all but anneal and sort unless told otherwise");
  app.add_option("--samples", samples, "rows of activations")->check(CLI::PositiveNumber);
  app.add_option("--signal", signal, "of the communities, against noise of 1");
  app.add_option("--repeats", comparison.repeats, "runs of every solver")
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", seed, "of the activations");
  app.add_option("--statistics", statistics, "a file of `icd calibrate`, instead of made graphs");
  app.add_option("--signal-name", wanted, "the signal there");
  app.add_option("--groups", groups, "the groups there");
  app.add_option("--out", out, "JSON record with every sample");
  CLI11_PARSE(app, argc, argv);

  std::string command;
  for (int i = 0; i < argc; ++i) command += fmt::format("{}{}", i > 0 ? " " : "", argv[i]);

  fmt::print("| graph | solver | intra-block share | to METIS | median CPU seconds |\n");
  fmt::print("|---|---|---|---|---|\n");
  ordered_json record = {{"experiment", "equal_blocks"},
                         {"icd", icd::version()},
                         {"machine", icd::experiments::machine()},
                         {"command", command},
                         {"block", comparison.blocks.size},
                         {"seed", seed},
                         {"samples", samples},
                         {"signal", signal},
                         {"graphs", ordered_json::array()}};
  if (!statistics.empty()) {
    const auto file = icd::StatisticsFile::open(statistics);
    for (const std::string& group : groups) {
      const std::vector<float> correlation = file.read(group, wanted).train.correlation;
      const auto n = static_cast<Index>(std::lround(std::sqrt(correlation.size())));
      record["graphs"].push_back(
          compare(group, icd::correlation_graph(correlation, n), comparison));
    }
  } else {
    for (const Index n : sizes) {
      icd::Random random = icd::Random::derived(seed, static_cast<std::uint64_t>(n));
      icd::Graph graph = icd::correlation_graph(
          correlation_of(latent_factor_activations(n, samples, signal, random)), n);
      record["graphs"].push_back(compare(fmt::format("n = {}", n), std::move(graph), comparison));
    }
  }
  if (!out.empty()) std::ofstream(out) << record.dump(2) << '\n';
}
