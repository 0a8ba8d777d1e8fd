#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/progress.h"
#include "icd/rewrite.h"

namespace icd {

/// Whose names, config.json and container a language model has.
enum class Dialect {
  mamba_ssm,  ///< MambaLMHeadModel.from_pretrained: pytorch_model.bin and nothing else
  hf,         ///< transformers: MambaForCausalLM, Mamba2ForCausalLM
};

/// "mamba-ssm", "hf".
std::string_view dialect_name(Dialect dialect) noexcept;

/// The same model in the other dialect: every tensor keeps its bytes.
struct Conversion {
  Dialect to = Dialect::hf;

  /// New name and stored name of each tensor that is written, in the order of the files. A tied
  /// head is not among them.
  std::vector<std::pair<std::string, std::string>> names;

  std::string embedding;   ///< its new name
  bool tied_head = false;  ///< lm_head.weight is the embedding
  std::string config;      ///< text of the new config.json

  /// What the new config.json does not say, and where the two libraries compute different things
  /// from the same file; one line each.
  std::vector<std::string> notes;

  /// The container that the dialect's library loads.
  Container container() const noexcept {
    return to == Dialect::hf ? Container::safetensors : Container::torch;
  }
};

/// How to say a Mamba-1 or Mamba-2 language model in the dialect `to`. Sizes are taken from the
/// tensors; what config.json alone knows is translated key by key.
/// Throws Error{usage} if the model is in that dialect already, Error{unsupported} naming the key,
/// block or tensor for which `to` has no word.
/// Source: transformers models/{mamba,mamba2}/configuration_*.py and
/// mamba2/convert_mamba2_ssm_checkpoint_to_pytorch.py; mamba-ssm models/config_mamba.py,
/// modules/mamba_simple.py and mamba2.py.
Conversion conversion_of(const Checkpoint& checkpoint, const Layout& layout, Dialect to);

/// Writes one weight file into `folder`, which exists. Streams. Throws Error{unsupported} for
/// element types that the container has not, Error{io}.
RewriteReport write_converted(const Checkpoint& checkpoint, const Conversion& conversion,
                              Container container, const std::filesystem::path& folder,
                              Progress& progress);

/// Where `converted` is not the conversion of `original`: "tensor 'x': differs". Empty if nowhere.
std::string conversion_fault(const Checkpoint& original, const Checkpoint& converted,
                             const Conversion& conversion);

}  // namespace icd
