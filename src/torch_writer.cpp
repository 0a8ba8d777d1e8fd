#include "torch_writer.h"

#include <fmt/format.h>
#include <minizip/zip.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "icd/error.h"
#include "quote.h"

namespace icd {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::int64_t kAlignment = 64;    // PyTorch's own
constexpr std::int64_t kLocalHeader = 30;  // of a zip record, without name and extra fields
constexpr std::int64_t kZip64Extra = 20;   // what minizip adds to it for a zip64 record
constexpr std::int64_t kZip64From = 0xffffffff;
constexpr uLong kUtf8Name = 1u << 11;
constexpr uLong kFirstOf1980 = 0x00210000;  // the zip epoch: the date tells nothing

std::string_view storage_class(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "FloatStorage";
    case DType::f16:
      return "HalfStorage";
    case DType::bf16:
      return "BFloat16Storage";
    case DType::f64:
      return "DoubleStorage";
    case DType::i64:
      return "LongStorage";
    case DType::i32:
      return "IntStorage";
    case DType::i16:
      return "ShortStorage";
    case DType::i8:
      return "CharStorage";
    case DType::u8:
      return "ByteStorage";
    case DType::boolean:
      return "BoolStorage";
    case DType::c64:
      return "ComplexFloatStorage";
    default:
      return {};
  }
}

struct Storage {
  DType dtype = DType::f32;
  std::int64_t elements = 0;
  std::int64_t bytes = 0;
};

/// The storages of the entries, by number.
std::vector<Storage> storages_of(const std::vector<TorchWriter::Entry>& entries) {
  std::vector<Storage> storages;
  for (const TorchWriter::Entry& entry : entries) {
    const std::string who = "tensor " + quote(entry.name);
    if (storage_class(entry.dtype).empty()) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: PyTorch has no storage for {}", who, dtype_name(entry.dtype)),
                  "write safetensors instead");
    }
    Storage storage{.dtype = entry.dtype, .elements = 1, .bytes = 0};
    bool fits = true;
    for (const std::int64_t size : entry.shape) {
      fits =
          fits && size >= 0 && !__builtin_mul_overflow(storage.elements, size, &storage.elements);
    }
    if (!fits ||
        __builtin_mul_overflow(storage.elements, dtype_bytes(entry.dtype), &storage.bytes)) {
      throw Error(ErrorCode::usage,
                  fmt::format("{}: shape {} has no size in bytes", who, shape_text(entry.shape)));
    }
    const auto number = static_cast<std::size_t>(entry.storage);
    if (entry.storage < 0 || number > storages.size()) {
      throw Error(ErrorCode::usage, fmt::format("{}: is in storage {}, expected at most {}", who,
                                                entry.storage, storages.size()));
    }
    if (number == storages.size()) {
      storages.push_back(storage);
    } else if (storages[number].dtype != entry.dtype || storages[number].bytes != storage.bytes) {
      throw Error(ErrorCode::usage,
                  fmt::format("{}: has {} bytes of {}, expected {} of {} as its storage {}", who,
                              storage.bytes, dtype_name(entry.dtype), storages[number].bytes,
                              dtype_name(storages[number].dtype), entry.storage));
    }
  }
  return storages;
}

/// A pickle of protocol 2, as torch.save would write it but for memo entries that nobody
/// reads again.
class PickleText {
 public:
  std::string state_dict(const std::vector<TorchWriter::Entry>& entries,
                         const std::vector<Storage>& storages) {
    text_ = "\x80\x02";
    ordered_dict();
    text_ += '(';
    for (const TorchWriter::Entry& entry : entries) {
      unicode(entry.name);
      tensor(entry, storages[static_cast<std::size_t>(entry.storage)]);
    }
    text_ += "u.";
    return std::move(text_);
  }

 private:
  template <typename T>
  void number(T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    text_.append(bytes, sizeof value);
  }

