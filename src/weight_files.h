#pragma once

#include <filesystem>

namespace icd {

/// Is it a weight file of any framework, or the index of one, by its name? Such files are
/// never carried along beside re-ordered ones: they would be in another order.
bool is_weight_file(const std::filesystem::path& file);

/// Is it a file that icd itself leaves in a folder?
bool is_own_file(const std::filesystem::path& file);

}  // namespace icd
