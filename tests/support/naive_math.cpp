#include "support/naive_math.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace icd::testing {
namespace {

constexpr std::size_t kSequences = 2;
constexpr std::size_t kTokens = 6;

template <typename F>
Rows each(const Rows& x, F f) {
  Rows y;
  y.reserve(x.size());
  for (const Row& row : x) y.push_back(f(row));
  return y;
}

template <typename F>
Rows each(const Rows& a, const Rows& b, F f) {
  assert(a.size() == b.size());
  Rows y;
  y.reserve(a.size());
  for (std::size_t t = 0; t < a.size(); ++t) y.push_back(f(a[t], b[t]));
  return y;
}

template <typename F>
Row elementwise(const Row& a, const Row& b, F f) {
  assert(a.size() == b.size());
  Row y(a.size());
  std::transform(a.begin(), a.end(), b.begin(), y.begin(), f);
  return y;
}

double root(std::int64_t n) { return std::sqrt(static_cast<double>(n)); }

}  // namespace

const NaiveTensor& Scope::at(std::string_view name) const {
  if (const NaiveTensor* tensor = find(name)) return *tensor;
  throw std::out_of_range("no tensor '" + prefix_ + std::string(name) + "'");
}

const NaiveTensor* Scope::find(std::string_view name) const {
  const auto found = tensors_->find(prefix_ + std::string(name));
  return found == tensors_->end() ? nullptr : &found->second;
}

Scope Scope::in(std::string_view part) const {
  return Scope(*tensors_, prefix_ + std::string(part) + ".");
}

std::size_t extent(const NaiveTensor& tensor, std::size_t axis) {
  return static_cast<std::size_t>(tensor.shape.at(axis));
}

NaiveTensor slice(const NaiveTensor& tensor, std::size_t i) {
  NaiveTensor result = rows_of(tensor, i, 1);
  result.shape.erase(result.shape.begin());
  return result;
}

NaiveTensor rows_of(const NaiveTensor& tensor, std::size_t first, std::size_t count) {
  assert(first + count <= extent(tensor, 0));
  NaiveTensor result{tensor.shape, {}};
  const std::size_t row = tensor.values.size() / extent(tensor, 0);
  result.shape[0] = static_cast<std::int64_t>(count);
  result.values = part(tensor.values, first * row, count * row);
  return result;
}

Row part(const Row& x, std::size_t first, std::size_t count) {
  assert(first + count <= x.size());
  const auto begin = x.begin() + static_cast<std::ptrdiff_t>(first);
  return Row(begin, begin + static_cast<std::ptrdiff_t>(count));
}

Rows part(const Rows& x, std::size_t first, std::size_t count) {
  return each(x, [&](const Row& row) { return part(row, first, count); });
}

Row joined(const Row& a, const Row& b) {
  Row y = a;
  y.insert(y.end(), b.begin(), b.end());
  return y;
}

Row sum(const Row& a, const Row& b) { return elementwise(a, b, std::plus<>()); }
Row product(const Row& a, const Row& b) { return elementwise(a, b, std::multiplies<>()); }

Row scaled(const Row& x, double factor) {
  Row y = x;
  for (double& value : y) value *= factor;
  return y;
}

Rows joined(const Rows& a, const Rows& b) {
  return each(a, b, [](const Row& x, const Row& y) { return joined(x, y); });
}

Rows sum(const Rows& a, const Rows& b) {
  return each(a, b, [](const Row& x, const Row& y) { return sum(x, y); });
}

Rows product(const Rows& a, const Rows& b) {
  return each(a, b, [](const Row& x, const Row& y) { return product(x, y); });
}

Rows scaled(const Rows& x, double factor) {
  return each(x, [&](const Row& row) { return scaled(row, factor); });
}

Rows reversed(const Rows& x) { return Rows(x.rbegin(), x.rend()); }

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double gelu(double x) { return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0))); }
double softplus(double x) { return std::log1p(std::exp(x)); }
double relu_squared(double x) { return x > 0 ? x * x : 0; }

Row map(double (*f)(double), Row x) {
  std::transform(x.begin(), x.end(), x.begin(), f);
  return x;
}

