#include "icd/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "icd/error.h"

namespace icd {

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  Context() {
    if (evp == nullptr || EVP_DigestInit_ex(evp, EVP_sha256(), nullptr) != 1) {
      throw Error(ErrorCode::unavailable, "SHA-256: libcrypto offers none");
    }
  }
  ~Context() { EVP_MD_CTX_free(evp); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  [[maybe_unused]] const int ok = EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size());
  assert(ok == 1);
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  [[maybe_unused]] const int ok = EVP_DigestFinal_ex(context_->evp, digest.data(), &size);
  assert(ok == 1);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_of(std::span<const std::byte> bytes) {
  Sha256 digest;
  digest.update(bytes);
  return digest.hex();
}

std::string sha256_of_text(std::string_view text) {
  return sha256_of(std::as_bytes(std::span(text)));
}

std::string sha256_of_file(const std::filesystem::path& file) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(file.c_str(), "rbe"),
                                                           std::fclose);
  if (!in) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be read: {}", file.string(), std::strerror(errno)));
  }
  Sha256 digest;
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (;;) {
    const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), in.get());
    digest.update(std::span(buffer).first(got));
    if (got < buffer.size()) break;
  }
  if (std::ferror(in.get()) != 0) {
    throw Error(ErrorCode::io,
                fmt::format("{}: reading stopped: {}", file.string(), std::strerror(errno)));
  }
  return digest.hex();
}

}  // namespace icd