  void integer(std::int64_t value) {
    if (value >= 0 && value <= 0xff) {
      text_ += 'K';
      number(static_cast<std::uint8_t>(value));
    } else if (value >= 0 && value <= 0xffff) {
      text_ += 'M';
      number(static_cast<std::uint16_t>(value));
    } else if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) {
      text_ += 'J';
      number(static_cast<std::int32_t>(value));
    } else {
      text_ += "\x8a\x08";
      number(value);
    }
  }

  void unicode(std::string_view text) {
    text_ += 'X';
    number(static_cast<std::uint32_t>(text.size()));
    text_ += text;
  }

  /// The value that `write` describes: in full the first time, from the memo after that.
  template <typename Write>
  void once(const std::string& what, Write write) {
    const auto [place, fresh] = memo_.try_emplace(what, static_cast<std::uint32_t>(memo_.size()));
    if (fresh) write();
    const std::uint32_t index = place->second;
    if (index <= 0xff) {
      text_ += fresh ? 'q' : 'h';
      number(static_cast<std::uint8_t>(index));
    } else {
      text_ += fresh ? 'r' : 'j';
      number(index);
    }
  }

  void global(std::string_view module, std::string_view name) {
    const std::string text = fmt::format("c{}\n{}\n", module, name);
    once(text, [&] { text_ += text; });
  }

  void shared_text(const std::string& text) {
    once(text, [&] { unicode(text); });
  }

  void ordered_dict() {
    global("collections", "OrderedDict");
    text_ += ")R";
  }

  void tuple(const std::vector<std::int64_t>& values) {
    if (values.empty()) {
      text_ += ')';
      return;
    }
    text_ += '(';
    for (const std::int64_t value : values) integer(value);
    text_ += 't';
  }

  void tensor(const TorchWriter::Entry& entry, const Storage& storage) {
    global("torch._utils", "_rebuild_tensor_v2");
    text_ += "((";
    shared_text("storage");
    global("torch", storage_class(storage.dtype));
    shared_text(std::to_string(entry.storage));
    shared_text("cpu");
    integer(storage.elements);
    text_ += "tQ";
    integer(0);
    tuple(entry.shape);
    tuple(packed_strides(entry.shape));
    text_ += '\x89';  // requires_grad
    ordered_dict();   // backward hooks
    text_ += "tR";
  }

  std::string text_;
  std::map<std::string, std::uint32_t> memo_;
};

/// The file below minizip: it stays ours to flush, and an error is remembered.
struct Sink {
  std::FILE* stream = nullptr;
  int error = 0;           // errno of the first failure
  bool abandoned = false;  // nothing is written any more
};

voidpf open_sink(voidpf opaque, const void*, int) { return opaque; }

uLong read_sink(voidpf, voidpf, void*, uLong) { return 0; }

uLong write_sink(voidpf, voidpf stream, const void* buffer, uLong size) {
  Sink& sink = *static_cast<Sink*>(stream);
  if (sink.abandoned) return 0;
  const uLong written = std::fwrite(buffer, 1, size, sink.stream);
  if (written != size && sink.error == 0) sink.error = errno;
  return written;
}

ZPOS64_T tell_sink(voidpf, voidpf stream) {
  return static_cast<ZPOS64_T>(ftello(static_cast<Sink*>(stream)->stream));
}

long seek_sink(voidpf, voidpf stream, ZPOS64_T offset, int origin) {
  Sink& sink = *static_cast<Sink*>(stream);
  if (sink.abandoned) return -1;
  const int whence = origin == ZLIB_FILEFUNC_SEEK_SET   ? SEEK_SET
                     : origin == ZLIB_FILEFUNC_SEEK_CUR ? SEEK_CUR
                                                        : SEEK_END;
  const int status = fseeko(sink.stream, static_cast<off_t>(offset), whence);
  if (status != 0 && sink.error == 0) sink.error = errno;
  return status;
}

int close_sink(voidpf, voidpf) { return 0; }

int sink_error(voidpf, voidpf stream) { return static_cast<Sink*>(stream)->error; }

}  // namespace

struct TorchWriter::Impl {
  std::filesystem::path file;
  std::string top;
  std::vector<Storage> storages;
  std::string pickle;
  Sink sink;
  zipFile zip = nullptr;
  std::size_t next = 0;   // the storage whose record is opened next
  std::int64_t left = 0;  // bytes that the open record still wants
  bool is_open = false;   // is the record of storage next - 1 open?

  Impl(std::filesystem::path path, std::string folder, const std::vector<Entry>& entries)
      : file(std::move(path)), top(std::move(folder)), storages(storages_of(entries)) {
    pickle = PickleText().state_dict(entries, storages);
    sink.stream = std::fopen(file.c_str(), "wbx");
    if (sink.stream == nullptr) fail("cannot be made", errno);
    zlib_filefunc64_def calls{open_sink, read_sink,  write_sink, tell_sink,
                              seek_sink, close_sink, sink_error, &sink};
    zip = zipOpen2_64(file.c_str(), APPEND_STATUS_CREATE, nullptr, &calls);
    if (zip == nullptr) {
      std::fclose(sink.stream);
      fail("cannot be made", ENOMEM);
    }
  }

