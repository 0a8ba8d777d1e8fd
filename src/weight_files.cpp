#include "weight_files.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace icd {
namespace {

constexpr std::array<std::string_view, 12> kWeightExtensions = {
    ".safetensors", ".bin", ".pt",   ".pth", ".ckpt", ".h5",
    ".msgpack",     ".ot",  ".onnx", ".npz", ".gguf", ".tflite"};

}  // namespace

bool is_weight_file(const std::filesystem::path& file) {
  const std::string extension = file.extension().string();
  return std::find(kWeightExtensions.begin(), kWeightExtensions.end(), extension) !=
             kWeightExtensions.end() ||
         file.filename().string().ends_with(".index.json");
}

bool is_own_file(const std::filesystem::path& file) {
  const std::string name = file.filename().string();
  return name == "icd.json" || name == "plan.json";
}

}  // namespace icd