Rows map(double (*f)(double), Rows x) {
  for (Row& row : x) row = map(f, std::move(row));
  return x;
}

Row linear(const Row& x, const NaiveTensor& weight, const NaiveTensor* bias) {
  const std::size_t out = extent(weight, 0);
  const std::size_t in = extent(weight, 1);
  if (in != x.size()) throw std::out_of_range("linear: the weight does not fit its input");
  Row y(out);
  for (std::size_t o = 0; o < out; ++o) {
    if (bias) y[o] = bias->values.at(o);
    for (std::size_t i = 0; i < in; ++i) y[o] += weight.values[o * in + i] * x[i];
  }
  return y;
}

Rows linear(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias) {
  return each(x, [&](const Row& row) { return linear(row, weight, bias); });
}

Row linear(const Row& x, const Scope& scope, const std::string& name) {
  return linear(x, scope.at(name + ".weight"), scope.find(name + ".bias"));
}

Rows linear(const Rows& x, const Scope& scope, const std::string& name) {
  return linear(x, scope.at(name + ".weight"), scope.find(name + ".bias"));
}

Row rms_norm(const Row& x, const NaiveTensor* weight, std::size_t groups, double epsilon) {
  assert(x.size() % groups == 0);
  const std::size_t size = x.size() / groups;
  Row y = x;
  for (std::size_t g = 0; g < groups; ++g) {
    double squares = 0;
    for (std::size_t c = g * size; c < (g + 1) * size; ++c) squares += x[c] * x[c];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(size) + epsilon);
    for (std::size_t c = g * size; c < (g + 1) * size; ++c) y[c] *= scale;
  }
  return weight ? product(y, weight->values) : y;
}

Rows rms_norm(const Rows& x, const NaiveTensor* weight, std::size_t groups, double epsilon) {
  return each(x, [&](const Row& row) { return rms_norm(row, weight, groups, epsilon); });
}

Row layer_norm(const Row& x, const NaiveTensor& weight, const NaiveTensor* bias, double epsilon) {
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  Row y = x;
  for (double& value : y) value -= mean;
  // What is left has mean 0: its mean square is the variance.
  y = rms_norm(y, &weight, 1, epsilon);
  return bias ? sum(y, bias->values) : y;
}

Rows layer_norm(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias, double epsilon) {
  return each(x, [&](const Row& row) { return layer_norm(row, weight, bias, epsilon); });
}

Rows norm(const Rows& x, const Scope& scope, const std::string& name) {
  const NaiveTensor& weight = scope.at(name + ".weight");
  const NaiveTensor* bias = scope.find(name + ".bias");
  return bias ? layer_norm(x, weight, bias) : rms_norm(x, &weight);
}

Rows causal_conv(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias) {
  const std::size_t channels = extent(weight, 0);
  const std::size_t taps = weight.values.size() / channels;
  Rows y(x.size(), Row(channels));
  for (std::size_t t = 0; t < x.size(); ++t) {
    if (x[t].size() != channels) throw std::out_of_range("conv: the weight does not fit its input");
    for (std::size_t c = 0; c < channels; ++c) {
      if (bias) y[t][c] = bias->values.at(c);
      for (std::size_t k = 0; k < taps; ++k) {
        if (t + k + 1 < taps) continue;  // before the first token
        y[t][c] += weight.values[c * taps + k] * x[t + k + 1 - taps][c];
      }
    }
  }
  return y;
}

Row softmax(Row x) {
  const double largest = *std::max_element(x.begin(), x.end());
  for (double& value : x) value = std::exp(value - largest);
  return scaled(x, 1 / std::accumulate(x.begin(), x.end(), 0.0));
}