  /// Without finish() no directory is written, so that nobody takes the file for whole.
  ~Impl() {
    sink.abandoned = true;
    if (zip != nullptr) zipClose(zip, nullptr);
    if (sink.stream != nullptr) std::fclose(sink.stream);
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[noreturn]] void fail(std::string_view what, int error) const {
    throw Error(ErrorCode::io, fmt::format("{}: {}: {}", file.string(), what,
                                           error != 0 ? std::strerror(error) : "zip error"));
  }

  void check(int status) const {
    if (status != ZIP_OK || sink.error != 0) fail("cannot be written", sink.error);
  }

  void open_record(const std::string& name, std::int64_t bytes) {
    const std::string path = top + "/" + name;
    const bool zip64 = bytes >= kZip64From;
    // PyTorch pads with an extra field "FB" until the data are aligned.
    const std::int64_t unpadded = static_cast<std::int64_t>(ftello(sink.stream)) + kLocalHeader +
                                  static_cast<std::int64_t>(path.size()) +
                                  (zip64 ? kZip64Extra : 0) + 4;
    const auto padding =
        static_cast<std::size_t>((kAlignment - unpadded % kAlignment) % kAlignment);
    std::string extra = {'F', 'B', static_cast<char>(padding), '\0'};
    extra.append(padding, 'Z');
    zip_fileinfo info{};
    info.dosDate = kFirstOf1980;
    check(zipOpenNewFileInZip4_64(zip, path.c_str(), &info, extra.data(),
                                  static_cast<uInt>(extra.size()), nullptr, 0, nullptr, 0, 0, 0,
                                  -MAX_WBITS, DEF_MEM_LEVEL, Z_DEFAULT_STRATEGY, nullptr, 0, 0,
                                  kUtf8Name, zip64 ? 1 : 0));
  }

  void close_record() { check(zipCloseFileInZip(zip)); }

  void put(std::span<const std::byte> bytes) {
    constexpr std::size_t kMost = std::size_t{1} << 30;  // minizip counts in unsigned int
    while (!bytes.empty()) {
      const std::size_t count = std::min(bytes.size(), kMost);
      check(zipWriteInFileInZip(zip, bytes.data(), static_cast<unsigned>(count)));
      bytes = bytes.subspan(count);
    }
  }

  void put_record(const std::string& name, std::string_view text) {
    open_record(name, static_cast<std::int64_t>(text.size()));
    put(std::as_bytes(std::span(text)));
    close_record();
  }

  /// Opens the next record that wants bytes; false if there is none left.
  bool advance() {
    while (left == 0) {
      if (is_open) close_record();
      is_open = false;
      if (next == storages.size()) return false;
      left = storages[next].bytes;
      open_record("data/" + std::to_string(next), left);
      is_open = true;
      ++next;
    }
    return true;
  }
};

TorchWriter::TorchWriter(const std::filesystem::path& file, const std::string& top,
                         std::vector<Entry> entries)
    : impl_(std::make_unique<Impl>(file, top, entries)) {
  impl_->put_record("data.pkl", impl_->pickle);
  impl_->put_record("byteorder", "little");
}

TorchWriter::~TorchWriter() = default;

void TorchWriter::write(std::span<const std::byte> chunk) {
  if (chunk.empty()) return;
  const auto size = static_cast<std::int64_t>(chunk.size());
  if (!impl_->advance() || size > impl_->left) {
    throw Error(ErrorCode::usage,
                fmt::format("{}: a chunk has {} bytes, expected at most the {} that its storage "
                            "still wants",
                            impl_->file.string(), size, impl_->left));
  }
  impl_->put(chunk);
  impl_->left -= size;
}

void TorchWriter::finish() {
  Impl& impl = *impl_;
  if (impl.advance()) {
    throw Error(ErrorCode::usage, fmt::format("{}: storage {} still wants {} bytes",
                                              impl.file.string(), impl.next - 1, impl.left));
  }
  impl.put_record("version", "3\n");
  // 40 digits that PyTorch logs as the identity of what was loaded: here of the structure.
  const auto* pickle = reinterpret_cast<const Bytef*>(impl.pickle.data());
  impl.put_record(".data/serialization_id", fmt::format("{:020}{:020}", impl.storages.size(),
                                                        crc32_z(0, pickle, impl.pickle.size())));
  const int status = zipClose(impl.zip, nullptr);
  impl.zip = nullptr;
  impl.check(status);
  if (std::fflush(impl.sink.stream) != 0 || fsync(fileno(impl.sink.stream)) != 0) {
    impl.fail("cannot be flushed to the disk", errno);
  }
  const int closed = std::fclose(impl.sink.stream);
  impl.sink.stream = nullptr;
  if (closed != 0) impl.fail("cannot be closed", errno);
}

}  // namespace icd
