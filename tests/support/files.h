#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace icd::testing {

/// A folder of its own that is gone when the test ends.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const noexcept { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& file);
void write_file(const std::filesystem::path& file, std::string_view text);

/// The committed Hugging Face checkpoint, experiments/models/mamba-novels-2m-hf.
std::filesystem::path bundled_model();

/// A file or folder of the workshop's shared material (../shared), which a user's machine
/// does not have: the test that asks for it skips, visibly, if there is none.
std::optional<std::filesystem::path> shared_material(std::string_view name);

}  // namespace icd::testing
