#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace icd {

/// A folder that appears whole or not at all. Files are made in a hidden sibling,
/// .NAME.icd-tmp-PID; publish() flushes them to the disk and renames the sibling. Without
/// publish(), the destructor removes it; where a killed process left one, the next folder of
/// that name does.
class OutputFolder {
 public:
  enum class Existing {
    refuse,   ///< a non-empty folder is an Error{usage}
    replace,  ///< its place is taken; see publish()
  };

  /// `inputs` are folders and files that must not be written to: Error{usage} if `target` is one
  /// of them, lies inside one or holds one. Throws Error{io} if the sibling cannot be made.
  OutputFolder(const std::filesystem::path& target, Existing existing,
               const std::vector<std::filesystem::path>& inputs);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// Where files are made until publish().
  const std::filesystem::path& staging() const noexcept { return staging_; }
  const std::filesystem::path& target() const noexcept { return target_; }

  /// Writes a small file. Throws Error{io}.
  void write(std::string_view name, std::string_view text);

  /// Copies a file byte for byte. Throws Error{io}.
  void copy(const std::filesystem::path& from, std::string_view name);

  /// Flushes every file and puts the folder in its place by one rename. What a folder that is
  /// being replaced holds beside weights and icd's own files is in the new one too, unless
  /// that has a file of the same name. Throws Error{io}.
  void publish();

 private:
  void keep_the_rest();

  std::filesystem::path target_;
  std::filesystem::path staging_;
  std::vector<std::filesystem::path> made_;  // folders above, deepest first
  int lock_ = -1;  // on the sibling, while this object lives: nobody takes it for abandoned
  bool replaces_ = false;
};

/// Writes `text` to `file` through a sibling temporary, flushed and renamed: whole or not at
/// all. Throws Error{io}.
void write_atomically(const std::filesystem::path& file, std::string_view text);

/// Flushes one file's bytes to the disk. Throws Error{io}.
void flush_to_disk(const std::filesystem::path& file);

}  // namespace icd
