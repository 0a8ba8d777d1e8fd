#include "zip_directory.h"

#include <fmt/format.h>
#include <minizip/unzip.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "icd/error.h"
#include "quote.h"

// minizip finds the directory and walks it. Nothing else of it is used: it tolerates bytes before
// the archive, looks for the directory in more than one place, takes the directory's word where
// other readers (PyTorch's own among them) take the local header's, and in Debian's version 1.1
// it does not read the 64-bit fields of records beyond 4 GiB (it compares them with an unsigned
// long of all ones). So every entry is read from the bytes, at the places the file states, and
// compared with what minizip saw.

namespace icd {
namespace {

static_assert(std::endian::native == std::endian::little);

using Bytes = std::span<const std::byte>;

constexpr std::int64_t kLocalHeader = 30;
constexpr std::int64_t kCentralHeader = 46;
constexpr std::int64_t kZip64End = 56;
constexpr std::int64_t kZip64Locator = 20;
constexpr std::int64_t kEnd = 22;
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kDescriptorSignature = 0x08074b50;
constexpr std::uint32_t kZip64EndSignature = 0x06064b50;
constexpr std::uint32_t kZip64LocatorSignature = 0x07064b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kInZip64Extra = 0xffffffff;  // a 32-bit field that is stated elsewhere
constexpr unsigned kEncrypted = 1u << 0 | 1u << 6 | 1u << 13;
constexpr unsigned kDescriptorFollows = 1u << 3;
constexpr std::uint64_t kMostRecords = 1u << 20;
constexpr std::size_t kLongestName = 1024;

/// The archive as minizip's file: a place in memory.
struct Cursor {
  Bytes bytes;
  std::uint64_t at = 0;
};

voidpf open_cursor(voidpf opaque, const void*, int) {
  static_cast<Cursor*>(opaque)->at = 0;
  return opaque;
}

uLong read_cursor(voidpf, voidpf stream, void* buffer, uLong size) {
  Cursor& cursor = *static_cast<Cursor*>(stream);
  const uLong count = std::min<uLong>(size, cursor.bytes.size() - cursor.at);
  if (count != 0) std::memcpy(buffer, cursor.bytes.data() + cursor.at, count);
  cursor.at += count;
  return count;
}

uLong write_cursor(voidpf, voidpf, const void*, uLong) { return 0; }

ZPOS64_T tell_cursor(voidpf, voidpf stream) { return static_cast<Cursor*>(stream)->at; }

long seek_cursor(voidpf, voidpf stream, ZPOS64_T offset, int origin) {
  Cursor& cursor = *static_cast<Cursor*>(stream);
  const std::uint64_t size = cursor.bytes.size();
  const std::uint64_t base = origin == ZLIB_FILEFUNC_SEEK_SET   ? 0
                             : origin == ZLIB_FILEFUNC_SEEK_CUR ? cursor.at
                                                                : size;
  if (offset > size - base) return -1;
  cursor.at = base + offset;
  return 0;
}

int close_cursor(voidpf, voidpf) { return 0; }
int cursor_error(voidpf, voidpf) { return 0; }

struct CloseZip {
  void operator()(void* zip) const { unzClose(zip); }
};

template <typename T>
T load(Bytes bytes, std::int64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// Are there `count` bytes from `at` on?
bool holds(Bytes bytes, std::int64_t at, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  return at >= 0 && count >= 0 && at <= size && count <= size - at;
}

/// What a header states, the zip64 extra field included.
struct Stated {
  std::uint64_t uncompressed = 0;
  std::uint64_t compressed = 0;
  std::uint64_t offset = 0;
};

void read_zip64_extra(Bytes extra, Stated& stated) {
  const auto size = static_cast<std::int64_t>(extra.size());
  std::int64_t at = 0;
  while (size - at >= 4) {
    const auto kind = load<std::uint16_t>(extra, at);
    const std::int64_t length = load<std::uint16_t>(extra, at + 2);
    at += 4;
    if (length > size - at) return;
    if (kind == 1) {
      std::int64_t value = at;
      for (std::uint64_t* field : {&stated.uncompressed, &stated.compressed, &stated.offset}) {
        if (*field != kInZip64Extra) continue;
        if (at + length - value < 8) return;
        *field = load<std::uint64_t>(extra, value);
        value += 8;
      }
      return;
    }
    at += length;
  }
}

class Directory {
 public:
  Directory(Bytes archive, const std::string& file) : archive_(archive), file_(file) {
    cursor_.bytes = archive;
    zlib_filefunc64_def calls{open_cursor, read_cursor,  write_cursor, tell_cursor,
                              seek_cursor, close_cursor, cursor_error, &cursor_};
    zip_.reset(unzOpen2_64("", &calls));
    if (!zip_) {
      refuse("no zip directory was found at its end, expected one", "the file may be cut short");
    }
  }

  std::vector<std::string> names() {
    std::vector<std::string> names;
    const std::uint64_t records = count();
    for (std::uint64_t i = 0; i < records; ++i) {
      step(i);
      unz_file_info64 info{};
      names.push_back(current(info));
    }
    return names;
  }

  std::vector<ZipRecord> records() {
    std::vector<ZipRecord> records;
    const std::uint64_t entries = count();
    std::int64_t first = 0;
    std::int64_t next = 0;  // where the directory goes on
    for (std::uint64_t i = 0; i < entries; ++i) {
      step(i);
      const auto at = static_cast<std::int64_t>(unzGetOffset64(zip_.get()));
      if (i == 0) first = at;
      records.push_back(record_at(at, next));
    }
    check_end(first, next, entries);
    check_order(records, first);
    return records;
  }

 private:
  std::uint64_t count() const {
    unz_global_info64 info{};
    if (unzGetGlobalInfo64(zip_.get(), &info) != UNZ_OK) refuse("its zip directory is unreadable");
    if (info.number_entry == 0 || info.number_entry > kMostRecords) {
      refuse(fmt::format("its zip directory lists {} records, expected 1 to {}", info.number_entry,
                         kMostRecords));
    }
    return info.number_entry;
  }

  void step(std::uint64_t entry) const {
    const int status = entry == 0 ? unzGoToFirstFile(zip_.get()) : unzGoToNextFile(zip_.get());
    if (status != UNZ_OK) refuse(fmt::format("entry {} of its zip directory is malformed", entry));
  }

  /// The name of the current entry, its other fields in `info`.
  std::string current(unz_file_info64& info) const {
    std::string name(kLongestName, '\0');
    if (unzGetCurrentFileInfo64(zip_.get(), &info, name.data(), name.size(), nullptr, 0, nullptr,
                                0) != UNZ_OK) {
      refuse("its zip directory is unreadable");
    }
    if (info.size_filename > kLongestName) {
      refuse(fmt::format("a record's name has {} bytes, expected at most {}", info.size_filename,
                         kLongestName));
    }
    name.resize(info.size_filename);
    return name;
  }

  [[noreturn]] void refuse(const std::string& found, const std::string& hint = {}) const {
    throw Error(ErrorCode::input, file_ + ": " + found, hint);
  }

  [[noreturn]] void refuse_record(std::string_view name, const std::string& found) const {
    refuse(fmt::format("record {}: {}", quote(name), found));
  }

  /// The current entry of minizip's walk, which stands at byte `at`; sets `next` to the byte
  /// after it.
  ZipRecord record_at(std::int64_t at, std::int64_t& next) {
    unz_file_info64 info{};
    std::string name = current(info);
    check_name(name);
    if (info.flag & kEncrypted) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: record {} is encrypted, expected plain", file_, quote(name)));
    }
    if (info.compression_method != 0) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: record {} is compressed (zip method {}), expected stored", file_,
                              quote(name), info.compression_method),
                  "re-save it: torch.save(torch.load(f, weights_only=True), f)");
    }
    const Stated stated = read_central(at, name, info);
    if (stated.compressed != stated.uncompressed || stated.uncompressed > archive_.size()) {
      refuse_record(name, fmt::format("its sizes are {} and {}, expected one size of at most {}",
                                      stated.compressed, stated.uncompressed, archive_.size()));
    }

