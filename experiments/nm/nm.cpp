// nm_experiment: how much saliency does 2:4 sparsity keep if the order of columns is free, and
// what does it take to find out? See README.md.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "../machine.h"
#include "icd/axis_facts.h"
#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/objective.h"
#include "icd/random.h"
#include "icd/solver.h"
#include "icd/version.h"

namespace {

using icd::Index;
using nlohmann::ordered_json;

constexpr Index kKept = 2;
constexpr Index kOf = 4;

/// Of all threads: other users of the machine do not count.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

icd::AxisFacts facts_of(Index n, std::vector<icd::Reader> readers) {
  icd::AxisFacts facts;
  facts.size = n;
  facts.graph = std::make_shared<const icd::Graph>(icd::Graph::from_edges(n, {}));
  facts.readers = std::move(readers);
  return facts;
}

icd::Reader gaussian(Index rows, Index columns, std::uint64_t seed) {
  icd::Random random = icd::Random::derived(seed, static_cast<std::uint64_t>(columns));
  std::vector<float> weights(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  for (float& w : weights) w = static_cast<float>(random.normal());
  icd::Reader reader;
  reader.tensor = "gaussian.weight";
  reader.rows = rows;
  reader.weights = std::make_shared<const std::vector<float>>(std::move(weights));
  return reader;
}

/// The share that the larger half of every row holds: what no order can exceed.
double ideal_share(const icd::AxisFacts& facts) {
  double kept = 0;
  double total = 0;
  for (const icd::Reader& reader : facts.readers) {
    const std::size_t columns = reader.weights->size() / static_cast<std::size_t>(reader.rows);
    for (std::size_t begin = 0; begin < reader.weights->size(); begin += columns) {
      std::vector<double> row;
      for (std::size_t c = 0; c < columns; ++c) {
        row.push_back(std::fabs(double{(*reader.weights)[begin + c]}));
      }
      std::sort(row.rbegin(), row.rend());
      total += std::accumulate(row.begin(), row.end(), 0.0);
      const auto half = static_cast<std::ptrdiff_t>(columns * kKept / kOf);
      kept += std::accumulate(row.begin(), row.begin() + half, 0.0);
    }
  }
  return kept / total;
}

/// apex' search above 2048 columns: exchange two columns at random, take it back if it does not
/// gain; until the CPU time is used up. Columns are kept apart, so that a try reads eight of them
/// and nothing else.
class RandomSwaps {
 public:
  RandomSwaps(const icd::AxisFacts& facts, double seconds) : n_(facts.size), seconds_(seconds) {
    for (const icd::Reader& reader : facts.readers) rows_ += reader.rows;
    columns_.resize(static_cast<std::size_t>(n_) * static_cast<std::size_t>(rows_));
    std::size_t top = 0;
    for (const icd::Reader& reader : facts.readers) {
      for (std::size_t i = 0; i < reader.weights->size(); ++i) {
        const std::size_t c = i % static_cast<std::size_t>(n_);
        const std::size_t r = i / static_cast<std::size_t>(n_);
        columns_[c * static_cast<std::size_t>(rows_) + top + r] = std::fabs((*reader.weights)[i]);
      }
      top += static_cast<std::size_t>(reader.rows);
    }
  }

  struct Sample {
    std::int64_t tries;
    double cpu_seconds;
    icd::Permutation order;
  };

  /// The order after every power of ten of tries, and at the end.
  std::vector<Sample> run(std::uint64_t seed) const {
    icd::Random random(seed);
    std::vector<Index> order(static_cast<std::size_t>(n_));
    std::iota(order.begin(), order.end(), Index{0});
    std::vector<Sample> samples;
    const double begin = cpu_seconds();
    std::int64_t tries = 0;
    std::int64_t next_sample = 1000;
    for (; tries % 64 != 0 || cpu_seconds() - begin < seconds_; ++tries) {
      if (tries == next_sample) {
        samples.push_back({tries, cpu_seconds() - begin, icd::Permutation::from_gather(order)});
        next_sample *= 10;
      }
      const auto i = random.below(static_cast<std::uint64_t>(n_));
      const auto j = random.below(static_cast<std::uint64_t>(n_));
      if (i / kOf == j / kOf) continue;
      const double before = kept(order, i / kOf) + kept(order, j / kOf);
      std::swap(order[i], order[j]);
      if (kept(order, i / kOf) + kept(order, j / kOf) <= before) std::swap(order[i], order[j]);
    }
    const double seconds = cpu_seconds() - begin;
    samples.push_back({tries, seconds, icd::Permutation::from_gather(std::move(order))});
    return samples;
  }

 private:
  /// The two largest of four are the larger of two sums: max(a, b) + max(c, d), or one pair whole.
  double kept(const std::vector<Index>& order, std::uint64_t block) const {
    const float* column[kOf];
    for (std::size_t k = 0; k < kOf; ++k) {
      column[k] = columns_.data() + static_cast<std::int64_t>(order[block * kOf + k]) * rows_;
    }
    double sum = 0;
    for (Index begin = 0; begin < rows_; begin += 64) {
      float part = 0;
      for (Index r = begin; r < std::min(rows_, begin + 64); ++r) {
        const float a = column[0][r];
        const float b = column[1][r];
        const float c = column[2][r];
        const float d = column[3][r];
        part += std::max(std::max(a, b) + std::max(c, d), std::max(a + b, c + d));
      }
      sum += double{part};
    }
    return sum;
  }

  Index n_;
  Index rows_ = 0;
  double seconds_;
  std::vector<float> columns_;  // (n, rows)
};

struct Measured {
  std::string method;
  double share;
  double cpu_seconds;
  ordered_json more;
};

Measured solve(const icd::Problem& problem, std::string_view solver) {
  const double begin = cpu_seconds();
  const icd::Permutation order = icd::find_solver(solver)->solve(problem, {});
  const double seconds = cpu_seconds() - begin;
  return {fmt::format("icd {}", solver), problem.score(order), seconds, {}};
}

Measured one_descent(const icd::Problem& problem) {
  const double begin = cpu_seconds();
  const auto search = problem.search(problem.greedy());
  constexpr std::int64_t kEnough = 1'000'000'000;
  std::int64_t steps = kEnough;
  search->descend(steps);
  const double seconds = cpu_seconds() - begin;
  return {"one descent", problem.score(search->order()), seconds, {{"steps", kEnough - steps}}};
}

/// Kicks of three pairs, each from the best order so far, until the time is used up.
Measured kicks(const icd::Problem& problem, double seconds) {
  const double begin = cpu_seconds();
  icd::Random random(1);
  icd::Permutation best = problem.greedy();
  double share = problem.score(best);
  std::int64_t count = 0;
  for (; cpu_seconds() - begin < seconds; ++count) {
    const auto search = problem.search(best);
    if (count > 0) search->kick(random, 3);
    std::int64_t steps = 1'000'000;
    search->descend(steps);
    icd::Permutation order = search->order();
    if (const double here = problem.score(order); here >= share) {
      share = here;
      best = std::move(order);
    }
  }
  return {fmt::format("kicks for {} s", seconds), share, cpu_seconds() - begin, {{"kicks", count}}};
}

ordered_json record(std::string_view what, const icd::AxisFacts& facts,
                    const std::vector<Measured>& methods) {
  Index rows = 0;
  for (const icd::Reader& reader : facts.readers) rows += reader.rows;
  const double ideal = ideal_share(facts);
  const double before = methods.front().share;
  ordered_json list = ordered_json::array();
  for (const Measured& method : methods) {
    const double efficacy = (method.share - before) / (ideal - before);
    fmt::print("| {} | {} x {} | {} | {:.4f} | {:.1f} % | {:.3f} |\n", what, rows, facts.size,
               method.method, method.share, 100 * efficacy, method.cpu_seconds);
    list.push_back({{"method", method.method},
                    {"retained_share", method.share},
                    {"efficacy", efficacy},
                    {"cpu_seconds", method.cpu_seconds}});
    if (!method.more.is_null()) list.back().update(method.more);
  }
  std::fflush(stdout);
  return {{"what", what},
          {"rows", rows},
          {"columns", facts.size},
          {"ideal_share", ideal},
          {"methods", list}};
}

ordered_json gaussian_case(Index rows, Index columns, std::uint64_t seed, double random_seconds,
                           bool is_small) {
  const icd::AxisFacts facts = facts_of(columns, {gaussian(rows, columns, seed)});
  const auto problem =
      icd::nm_problem(facts, {.kept = kKept, .of = kOf, .saliency = icd::Saliency::magnitude});
  std::vector<Measured> methods = {
      {"identity", problem->score(icd::Permutation::identity(columns)), 0, {}}};
  for (const auto& sample : RandomSwaps(facts, random_seconds).run(seed)) {
    methods.push_back({fmt::format("random swaps, {} tries", sample.tries),
                       problem->score(sample.order),
                       sample.cpu_seconds,
                       {{"tries", sample.tries}}});
  }
  methods.push_back(one_descent(*problem));
  if (is_small) {
    methods.push_back(solve(*problem, "swap"));
    methods.push_back(kicks(*problem, 0.3));
  }
  return record(fmt::format("Gaussian, seed {}", seed), facts, methods);
}

ordered_json model_case(const std::string& model, const std::string& kind) {
  const auto checkpoint = icd::Checkpoint::open(model);
  const icd::Layout layout = icd::layout_of(checkpoint);
  ordered_json groups = ordered_json::array();
  for (const icd::AxisGroup& group : layout.groups) {
    if (group.kind != kind) continue;
    const icd::AxisFacts facts = facts_of(group.size, icd::readers_of(checkpoint, layout, group));
    const auto problem =
        icd::nm_problem(facts, {.kept = kKept, .of = kOf, .saliency = icd::Saliency::magnitude});
    groups.push_back(
        record(group.name, facts,
               {{"identity", problem->score(icd::Permutation::identity(group.size)), 0, {}},
                one_descent(*problem)}));
  }
  return {{"model", model}, {"kind", kind}, {"groups", groups}};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::uint64_t> seeds = {1, 2, 3, 4, 5, 6, 7, 8};
  std::pair<Index, Index> size = {2560, 5120};
  double random_seconds = 120;
  std::string model;
  std::string kind = "inner";
  std::string out;
  bool is_small = false;
  bool is_large = false;

  CLI::App app("2:4: retained saliency by order of columns");
  app.add_flag("--small", is_small, "128 x 64 Gaussians, one a seed");
  app.add_flag("--large", is_large, "one large Gaussian, of the first seed");
  app.add_option("--size", size, "rows and columns of the large case");
  app.add_option("--seeds", seeds, "of the Gaussians");
  app.add_option("--random-seconds", random_seconds, "CPU seconds for random swaps, large case");
  app.add_option("--model", model, "a checkpoint, group by group");
  app.add_option("--kind", kind, "of the model's groups");
  app.add_option("--out", out, "JSON record with every sample");
  CLI11_PARSE(app, argc, argv);

  std::string command;
  for (int i = 0; i < argc; ++i) command += fmt::format("{}{}", i > 0 ? " " : "", argv[i]);

  fmt::print("| what | rows x columns | order | retained | efficacy | CPU seconds |\n");
  fmt::print("|---|---|---|---|---|---|\n");
  ordered_json result = {
      {"experiment", "nm"}, {"icd", icd::version()}, {"machine", icd::experiments::machine()},
      {"command", command}, {"pattern", "2:4"},      {"cases", ordered_json::array()}};
  if (is_small) {
    constexpr double kSmallSeconds = 0.3;
    for (const std::uint64_t seed : seeds) {
      result["cases"].push_back(gaussian_case(128, 64, seed, kSmallSeconds, true));
    }
  }
  if (is_large) {
    result["cases"].push_back(
        gaussian_case(size.first, size.second, seeds.front(), random_seconds, false));
  }
  if (!model.empty()) result["cases"].push_back(model_case(model, kind));
  if (!out.empty()) std::ofstream(out) << result.dump(2) << '\n';
}