std::vector<std::size_t> top_k(const Row& x, std::size_t k) {
  std::vector<std::size_t> places(x.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  std::stable_sort(places.begin(), places.end(),
                   [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
  places.resize(std::min(k, places.size()));
  return places;
}

Rows embedding(const NaiveTensor& table, const std::vector<std::size_t>& ids) {
  Rows rows;
  for (const std::size_t id : ids) rows.push_back(slice(table, id).values);
  return rows;
}

std::vector<std::vector<std::size_t>> random_ids(std::uint64_t seed, std::size_t vocabulary) {
  Random random(seed);
  std::vector<std::vector<std::size_t>> sequences(kSequences, std::vector<std::size_t>(kTokens));
  for (auto& sequence : sequences) {
    for (std::size_t& id : sequence) id = static_cast<std::size_t>(random.below(vocabulary));
  }
  return sequences;
}

Rows random_rows(std::uint64_t seed, std::size_t tokens, std::size_t channels) {
  Random random(seed);
  Rows rows(tokens, Row(channels));
  for (Row& row : rows) {
    for (double& value : row) value = random.normal();
  }
  return rows;
}

void append(std::vector<double>& out, const Rows& rows) {
  for (const Row& row : rows) out.insert(out.end(), row.begin(), row.end());
}

std::vector<double> naive_logits(const NaiveTensor& table, const NaiveTensor& head,
                                 std::uint64_t seed, const std::function<Rows(Rows)>& body) {
  std::vector<double> logits;
  for (const auto& ids : random_ids(seed, extent(table, 0))) {
    append(logits, linear(body(embedding(table, ids)), head));
  }
  return logits;
}

void TensorMaker::tensor(const std::string& name, Shape shape, double mean, double deviation) {
  Random random = Random::derived(seed_, tensors_.size());
  std::int64_t elements = 1;
  for (const std::int64_t n : shape) elements *= n;
  Row values(static_cast<std::size_t>(elements));
  for (double& value : values) value = mean + deviation * random.normal();
  const bool added = tensors_.emplace(name, NaiveTensor{std::move(shape), values}).second;
  if (!added) throw std::logic_error("tensor '" + name + "' is made twice");
}

void TensorMaker::linear(const std::string& name, std::int64_t out, std::int64_t in, Bias bias) {
  matrix(name + ".weight", out, in);
  if (bias == Bias::yes) tensor(name + ".bias", {out}, 0, 0.5);
}

void TensorMaker::matrix(const std::string& name, std::int64_t out, std::int64_t in) {
  tensor(name, {out, in}, 0, 1 / root(in));
}

void TensorMaker::embedding(const std::string& name, std::int64_t vocabulary,
                            std::int64_t channels) {
  tensor(name, {vocabulary, channels}, 0, 1);
}

void TensorMaker::norm(const std::string& name, std::int64_t channels, Bias bias) {
  tensor(name + ".weight", {channels}, 1.1, 0.3);
  if (bias == Bias::yes) tensor(name + ".bias", {channels}, 0, 0.5);
}

void TensorMaker::conv(const std::string& name, std::int64_t channels, std::int64_t taps,
                       Bias bias) {
  tensor(name + ".weight", {channels, 1, taps}, 0, 1 / root(taps));
  if (bias == Bias::yes) tensor(name + ".bias", {channels}, 0, 0.5);
}

void move_axis(NaiveTensors& tensors, const Move& move, const std::vector<Index>& order) {
  NaiveTensor& tensor = tensors.at(move.tensor);
  std::size_t inner = 1;  // values under one position of the axis
  for (std::size_t a = move.axis + 1; a < tensor.shape.size(); ++a) inner *= extent(tensor, a);
  const std::size_t positions = extent(tensor, move.axis);
  const std::size_t stride = move.stride == 0 ? move.block : move.stride;
  if (move.first + (order.size() - 1) * stride + move.block > positions) {
    throw std::out_of_range("move_axis: " + move.tensor);
  }
  const Row old = tensor.values;
  for (std::size_t outer = 0; outer < old.size(); outer += positions * inner) {
    for (std::size_t k = 0; k < order.size(); ++k) {
      const std::size_t to = outer + (move.first + k * stride) * inner;
      const std::size_t from =
          outer + (move.first + static_cast<std::size_t>(order[k]) * stride) * inner;
      for (std::size_t j = 0; j < move.block * inner; ++j) tensor.values[to + j] = old[from + j];
    }
  }
}

void move_axes(NaiveTensors& tensors, const std::vector<Move>& moves,
               const std::vector<Index>& order) {
  for (const Move& move : moves) move_axis(tensors, move, order);
}

std::vector<Index> rotation(Index n) {
  std::vector<Index> order(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = (i + 1) % n;
  return order;
}

}  // namespace icd::testing
