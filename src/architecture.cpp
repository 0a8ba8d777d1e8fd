#include "architecture.h"

#include <array>

namespace icd {
namespace {

using Scope = SpaceRow::Scope;

// Mamba-1, in mamba-ssm's and in Hugging Face's names.
//
// Why each space is free (d_inner also in the paper's words "D", N "d_state"):
//   inner    the convolution, the scan and the gate treat every channel by itself; x_proj and
//            out_proj sum over channels.
//   state    the recurrence is elementwise in the state, and y sums over the states.
//   dt_rank  the inner axis of the product dt_proj x_proj.
//   model    the norms and in_proj sum over the residual stream; everything that writes it
//            writes it in one order.
// Checked numerically, and each binding shown to be necessary, by tests/core/layout_test.cpp.
constexpr std::array kMamba1Spaces = {
    SpaceRow{"inner", Scope::layer, "d_inner"},
    SpaceRow{"state", Scope::layer, "d_state"},
    SpaceRow{"dt_rank", Scope::layer, "dt_rank"},
    SpaceRow{"model", Scope::model, "d_model"},
};
constexpr std::array kMamba1Tensors = {
    TensorRow{"{backbone}{embedding}", "vocab, model"},
    TensorRow{"{backbone}layers.{i}.norm.weight", "model"},
    TensorRow{"{backbone}layers.{i}.norm.bias", "model", Presence::with_norm_bias},
    TensorRow{"{backbone}layers.{i}.mixer.in_proj.weight", "inner + inner, model"},  // [x; z]
    TensorRow{"{backbone}layers.{i}.mixer.in_proj.bias", "inner + inner", Presence::with_proj_bias},
    TensorRow{"{backbone}layers.{i}.mixer.conv1d.weight", "inner, 1, d_conv"},
    TensorRow{"{backbone}layers.{i}.mixer.conv1d.bias", "inner", Presence::with_conv_bias},
    TensorRow{"{backbone}layers.{i}.mixer.x_proj.weight", "dt_rank + state + state, inner"},
    TensorRow{"{backbone}layers.{i}.mixer.dt_proj.weight", "inner, dt_rank"},
    TensorRow{"{backbone}layers.{i}.mixer.dt_proj.bias", "inner"},
    TensorRow{"{backbone}layers.{i}.mixer.A_log", "inner, state"},
    TensorRow{"{backbone}layers.{i}.mixer.D", "inner"},
    TensorRow{"{backbone}layers.{i}.mixer.out_proj.weight", "model, inner"},
    TensorRow{"{backbone}layers.{i}.mixer.out_proj.bias", "model", Presence::with_proj_bias},
    TensorRow{"{backbone}norm_f.weight", "model"},
    TensorRow{"{backbone}norm_f.bias", "model", Presence::with_norm_bias},
    TensorRow{"{prefix}lm_head.weight", "vocab, model", Presence::with_own_head},
};

constexpr std::array kArchitectures = {
    Architecture{"mamba1", kMamba1Spaces, kMamba1Tensors},
};

}  // namespace

const Architecture* find_architecture(std::string_view name) noexcept {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return nullptr;
}

}  // namespace icd
