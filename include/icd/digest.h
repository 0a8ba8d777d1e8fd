#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace icd {

/// SHA-256 of a stream of bytes, as 64 lower-case hexadecimal digits. The Hub names
/// large files by the same checksum.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::span<const std::byte> bytes);

  /// Ends the stream; call once.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string sha256_of(std::span<const std::byte> bytes);
std::string sha256_of_text(std::string_view text);

/// Throws Error{io} if the file cannot be read.
std::string sha256_of_file(const std::filesystem::path& file);

}  // namespace icd
