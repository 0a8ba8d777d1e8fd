#pragma once

#include <cstddef>

#include "icd/language_model.h"

namespace icd {

/// What every LanguageModel::layer does first: refuses arguments that do not fit together
/// (Error{usage}) and makes an empty state zero of the right size.
template <typename Real>
void prepare_layer_call(const ModelSpec& spec, Index layer, BatchShape shape,
                        std::size_t hidden_size, LayerState<Real>* state);

/// The same for LanguageModel::head; returns the rows.
std::int64_t prepare_head_call(const ModelSpec& spec, std::size_t hidden_size,
                               std::size_t logits_size);

}  // namespace icd
