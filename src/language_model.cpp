#include "icd/language_model.h"

#include <fmt/format.h>

#include <string_view>

#include "icd/error.h"
#include "layer_call.h"

namespace icd {
namespace {

void expect_size(std::string_view what, std::size_t size, std::int64_t expected) {
  if (static_cast<std::int64_t>(size) != expected) {
    throw Error(ErrorCode::usage,
                fmt::format("{}: has {} elements, expected {}", what, size, expected));
  }
}

template <typename Real>
void expect_state(std::string_view what, std::vector<Real>& state, std::int64_t expected) {
  if (state.empty()) {
    state.assign(static_cast<std::size_t>(expected), Real(0));
  } else {
    expect_size(what, state.size(), expected);
  }
}

}  // namespace

template <typename Real>
void prepare_layer_call(const ModelSpec& spec, Index layer, BatchShape shape,
                        std::size_t hidden_size, LayerState<Real>* state) {
  if (layer < 0 || layer >= spec.n_layer) {
    throw Error(ErrorCode::usage,
                fmt::format("layer {}: expected one in [0, {})", layer, spec.n_layer));
  }
  if (shape.sequences < 0 || shape.length < 0) {
    throw Error(ErrorCode::usage, fmt::format("batch: shape is ({}, {}), expected no negative size",
                                              shape.sequences, shape.length));
  }
  expect_size("hidden", hidden_size, shape.rows() * spec.d_model);
  if (state != nullptr) {
    const std::int64_t channels = std::int64_t{shape.sequences} * spec.d_inner;
    expect_state("state of the convolution", state->conv, channels * (spec.d_conv - 1));
    expect_state("state of the scan", state->scan, channels * spec.d_state);
  }
}

std::int64_t prepare_head_call(const ModelSpec& spec, std::size_t hidden_size,
                               std::size_t logits_size) {
  const auto rows = static_cast<std::int64_t>(hidden_size) / spec.d_model;
  expect_size("hidden", hidden_size, rows * spec.d_model);
  expect_size("logits", logits_size, rows * spec.vocab);
  return rows;
}

template <typename Real>
std::vector<Real> LanguageModel<Real>::logits(std::span<const TokenId> tokens,
                                              BatchShape shape) const {
  expect_size("tokens", tokens.size(), shape.rows());
  std::vector<Real> hidden(tokens.size() * static_cast<std::size_t>(spec().d_model));
  embed(tokens, hidden);
  for (Index i = 0; i < spec().n_layer; ++i) layer(i, shape, hidden);
  std::vector<Real> out(tokens.size() * static_cast<std::size_t>(spec().vocab));
  head(hidden, out);
  return out;
}

template <typename Real>
std::vector<Real> LanguageModel<Real>::step(std::span<const TokenId> tokens,
                                            std::vector<LayerState<Real>>& state) const {
  if (state.empty()) state.resize(static_cast<std::size_t>(spec().n_layer));
  expect_size("state", state.size(), spec().n_layer);
  const BatchShape shape = {.sequences = static_cast<Index>(tokens.size()), .length = 1};
  std::vector<Real> hidden(tokens.size() * static_cast<std::size_t>(spec().d_model));
  embed(tokens, hidden);
  for (Index i = 0; i < spec().n_layer; ++i) {
    layer(i, shape, hidden, &state[static_cast<std::size_t>(i)]);
  }
  std::vector<Real> out(tokens.size() * static_cast<std::size_t>(spec().vocab));
  head(hidden, out);
  return out;
}

template void prepare_layer_call(const ModelSpec&, Index, BatchShape, std::size_t,
                                 LayerState<float>*);
template void prepare_layer_call(const ModelSpec&, Index, BatchShape, std::size_t,
                                 LayerState<double>*);
template class LanguageModel<float>;
template class LanguageModel<double>;

}  // namespace icd
