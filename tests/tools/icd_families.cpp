// Writes every test family as a checkpoint:
//   icd_families FOLDER
// makes FOLDER/0, FOLDER/1, ... with model.safetensors, the family's config file if it has one, and
// expected.json: the family's name, its config file, the sizes for --set and, where transformers
// has the model, the ids of two sequences and the logits that the naive forward gives for them.
// For experiments/conformance/families.py and experiments/layouts/run.py.
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
  const std::size_t of_transformers = families.size();  // or of mamba-ssm: by their config.json
  for (auto& family : icd::testing::other_families()) families.push_back(std::move(family));
  for (std::size_t i = 0; i < families.size(); ++i) {
    const icd::testing::Family& family = families[i];
    const std::filesystem::path folder = std::filesystem::path(argv[1]) / std::to_string(i);
    const icd::testing::NaiveTensors tensors = family.make(kWeights);
    icd::testing::write_family(folder, family, tensors);
    nlohmann::json expected = {{"name", family.name},
                               {"config", family.config.empty() ? "" : family.config_file},
                               {"settings", family.settings}};
    const nlohmann::json config = nlohmann::json::parse(family.config, nullptr, false);
    const bool has_class = config.contains("model_type") && config.contains("architectures");
    if (i < of_transformers && has_class) {
      expected["ids"] = icd::testing::random_ids(kInputs, config.at("vocab_size"));
      expected["logits"] = family.forward(tensors, kInputs);
    }
    std::ofstream(folder / "expected.json") << expected.dump() << "\n";
  }
  return 0;
}
