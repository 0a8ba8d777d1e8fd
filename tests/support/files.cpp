#include "support/files.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace icd::testing {

ScratchFolder::ScratchFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "icd-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no scratch folder: " + pattern);
  path_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

void write_file(const std::filesystem::path& file, std::string_view text) {
  std::ofstream out(file, std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + file.string());
}

std::filesystem::path bundled_model() {
  // A test program may run on another machine than it was built on.
  const char* folder = std::getenv("ICD_SOURCE_DIR");
  return std::filesystem::path(folder != nullptr ? folder : ICD_SOURCE_DIR) /
         "experiments/models/mamba-novels-2m-hf";
}

std::optional<std::filesystem::path> shared_material(std::string_view name) {
  const char* folder = std::getenv("ICD_SHARED");
  const auto path =
      (folder != nullptr ? std::filesystem::path(folder)
                         : std::filesystem::path(ICD_SOURCE_DIR).parent_path() / "shared") /
      name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

}  // namespace icd::testing
