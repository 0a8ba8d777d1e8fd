#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace icd {

/// The characters that stand for bytes in a byte-level vocabulary: a byte that Latin-1
/// prints stands for itself, the others, in order, for U+0100 and up (a space is U+0120).
/// Source: A. Radford et al., "Language models are unsupervised multitask learners", 2019
/// (the released encoder of GPT-2).
std::string to_symbols(std::string_view bytes);

/// The bytes that `symbols` stand for; nothing if one of its characters stands for no byte.
/// `symbols` is UTF-8.
std::optional<std::string> from_symbols(std::string_view symbols);

}  // namespace icd
