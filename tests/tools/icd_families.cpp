// Writes the test families as models, for experiments/conformance/families.py:
//   icd_families FOLDER
// makes FOLDER/0, FOLDER/1, ... with config.json, model.safetensors and expected.json, which holds
// the family's name, the ids of two sequences and the logits that the naive forward gives for them.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "support/families.h"
#include "support/family_files.h"
#include "support/naive_math.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: icd_families FOLDER\n";
    return 2;
  }
  constexpr std::uint64_t kWeights = 1;
  constexpr std::uint64_t kInputs = 2;
  std::vector<icd::testing::Family> families = icd::testing::mamba_families();
  for (auto& family : icd::testing::hybrid_families()) families.push_back(std::move(family));
  int count = 0;
  for (const auto& family : families) {
    const nlohmann::json config = nlohmann::json::parse(family.config, nullptr, false);
    if (!config.contains("model_type") || !config.contains("architectures")) continue;
    const std::filesystem::path folder = std::filesystem::path(argv[1]) / std::to_string(count++);
    const icd::testing::NaiveTensors tensors = family.make(kWeights);
    icd::testing::write_family(folder, family, tensors);
    const nlohmann::json expected = {
        {"name", family.name},
        {"ids", icd::testing::random_ids(kInputs, config.at("vocab_size"))},
        {"logits", family.forward(tensors, kInputs)}};
    std::ofstream(folder / "expected.json") << expected.dump() << "\n";
  }
  return 0;
}
