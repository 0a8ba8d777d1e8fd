#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "icd/permutation.h"
#include "icd/tensor_view.h"

namespace icd::testing {

/// A tensor in double, row-major.
struct NaiveTensor {
  Shape shape;
  std::vector<double> values;
};

/// A state dict: by name.
using NaiveTensors = std::map<std::string, NaiveTensor>;

/// A model family small enough to be run by plain loops: what its files look like, and what it
/// computes, written from the description of the family and from nothing of icd's.
struct Family {
  std::string name;                         ///< "jamba", "mamba2 hf, two groups"
  std::string config;                       ///< text of config.json; empty: the family has none
  std::string config_file = "config.json";  ///< "params.json" for Codestral as published

  /// Sizes that its tensors do not tell, for --set: {{"ngroups", 2}}.
  std::map<std::string, Index, std::less<>> settings;

  /// Every tensor of the file, random: no weight is 0 or 1 or equal in two places. Tied tensors
  /// are stored once, under the name that the family's files use.
  std::function<NaiveTensors(std::uint64_t seed)> make;

  /// The model's output on inputs that are made from `seed` (tokens, images, features), as one
  /// list of numbers that no symmetry re-orders. Throws std::out_of_range for a missing tensor.
  std::function<std::vector<double>(const NaiveTensors& tensors, std::uint64_t seed)> forward;

  /// Tensors whose binding no output can show, each with the reason: {"self_attn.k_proj.bias",
  /// "softmax removes a constant"}. Names end so.
  std::map<std::string, std::string> invisible;

  /// Tensors that hold indices and no weights ("complement_map"): whole numbers, the same for every
  /// seed. Names end so.
  std::vector<std::string> index_tensors = {};

  /// Orders that are not symmetries, each with the moves that someone might take for one: a
  /// change of the tensors after which the output has to differ.
  std::map<std::string, std::function<void(NaiveTensors&)>> wrong;
};

/// Every family, in the order of ../shared/reference/layouts.md (which is the source of names,
/// shapes and equations). In three files, by kind.
std::vector<Family> mamba_families();   ///< families_mamba.cpp: Mamba-1/2/3, FalconMamba, mamba-ssm
std::vector<Family> hybrid_families();  ///< families_hybrid.cpp: Jamba to Falcon-H1
std::vector<Family> other_families();   ///< families_other.cpp: bidirectional, Oxidizr, textbook

}  // namespace icd::testing
