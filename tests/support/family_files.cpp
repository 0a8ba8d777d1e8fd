#include "support/family_files.h"

#include <string>
#include <vector>

#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd::testing {

void write_family(const std::filesystem::path& folder, const Family& family,
                  const NaiveTensors& tensors) {
  std::vector<TinyTensor> stored;
  for (const auto& [name, tensor] : tensors) {
    const auto* bytes = reinterpret_cast<const char*>(tensor.values.data());
    stored.push_back(
        {name, "F64", tensor.shape, std::string(bytes, tensor.values.size() * sizeof(double))});
  }
  std::filesystem::create_directories(folder);
  write_file(folder / "model.safetensors", safetensors_bytes(stored));
  if (!family.config.empty()) write_file(folder / family.config_file, family.config + "\n");
}

}  // namespace icd::testing
