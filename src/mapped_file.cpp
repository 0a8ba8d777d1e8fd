#include "mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "icd/error.h"

namespace icd {
namespace {

/// A file descriptor that closes itself.
struct Descriptor {
  int fd;
  explicit Descriptor(const std::filesystem::path& path)
      : fd(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

std::int64_t regular_file_bytes(const Descriptor& file, const std::filesystem::path& path) {
  if (file.fd < 0) {
    const int reason = errno;
    throw Error(reason == ENOENT || reason == ENOTDIR ? ErrorCode::input : ErrorCode::io,
                fmt::format("{}: cannot be opened: {}", path.string(), std::strerror(reason)));
  }
  struct stat status {};
  if (fstat(file.fd, &status) != 0) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be examined: {}", path.string(), std::strerror(errno)));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::input, fmt::format("{}: is not a regular file", path.string()));
  }
  return status.st_size;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file) {
  path = file;
  name = file.filename().string();
  const Descriptor descriptor(file);
  bytes = regular_file_bytes(descriptor, file);
  if (bytes == 0) return;  // an empty map would be an error of its own
  void* map =
      mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ, MAP_PRIVATE, descriptor.fd, 0);
  if (map == MAP_FAILED) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be mapped: {}", file.string(), std::strerror(errno)));
  }
  data = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
  if (data != nullptr) munmap(const_cast<std::byte*>(data), static_cast<std::size_t>(bytes));
}

std::string read_text(const std::filesystem::path& file, std::int64_t limit) {
  const Descriptor descriptor(file);
  const std::int64_t size = regular_file_bytes(descriptor, file);
  if (size > limit) {
    throw Error(ErrorCode::input, fmt::format("{}: is {} bytes long, expected at most {}",
                                              file.string(), size, limit));
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = read(descriptor.fd, text.data() + done, text.size() - done);
    if (got < 0) {
      throw Error(ErrorCode::io,
                  fmt::format("{}: reading stopped: {}", file.string(), std::strerror(errno)));
    }
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

}  // namespace icd
