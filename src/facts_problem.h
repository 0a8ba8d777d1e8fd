#pragma once

#include <memory>

#include "icd/axis_facts.h"
#include "icd/problem.h"

namespace icd {

/// What every objective has in common: the number of members, and the graph that solvers walk.
class FactsProblem : public Problem {
 public:
  explicit FactsProblem(const AxisFacts& facts) : graph_(facts.graph) {}

  Index size() const noexcept override { return graph_->size(); }
  const Graph& graph() const noexcept override { return *graph_; }

 private:
  std::shared_ptr<const Graph> graph_;
};

}  // namespace icd
