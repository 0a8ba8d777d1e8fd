#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "support/naive_math.h"

/// Mamba-3 as mamba-ssm has it (modules/mamba3.py), by its recurrence and not by its kernels.
namespace icd::testing {

struct Mamba3Sizes {
  std::int64_t d_model = 12;
  std::int64_t heads = 6;
  std::int64_t headdim = 4;
  std::int64_t groups = 2;  ///< of B and C
  std::int64_t d_state = 16;
  std::int64_t rank = 1;  ///< more than 1: MIMO
  double rope_fraction = 0.5;
  bool outproj_norm = false;

  bool mimo() const { return rank > 1; }
  std::int64_t d_inner() const { return heads * headdim; }
  std::int64_t angles() const;  ///< pairs of states that are rotated
  std::int64_t bc() const { return rank * groups * d_state; }
  std::int64_t x_row() const { return d_inner(); }  ///< first rows of the parts of in_proj
  std::int64_t B_row() const { return 2 * d_inner(); }
  std::int64_t C_row() const { return B_row() + bc(); }
  std::int64_t dt_row() const { return C_row() + bc(); }
  std::int64_t A_row() const { return dt_row() + heads; }
  std::int64_t trap_row() const { return A_row() + heads; }
  std::int64_t angle_row() const { return trap_row() + heads; }
  std::int64_t rows() const { return angle_row() + angles(); }

  /// Pair k is the states (2k, 2k+1) in SISO, (k, k + d_state/2) in MIMO.
  std::int64_t first_of_pair(std::int64_t pair) const { return mimo() ? pair : 2 * pair; }
  std::int64_t second_of_pair(std::int64_t pair) const {
    return mimo() ? pair + d_state / 2 : 2 * pair + 1;
  }
};

/// The tensors of a mixer, of which the names begin with `mixer`.
void make_mamba3(TensorMaker& maker, const std::string& mixer, const Mamba3Sizes& sizes);

/// in_proj to [z; x; B; C; dt; A; trap; angles]; B and C are normed, biased by head and turned by
/// the angles summed up so far, then per head, with l = sigmoid(trap) and a = exp(dt A):
/// h = a h + (1 - l) dt a B' x' + l dt B x (primes: one token before),  y = C h + D x.
Rows naive_mamba3(const Rows& hidden, const Scope& mixer, const Mamba3Sizes& sizes);

/// Moves that someone might take for symmetries.
std::map<std::string, std::function<void(NaiveTensors&)>> wrong_mamba3(const std::string& mixer,
                                                                       const Mamba3Sizes& sizes);

}  // namespace icd::testing