    ZipRecord record;
    record.bytes = static_cast<std::int64_t>(stated.uncompressed);
    record.crc32 = static_cast<std::uint32_t>(info.crc);
    next = at + kCentralHeader + static_cast<std::int64_t>(info.size_filename) +
           static_cast<std::int64_t>(info.size_file_extra) +
           static_cast<std::int64_t>(info.size_file_comment);
    read_local_header(name, static_cast<unsigned>(info.flag), stated.offset, record);
    record.end = record.begin + record.bytes;
    if (info.flag & kDescriptorFollows) read_descriptor(name, record);
    record.crc32_positions.push_back(at + 16);
    record.name = std::move(name);
    return record;
  }

  void check_name(const std::string& name) const {
    const bool odd = std::any_of(name.begin(), name.end(), [](char letter) {
      const auto byte = static_cast<unsigned char>(letter);
      return byte < 0x20 || byte == 0x7f || letter == '\\';
    });
    const std::string path = "/" + name + "/";
    if (name.empty() || name.front() == '/' || odd || path.find("/../") != std::string::npos ||
        path.find("/./") != std::string::npos) {
      refuse(fmt::format("a record is called {}, expected a plain relative path", quote(name)));
    }
  }

  /// The entry at `at`, counted from the start of the file: is it the one that minizip sees?
  Stated read_central(std::int64_t at, const std::string& name, const unz_file_info64& info) const {
    const auto name_bytes = static_cast<std::int64_t>(info.size_filename);
    const auto extra_bytes = static_cast<std::int64_t>(info.size_file_extra);
    if (!holds(archive_, at, kCentralHeader + name_bytes + extra_bytes) ||
        load<std::uint32_t>(archive_, at) != kCentralSignature ||
        load<std::uint16_t>(archive_, at + 8) != info.flag ||
        load<std::uint16_t>(archive_, at + 10) != info.compression_method ||
        load<std::uint32_t>(archive_, at + 16) != info.crc ||
        load<std::uint16_t>(archive_, at + 28) != info.size_filename ||
        load<std::uint16_t>(archive_, at + 30) != info.size_file_extra ||
        load<std::uint16_t>(archive_, at + 32) != info.size_file_comment ||
        std::memcmp(archive_.data() + at + kCentralHeader, name.data(), name.size()) != 0) {
      refuse("its zip directory is not where it is stated to be",
             "the file may have been appended to another one");
    }
    Stated stated{load<std::uint32_t>(archive_, at + 24), load<std::uint32_t>(archive_, at + 20),
                  load<std::uint32_t>(archive_, at + 42)};
    read_zip64_extra(archive_.subspan(static_cast<std::size_t>(at + kCentralHeader + name_bytes),
                                      static_cast<std::size_t>(extra_bytes)),
                     stated);
    return stated;
  }

  void read_local_header(const std::string& name, unsigned flags, std::uint64_t header,
                         ZipRecord& record) const {
    if (header > archive_.size() ||
        !holds(archive_, static_cast<std::int64_t>(header), kLocalHeader) ||
        load<std::uint32_t>(archive_, static_cast<std::int64_t>(header)) != kLocalSignature) {
      refuse_record(
          name, fmt::format("there is no local header at byte {} of {}", header, archive_.size()));
    }
    record.header = static_cast<std::int64_t>(header);
    const std::int64_t name_bytes = load<std::uint16_t>(archive_, record.header + 26);
    const std::int64_t extra = load<std::uint16_t>(archive_, record.header + 28);
    record.begin = record.header + kLocalHeader + name_bytes + extra;
    if (!holds(archive_, record.begin, record.bytes)) {
      refuse_record(name, fmt::format("its {} bytes at {} do not lie inside the file of {} bytes",
                                      record.bytes, record.begin, archive_.size()));
    }
    const Bytes local_name =
        archive_.subspan(static_cast<std::size_t>(record.header + kLocalHeader),
                         static_cast<std::size_t>(name_bytes));
    const std::string_view local(reinterpret_cast<const char*>(local_name.data()),
                                 local_name.size());
    if (local != name) refuse_record(name, "its local header calls it " + quote(local));
    const unsigned method = load<std::uint16_t>(archive_, record.header + 8);
    if (method != 0) {
      refuse_record(name, fmt::format("its zip method is {} in the local header and 0 in the zip "
                                      "directory, expected the same",
                                      method));
    }
    constexpr unsigned kMeaning = kEncrypted | kDescriptorFollows;
    const unsigned local_flags = load<std::uint16_t>(archive_, record.header + 6);
    if ((local_flags & kMeaning) != (flags & kMeaning)) {
      refuse_record(name, fmt::format("its flags are {:#x} in the local header and {:#x} in the "
                                      "zip directory, expected the same",
                                      local_flags, flags));
    }

    // With a descriptor the local header may leave size and checksum open, as zeros.
    Stated stated{load<std::uint32_t>(archive_, record.header + 22),
                  load<std::uint32_t>(archive_, record.header + 18)};
    read_zip64_extra(archive_.subspan(static_cast<std::size_t>(record.begin - extra),
                                      static_cast<std::size_t>(extra)),
                     stated);
    const auto bytes = static_cast<std::uint64_t>(record.bytes);
    const bool open = (flags & kDescriptorFollows) != 0;
    for (const std::uint64_t size : {stated.uncompressed, stated.compressed}) {
      if (size != bytes && !(open && (size == 0 || size == kInZip64Extra))) {
        refuse_record(name, fmt::format("its size is {} in the local header and {} in the zip "
                                        "directory, expected the same",
                                        size, bytes));
      }
    }
    const auto crc = load<std::uint32_t>(archive_, record.header + 14);
    if (open && crc == 0) return;
    if (crc != record.crc32) {
      refuse_record(name, fmt::format("its CRC-32 is {:08x} in the local header and {:08x} in the "
                                      "zip directory, expected the same",
                                      crc, record.crc32));
    }
    record.crc32_positions.push_back(record.header + 14);
  }

  /// The descriptor behind the data: with or without signature, sizes of 32 or 64 bits.
  void read_descriptor(const std::string& name, ZipRecord& record) const {
    const auto bytes = static_cast<std::uint64_t>(record.bytes);
    for (const std::int64_t signature : {4, 0}) {
      for (const std::int64_t width : {4, 8}) {
        const std::int64_t crc = record.end + signature;
        const std::int64_t sizes = crc + 4;
        if (!holds(archive_, record.end, signature + 4 + 2 * width)) continue;
        if (signature != 0 && load<std::uint32_t>(archive_, record.end) != kDescriptorSignature) {
          continue;
        }
        if (load<std::uint32_t>(archive_, crc) != record.crc32) continue;
        const bool agrees = width == 4 ? load<std::uint32_t>(archive_, sizes) == bytes &&
                                             load<std::uint32_t>(archive_, sizes + 4) == bytes
                                       : load<std::uint64_t>(archive_, sizes) == bytes &&
                                             load<std::uint64_t>(archive_, sizes + 8) == bytes;
        if (!agrees) continue;
        record.crc32_positions.push_back(crc);
        record.end = sizes + 2 * width;
        return;
      }
    }
    refuse_record(name, fmt::format("the descriptor behind its data does not state {} bytes and "
                                    "CRC-32 {:08x}, as the zip directory does",
                                    bytes, record.crc32));
  }

  /// The directory [first, end) is followed by its own end records and then by nothing.
  void check_end(std::int64_t first, std::int64_t end, std::uint64_t count) const {
    const auto first_stated = static_cast<std::uint64_t>(first);
    const auto bytes_stated = static_cast<std::uint64_t>(end - first);
    std::int64_t at = end;
    if (holds(archive_, at, kZip64End + kZip64Locator) &&
        load<std::uint32_t>(archive_, at) == kZip64EndSignature) {
      if (load<std::uint64_t>(archive_, at + 4) != kZip64End - 12 ||
          load<std::uint64_t>(archive_, at + 32) != count ||
          load<std::uint64_t>(archive_, at + 40) != bytes_stated ||
          load<std::uint64_t>(archive_, at + 48) != first_stated ||
          load<std::uint32_t>(archive_, at + kZip64End) != kZip64LocatorSignature ||
          load<std::uint64_t>(archive_, at + kZip64End + 8) != static_cast<std::uint64_t>(at)) {
        refuse("the zip64 end of its directory disagrees with the directory");
      }
      at += kZip64End + kZip64Locator;
    }
    if (!holds(archive_, at, kEnd) || load<std::uint32_t>(archive_, at) != kEndSignature) {
      refuse(fmt::format("its zip directory ends at byte {} without an end record", at));
    }
    const auto agrees = [](std::uint64_t found, std::uint64_t unknown, std::uint64_t expected) {
      return found == expected || found == unknown;
    };
    if (!agrees(load<std::uint16_t>(archive_, at + 10), 0xffff, count) ||
        !agrees(load<std::uint32_t>(archive_, at + 12), kInZip64Extra, bytes_stated) ||
        !agrees(load<std::uint32_t>(archive_, at + 16), kInZip64Extra, first_stated)) {
      refuse("the end record of its zip directory disagrees with the directory");
    }
    const auto size = static_cast<std::int64_t>(archive_.size());
    if (at + kEnd != size) {
      refuse(fmt::format("{} bytes follow its zip directory, expected none", size - at - kEnd));
    }
  }

  /// Sorts by position; no overlaps, neither with each other nor with the directory, and no
  /// two records of one name.
  void check_order(std::vector<ZipRecord>& records, std::int64_t directory) const {
    std::vector<std::string_view> names;
    names.reserve(records.size());
    for (const ZipRecord& record : records) names.push_back(record.name);
    std::sort(names.begin(), names.end());
    if (const auto twin = std::adjacent_find(names.begin(), names.end()); twin != names.end()) {
      refuse(fmt::format("two records are called {}, expected one", quote(*twin)));
    }
    std::sort(records.begin(), records.end(),
              [](const ZipRecord& a, const ZipRecord& b) { return a.header < b.header; });
    for (std::size_t i = 0; i < records.size(); ++i) {
      const bool last = i + 1 == records.size();
      const std::int64_t limit = last ? directory : records[i + 1].header;
      if (records[i].end > limit) {
        refuse_record(
            records[i].name,
            fmt::format("it ends at byte {}, expected at most {}, where {} starts", records[i].end,
                        limit, last ? "the zip directory" : quote(records[i + 1].name)));
      }
    }
  }

  Bytes archive_;
  const std::string& file_;
  Cursor cursor_;
  std::unique_ptr<void, CloseZip> zip_;
};

}  // namespace

std::vector<std::string> zip_names(std::span<const std::byte> archive, const std::string& file) {
  return Directory(archive, file).names();
}

std::vector<ZipRecord> read_zip_directory(std::span<const std::byte> archive,
                                          const std::string& file) {
  return Directory(archive, file).records();
}

}  // namespace icd
