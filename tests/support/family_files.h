#pragma once

#include <filesystem>

#include "support/families.h"

namespace icd::testing {

/// Writes model.safetensors, in F64 and in the order of the names, and the family's config file
/// if it has one, into `folder`, which is made if need be.
void write_family(const std::filesystem::path& folder, const Family& family,
                  const NaiveTensors& tensors);

}  // namespace icd::testing
