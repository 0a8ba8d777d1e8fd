#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "icd/checkpoint.h"

namespace icd::testing {

/// A weight file in memory of exactly its size, so that the address sanitizer sees a read
/// beyond its end.
class MemoryFile : public WeightFile {
 public:
  explicit MemoryFile(std::string_view content, std::string_view file = "pytorch_model.bin");

 private:
  std::vector<std::byte> storage_;
};

/// Writes a pickle opcode by opcode.
class PickleDraft {
 public:
  PickleDraft() : text_("\x80\x02") {}

  PickleDraft& raw(std::string_view bytes);
  PickleDraft& text(std::string_view value);  // BINUNICODE
  PickleDraft& integer(std::int64_t value);   // BININT or LONG1
  PickleDraft& global(std::string_view module, std::string_view name);
  PickleDraft& tuple(const std::vector<std::int64_t>& values);

  struct View {
    std::string storage_class = "FloatStorage";
    std::string key = "0";
    std::string location = "cpu";
    std::int64_t storage_elements = 0;
    std::int64_t offset = 0;
    std::vector<std::int64_t> shape = {};
    std::vector<std::int64_t> strides = {};
  };
  PickleDraft& storage(const View& view);  // BINPERSID
  PickleDraft& tensor(const View& view);   // _rebuild_tensor_v2

  std::string stop() const { return text_ + '.'; }

 private:
  std::string text_;
};

/// {name: view, ...} as a plain dict.
std::string pickle_of(const std::vector<std::pair<std::string, PickleDraft::View>>& tensors);

/// A record of a zip archive. What is not set is right: one field set is one defect.
struct RecordDraft {
  std::string name;
  std::string bytes;
  std::uint16_t flags = 0;  ///< both headers; bit 3 writes a descriptor
  std::uint16_t method = 0;
  bool zip64 = false;             ///< sizes of 64 bits in extra fields and descriptor
  bool descriptor_signed = true;  ///< does the descriptor start with its signature?
  std::optional<std::string> local_name = {};
  std::optional<std::uint16_t> local_flags = {};
  std::optional<std::uint32_t> local_bytes = {};
  std::optional<std::uint32_t> local_crc = {};
  std::optional<std::uint32_t> descriptor_crc = {};
  std::optional<std::uint32_t> descriptor_bytes = {};
  std::optional<std::uint32_t> central_crc = {};
  std::optional<std::uint32_t> central_bytes = {};
  std::optional<std::uint32_t> central_offset = {};
};

struct ZipDraft {
  std::vector<RecordDraft> records;
  std::string before = {};  ///< bytes in front, which offsets do not count
  std::string after = {};   ///< bytes behind the end record
  std::string comment = {};
  bool zip64_end = false;
};

std::string zip_bytes(const ZipDraft& draft);

/// The records of a state dict: data.pkl, byteorder, the storages data/0, data/1, ..., version.
ZipDraft archive_of(const std::string& pickle, const std::vector<std::string>& storages,
                    const std::string& top = "pytorch_model");

/// Two tensors, (2, 3) floats 0 to 5 and its transpose, and a second storage of two halves.
ZipDraft small_archive();

}  // namespace icd::testing
