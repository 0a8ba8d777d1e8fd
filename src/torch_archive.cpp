#include "torch_archive.h"

#include <fmt/format.h>
#include <utf8proc.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "icd/error.h"
#include "pickle.h"
#include "quote.h"
#include "zip_directory.h"

namespace icd {
namespace {

constexpr std::string_view kZipMagic("PK\x03\x04", 4);
constexpr std::size_t kDeepest = 64;          // levels of dictionaries and lists
constexpr std::size_t kMostVisits = 1 << 22;  // values met on the way to the tensors
constexpr std::size_t kMostTensors = 1 << 18;
constexpr std::size_t kLongestName = 1024;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The formats of PyTorch before 1.6: a chain of pickles that opens with a magic number, and
/// before that a tar archive.
bool is_legacy(std::string_view text) {
  constexpr std::string_view kMagic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 13);
  const bool pickle = text.size() > 2 && text[0] == '\x80' &&
                      (text.substr(2).starts_with(kMagic) ||
                       (text.size() > 11 && text.substr(11).starts_with(kMagic)));  // after a frame
  const bool tar = text.size() > 262 && text.substr(257, 5) == "ustar";
  return pickle || tar;
}

/// Is this a zip archive at all? If not, say what it is.
void check_format(const WeightFile& archive, std::string_view text) {
  if (text.starts_with(kZipMagic)) return;
  if (is_legacy(text)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: is in the format of PyTorch before 1.6, expected a zip archive",
                            archive.name),
                "re-save it: torch.save(torch.load(f, weights_only=True), f)");
  }
  const bool pointer = text.starts_with("version https://git-lfs");
  throw Error(ErrorCode::input,
              fmt::format("{}: is not a zip archive: starts with {}, expected 'PK\\x03\\x04'",
                          archive.name, quote(text.substr(0, 16))),
              pointer ? "it is a Git LFS pointer: git lfs pull fetches the file itself" : "");
}

/// The records of one archive, without its top folder.
class Records {
 public:
  Records(const WeightFile& archive, std::vector<ZipRecord> records)
      : archive_(archive), records_(std::move(records)) {
    const std::string& first = records_.front().name;
    const std::size_t slash = first.find('/');
    top_ = first.substr(0, slash == std::string::npos ? 0 : slash + 1);
    for (const ZipRecord& record : records_) {
      if (top_.empty() || !record.name.starts_with(top_)) {
        throw Error(ErrorCode::input,
                    fmt::format("{}: record {} does not lie in one top folder with the others",
                                archive_.name, quote(record.name)));
      }
    }
    by_name_.reserve(records_.size());
    for (const ZipRecord& record : records_) by_name_.push_back(&record);
    std::sort(by_name_.begin(), by_name_.end(),
              [](const ZipRecord* a, const ZipRecord* b) { return a->name < b->name; });
  }

  const std::vector<ZipRecord>& all() const noexcept { return records_; }

  std::string_view inner_name(const ZipRecord& record) const {
    return std::string_view(record.name).substr(top_.size());
  }

  /// nullptr if there is none of that name.
  const ZipRecord* find(std::string_view name) const {
    const auto place = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [&](const ZipRecord* record, std::string_view key) { return inner_name(*record) < key; });
    return place != by_name_.end() && inner_name(**place) == name ? *place : nullptr;
  }

  std::span<const std::byte> bytes(const ZipRecord& record) const {
    return {archive_.data + record.begin, static_cast<std::size_t>(record.bytes)};
  }

 private:
  const WeightFile& archive_;
  std::vector<ZipRecord> records_;
  std::string top_;  // "pytorch_model/"
  std::vector<const ZipRecord*> by_name_;
};

/// TorchScript is code, and PyTorch compresses it.
void check_no_script(const WeightFile& archive, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const std::string_view inner = std::string_view(name).substr(name.find('/') + 1);
    if (inner == "constants.pkl" || inner.starts_with("code/")) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: is a TorchScript archive (it holds {}), expected a state dict",
                              archive.name, quote(name)),
                  "save the model's state_dict() with torch.save");
    }
  }
}

void check_byte_order(const WeightFile& archive, const Records& records) {
  const ZipRecord* order = records.find("byteorder");
  if (order == nullptr) return;  // before PyTorch 2.1: little-endian in practice
  const std::string_view text = text_of(records.bytes(*order));
  if (text != "little") {
    throw Error(text == "big" ? ErrorCode::unsupported : ErrorCode::input,
                fmt::format("{}: byteorder is {}, expected 'little'", archive.name, quote(text)));
  }
}

