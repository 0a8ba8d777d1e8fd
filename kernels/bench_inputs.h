#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/layer_activations.h"
#include "icd/permutation.h"

// What the benchmark runner measures on and in which orders, and what a model of the memory expects
// of them. Plain C++: no device is needed.
namespace icd {

/// Sizes of one measurement: a layer of a Mamba-1 model, a batch of sequences.
struct BenchShape {
  std::string model;  ///< "mamba-130m"
  Index d_model = 0;
  Index d_inner = 0;
  Index d_state = 16;
  Index d_conv = 4;
  std::int64_t batch = 1;
  std::int64_t length = 1;
};

/// The values of a layer, by channel as the checkpoint (or the seed) has them.
struct BenchInputs {
  std::string source;  ///< in words: "random, planted clusters of channels", "layer 12 of ..."
  Index d_model = 0;
  Index d_inner = 0;
  Index d_state = 0;
  Index d_conv = 0;
  std::vector<float> A;          ///< (d_inner, d_state)
  std::vector<float> D;          ///< (d_inner)
  std::vector<float> dt_bias;    ///< (d_inner)
  std::vector<float> conv;       ///< (d_inner, d_conv)
  std::vector<float> timescale;  ///< (d_inner): dt mean |A|, the inverse of the memory in tokens

  /// Rows that repeat until a batch is full; empty: made on the device from the seed.
  std::int64_t tokens = 0;
  std::vector<float> u, dt, z;  ///< (tokens, d_inner)
  std::vector<float> B, C;      ///< (tokens, d_state)

  std::vector<std::vector<float>> sparse_rows;  ///< of d_inner: what out_proj reads, most of it 0
  std::vector<char> is_active;                  ///< (d_inner): which channels decode updates

  /// Which blocks of out_proj are kept: (d_model / 32 rounded up, d_inner), by rows of blocks.
  std::vector<char> is_kept;

  Permutation solved;  ///< what a solver makes of it: members that are active together, together
};

/// Clusters of 64 random channels or so that are active together, one in ten a token; time scales
/// log-uniform, as Mamba initialises them.
BenchInputs synthetic_inputs(const BenchShape& shape, std::uint64_t seed);

/// A layer's own. Of what out_proj reads the largest tenth of a token is kept; decode updates the
/// quarter of the channels that are largest on average; of out_proj the largest twentieth of the
/// weights is kept, so that a block is empty where a whole run of inputs has none of them.
BenchInputs layer_inputs(LayerActivations layer, Permutation solved, std::string source);

/// An order of channels, or of what moves as one.
struct BenchOrder {
  std::string name;
  Permutation order;
};

/// identity, placebo (the identity once more), random 1 to 5, solved, timescale (slowest first),
/// reverse, adversarial (the solved order dealt out, neighbours 64 apart), and shuffled: the solved
/// order on values that were dealt to channels at random, so that order has nothing to find.
std::vector<BenchOrder> bench_orders(const Permutation& solved, std::span<const float> timescale,
                                     std::uint64_t seed);

/// An order of heads of `size` channels from one of channels: heads by where their channels are on
/// average.
Permutation heads_order(const Permutation& channels, Index size);

/// Distinct sectors of 32 bytes that warps read in a row: the elements of 32 neighbours in the
/// output, wherever they lie. Plus those of the table of places, 4 bytes each.
std::int64_t gather_sectors(const Permutation& order, std::int64_t element_bytes);

/// Runs of `run` neighbours in the order of which at least one is set.
std::int64_t touched_runs(const Permutation& order, std::span<const char> is_set, Index run);

/// Distinct sectors of 32 bytes that an update of the state of some channels touches; B and C are
/// the tokens' and left out.
struct UpdateSectors {
  std::int64_t batch = 1;
  std::int64_t states = 16;
  std::int64_t state_bytes = 4;   ///< of an element of the state ...
  std::int64_t row_bytes = 2;     ///< ... and of u, dt, z and y
  bool is_channel_major = false;  ///< (batch, states, channels): channels share a state's sectors
  std::int64_t pieces = 1;        ///< of the batch, each of which reads A, D and dt_bias for itself
};
std::int64_t update_sectors(const Permutation& order, std::span<const char> is_active,
                            const UpdateSectors& update);

/// Blocks of 32 columns by rows of blocks of which at least one column is kept, of `is_kept`
/// (row_blocks, columns).
std::int64_t kept_blocks(const Permutation& order, std::span<const char> is_kept);

}  // namespace icd
