#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace icd {

/// The whole of a file as text. Throws Error{input} if there is no such regular file or it is
/// longer than `limit` bytes, Error{io} if it cannot be read.
std::string read_text(const std::filesystem::path& file, std::int64_t limit);

}  // namespace icd
