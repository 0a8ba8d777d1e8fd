#include "support/torch_archive_builder.h"

#include <zlib.h>

#include <cstring>
#include <limits>
#include <utility>

namespace icd::testing {
namespace {

template <typename T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put16(std::string& out, std::size_t value) { put(out, static_cast<std::uint16_t>(value)); }
void put32(std::string& out, std::size_t value) { put(out, static_cast<std::uint32_t>(value)); }
void put64(std::string& out, std::size_t value) { put(out, static_cast<std::uint64_t>(value)); }

std::uint32_t crc_of(const std::string& bytes) {
  return static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

}  // namespace

MemoryFile::MemoryFile(std::string_view content, std::string_view file) : storage_(content.size()) {
  if (!content.empty()) std::memcpy(storage_.data(), content.data(), content.size());
  path = file;
  name = file;
  data = storage_.data();
  bytes = static_cast<std::int64_t>(storage_.size());
}

PickleDraft& PickleDraft::raw(std::string_view bytes) {
  text_ += bytes;
  return *this;
}

PickleDraft& PickleDraft::text(std::string_view value) {
  text_ += 'X';
  put32(text_, value.size());
  text_ += value;
  return *this;
}

PickleDraft& PickleDraft::integer(std::int64_t value) {
  if (value == static_cast<std::int32_t>(value)) {
    text_ += 'J';
    put(text_, static_cast<std::int32_t>(value));
  } else {
    text_ += "\x8a\x08";
    put(text_, value);
  }
  return *this;
}

PickleDraft& PickleDraft::global(std::string_view module, std::string_view name) {
  text_ += 'c';
  text_ += module;
  text_ += '\n';
  text_ += name;
  text_ += '\n';
  return *this;
}

PickleDraft& PickleDraft::tuple(const std::vector<std::int64_t>& values) {
  text_ += '(';
  for (const std::int64_t value : values) integer(value);
  text_ += 't';
  return *this;
}

PickleDraft& PickleDraft::storage(const View& view) {
  raw("(").text("storage").global("torch", view.storage_class).text(view.key);
  return text(view.location).integer(view.storage_elements).raw("tQ");
}

PickleDraft& PickleDraft::tensor(const View& view) {
  global("torch._utils", "_rebuild_tensor_v2").raw("(").storage(view).integer(view.offset);
  tuple(view.shape).tuple(view.strides).raw("\x89");
  return global("collections", "OrderedDict").raw(")RtR");
}

std::string pickle_of(const std::vector<std::pair<std::string, PickleDraft::View>>& tensors) {
  PickleDraft draft;
  draft.raw("}(");
  for (const auto& [name, view] : tensors) draft.text(name).tensor(view);
  return draft.raw("u").stop();
}

std::string zip_bytes(const ZipDraft& draft) {
  std::string out;
  std::string directory;
  for (const RecordDraft& record : draft.records) {
    const std::size_t size = record.bytes.size();
    const std::uint32_t crc = crc_of(record.bytes);
    const bool later = (record.flags & 8) != 0;  // size and checksum follow the data
    const std::uint32_t size32 =
        record.zip64 ? std::numeric_limits<std::uint32_t>::max() : static_cast<std::uint32_t>(size);
    const std::size_t header = out.size();
    const std::string local_name = record.local_name.value_or(record.name);
    std::string extra;
    if (record.zip64) {
      put16(extra, 1);
      put16(extra, 16);
      put64(extra, size);
      put64(extra, size);
    }

    put32(out, 0x04034b50);
    put16(out, 45);
    put16(out, record.local_flags.value_or(record.flags));
    put16(out, record.method);
    put32(out, 0x00210000);
    put32(out, record.local_crc.value_or(later ? 0 : crc));
    put32(out, record.local_bytes.value_or(later ? 0 : size32));
    put32(out, record.local_bytes.value_or(later ? 0 : size32));
    put16(out, local_name.size());
    put16(out, extra.size());
    out += local_name + extra + record.bytes;
    if (later) {
      if (record.descriptor_signed) put32(out, 0x08074b50);
      put32(out, record.descriptor_crc.value_or(crc));
      for (int i = 0; i < 2; ++i) {
        if (record.zip64) {
          put64(out, record.descriptor_bytes.value_or(size));
        } else {
          put32(out, record.descriptor_bytes.value_or(size));
        }
      }
    }

    put32(directory, 0x02014b50);
    put16(directory, 45);
    put16(directory, 45);
    put16(directory, record.flags);
    put16(directory, record.method);
    put32(directory, 0x00210000);
    put32(directory, record.central_crc.value_or(crc));
    put32(directory, record.central_bytes.value_or(size32));
    put32(directory, record.central_bytes.value_or(size32));
    put16(directory, record.name.size());
    put16(directory, extra.size());
    put16(directory, 0);
    put16(directory, 0);
    put16(directory, 0);
    put32(directory, 0);
    put32(directory, record.central_offset.value_or(header));
    directory += record.name + extra;
  }

  const std::size_t begin = out.size();
  const std::size_t count = draft.records.size();
  out += directory;
  if (draft.zip64_end) {
    const std::size_t end = out.size();
    put32(out, 0x06064b50);
    put64(out, 44);
    put16(out, 45);
    put16(out, 45);
    put64(out, 0);
    put64(out, count);
    put64(out, count);
    put64(out, directory.size());
    put64(out, begin);
    put32(out, 0x07064b50);
    put32(out, 0);
    put64(out, end);
    put32(out, 1);
  }
  put32(out, 0x06054b50);
  put32(out, 0);
  put16(out, count);
  put16(out, count);
  put32(out, directory.size());
  put32(out, begin);
  put16(out, draft.comment.size());
  return draft.before + out + draft.comment + draft.after;
}

ZipDraft archive_of(const std::string& pickle, const std::vector<std::string>& storages,
                    const std::string& top) {
  ZipDraft draft;
  draft.records.push_back({.name = top + "/data.pkl", .bytes = pickle});
  draft.records.push_back({.name = top + "/byteorder", .bytes = "little"});
  for (std::size_t i = 0; i < storages.size(); ++i) {
    draft.records.push_back({.name = top + "/data/" + std::to_string(i), .bytes = storages[i]});
  }
  draft.records.push_back({.name = top + "/version", .bytes = "3\n"});
  return draft;
}

ZipDraft small_archive() {
  std::string floats;
  for (int i = 0; i < 6; ++i) put(floats, static_cast<float>(i));
  const std::string pickle = pickle_of({
      {"halves",
       {.storage_class = "HalfStorage",
        .key = "1",
        .storage_elements = 2,
        .shape = {2},
        .strides = {1}}},
      {"weight", {.storage_elements = 6, .shape = {2, 3}, .strides = {3, 1}}},
      {"transposed", {.storage_elements = 6, .shape = {3, 2}, .strides = {1, 3}}},
  });
  return archive_of(pickle, {floats, std::string("\x00\x3c\x00\x40", 4)});
}

}  // namespace icd::testing
