#pragma once

#include <cstdint>
#include <filesystem>

#include "icd/checkpoint.h"
#include "icd/text_file.h"

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

}  // namespace icd
