#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "icd/tensor_view.h"

namespace icd {

/// A new pytorch_model.bin: a state dict that torch.load(weights_only=True) reads, its
/// storages uncompressed, 64-byte aligned, on "cpu". The same entries and bytes give the
/// same file. Streams: holds nothing but the pickle.
class TorchWriter {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    int storage = 0;  ///< entries of one number share it; from 0 in order of first use
  };

  /// Throws Error{unsupported} for a dtype that PyTorch has no storage class for, Error{usage}
  /// for entries that do not agree on their storage, Error{io} if the file cannot be made or is
  /// there already. `top` is the archive's folder name, "pytorch_model".
  TorchWriter(const std::filesystem::path& file, const std::string& top,
              std::vector<Entry> entries);
  ~TorchWriter();

  /// The next bytes of the storages, in the order of their numbers; a chunk stays within
  /// one storage. Throws Error{usage} for more than a storage takes, Error{io}.
  void write(std::span<const std::byte> chunk);

  /// Ends the archive, flushes it to the disk. Without it the file is no archive.
  /// Throws Error{usage} if bytes are missing, Error{io}.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace icd
