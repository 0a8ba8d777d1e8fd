#include "kernels/bench_inputs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "icd/random.h"

namespace icd {
namespace {

constexpr Index kBlock = 32;
constexpr Index kClusters = 64;
constexpr std::int64_t kSparseRows = 32;
constexpr Index kRandomOrders = 5;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// The places of `scores` from small to large; ties to the lower place.
Permutation ascending(std::span<const float> scores) {
  std::vector<Index> places(scores.size());
  std::iota(places.begin(), places.end(), 0);
  std::stable_sort(places.begin(), places.end(),
                   [&](Index a, Index b) { return scores[at(a)] < scores[at(b)]; });
  return Permutation::from_gather(std::move(places));
}

// Neighbours of `p` end up 64 apart: rows of a table that is read by columns.
Permutation dealt_out(const Permutation& p) {
  constexpr Index kApart = 64;
  const Index n = p.size();
  const Index runs = (n + kApart - 1) / kApart;
  std::vector<Index> source;
  source.reserve(at(n));
  for (Index run = 0; run < runs; ++run) {
    for (Index i = run; i < n; i += runs) source.push_back(p[i]);
  }
  return Permutation::from_gather(std::move(source));
}

std::vector<char> largest(std::span<const float> magnitudes, std::int64_t keep) {
  std::vector<Index> places(magnitudes.size());
  std::iota(places.begin(), places.end(), 0);
  keep = std::clamp<std::int64_t>(keep, 0, std::ssize(places));
  const auto by_size = [&](Index a, Index b) {
    return std::pair(-magnitudes[at(a)], a) < std::pair(-magnitudes[at(b)], b);
  };
  std::nth_element(places.begin(), places.begin() + keep, places.end(), by_size);
  std::vector<char> is_kept(magnitudes.size());
  for (std::int64_t i = 0; i < keep; ++i) is_kept[at(places[at(i)])] = 1;
  return is_kept;
}

}  // namespace

BenchInputs synthetic_inputs(const BenchShape& shape, std::uint64_t seed) {
  BenchInputs made;
  made.source = "random values, planted clusters of channels";
  made.d_model = shape.d_model;
  made.d_inner = shape.d_inner;
  made.d_state = shape.d_state;
  made.d_conv = shape.d_conv;
  const Index n = shape.d_inner;
  Random random = Random::derived(seed, 1);

  for (Index channel = 0; channel < n; ++channel) {
    // Source: mamba-ssm, Mamba.__init__: dt log-uniform in 1e-3 to 1e-1, A_n = -(n + 1), here
    // with some spread, as training leaves it.
    const double dt = std::exp(std::log(1e-3) + random.uniform() * std::log(100.0));
    made.dt_bias.push_back(static_cast<float>(std::log(std::expm1(dt))));
    made.D.push_back(static_cast<float>(random.normal()));
    double sum = 0;
    for (Index state = 0; state < shape.d_state; ++state) {
      const double a = -(state + 1) * std::exp(0.3 * random.normal());
      made.A.push_back(static_cast<float>(a));
      sum -= a;
    }
    made.timescale.push_back(static_cast<float>(dt * sum / shape.d_state));
    for (Index tap = 0; tap < shape.d_conv; ++tap) {
      made.conv.push_back(static_cast<float>(0.5 * random.normal()));
    }
  }

  const Index clusters = std::min(kClusters, std::max<Index>(n / 8, 1));
  const Permutation dealt = random_permutation(n, random);
  std::vector<float> cluster(at(n));
  for (Index i = 0; i < n; ++i) {
    cluster[at(dealt[i])] = static_cast<float>(std::int64_t{i} * clusters / n);
  }
  made.solved = ascending(cluster);
  const auto of = [&](Index channel) { return static_cast<std::size_t>(cluster[at(channel)]); };
  const auto draw = [&](double share) {
    std::vector<char> is_drawn(at(clusters));
    for (char& drawn : is_drawn) drawn = random.uniform() < share;
    if (std::count(is_drawn.begin(), is_drawn.end(), 1) == 0) is_drawn[0] = 1;
    return is_drawn;
  };
  for (std::int64_t row = 0; row < kSparseRows; ++row) {
    const std::vector<char> is_on = draw(0.1);
    std::vector<float>& values = made.sparse_rows.emplace_back(at(n));
    for (Index channel = 0; channel < n; ++channel) {
      const bool is_nonzero = is_on[of(channel)] && random.uniform() < 0.9;
      const double value = random.normal();
      if (is_nonzero) values[at(channel)] = static_cast<float>(value);
    }
  }
  const std::vector<char> is_on = draw(0.25);
  for (Index channel = 0; channel < n; ++channel) made.is_active.push_back(is_on[of(channel)]);
  const Index row_blocks = (shape.d_model + kBlock - 1) / kBlock;
  for (Index row = 0; row < row_blocks; ++row) {
    const std::vector<char> is_read = draw(0.1);
    for (Index channel = 0; channel < n; ++channel) made.is_kept.push_back(is_read[of(channel)]);
  }
  return made;
}

BenchInputs layer_inputs(LayerActivations layer, Permutation solved, std::string source) {
  BenchInputs made;
  made.source = std::move(source);
  made.d_model = layer.d_model;
  made.d_inner = layer.d_inner;
  made.d_state = layer.d_state;
  made.d_conv = layer.d_conv;
  made.tokens = layer.tokens;
  made.solved = std::move(solved);
  const Index n = layer.d_inner;
  std::vector<double> step(at(n));
  std::vector<float> size(at(n));
  for (std::int64_t token = 0; token < layer.tokens; ++token) {
    std::vector<float> magnitudes;
    for (Index channel = 0; channel < n; ++channel) {
      const double raw = double{layer.dt[at(token * n + channel)]} + layer.dt_bias[at(channel)];
      step[at(channel)] += raw > 20 ? raw : std::log1p(std::exp(raw));
      magnitudes.push_back(std::fabs(layer.gated[at(token * n + channel)]));
      size[at(channel)] += magnitudes.back();
    }
    if (token >= kSparseRows) continue;
    const std::vector<char> is_large = largest(magnitudes, n / 10);
    std::vector<float>& values = made.sparse_rows.emplace_back(at(n));
    for (Index channel = 0; channel < n; ++channel) {
      if (is_large[at(channel)]) values[at(channel)] = layer.gated[at(token * n + channel)];
    }
  }
  for (Index channel = 0; channel < n; ++channel) {
    double sum = 0;
    for (Index state = 0; state < layer.d_state; ++state) {
      sum -= layer.A[at(std::int64_t{channel} * layer.d_state + state)];
    }
    made.timescale.push_back(
        static_cast<float>(step[at(channel)] / double(layer.tokens) * sum / layer.d_state));
  }
  made.is_active = largest(size, n / 4);

  std::vector<float> weights = std::move(layer.out_proj);
  for (float& weight : weights) weight = std::fabs(weight);
  const std::vector<char> is_large = largest(weights, std::ssize(weights) / 20);
  const Index row_blocks = (layer.d_model + kBlock - 1) / kBlock;
  made.is_kept.resize(at(std::int64_t{row_blocks} * n));
  for (Index row = 0; row < layer.d_model; ++row) {
    for (Index channel = 0; channel < n; ++channel) {
      if (is_large[at(std::int64_t{row} * n + channel)]) {
        made.is_kept[at(std::int64_t{row / kBlock} * n + channel)] = 1;
      }
    }
  }
  made.A = std::move(layer.A);
  made.D = std::move(layer.D);
  made.dt_bias = std::move(layer.dt_bias);
  made.conv = std::move(layer.conv);
  made.u = std::move(layer.u);
  made.dt = std::move(layer.dt);
  made.z = std::move(layer.z);
  made.B = std::move(layer.B);
  made.C = std::move(layer.C);
  return made;
}

std::vector<BenchOrder> bench_orders(const Permutation& solved, std::span<const float> timescale,
                                     std::uint64_t seed) {
  const Index n = solved.size();
  const Permutation identity = Permutation::identity(n);
  std::vector<BenchOrder> orders = {{"identity", identity}, {"placebo", identity}};
  for (Index i = 1; i <= kRandomOrders; ++i) {
    Random random = Random::derived(seed, 100 + static_cast<std::uint64_t>(i));
    orders.push_back({"random " + std::to_string(i), random_permutation(n, random)});
  }
  orders.push_back({"solved", solved});
  orders.push_back({"timescale", ascending(timescale)});
  std::vector<Index> backwards(at(n));
  std::iota(backwards.rbegin(), backwards.rend(), 0);
  orders.push_back({"reverse", Permutation::from_gather(std::move(backwards))});
  orders.push_back({"adversarial", dealt_out(solved)});
  Random random = Random::derived(seed, 200);
  orders.push_back({"shuffled", random_permutation(n, random).then(solved)});
  return orders;
}

Permutation heads_order(const Permutation& channels, Index size) {
  const Index heads = channels.size() / size;
  std::vector<float> place(at(heads));
  for (Index i = 0; i < heads * size; ++i) {
    // small enough sums to be exact in f32 up to 2^24 channel places
    place[at(std::min(channels[i] / size, heads - 1))] += static_cast<float>(i) / 64;
  }
  return ascending(place);
}

std::int64_t gather_sectors(const Permutation& order, std::int64_t element_bytes) {
  constexpr Index kWarp = 32;
  constexpr std::int64_t kSector = 32;
  std::int64_t sectors = 0;
  for (Index first = 0; first < order.size(); first += kWarp) {
    std::vector<std::int64_t> seen;
    const Index last = std::min(first + kWarp, order.size());
    for (Index i = first; i < last; ++i) seen.push_back(order[i] * element_bytes / kSector);
    std::sort(seen.begin(), seen.end());
    sectors += std::unique(seen.begin(), seen.end()) - seen.begin();
    sectors += (std::int64_t{last - first} * 4 + kSector - 1) / kSector;
  }
  return sectors;
}

std::int64_t touched_runs(const Permutation& order, std::span<const char> is_set, Index run) {
  std::int64_t runs = 0;
  for (Index first = 0; first < order.size(); first += run) {
    for (Index i = first; i < std::min(first + run, order.size()); ++i) {
      if (!is_set[at(order[i])]) continue;
      ++runs;
      break;
    }
  }
  return runs;
}

std::int64_t update_sectors(const Permutation& order, std::span<const char> is_active,
                            const UpdateSectors& update) {
  constexpr std::int64_t kSector = 32;
  constexpr std::int64_t kFloat = 4;
  const auto sectors = [](std::int64_t bytes) { return (bytes + kSector - 1) / kSector; };
  const auto runs = [&](std::int64_t element_bytes) {
    return touched_runs(order, is_active, static_cast<Index>(kSector / element_bytes));
  };
  const std::int64_t active =
      std::count_if(is_active.begin(), is_active.end(), [](char is_set) { return is_set != 0; });
  const std::int64_t state = update.is_channel_major
                                 ? update.states * runs(update.state_bytes)
                                 : active * sectors(update.states * update.state_bytes);
  const std::int64_t rows = 4 * runs(update.row_bytes);                 // u, dt, z, y
  const std::int64_t shared = active * sectors(update.states * kFloat)  // A
                              + 2 * runs(kFloat)                        // D, dt_bias
                              + sectors(active * kFloat);               // which are active
  return update.batch * (2 * state + rows) + update.pieces * shared;
}

std::int64_t kept_blocks(const Permutation& order, std::span<const char> is_kept) {
  const auto columns = static_cast<std::size_t>(order.size());
  std::int64_t blocks = 0;
  for (std::size_t row = 0; row < is_kept.size() / std::max<std::size_t>(columns, 1); ++row) {
    blocks += touched_runs(order, is_kept.subspan(row * columns, columns), kBlock);
  }
  return blocks;
}

}  // namespace icd
