#include "layer_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "icd/error.h"

namespace icd {
namespace {

const StoredTensor& checked(const StoredTensor& tensor, std::span<const std::int64_t> shape) {
  if (!std::ranges::equal(tensor.shape, shape)) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': shape is {}, expected {}", tensor.name,
                                              shape_text(tensor.shape), shape_text(shape)));
  }
  return tensor;
}

const StoredTensor& found(const Checkpoint& checkpoint, const std::string& name,
                          std::span<const std::int64_t> shape) {
  const StoredTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': missing, expected one of shape {}",
                                              name, shape_text(shape)));
  }
  return checked(*tensor, shape);
}

template <typename Real>
std::vector<Real> values(const Checkpoint& checkpoint, const StoredTensor& tensor) {
  const TensorView view = checkpoint.view(tensor);
  if (!is_readable_float(view.dtype)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("tensor '{}': is of type {}, expected F16, BF16, F32 or F64",
                            tensor.name, tensor.dtype_text),
                "to move it all the same: --solver random or identity, --no-verify");
  }
  std::vector<Real> out(static_cast<std::size_t>(view.elements()));
  read_as(view, out);
  return out;
}

/// Empty if there is none.
template <typename Real>
std::vector<Real> optional(const Checkpoint& checkpoint, const std::string& name, Shape shape) {
  const StoredTensor* tensor = checkpoint.find(name);
  return tensor == nullptr ? std::vector<Real>()
                           : values<Real>(checkpoint, checked(*tensor, shape));
}

}  // namespace

template <typename Real>
std::vector<Real> read_tensor(const Checkpoint& checkpoint, const std::string& name,
                              const Shape& shape) {
  return values<Real>(checkpoint, found(checkpoint, name, shape));
}

template <typename Real>
LayerWeights<Real> read_layer(const Checkpoint& checkpoint, const ModelSpec& spec, Index layer) {
  const auto required_leaf = [&](const char* leaf, const Shape& shape) {
    return read_tensor<Real>(checkpoint, spec.tensor(layer, leaf), shape);
  };
  const auto optional_leaf = [&](const char* leaf, Shape shape) {
    return optional<Real>(checkpoint, spec.tensor(layer, leaf), std::move(shape));
  };
  const std::int64_t d_model = spec.d_model;
  const std::int64_t d_inner = spec.d_inner;
  LayerWeights<Real> weights;
  weights.norm = required_leaf("norm.weight", {d_model});
  if (spec.norm == ModelSpec::Norm::layer) {
    weights.norm_bias = optional_leaf("norm.bias", {d_model});
  }
  weights.in_proj = required_leaf("mixer.in_proj.weight", {2 * d_inner, d_model});
  weights.in_proj_bias = optional_leaf("mixer.in_proj.bias", {2 * d_inner});
  weights.conv = required_leaf("mixer.conv1d.weight", {d_inner, 1, spec.d_conv});
  weights.conv_bias = optional_leaf("mixer.conv1d.bias", {d_inner});
  weights.x_proj = required_leaf("mixer.x_proj.weight",
                                 {spec.dt_rank + 2 * std::int64_t{spec.d_state}, d_inner});
  weights.dt_proj = required_leaf("mixer.dt_proj.weight", {d_inner, spec.dt_rank});
  weights.dt_proj_bias = required_leaf("mixer.dt_proj.bias", {d_inner});
  weights.a_log = required_leaf("mixer.A_log", {d_inner, spec.d_state});
  weights.d = required_leaf("mixer.D", {d_inner});
  weights.out_proj = required_leaf("mixer.out_proj.weight", {d_model, d_inner});
  weights.out_proj_bias = optional_leaf("mixer.out_proj.bias", {d_model});
  return weights;
}

template <typename Real>
HeadWeights<Real> read_head(const Checkpoint& checkpoint, const ModelSpec& spec) {
  HeadWeights<Real> weights;
  weights.norm = read_tensor<Real>(checkpoint, spec.tensor("norm_f.weight"), {spec.d_model});
  if (spec.norm == ModelSpec::Norm::layer) {
    weights.norm_bias = optional<Real>(checkpoint, spec.tensor("norm_f.bias"), {spec.d_model});
  }
  weights.head = read_tensor<Real>(checkpoint, spec.tied_head ? spec.embedding() : spec.head(),
                                   {spec.vocab, spec.d_model});
  return weights;
}

template <typename Real>
void read_embedding(const Checkpoint& checkpoint, const std::string& name, Index vocab,
                    Index d_model, std::span<const std::int32_t> tokens, std::span<Real> hidden) {
  const Shape shape = {vocab, d_model};
  const TensorView table = checkpoint.view(found(checkpoint, name, shape));
  const auto width = static_cast<std::size_t>(d_model);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      throw Error(ErrorCode::usage,
                  fmt::format("token {} of the input: id is {}, expected one in [0, {})", i,
                              tokens[i], vocab));
    }
    const TensorView row = {
        .dtype = table.dtype,
        .shape = table.shape.subspan(1),
        .strides = table.strides.subspan(1),
        .data = table.data + tokens[i] * table.strides[0] * dtype_bytes(table.dtype)};
    read_as(row, hidden.subspan(i * width, width));
  }
}

template std::vector<float> read_tensor(const Checkpoint&, const std::string&, const Shape&);
template std::vector<double> read_tensor(const Checkpoint&, const std::string&, const Shape&);
template LayerWeights<float> read_layer(const Checkpoint&, const ModelSpec&, Index);
template LayerWeights<double> read_layer(const Checkpoint&, const ModelSpec&, Index);
template HeadWeights<float> read_head(const Checkpoint&, const ModelSpec&);
template HeadWeights<double> read_head(const Checkpoint&, const ModelSpec&);
template void read_embedding(const Checkpoint&, const std::string&, Index, Index,
                             std::span<const std::int32_t>, std::span<float>);
template void read_embedding(const Checkpoint&, const std::string&, Index, Index,
                             std::span<const std::int32_t>, std::span<double>);

}  // namespace icd
