#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "icd/layout.h"
#include "support/tiny_checkpoint.h"

namespace icd::testing {

struct TinyMamba2Options {
  bool hf = true;     ///< Hugging Face names and config, else mamba-ssm's
  bool bare = false;  ///< one Mamba2 module: bare names, no config
  std::string dtype = "F32";
  std::int64_t n_layer = 2;
  std::int64_t vocab = 24;
  std::int64_t d_model = 8;
  std::int64_t ngroups = 2;
  std::int64_t heads_per_group = 2;
  std::int64_t headdim = 4;
  std::int64_t d_state = 3;
  std::int64_t d_mlp = 0;  ///< mamba-ssm only: d_inner - d_ssm
  std::int64_t d_conv = 4;
  bool conv_bias = true;
  bool proj_bias = false;
  bool d_per_channel = false;  ///< mamba-ssm's D_has_hdim
  bool tied_head = true;
  std::uint64_t seed = 1;
};

/// A small Mamba-2 checkpoint of which every tensor is random.
struct TinyMamba2 {
  std::string config;  ///< text of config.json; empty for a bare module
  std::vector<TinyTensor> tensors;
  Layout layout;  ///< blocks and spec as the tensors have them; no groups

  explicit TinyMamba2(const TinyMamba2Options& options = {});

  TinyTensor& tensor(std::string_view name);

  /// Writes config.json, if there is one, and model.safetensors into `folder`, which is made if
  /// need be.
  void write(const std::filesystem::path& folder) const;

  /// The same with pytorch_model.bin, or another name.
  void write_torch(const std::filesystem::path& folder,
                   const std::string& file = "pytorch_model.bin") const;
};

}  // namespace icd::testing
