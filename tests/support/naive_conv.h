#pragma once

#include <cstddef>
#include <string>

#include "support/naive_math.h"

namespace icd::testing {

struct ConvOptions {
  std::size_t dilation = 1;
  std::size_t stride = 1;
  std::size_t padding = 0;  ///< zeros on each side
};

/// Conv1d over (tokens, channels) with weight (out, in, taps), not grouped.
/// Throws std::out_of_range if x has fewer than `in` channels.
Rows naive_conv(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias,
                const ConvOptions& options = {});

/// The layer "name" of a scope: name.weight and, if there, name.bias.
Rows naive_conv(const Rows& x, const Scope& scope, const std::string& name,
                const ConvOptions& options = {});

/// name.weight of `shape` (out, in, taps) and name.bias.
void make_conv(TensorMaker& maker, const std::string& name, const Shape& shape,
               Bias bias = Bias::yes);

/// (out, in, ...) as a matrix (out, all the rest).
NaiveTensor flattened(NaiveTensor weight);

}  // namespace icd::testing
