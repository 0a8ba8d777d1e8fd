#pragma once

#include <cstdint>
#include <filesystem>

#include "icd/checkpoint.h"

namespace icd {

/// A weight file whose bytes are a private read-only map of the whole file.
class MappedFile : public WeightFile {
 public:
  /// Throws Error{input} if there is no such regular file, Error{io} if it cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile() override;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
};

/// The whole of a small file as text.
/// Throws Error{io} if it cannot be read, Error{input} if it is longer than `limit` bytes.
std::string read_text(const std::filesystem::path& file, std::int64_t limit);

}  // namespace icd
