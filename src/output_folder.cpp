#include "icd/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "icd/error.h"
#include "weight_files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void io_failed(const fs::path& path, std::string_view action, int reason) {
  throw Error(ErrorCode::io,
              fmt::format("{}: cannot be {}: {}", path.string(), action, std::strerror(reason)),
              reason == ENOSPC ? "free some space, or name another place with -o" : "");
}

/// A name that no other run uses, beside `target` and so on its file system.
fs::path sibling_of(const fs::path& target) {
  return target.parent_path() / fmt::format(".{}.icd-tmp-{}", target.filename().string(), getpid());
}

/// Flushes a file, or the names in a folder.
void flush(const fs::path& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) io_failed(path, "opened", errno);
  const bool failed = fsync(fd) != 0;
  const int reason = errno;
  close(fd);
  // Some file systems do not flush folders; there is nothing more to do about it.
  if (failed && reason != EINVAL) io_failed(path, "flushed to the disk", reason);
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const fs::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != "..";
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& target, Existing existing,
                           const std::vector<fs::path>& inputs) {
  std::error_code failure;
  // "OUT/" is OUT; what is behind links counts, for a link to the input is the input.
  target_ = fs::weakly_canonical(fs::absolute(target) / ".", failure);
  if (failure) io_failed(target, "resolved", failure.value());
  if (!target_.has_filename()) target_ = target_.parent_path();
  for (const fs::path& input : inputs) {
    const fs::path folder = fs::weakly_canonical(fs::absolute(input) / ".", failure);
    const fs::path source = folder.has_filename() ? folder : folder.parent_path();
    if (is_inside(target_, source)) {
      throw Error(ErrorCode::usage,
                  fmt::format("-o {}: is {} the input {}", target.string(),
                              target_ == source ? "" : "inside", source.string()),
                  "the input is never written to; name another folder");
    }
  }
  const fs::file_status status = fs::status(target_, failure);
  if (fs::exists(status)) {
    if (!fs::is_directory(status)) {
      throw Error(ErrorCode::usage,
                  fmt::format("-o {}: is a file, expected a folder", target.string()));
    }
    const bool empty = fs::is_empty(target_, failure);
    if (failure) io_failed(target_, "listed", failure.value());
    if (!empty && existing == Existing::refuse) {
      throw Error(ErrorCode::usage,
                  fmt::format("-o {}: already exists and is not empty", target.string()),
                  "--force replaces it");
    }
    replaces_ = true;
  }
  fs::create_directories(target_.parent_path(), failure);
  if (failure) io_failed(target_.parent_path(), "made", failure.value());
  staging_ = sibling_of(target_);
  fs::remove_all(staging_, failure);  // of a killed process that had our number
  if (mkdir(staging_.c_str(), 0777) != 0) io_failed(staging_, "made", errno);
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
}

void OutputFolder::write(std::string_view name, std::string_view text) {
  const fs::path file = staging_ / name;
  std::ofstream out(file, std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!out.flush()) io_failed(file, "written", errno);
}

void OutputFolder::copy(const fs::path& from, std::string_view name) {
  std::error_code failure;
  fs::copy_file(from, staging_ / name, failure);
  if (failure) io_failed(staging_ / name, "copied from " + from.string(), failure.value());
}

void OutputFolder::publish() {
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(staging_)) flush(entry.path(), O_RDONLY);
  flush(staging_, O_RDONLY | O_DIRECTORY);
  if (!replaces_) {
    if (rename(staging_.c_str(), target_.c_str()) != 0) io_failed(target_, "put in place", errno);
  } else {
    // One system call, so that there is never a moment without a whole folder at the target.
    if (renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
      io_failed(target_, "exchanged", errno);
    }
    for (const auto& entry : fs::directory_iterator(staging_, failure)) {
      const fs::path name = entry.path().filename();
      const bool ours =
          entry.is_regular_file(failure) && (is_weight_file(name) || is_own_file(name));
      if (ours || fs::exists(target_ / name, failure)) continue;
      fs::rename(entry.path(), target_ / name, failure);
      if (failure) io_failed(entry.path(), "moved to " + target_.string(), failure.value());
    }
    fs::remove_all(staging_, failure);
  }
  staging_.clear();
  flush(target_.parent_path(), O_RDONLY | O_DIRECTORY);
}

void write_atomically(const fs::path& file, std::string_view text) {
  const fs::path target = fs::absolute(file);
  const fs::path temporary = sibling_of(target);
  {
    std::ofstream out(temporary, std::ios::binary);
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    if (!out.flush()) {
      const int reason = errno;
      unlink(temporary.c_str());
      io_failed(file, "written", reason);
    }
  }
  flush(temporary, O_RDONLY);
  if (rename(temporary.c_str(), target.c_str()) != 0) {
    const int reason = errno;
    unlink(temporary.c_str());
    io_failed(file, "put in place", reason);
  }
}

void flush_to_disk(const fs::path& file) { flush(file, O_RDONLY); }

}  // namespace icd
