#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "icd/permutation.h"
#include "icd/random.h"
#include "support/families.h"

/// What the naive forwards of the test families are made of: plain loops in double over one
/// sequence, written to be read.
namespace icd::testing {

/// The channels of one token.
using Row = std::vector<double>;

/// (tokens, channels) of one sequence.
using Rows = std::vector<Row>;

/// The tensors whose names begin with a prefix.
class Scope {
 public:
  explicit Scope(const NaiveTensors& tensors, std::string prefix = {})
      : tensors_(&tensors), prefix_(std::move(prefix)) {}

  /// Throws std::out_of_range with the whole name if there is no such tensor.
  const NaiveTensor& at(std::string_view name) const;

  /// Null if there is no such tensor.
  const NaiveTensor* find(std::string_view name) const;

  bool has(std::string_view name) const { return find(name) != nullptr; }

  /// The scope of prefix + part + ".": scope.in("layers.0").in("mixer").
  Scope in(std::string_view part) const;

 private:
  const NaiveTensors* tensors_;
  std::string prefix_;
};

/// Size of an axis.
std::size_t extent(const NaiveTensor& tensor, std::size_t axis);

/// tensor[i, ...], one rank less: expert i of (experts, hidden, d_model).
NaiveTensor slice(const NaiveTensor& tensor, std::size_t i);

/// tensor[first : first + count] on axis 0.
NaiveTensor rows_of(const NaiveTensor& tensor, std::size_t first, std::size_t count);

/// x[first : first + count]
Row part(const Row& x, std::size_t first, std::size_t count);
Rows part(const Rows& x, std::size_t first, std::size_t count);

Row joined(const Row& a, const Row& b);
Row sum(const Row& a, const Row& b);
Row product(const Row& a, const Row& b);
Row scaled(const Row& x, double factor);
Rows joined(const Rows& a, const Rows& b);
Rows sum(const Rows& a, const Rows& b);
Rows product(const Rows& a, const Rows& b);
Rows scaled(const Rows& x, double factor);
Rows reversed(const Rows& x);  ///< the last token first

double sigmoid(double x);
double silu(double x);
double gelu(double x);  ///< with erf
double softplus(double x);
double relu_squared(double x);
Row map(double (*f)(double), Row x);
Rows map(double (*f)(double), Rows x);

/// weight (out, in) x + bias (out,), the bias if there is one.
Row linear(const Row& x, const NaiveTensor& weight, const NaiveTensor* bias = nullptr);
Rows linear(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias = nullptr);

/// The layer "name" of a scope: name.weight and, if there, name.bias.
Row linear(const Row& x, const Scope& scope, const std::string& name);
Rows linear(const Rows& x, const Scope& scope, const std::string& name);

/// x / sqrt(mean square + epsilon), each of `groups` equal stretches by itself; then times
/// weight (channels,), if given.
Row rms_norm(const Row& x, const NaiveTensor* weight, std::size_t groups = 1,
             double epsilon = 1e-5);
Rows rms_norm(const Rows& x, const NaiveTensor* weight, std::size_t groups = 1,
              double epsilon = 1e-5);

Row layer_norm(const Row& x, const NaiveTensor& weight, const NaiveTensor* bias,
               double epsilon = 1e-5);
Rows layer_norm(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias,
                double epsilon = 1e-5);

/// The norm "name" of a scope: LayerNorm if it has a bias, RMSNorm if not.
Rows norm(const Rows& x, const Scope& scope, const std::string& name);

/// Depthwise: y[t, c] = bias[c] + sum over k of weight[c, 0, k] x[t - (K-1) + k, c].
/// weight (channels, 1, K) or (channels, K).
Rows causal_conv(const Rows& x, const NaiveTensor& weight, const NaiveTensor* bias);

Row softmax(Row x);

/// Places of the k largest, in falling order; the lower place first among equals.
std::vector<std::size_t> top_k(const Row& x, std::size_t k);

/// (tokens, channels) of token ids: rows of table (vocabulary, channels).
Rows embedding(const NaiveTensor& table, const std::vector<std::size_t>& ids);

/// Two sequences of six ids below `vocabulary`.
std::vector<std::vector<std::size_t>> random_ids(std::uint64_t seed, std::size_t vocabulary);

/// Random values of mean 0 and deviation 1.
Rows random_rows(std::uint64_t seed, std::size_t tokens, std::size_t channels);

void append(std::vector<double>& out, const Rows& rows);

/// Logits of random_ids(seed): rows of `table`, then `body`, then `head` (vocabulary, channels).
std::vector<double> naive_logits(const NaiveTensor& table, const NaiveTensor& head,
                                 std::uint64_t seed, const std::function<Rows(Rows)>& body);

enum class Bias { no, yes };

/// Makes the tensors of a family: normal values, of a deviation that keeps activations near 1
/// and no two alike. What a tensor holds depends on the seed and on how many came before it.
class TensorMaker {
 public:
  explicit TensorMaker(std::uint64_t seed) : seed_(seed) {}

  void tensor(const std::string& name, Shape shape, double mean, double deviation);

  /// name.weight (out, in), of deviation in^-1/2, and name.bias (out,).
  void linear(const std::string& name, std::int64_t out, std::int64_t in, Bias bias = Bias::no);

  /// (rows, columns), of deviation columns^-1/2, or 1 where each row is used alone (embeddings).
  void matrix(const std::string& name, std::int64_t out, std::int64_t in);
  void embedding(const std::string& name, std::int64_t vocabulary, std::int64_t channels);

  /// name.weight (channels,) around 1, and name.bias.
  void norm(const std::string& name, std::int64_t channels, Bias bias = Bias::no);

  /// name.weight (channels, 1, taps) and name.bias.
  void conv(const std::string& name, std::int64_t channels, std::int64_t taps,
            Bias bias = Bias::yes);

  NaiveTensors take() { return std::move(tensors_); }

 private:
  std::uint64_t seed_;
  NaiveTensors tensors_;
};

/// One stretch of one axis that `wrong` orders move: element k is the run of `block` positions at
/// first + k * stride, and stride 0 means block.
struct Move {
  std::string tensor;
  std::size_t axis = 0;
  std::size_t first = 0;
  std::size_t block = 1;
  std::size_t stride = 0;
};

/// T'[element k] = T[element order[k]] along the axis; what is not in an element stays.
/// Throws std::out_of_range for a missing tensor or a stretch beyond its axis.
void move_axis(NaiveTensors& tensors, const Move& move, const std::vector<Index>& order);
void move_axes(NaiveTensors& tensors, const std::vector<Move>& moves,
               const std::vector<Index>& order);

/// {1, 2, ..., n-1, 0}: every element goes elsewhere.
std::vector<Index> rotation(Index n);

}  // namespace icd::testing
