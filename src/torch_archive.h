#pragma once

#include <memory>
#include <vector>

#include "icd/checkpoint.h"
#include "mapped_file.h"

namespace icd {

/// Reads the directory and the pickle of a PyTorch zip archive (torch.save since 1.6) into
/// names, views and storage records; `file` is the index the tensors carry. The pickle is
/// interpreted by an allow-list of opcodes and globals, never executed.
/// Throws Error{input} for a malformed or hostile archive, Error{unsupported} for the
/// legacy format before 1.6 (with the advice to re-save) and for big-endian, deflated or
/// encrypted records.
std::vector<StoredTensor> read_torch_archive(WeightFile& archive, int file);

/// Does an archive that has been read hold one dictionary of tensors by name and nothing else
/// (no optimizer, no epoch, no dictionary in it)?
bool is_plain_state_dict(const WeightFile& archive);

}  // namespace icd
