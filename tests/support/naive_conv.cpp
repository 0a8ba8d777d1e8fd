#include "support/naive_conv.h"

#include <cmath>
#include <utility>

namespace icd::testing {

Rows naive_conv(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias,
                const ConvOptions& options) {
  const std::size_t in = extent(weight, 1);
  const std::size_t taps = extent(weight, 2);
  const std::size_t reach = options.dilation * (taps - 1);
  const NaiveTensor matrix = flattened(weight);
  Rows y;
  for (std::size_t t = 0; t + reach < x.size() + 2 * options.padding; t += options.stride) {
    Row window;
    for (std::size_t c = 0; c < in; ++c) {
      for (std::size_t k = 0; k < taps; ++k) {
        const std::size_t at = t + k * options.dilation;  // counted from the padding's start
        const bool inside = at >= options.padding && at - options.padding < x.size();
        window.push_back(inside ? x[at - options.padding].at(c) : 0);
      }
    }
    y.push_back(linear(window, matrix, bias));
  }
  return y;
}

Rows naive_conv(const Rows& x, const Scope& scope, const std::string& name,
                const ConvOptions& options) {
  return naive_conv(x, scope.at(name + ".weight"), scope.find(name + ".bias"), options);
}

void make_conv(TensorMaker& maker, const std::string& name, const Shape& shape, Bias bias) {
  const auto fan_in = static_cast<double>(shape.at(1) * shape.at(2));
  maker.tensor(name + ".weight", shape, 0, 1 / std::sqrt(fan_in));
  if (bias == Bias::yes) maker.tensor(name + ".bias", {shape[0]}, 0, 0.5);
}

NaiveTensor flattened(NaiveTensor weight) {
  const std::int64_t out = weight.shape.at(0);
  weight.shape = {out, static_cast<std::int64_t>(weight.values.size()) / out};
  return weight;
}

}  // namespace icd::testing