Pickle read_data_pickle(const WeightFile& archive, const Records& records) {
  const ZipRecord* record = records.find("data.pkl");
  if (record == nullptr) {
    throw Error(ErrorCode::input, fmt::format("{}: has no record data.pkl, expected one, as "
                                              "torch.save writes it",
                                              archive.name));
  }
  const std::span<const std::byte> bytes = records.bytes(*record);
  const auto crc = static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
  // torch.serialization.set_crc32_options(False) leaves 0.
  if (record->crc32 != 0 && record->crc32 != crc) {
    throw Error(ErrorCode::input,
                fmt::format("{}: data.pkl has CRC-32 {:08x}, expected {:08x}", archive.name, crc,
                            record->crc32),
                "the file is damaged: fetch it again");
  }
  return read_pickle(bytes, archive.name + ": data.pkl");
}

/// A tensor of the pickle under its name.
struct NamedTensor {
  std::string name;
  std::size_t tensor = 0;  // index into Pickle::tensors
};

/// Walks the values from the root down, in the order of the pickle, and names the tensors by
/// the path of keys. The pickle is a graph in which a value may be reached over many paths, or
/// contain itself: depth and number of steps are bounded.
class TensorWalk {
 public:
  TensorWalk(const WeightFile& archive, const Pickle& pickle)
      : archive_(archive), pickle_(pickle) {}

  std::vector<NamedTensor> run() {
    std::vector<Step> path;
    enter(path, pickle_.root, {});
    while (!path.empty()) {
      Step& step = path.back();
      const PickleValue& value = pickle_.values[step.value];
      if (step.next == value.items.size()) {
        name_.resize(step.name_bytes);
        unnamed_ -= step.unnamed;
        path.pop_back();
        continue;
      }
      const std::size_t at = step.next;
      if (value.kind == PickleKind::dict) {
        step.next += 2;
        visit(path, value.items[at + 1], key_text(pickle_.values[value.items[at]]));
      } else {
        step.next += 1;
        const bool listed = value.kind != PickleKind::opaque;
        visit(path, value.items[at], listed ? std::optional(std::to_string(at)) : std::nullopt);
      }
    }
    check_unique();
    return std::move(found_);
  }

 private:
  struct Step {
    PickleRef value;
    std::size_t next = 0;        // place in its items
    std::size_t name_bytes = 0;  // length of the name outside
    int unnamed = 0;             // 1 if no key leads here
  };

  [[noreturn]] void refuse(ErrorCode code, const std::string& found) const {
    throw Error(code, fmt::format("{}: data.pkl: {}", archive_.name, found));
  }

  static std::optional<std::string> key_text(const PickleValue& key) {
    if (key.kind == PickleKind::text) return std::string(key.text.substr(0, kLongestName + 1));
    if (key.kind == PickleKind::integer) return std::to_string(key.integer);
    return std::nullopt;
  }

  void visit(std::vector<Step>& path, PickleRef ref, const std::optional<std::string>& key) {
    if (++visits_ > kMostVisits) {
      refuse(ErrorCode::input, fmt::format("more than {} values are nested in it", kMostVisits));
    }
    const PickleValue& value = pickle_.values[ref];
    const bool nests = !value.items.empty();
    if (!nests && value.kind != PickleKind::tensor) return;
    if (path.size() == kDeepest) {
      refuse(
          ErrorCode::input,
          fmt::format("values are nested more than {} deep (does one contain itself?)", kDeepest));
    }
    enter(path, ref, key);
  }

  void enter(std::vector<Step>& path, PickleRef ref, const std::optional<std::string>& key) {
    Step step{.value = ref, .next = 0, .name_bytes = name_.size(), .unnamed = 0};
    if (!path.empty()) {
      if (key) {
        if (path.size() > 1) name_ += '.';
        name_ += *key;
      } else {
        step.unnamed = 1;
      }
    }
    if (name_.size() > kLongestName) {
      refuse(ErrorCode::input, fmt::format("a name has {} bytes or more, expected at most {}: {}",
                                           name_.size(), kLongestName, quote(name_)));
    }
    unnamed_ += step.unnamed;
    if (pickle_.values[ref].kind == PickleKind::tensor) add(ref, path.empty());
    path.push_back(step);
  }

