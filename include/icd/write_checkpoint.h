#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/tensor_view.h"

namespace icd {

/// Takes the next bytes of a tensor.
using ByteSink = std::function<void(std::span<const std::byte>)>;

/// A tensor of a weight file in the making.
struct NewTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;

  /// Hands over the tensor's bytes, row-major and packed, in pieces.
  std::function<void(const ByteSink&)> produce;

  /// More names of the same tensor. In a PyTorch file they share its storage; safetensors have
  /// no such thing: Error{usage}.
  std::vector<std::string> aliases = {};
};

/// Writes a new weight file of `tensors` in their order, one at a time: memory is what one piece
/// takes. The same tensors give the same file. Throws Error{unsupported} for an element type that
/// does not fill bytes or that PyTorch has no storage for, Error{usage} if a tensor hands over
/// another number of bytes than its shape takes, Error{io}; then the file is the caller's to
/// remove.
void write_weight_file(const std::filesystem::path& file, Container container,
                       const std::vector<NewTensor>& tensors);

/// Hands the elements of `view`, row-major and packed, to `sink` in pieces of about a megabyte.
void write_packed(const TensorView& view, const ByteSink& sink);

/// A stored tensor as it is, under another name. The checkpoint has to outlive it.
NewTensor carried(const Checkpoint& checkpoint, const StoredTensor& tensor, std::string name);

}  // namespace icd
