#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "icd/checkpoint.h"

namespace icd {

/// Reads the header of a safetensors file and checks every rule of the reference
/// implementation; `file` is the index the tensors carry. The tensors come in the order of
/// their bytes. Throws Error{input} for the first fault.
std::vector<StoredTensor> read_safetensors(const WeightFile& weights, int file);

/// A tensor of a file yet to be written.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// A new header: its bytes, the 8 bytes of its length included, for entries whose data
/// follow in the given order. Metadata: format pt (transformers refuses files without it),
/// then `metadata`. Padded with spaces to a multiple of 8.
std::string safetensors_header(std::span<const SafetensorsEntry> entries,
                               std::span<const std::pair<std::string, std::string>> metadata = {});

/// Bytes of the data of one entry.
std::int64_t entry_bytes(const SafetensorsEntry& entry);

}  // namespace icd