  void add(PickleRef ref, bool root) {
    if (root) {
      refuse(ErrorCode::unsupported, "holds one bare tensor, expected a dictionary of tensors");
    }
    if (unnamed_ != 0) {
      refuse(ErrorCode::unsupported,
             fmt::format("a tensor below {} has no name of texts and integers", quote(name_)));
    }
    check_name();
    if (found_.size() == kMostTensors) {
      refuse(ErrorCode::input, fmt::format("more than {} tensors", kMostTensors));
    }
    found_.push_back({name_, static_cast<std::size_t>(pickle_.values[ref].integer)});
  }

  /// Names go into messages and JSON.
  void check_name() const {
    const auto* text = reinterpret_cast<const utf8proc_uint8_t*>(name_.data());
    const auto size = static_cast<utf8proc_ssize_t>(name_.size());
    bool fits = size != 0;
    for (utf8proc_ssize_t at = 0; fits && at < size;) {
      utf8proc_int32_t letter = 0;
      const utf8proc_ssize_t length = utf8proc_iterate(text + at, size - at, &letter);
      fits = length > 0 && letter >= 0x20 && letter != 0x7f;
      at += length;
    }
    if (!fits) {
      refuse(ErrorCode::input,
             fmt::format("a tensor is called {}, expected printable UTF-8", quote(name_)));
    }
  }

  void check_unique() const {
    std::vector<std::string_view> names;
    names.reserve(found_.size());
    for (const NamedTensor& tensor : found_) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    if (const auto twin = std::adjacent_find(names.begin(), names.end()); twin != names.end()) {
      refuse(ErrorCode::input,
             fmt::format("two tensors are called {}, expected one", quote(*twin)));
    }
  }

  const WeightFile& archive_;
  const Pickle& pickle_;
  std::string name_;
  int unnamed_ = 0;
  std::size_t visits_ = 0;
  std::vector<NamedTensor> found_;
};

/// Elements from the first to the last of a view, both included; 0 for a view without elements.
/// nullopt if that overflows or a number is negative.
std::optional<std::int64_t> extent(const PickledTensor& tensor) {
  std::int64_t last = 0;
  bool empty = false;
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    const std::int64_t size = tensor.shape[axis];
    std::int64_t reach = 0;
    if (size < 0 || tensor.strides[axis] < 0) return std::nullopt;
    empty |= size == 0;
    if (size < 2) continue;
    if (__builtin_mul_overflow(size - 1, tensor.strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return std::nullopt;
    }
  }
  if (empty) return 0;
  if (__builtin_add_overflow(last, 1, &last)) return std::nullopt;
  return last;
}

/// Does every element of the view have bytes of its own? Sufficient, and true of whatever
/// slicing, transposing and reshaping can make; an expanded tensor fails.
bool has_own_bytes(const PickledTensor& tensor) {
  std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // stride, size
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.shape[axis] > 1) axes.emplace_back(tensor.strides[axis], tensor.shape[axis]);
  }
  std::sort(axes.begin(), axes.end());
  std::int64_t reach = 0;  // cannot overflow: extent() has summed it
  for (const auto& [stride, size] : axes) {
    if (stride <= reach) return false;
    reach += (size - 1) * stride;
  }
  return true;
}

/// Binds the tensors of a pickle to the records of its archive.
class Binder {
 public:
  Binder(const WeightFile& archive, const Records& records, const Pickle& pickle)
      : archive_(archive), pickle_(pickle) {
    bind_storages(records);
  }

