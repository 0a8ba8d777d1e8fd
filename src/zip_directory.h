#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace icd {

/// An uncompressed record of a zip archive.
struct ZipRecord {
  std::string name;         ///< with its folders
  std::int64_t header = 0;  ///< byte where its local header stands
  std::int64_t begin = 0;   ///< byte where its data start
  std::int64_t bytes = 0;
  std::int64_t end = 0;                       ///< byte after its data and their descriptor
  std::uint32_t crc32 = 0;                    ///< as stated, not checked
  std::vector<std::int64_t> crc32_positions;  ///< every byte position where it is stated
};

/// The names that the directory of a zip archive lists, in its order; nothing else is checked.
/// Throws Error{input} if there is no directory.
std::vector<std::string> zip_names(std::span<const std::byte> archive, const std::string& file);

/// Lists the records of a zip archive in memory by position: names are unique, plain relative
/// paths; records are stored as they are, lie inside the archive and do not overlap; what local
/// headers, data descriptors and the directory say of them agrees; the directory ends the file.
/// So there is one way to read the archive, whichever copy of a fact a reader looks at.
/// `file` is the name for messages.
/// Throws Error{input} for anything else, Error{unsupported} for deflated or encrypted records.
std::vector<ZipRecord> read_zip_directory(std::span<const std::byte> archive,
                                          const std::string& file);

}  // namespace icd
