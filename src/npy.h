#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "icd/tensor_view.h"

namespace icd {

/// An integer array of a .npy file.
struct NpyArray {
  int item_bytes = 0;  ///< 1, 2, 4 or 8
  bool is_signed = false;
  bool is_big_endian = false;
  bool is_fortran = false;  ///< the first axis varies fastest
  Shape shape;
  std::span<const std::byte> data;  ///< into the file; elements * item_bytes
};

/// Reads the header of a .npy file, versions 1.0 to 3.0; `name` is what messages call it.
/// Throws Error{input} for a malformed file and for elements that are not integers.
/// Source: NumPy enhancement proposal 1, "A simple file format for NumPy arrays".
NpyArray read_npy(std::span<const std::byte> file, std::string_view name);

}  // namespace icd