  StoredTensor bind(const NamedTensor& named, int file) const {
    const PickledTensor& tensor = pickle_.tensors[named.tensor];
    const ZipRecord& record = *storages_[tensor.storage];
    const PickledStorage& storage = pickle_.storages[tensor.storage];
    const std::string who = fmt::format("{}: tensor {}", archive_.name, quote(named.name));
    const std::optional<std::int64_t> elements = extent(tensor);
    const std::int64_t room = record.bytes / tensor.element.bytes;
    if (!elements || tensor.offset < 0 || tensor.offset > room ||
        *elements > room - tensor.offset) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: shape {}, strides {} and offset {} leave its storage data/{} "
                              "of {} elements",
                              who, shape_text(tensor.shape), shape_text(tensor.strides),
                              tensor.offset, storage.key, room));
    }
    if (*elements != 0 && !has_own_bytes(tensor)) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: elements of shape {} with strides {} share bytes, expected "
                              "each to have its own",
                              who, shape_text(tensor.shape), shape_text(tensor.strides)),
                  "save it after .contiguous()");
    }
    StoredTensor stored;
    stored.name = named.name;
    stored.dtype = tensor.element.dtype;
    // Spelt as safetensors do, so that a model is the same in either container.
    stored.dtype_text = std::string(stored.dtype == DType::unknown ? tensor.element.name
                                                                   : dtype_name(stored.dtype));
    stored.shape = tensor.shape;
    stored.strides = tensor.strides;
    stored.file = file;
    stored.begin = record.begin + tensor.offset * tensor.element.bytes;
    stored.span_bytes = *elements * tensor.element.bytes;
    return stored;
  }

 private:
  /// A storage's record holds exactly its elements. PyTorch writes a storage under one type.
  void bind_storages(const Records& records) {
    std::vector<std::pair<const ZipRecord*, const PickledStorage*>> types;
    storages_.reserve(pickle_.storages.size());
    types.reserve(pickle_.storages.size());
    for (const PickledStorage& storage : pickle_.storages) {
      const ZipRecord* record = records.find(fmt::format("data/{}", storage.key));
      if (record == nullptr) refuse(storage, "its record is missing");
      std::int64_t bytes = 0;
      if (storage.elements < 0 ||
          __builtin_mul_overflow(storage.elements, storage.element.bytes, &bytes) ||
          bytes != record->bytes) {
        refuse(storage, fmt::format("has {} bytes, expected {} elements of {}", record->bytes,
                                    storage.elements, storage.element.bytes));
      }
      storages_.push_back(record);
      types.emplace_back(record, &storage);
    }
    std::sort(types.begin(), types.end());
    for (std::size_t i = 1; i < types.size(); ++i) {
      const PickledStorage& storage = *types[i].second;
      const PickledStorage& before = *types[i - 1].second;
      if (types[i].first == types[i - 1].first && storage.element.name != before.element.name) {
        refuse(storage, fmt::format("is {} and {} at once, expected one type", before.element.name,
                                    storage.element.name));
      }
    }
  }

  [[noreturn]] void refuse(const PickledStorage& storage, const std::string& found) const {
    throw Error(ErrorCode::input, fmt::format("{}: storage {}: {}", archive_.name,
                                              quote(fmt::format("data/{}", storage.key)), found));
  }

  const WeightFile& archive_;
  const Pickle& pickle_;
  std::vector<const ZipRecord*> storages_;  // of each of Pickle::storages
};

}  // namespace

std::vector<StoredTensor> read_torch_archive(WeightFile& archive, int file) {
  const std::span<const std::byte> bytes(archive.data, static_cast<std::size_t>(archive.bytes));
  check_format(archive, text_of(bytes));
  check_no_script(archive, zip_names(bytes, archive.name));
  const Records records(archive, read_zip_directory(bytes, archive.name));
  check_byte_order(archive, records);

  const Pickle pickle = read_data_pickle(archive, records);
  const Binder binder(archive, records, pickle);
  std::vector<StoredTensor> tensors;
  for (const NamedTensor& named : TensorWalk(archive, pickle).run()) {
    tensors.push_back(binder.bind(named, file));
  }
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const StoredTensor& a, const StoredTensor& b) { return a.begin < b.begin; });

  archive.records.clear();
  for (const ZipRecord& record : records.all()) {
    if (!records.inner_name(record).starts_with("data/")) continue;
    archive.records.push_back({record.begin, record.bytes, record.crc32, record.crc32_positions});
  }
  return tensors;
}

bool is_plain_state_dict(const WeightFile& archive) {
  const std::span<const std::byte> bytes(archive.data, static_cast<std::size_t>(archive.bytes));
  const Records records(archive, read_zip_directory(bytes, archive.name));
  const Pickle pickle = read_data_pickle(archive, records);
  const PickleValue& root = pickle.values[pickle.root];
  if (root.kind != PickleKind::dict) return false;
  for (std::size_t i = 0; i < root.items.size(); i += 2) {
    if (pickle.values[root.items[i]].kind != PickleKind::text) return false;
    if (pickle.values[root.items[i + 1]].kind != PickleKind::tensor) return false;
  }
  return true;
}

}  // namespace icd
