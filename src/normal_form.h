#pragma once

#include <string>
#include <string_view>

namespace icd {

/// The normalisation forms of Unicode Standard Annex 15.
enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// `text` (UTF-8) in a normalisation form.
std::string normalized(std::string_view text, NormalForm form);

}  // namespace icd
