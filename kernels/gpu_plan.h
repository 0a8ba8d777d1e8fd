#pragma once

#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"

// Plain C++, present in every build.
namespace icd {

/// A language model of nothing but Mamba-1 or Mamba-2 mixers: hidden += mixer(norm(hidden)), layer
/// by layer.
struct GpuPlan {
  struct Layer {
    std::string norm;  ///< tensor name of the RMSNorm ahead
    Block mixer;
  };

  ModelSpec spec;
  std::string embedding;  ///< tensor names
  std::string final_norm;
  std::string head;
  double norm_epsilon = 1e-5;
  std::vector<Layer> layers;
};

/// Throws Error{unsupported} in one line that names what of the model has no kernel: anything but
/// RMSNorms, mamba1 and mamba2 blocks, one a layer, and scale factors other than 1.
GpuPlan gpu_plan(const Checkpoint& checkpoint, const Layout& layout);

/// What the model's weights take in f32.
std::int64_t weight_bytes(const Checkpoint& checkpoint, const GpuPlan& plan);

}  // namespace icd
