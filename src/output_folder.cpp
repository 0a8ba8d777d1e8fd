#include "icd/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
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

/// What siblings of `target` are called, up to the number of their process.
std::string sibling_stem(const fs::path& target) {
  return fmt::format(".{}.icd-tmp-", target.filename().string());
}

/// A name that no other run uses, beside `target` and so on its file system.
fs::path sibling_of(const fs::path& target) {
  return target.parent_path() / fmt::format("{}{}", sibling_stem(target), getpid());
}

/// An open descriptor of the folder with a lock that ends with it; -1 if there is none to have.
int lock_of(const fs::path& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  close(fd);
  return -1;
}

/// Removes what killed processes left beside `target`. The lock speaks where numbers do not:
/// a process in another container has a number that means nothing here.
void remove_abandoned_siblings(const fs::path& target) {
  const std::string stem = sibling_stem(target);
  std::vector<fs::path> abandoned;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(target.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(stem) || !entry.is_directory(ignored)) continue;
    pid_t process = 0;
    const char* end = name.data() + name.size();
    const auto [stop, fault] = std::from_chars(name.data() + stem.size(), end, process);
    if (fault != std::errc() || stop != end || process <= 0) continue;
    const bool is_gone = process == getpid() || (kill(process, 0) != 0 && errno == ESRCH);
    if (is_gone) abandoned.push_back(entry.path());
  }
  for (const fs::path& folder : abandoned) {
    const int lock = lock_of(folder);
    if (lock < 0) continue;
    fs::remove_all(folder, ignored);
    close(lock);
  }
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
    const fs::path found = fs::weakly_canonical(fs::absolute(input), failure);
    const fs::path source = found.has_filename() ? found : found.parent_path();
    const bool holds = is_inside(source, target_);  // and would take it along when replaced
    if (holds || is_inside(target_, source)) {
      throw Error(ErrorCode::usage,
                  fmt::format("-o {}: {} the input {}", target.string(),
                              target_ == source ? "is"
                              : holds           ? "holds"
                                                : "is inside",
                              source.string()),
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
  for (fs::path above = target_.parent_path(); !fs::exists(above, failure);
       above = above.parent_path()) {
    made_.push_back(above);
  }
  fs::create_directories(target_.parent_path(), failure);
  if (failure) io_failed(target_.parent_path(), "made", failure.value());
  remove_abandoned_siblings(target_);
  const fs::path sibling = sibling_of(target_);
  if (mkdir(sibling.c_str(), 0777) != 0) io_failed(sibling, "made", errno);
  staging_ = sibling;  // ours to remove from here on
  lock_ = lock_of(staging_);
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
  for (const fs::path& above : made_) fs::remove(above, ignored);  // those that are empty
  if (lock_ >= 0) close(lock_);
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

/// Links into the new folder what the old one holds of others. Linked, not moved: whenever the
/// process is killed, everything is in the folder that has the name.
void OutputFolder::keep_the_rest() {
  constexpr auto kCopy = fs::copy_options::recursive | fs::copy_options::copy_symlinks;
  for (const auto& entry : fs::directory_iterator(target_)) {
    const fs::path name = entry.path().filename();
    const fs::path kept = staging_ / name;
    const bool ours = entry.is_regular_file() && (is_weight_file(name) || is_own_file(name));
    if (ours || fs::exists(fs::symlink_status(kept))) continue;
    std::error_code failure;
    fs::copy(entry.path(), kept, kCopy | fs::copy_options::create_hard_links, failure);
    if (!failure) continue;
    fs::remove_all(kept, failure);  // a file system without hard links
    fs::copy(entry.path(), kept, kCopy, failure);
    if (failure) io_failed(kept, "copied from " + entry.path().string(), failure.value());
  }
}

void OutputFolder::publish() {
  for (const auto& entry : fs::directory_iterator(staging_)) flush(entry.path(), O_RDONLY);
  if (replaces_) {
    keep_the_rest();
    for (const auto& entry : fs::recursive_directory_iterator(staging_)) {
      if (entry.symlink_status().type() == fs::file_type::directory) {
        flush(entry.path(), O_RDONLY | O_DIRECTORY);
      }
    }
  }
  flush(staging_, O_RDONLY | O_DIRECTORY);
  if (!replaces_) {
    if (rename(staging_.c_str(), target_.c_str()) != 0) io_failed(target_, "put in place", errno);
  } else {
    // One system call, so that there is never a moment without a whole folder at the target.
    if (renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
      io_failed(target_, "exchanged", errno);
    }
    std::error_code ignored;
    fs::remove_all(staging_, ignored);
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
