#include <memory>
#include <vector>

#include "icd/error.h"
#include "icd/objective.h"
#include "rank_problem.h"
#include "readers.h"

// How much of what the model passes on goes through a member: the energy that its columns send
// into the matrices that read it, sum over readers of |W_j|^2 E[x_j^2]. Where the inputs are not
// known, |W_j|^2 alone; where no matrix reads the axis (states), E[x_j^2] of its signal, or else
// the square of all weights that move with the member.

namespace icd {
namespace {

std::vector<double> energies(const AxisFacts& facts) {
  const auto n = static_cast<std::size_t>(facts.size);
  const bool reads_inputs = has_inputs(facts);
  std::vector<double> energy(n, 0.0);
  for (const Reader& reader : facts.readers) {
    const std::size_t columns = n * static_cast<std::size_t>(reader.run);
    for (std::size_t i = 0; i < reader.weights->size(); ++i) {
      const std::size_t column = i % columns;
      const double w = (*reader.weights)[i];
      const double square = reads_inputs ? double{reader.input_square[column]} : 1.0;
      energy[column / static_cast<std::size_t>(reader.run)] += w * w * square;
    }
  }
  if (!facts.readers.empty()) return energy;
  const std::vector<float>& own = facts.square.empty() ? facts.weight_square : facts.square;
  if (own.size() != n) {
    throw Error(ErrorCode::input,
                "importance: no matrix reads the axis, and neither its signal "
                "nor its weights are known");
  }
  return {own.begin(), own.end()};
}

}  // namespace

std::unique_ptr<Problem> importance_problem(const AxisFacts& facts, const ObjectiveOptions&) {
  return std::make_unique<RankProblem>(facts, energies(facts));
}

}  // namespace icd
