#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "icd/tensor_view.h"

namespace icd::testing {

/// A tensor of a checkpoint in the making: anything about it may be changed before it is
/// written, which is how tests make one defect at a time.
struct TinyTensor {
  std::string name;
  std::string dtype;  ///< as the header spells it
  Shape shape;
  std::string bytes;  ///< row-major
};

struct TinyOptions {
  bool hf = true;  ///< Hugging Face names and config, else mamba-ssm's
  std::string dtype = "F32";
  std::int64_t n_layer = 2;
  std::int64_t vocab = 24;
  std::int64_t d_model = 8;
  std::int64_t d_inner = 16;
  std::int64_t d_state = 5;
  std::int64_t d_conv = 4;
  std::int64_t dt_rank = 3;
  bool conv_bias = true;
  bool proj_bias = false;
  bool layer_norm = false;  ///< mamba-ssm only
  bool tied_head = true;
  bool stored_tied_head = false;  ///< a second copy of the embedding as lm_head.weight
  std::string prefix = {};        ///< before every name, "model."
  std::uint64_t seed = 1;
};

/// A small Mamba-1 checkpoint of which every tensor is random: nothing is 1 or 0 or equal in
/// two places, so that no forgotten binding hides.
struct TinyCheckpoint {
  std::string config;  ///< text of config.json
  std::vector<TinyTensor> tensors;

  explicit TinyCheckpoint(const TinyOptions& options = {});

  TinyTensor& tensor(std::string_view name);

  /// Writes config.json and model.safetensors into `folder`, which is made if need be.
  void write(const std::filesystem::path& folder) const;

  /// The same in `shards` files with an index.
  void write_sharded(const std::filesystem::path& folder, int shards) const;
};

/// The bytes of a safetensors file that holds `tensors` in their order. `header` may edit the
/// JSON text of the header before it is written, to make a defect.
std::string safetensors_bytes(const std::vector<TinyTensor>& tensors,
                              const std::function<void(std::string&)>& header = {});

/// `count` random values of type F32, F64, BF16 or F16, as bytes.
std::string random_bytes(const std::string& dtype, std::int64_t count, double scale, double offset,
                         std::uint64_t seed);

}  // namespace icd::testing
