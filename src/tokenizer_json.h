#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "added_tokens.h"
#include "bpe.h"
#include "normal_form.h"
#include "pre_tokenizer.h"

namespace icd {

/// What a tokenizer.json says, checked.
struct TokenizerParts {
  std::vector<AddedToken> added;  ///< special ones first, then in file order
  std::vector<NormalForm> normal_forms;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
};

/// Throws Error{input} for a malformed file, Error{unsupported} for what icd does not
/// implement, Error{io} if it cannot be read. Each names the file and the member.
TokenizerParts read_tokenizer_json(const std::filesystem::path& file);

}  // namespace icd
