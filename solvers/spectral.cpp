#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "icd/random.h"
#include "solvers.h"
#include "traversal.h"

namespace icd {
namespace {

using Values = std::vector<double>;

// Dense correlation graphs of 5120 vertices are done in 40 to 100 steps of 30 ms each. What has
// not converged after so many is a cluster of eigenvalues, in which any vector serves.
constexpr int kMostSteps = 160;
constexpr double kTolerance = 1e-7;  // of the residual; the largest eigenvalue is 1

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Plain loops: Eigen's products would bring its threads and its choice of kernels along.
double dot(const Values& x, const Values& y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

void add(Values& x, double factor, const Values& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += factor * y[i];
}

void scale(Values& x, double factor) {
  for (double& value : x) value *= factor;
}

/// D^-1/2 W D^-1/2 of one component, whose vertices have the places 0, 1, ...
class NormalisedWeights {
 public:
  NormalisedWeights(const Graph& graph, const std::vector<Index>& vertices)
      : graph_(graph), vertices_(vertices), place_(at(graph.size())), root_(vertices.size()) {
    for (std::size_t i = 0; i < vertices.size(); ++i) {
      place_[at(vertices[i])] = i;
      root_[i] = std::sqrt(graph.strength(vertices[i]));
    }
  }

  /// sqrt(strength): the eigenvector of the largest eigenvalue, 1.
  const Values& root() const noexcept { return root_; }

  Values times(const Values& x) const {
    Values scaled(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) scaled[i] = x[i] / root_[i];
    Values y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      double sum = 0;
      for (const Neighbour& next : graph_.neighbours(vertices_[i])) {
        sum += double{next.weight} * scaled[place_[at(next.vertex)]];
      }
      y[i] = sum / root_[i];
    }
    return y;
  }

 private:
  const Graph& graph_;
  const std::vector<Index>& vertices_;
  std::vector<std::size_t> place_;  // by vertex of the whole graph
  Values root_;
};

/// The eigenvector of the second largest eigenvalue of `matrix`, which is that of the second
/// smallest of the normalised Laplacian, times D^-1/2. Lanczos from a fixed start, kept
/// orthogonal to the first eigenvector and to all of its own steps.
Values fiedler_vector(const NormalisedWeights& matrix) {
  const std::size_t n = matrix.root().size();
  Values first = matrix.root();
  scale(first, 1 / std::sqrt(dot(first, first)));

  std::vector<Values> basis;
  const auto orthogonalise = [&](Values& x) {
    for (int pass = 0; pass < 2; ++pass) {  // twice is enough (Parlett)
      add(x, -dot(x, first), first);
      for (const Values& step : basis) add(x, -dot(x, step), step);
    }
  };

  Random random(0);
  Values step(n);
  for (double& value : step) value = random.uniform() - 0.5;
  orthogonalise(step);
  scale(step, 1 / std::sqrt(dot(step, step)));

  const auto most_steps = static_cast<int>(std::min<std::size_t>(kMostSteps, n - 1));
  Values diagonal;
  Values beside;  // the diagonal
  Eigen::VectorXd ritz;
  for (int k = 1;; ++k) {
    basis.push_back(step);
    step = matrix.times(step);
    diagonal.push_back(dot(step, basis.back()));
    orthogonalise(step);
    const double residual = std::sqrt(dot(step, step));
    const bool last = k == most_steps || residual < kTolerance;
    if (last || k % 8 == 0) {
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> small;
      small.computeFromTridiagonal(Eigen::Map<const Eigen::VectorXd>(diagonal.data(), k),
                                   Eigen::Map<const Eigen::VectorXd>(beside.data(), k - 1));
      ritz = small.eigenvectors().col(k - 1);
      if (last || residual * std::fabs(ritz[k - 1]) < kTolerance) break;
    }
    beside.push_back(residual);
    scale(step, 1 / residual);
  }

  Values vector(n, 0.0);
  for (std::size_t k = 0; k < basis.size(); ++k) {
    add(vector, ritz[static_cast<Eigen::Index>(k)], basis[k]);
  }
  for (std::size_t i = 0; i < n; ++i) vector[i] /= matrix.root()[i];
  return vector;
}

/// Values on a grid: differences below the accuracy of the eigenvector become ties. The sign
/// is the one under which they rise rather than fall along the original order.
std::vector<std::int64_t> sort_keys(const Values& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::fabs(value));
  constexpr double kGrid = 1 << 20;
  std::vector<std::int64_t> keys;
  keys.reserve(values.size());
  for (const double value : values) keys.push_back(std::llround(value / largest * kGrid));

  // Whole numbers, exact in double for n below 2^16; beyond that still the same everywhere.
  double slope = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    slope += static_cast<double>(keys[i]) *
             (2 * static_cast<double>(i) - static_cast<double>(keys.size() - 1));
  }
  if (slope < 0) {
    for (auto& key : keys) key = -key;
  }
  return keys;
}

}  // namespace

// Along the Fiedler vector: relaxes the order of least sum of weight * distance^2, so that
// what is strongly joined stands near. Each component on its own, one after the other. Reads
// neither the objective nor the blocks.
//
// Source  M. Fiedler, "A property of eigenvectors of nonnegative symmetric matrices", 1975;
//         J. E. Atkins, E. G. Boman, B. Hendrickson, "A spectral algorithm for seriation",
//         SIAM J. Comput. 1998; normalised as in J. Shi, J. Malik, PAMI 2000. C. Lanczos, 1950.
// Cost    O(k E + k^2 V + k^3) for k Lanczos steps, k <= 160; 8 k V bytes.
// Ties    to the lower vertex; so do values that differ by less than 2^-20 of the largest.
Permutation solve_spectral(const Problem& problem, const SolveOptions&) {
  const Graph& graph = problem.graph();
  std::vector<Index> order;
  order.reserve(at(graph.size()));
  for (const std::vector<Index>& vertices : components(graph)) {
    std::vector<std::size_t> places(vertices.size());
    std::iota(places.begin(), places.end(), std::size_t{0});
    if (vertices.size() > 2) {
      const auto keys = sort_keys(fiedler_vector(NormalisedWeights(graph, vertices)));
      std::stable_sort(places.begin(), places.end(),
                       [&](std::size_t i, std::size_t j) { return keys[i] < keys[j]; });
    }
    for (const std::size_t place : places) order.push_back(vertices[place]);
  }
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
