#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

namespace icd::reference {

/// log(1 + exp(x))
inline double softplus(double x) { return x > 30 ? x : std::log1p(std::exp(x)); }

inline double silu(double x) { return x / (1 + std::exp(-x)); }

/// Calls work(r) for every r in [0, rows), on all processors. Not OpenMP: the shared library must
/// load beside any copy of it that a program brings.
template <typename Work>
void each_row(std::int64_t rows, const Work& work) {
  const auto threads =
      std::min<std::int64_t>(rows, std::max(1U, std::thread::hardware_concurrency()));
  const auto stretch = [&](std::int64_t k) {
    for (std::int64_t r = rows * k / threads; r < rows * (k + 1) / threads; ++r) work(r);
  };
  std::vector<std::thread> others;
  for (std::int64_t k = 1; k < threads; ++k) others.emplace_back(stretch, k);
  if (rows > 0) stretch(0);
  for (std::thread& other : others) other.join();
}

}  // namespace icd::reference
