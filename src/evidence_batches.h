#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

#include "icd/evidence.h"

namespace icd {

/// Works on the evidence of groups a few at a time, in parallel, and hands over the results one
/// after the other in the order in which the evidence came: threads share out groups, so their
/// number shows in nothing. `work(group, evidence)` gives a Result, `take(group, result)` gets it.
template <typename Result, typename Work, typename Take>
void for_each_evidence(const EvidenceSource& source, const std::vector<const AxisGroup*>& groups,
                       const EvidenceRequest& request, const Work& work, const Take& take,
                       Progress& progress) {
  // What waits takes memory: about as much as one layer of 5120 channels, and no more.
  constexpr std::int64_t kMostWaiting = std::int64_t{1} << 25;
  struct Task {
    const AxisGroup* group;
    Evidence evidence;
    Result result = {};
    std::exception_ptr failure = {};
  };
  std::vector<Task> tasks;
  std::int64_t waiting = 0;
  const auto flush = [&] {
    const auto count = std::ssize(tasks);
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      Task& task = tasks[static_cast<std::size_t>(i)];
      try {
        task.result = work(*task.group, std::as_const(task.evidence));
      } catch (...) {
        task.failure = std::current_exception();
      }
      task.evidence = {};
    }
    for (Task& task : tasks) {
      if (task.failure) std::rethrow_exception(task.failure);
      take(*task.group, std::move(task.result));
    }
    tasks.clear();
    waiting = 0;
  };
  source.gather(
      groups, request,
      [&](const AxisGroup& group, Evidence&& evidence) {
        tasks.push_back({.group = &group, .evidence = std::move(evidence)});
        waiting += std::int64_t{group.size} * group.size;
        if (waiting >= kMostWaiting || std::ssize(tasks) >= omp_get_max_threads()) flush();
      },
      progress);
  flush();
}

}  // namespace icd
