#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "icd/dtype.h"
#include "icd/permutation.h"
#include "icd/progress.h"

namespace icd {

/// The sizes of a Mamba-1 language model.
struct Mamba1Shape {
  std::string_view name;
  Index n_layer = 0;
  Index d_model = 0;
  Index vocab = 50280;  ///< the NeoX vocabulary, padded to a multiple of 8
  Index d_state = 16;
  Index d_conv = 4;
  Index d_inner() const noexcept { return 2 * d_model; }
  Index dt_rank() const noexcept { return (d_model + 15) / 16; }
};

/// The published sizes, "mamba-130m" to "mamba-2.8b". Source: state-spaces/mamba, README.
std::optional<Mamba1Shape> published_shape(std::string_view name) noexcept;

/// Writes a checkpoint of `shape` with random finite BF16 weights, Hugging Face names, tied
/// head, `shards` >= 1 files: for benchmarks of everything that does not read the values'
/// meaning. The same arguments give the same bytes. Throws Error{io}.
void write_synthetic(const Mamba1Shape& shape, int shards, std::uint64_t seed,
                     const std::filesystem::path& folder, Progress& progress);

}  // namespace icd
