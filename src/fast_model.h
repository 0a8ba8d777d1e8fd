#pragma once

#include <memory>

#include "cpu_kernels.h"
#include "icd/language_model.h"

namespace icd {

/// fast_model() on a given CPU path instead of the best one. For tests.
/// Throws Error{unavailable} if the machine cannot run it.
std::unique_ptr<LanguageModel<float>> fast_model_on(CpuPath path, const Checkpoint& checkpoint,
                                                    const ModelSpec& spec,
                                                    const FastModelOptions& options = {});

}  // namespace icd
