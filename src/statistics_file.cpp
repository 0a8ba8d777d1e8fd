#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <map>
#include <system_error>
#include <utility>

#include "icd/calibration.h"
#include "icd/error.h"
#include "icd/version.h"
#include "json.h"
#include "mapped_file.h"
#include "safetensors.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormatKey = "icd_statistics";  // says what the file is
constexpr std::string_view kFormat = "1";
constexpr std::string_view kStructureKey = "icd_structure";
constexpr std::string_view kSourceKey = "icd_source";
constexpr std::string_view kTokensKey = "icd_tokens_sha256";
constexpr std::int64_t kActivityWords = kActivityTokens / 64;  // of a member, used up or not

std::string stem_of(std::string_view group, std::string_view signal) {
  return fmt::format("{}.{}", group, signal);
}

/// The tensors of some entries in the order of the file. Those of 8 bytes an element come
/// first, so that every tensor stands at a multiple of its element.
std::vector<SafetensorsEntry> tensors_of(std::span<const StatisticsEntry> entries) {
  std::vector<SafetensorsEntry> tensors;
  for (const StatisticsEntry& entry : entries) {
    for (const std::string_view half : {"train", "heldout"}) {
      const std::string stem = fmt::format("{}.{}", stem_of(entry.group, entry.signal), half);
      tensors.push_back({stem + ".rows", DType::i64, {1}});
      tensors.push_back({stem + ".mean", DType::f64, {entry.size}});
      tensors.push_back({stem + ".variance", DType::f64, {entry.size}});
      if (entry.has_decay) tensors.push_back({stem + ".decay", DType::f64, {entry.size}});
      if (entry.has_activity) {
        tensors.push_back({stem + ".active_tokens", DType::i64, {1}});
        tensors.push_back({stem + ".activity", DType::u64, {entry.size, kActivityWords}});
      }
    }
  }
  for (const StatisticsEntry& entry : entries) {
    const std::string stem = stem_of(entry.group, entry.signal);
    for (const std::string_view half : {"train", "heldout"}) {
      const std::string own = fmt::format("{}.{}", stem, half);
      tensors.push_back({own + ".minimum", DType::f32, {entry.size}});
      tensors.push_back({own + ".maximum", DType::f32, {entry.size}});
      if (entry.has_correlation) {
        tensors.push_back({own + ".correlation", DType::f32, {entry.size, entry.size}});
      }
    }
    if (entry.has_dt_quantiles) {
      tensors.push_back({stem + ".dt_quantiles", DType::f32, {5, entry.size}});
    }
  }
  return tensors;
}

[[noreturn]] void fail(const fs::path& file, std::string_view step, int error) {
  throw Error(ErrorCode::io, fmt::format("{}: cannot {}: {}", file.string(), step,
                                         std::generic_category().message(error)));
}

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value) noexcept : value_(value) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const noexcept { return value_; }

  /// false if the system says that something written before was lost.
  bool close() noexcept { return value_ < 0 || ::close(std::exchange(value_, -1)) == 0; }

 private:
  int value_;
};

/// A new file beside `file` and its name. The name holds the process, so that two runs do not
/// meet; O_EXCL, so that nothing there is written over.
std::pair<fs::path, int> create_sibling(const fs::path& file) {
  constexpr int kAttempts = 100;
  for (int attempt = 0;; ++attempt) {
    fs::path sibling = file;
    sibling += fmt::format(".icd-{}-{}.tmp", ::getpid(), attempt);
    const int descriptor = ::open(sibling.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0) return {std::move(sibling), descriptor};
    if (errno != EEXIST || attempt == kAttempts) fail(sibling, "create", errno);
  }
}

}  // namespace

struct StatisticsWriter::Impl {
  fs::path file;
  fs::path temporary;
  Descriptor descriptor;
  bool is_finished = false;
  std::map<std::string, StatisticsEntry, std::less<>> missing;  // by stem
  std::map<std::string, std::int64_t, std::less<>> begin;       // bytes, by tensor name

  Impl(const fs::path& target, std::pair<fs::path, int> sibling)
      : file(target), temporary(std::move(sibling.first)), descriptor(sibling.second) {}

  ~Impl() {
    if (!is_finished) ::unlink(temporary.c_str());
  }

  void write(std::int64_t at, const void* data, std::size_t bytes) const {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::pwrite(descriptor.get(), from, bytes, at);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(temporary, "write", errno);
      from += written;
      at += written;
      bytes -= static_cast<std::size_t>(written);
    }
  }

  template <typename T>
  void write(const std::string& tensor, const std::vector<T>& values) const {
    write(begin.at(tensor), values.data(), values.size() * sizeof(T));
  }

  void write(const std::string& stem, const Moments& moments) const {
    write(begin.at(stem + ".rows"), &moments.rows, sizeof(moments.rows));
    write(stem + ".mean", moments.mean);
    write(stem + ".variance", moments.variance);
    write(stem + ".minimum", moments.minimum);
    write(stem + ".maximum", moments.maximum);
    if (!moments.correlation.empty()) write(stem + ".correlation", moments.correlation);
    if (!moments.decay.empty()) write(stem + ".decay", moments.decay);
    if (moments.activity) write(stem, *moments.activity);
  }

  void write(const std::string& stem, const Activity& activity) const {
    write(begin.at(stem + ".active_tokens"), &activity.tokens, sizeof(activity.tokens));
    const auto words = static_cast<std::size_t>(activity.words());
    for (Index c = 0; c < activity.size; ++c) {  // the rest of a row stays 0, as it was reserved
      write(begin.at(stem + ".activity") + c * kActivityWords * std::int64_t{8},
            activity.bits.data() + static_cast<std::size_t>(c) * words, words * 8);
    }
  }
};

StatisticsWriter::StatisticsWriter(const fs::path& file, const StatisticsInfo& info,
                                   std::span<const StatisticsEntry> entries)
    : impl_(std::make_unique<Impl>(file, create_sibling(file))) {
  const std::vector<SafetensorsEntry> tensors = tensors_of(entries);
  const std::vector<std::pair<std::string, std::string>> metadata = {
      {std::string(kFormatKey), std::string(kFormat)}, {"icd_version", std::string(version())},
      {std::string(kStructureKey), info.structure},    {std::string(kSourceKey), info.source},
      {std::string(kTokensKey), info.tokens_digest},
  };
  const std::string header = safetensors_header(tensors, metadata);
  auto at = static_cast<std::int64_t>(header.size());
  for (const SafetensorsEntry& tensor : tensors) {
    impl_->begin.emplace(tensor.name, at);
    at += entry_bytes(tensor);
  }
  for (const StatisticsEntry& entry : entries) {
    impl_->missing.emplace(stem_of(entry.group, entry.signal), entry);
  }
  // Asks for the blocks now: a full disk is found before the hours of work, not after.
  if (const int error = ::posix_fallocate(impl_->descriptor.get(), 0, at); error != 0) {
    fail(impl_->temporary, fmt::format("reserve {} bytes", at), error);
  }
  impl_->write(0, header.data(), header.size());
}

StatisticsWriter::~StatisticsWriter() = default;

void StatisticsWriter::add(const GroupStatistics& statistics) {
  const std::string stem = stem_of(statistics.group, statistics.signal);
  const auto entry = impl_->missing.find(stem);
  if (entry == impl_->missing.end()) {
    throw Error(ErrorCode::usage,
                fmt::format("{}: signal '{}' was added before or not announced, expected each "
                            "announced one once",
                            statistics.group, statistics.signal));
  }
  const auto n = static_cast<std::size_t>(entry->second.size);
  const auto check = [&](std::string_view what, std::size_t found, std::size_t expected) {
    if (found == expected) return;
    throw Error(ErrorCode::usage,
                fmt::format("{}.{}: {} values, expected {}", stem, what, found, expected));
  };
  for (const Moments* moments : {&statistics.train, &statistics.heldout}) {
    check("mean", moments->mean.size(), n);
    check("variance", moments->variance.size(), n);
    check("minimum", moments->minimum.size(), n);
    check("maximum", moments->maximum.size(), n);
    check("correlation", moments->correlation.size(), entry->second.has_correlation ? n * n : 0);
    check("decay", moments->decay.size(), entry->second.has_decay ? n : 0);
    const Activity activity = moments->activity ? *moments->activity : Activity();
    const std::int64_t least = entry->second.has_activity ? 1 : 0;
    const std::int64_t most = entry->second.has_activity ? kActivityTokens : 0;
    if (activity.tokens < least || activity.tokens > most) {
      throw Error(ErrorCode::usage, fmt::format("{}.activity: {} tokens, expected {} to {}", stem,
                                                activity.tokens, least, most));
    }
    check("activity", activity.bits.size(), n * static_cast<std::size_t>(activity.words()));
  }
  check("dt_quantiles", statistics.dt_quantiles.size(), entry->second.has_dt_quantiles ? 5 * n : 0);

  impl_->write(stem + ".train", statistics.train);
  impl_->write(stem + ".heldout", statistics.heldout);
  if (entry->second.has_dt_quantiles) {
    impl_->write(stem + ".dt_quantiles", statistics.dt_quantiles);
  }
  impl_->missing.erase(entry);
}

void StatisticsWriter::finish() {
  if (!impl_->missing.empty()) {
    throw Error(ErrorCode::usage, fmt::format("{}: {} never came, expected all that was announced",
                                              impl_->file.string(), impl_->missing.begin()->first));
  }
  if (::fsync(impl_->descriptor.get()) != 0) fail(impl_->temporary, "flush", errno);
  if (!impl_->descriptor.close()) fail(impl_->temporary, "close", errno);
  if (::rename(impl_->temporary.c_str(), impl_->file.c_str()) != 0) {
    fail(impl_->file, "put the new file there", errno);
  }
  impl_->is_finished = true;
  // The rename itself is on disk once the folder is; not every file system can be asked.
  const fs::path folder = impl_->file.has_parent_path() ? impl_->file.parent_path() : fs::path(".");
  const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) ::fsync(directory.get());
}

struct StatisticsFile::Impl {
  MappedFile map;
  StatisticsInfo info;
  std::map<std::string, StoredTensor, std::less<>> tensors;

  explicit Impl(const fs::path& file) : map(file) {}

  [[noreturn]] void refuse(std::string_view name, const std::string& fault) const {
    throw Error(ErrorCode::input,
                fmt::format("{}: tensor '{}': {}", map.path.string(), name, fault));
  }

  const StoredTensor& tensor(const std::string& name, DType dtype, const Shape& shape) const {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      refuse(name, fmt::format("is missing, expected {}", shape_text(shape)));
    }
    const StoredTensor& stored = found->second;
    if (stored.dtype != dtype) {
      refuse(name, fmt::format("dtype is {}, expected {}", stored.dtype_text, dtype_name(dtype)));
    }
    if (stored.shape != shape) {
      refuse(name,
             fmt::format("shape is {}, expected {}", shape_text(stored.shape), shape_text(shape)));
    }
    return stored;
  }

  template <typename T>
  std::vector<T> values(const std::string& name, DType dtype, const Shape& shape) const {
    const StoredTensor& stored = tensor(name, dtype, shape);
    std::vector<T> result(static_cast<std::size_t>(stored.span_bytes) / sizeof(T));
    if (!result.empty()) {
      std::memcpy(result.data(), map.data + stored.begin, result.size() * sizeof(T));
    }
    return result;
  }

  /// The same, of a part that a file may lack: empty if it does.
  template <typename T>
  std::vector<T> optional(const std::string& name, DType dtype, const Shape& shape) const {
    return tensors.contains(name) ? values<T>(name, dtype, shape) : std::vector<T>();
  }

  Moments moments(const std::string& stem, std::int64_t n) const;
  Activity activity(const std::string& stem, std::int64_t n) const;
  void check_range(const std::string& stem, const Moments& moments) const;
  void check_correlation(const std::string& name, const Moments& moments) const;
};

void StatisticsFile::Impl::check_correlation(const std::string& name,
                                             const Moments& moments) const {
  constexpr std::size_t kTile = 64;  // so that the entry across the diagonal is in the cache
  const std::vector<float>& r = moments.correlation;
  const std::size_t n = moments.mean.size();
  for (std::size_t top = 0; top < n; top += kTile) {
    for (std::size_t left = top; left < n; left += kTile) {
      for (std::size_t i = top; i < std::min(n, top + kTile); ++i) {
        for (std::size_t j = std::max(i, left); j < std::min(n, left + kTile); ++j) {
          const float value = r[i * n + j];
          const bool is_still = moments.variance[i] == 0 || moments.variance[j] == 0;
          if (is_still ? !std::isnan(value) : !(std::abs(value) <= 1)) {
            refuse(name, fmt::format("entry ({}, {}) is {}, expected {}", i, j, value,
                                     is_still ? "NaN, as a variance is 0" : "one in [-1, 1]"));
          }
          const float across = r[j * n + i];
          if (is_still ? !std::isnan(across) : across != value) {
            refuse(name, fmt::format("entries ({0}, {1}) and ({1}, {0}) are {2} and {3}, expected "
                                     "a symmetric matrix",
                                     i, j, value, across));
          }
        }
      }
    }
  }
}

Moments StatisticsFile::Impl::moments(const std::string& stem, std::int64_t n) const {
  Moments result;
  result.rows = values<std::int64_t>(stem + ".rows", DType::i64, {1}).front();
  if (result.rows < 1) {
    refuse(stem + ".rows", fmt::format("is {}, expected at least 1", result.rows));
  }
  result.mean = values<double>(stem + ".mean", DType::f64, {n});
  result.variance = values<double>(stem + ".variance", DType::f64, {n});
  for (std::size_t c = 0; c < result.mean.size(); ++c) {
    if (!std::isfinite(result.mean[c])) {
      refuse(stem + ".mean", fmt::format("entry {} is {}, expected a number", c, result.mean[c]));
    }
    if (!std::isfinite(result.variance[c]) || result.variance[c] < 0) {
      refuse(stem + ".variance",
             fmt::format("entry {} is {}, expected a number >= 0", c, result.variance[c]));
    }
  }
  result.minimum = optional<float>(stem + ".minimum", DType::f32, {n});
  result.maximum = optional<float>(stem + ".maximum", DType::f32, {n});
  check_range(stem, result);
  result.correlation = optional<float>(stem + ".correlation", DType::f32, {n, n});
  if (!result.correlation.empty()) check_correlation(stem + ".correlation", result);
  result.decay = optional<double>(stem + ".decay", DType::f64, {n});
  for (std::size_t c = 0; c < result.decay.size(); ++c) {
    if (!std::isfinite(result.decay[c]) || result.decay[c] < 0) {
      refuse(stem + ".decay",
             fmt::format("entry {} is {}, expected a number >= 0", c, result.decay[c]));
    }
  }
  if (tensors.contains(stem + ".activity")) {
    result.activity = std::make_shared<const Activity>(activity(stem, n));
  }
  return result;
}

void StatisticsFile::Impl::check_range(const std::string& stem, const Moments& moments) const {
  if (moments.minimum.size() != moments.maximum.size()) {
    refuse(stem + (moments.minimum.empty() ? ".minimum" : ".maximum"),
           "is missing, expected both minimum and maximum");
  }
  for (std::size_t c = 0; c < moments.minimum.size(); ++c) {
    const float least = moments.minimum[c];
    const float most = moments.maximum[c];
    if (std::isfinite(least) && std::isfinite(most) && least <= most) continue;
    refuse(stem + ".minimum",
           fmt::format("entry {} is {}, expected a number that is at most the maximum, {}", c,
                       least, most));
  }
}

Activity StatisticsFile::Impl::activity(const std::string& stem, std::int64_t n) const {
  Activity result{.tokens = values<std::int64_t>(stem + ".active_tokens", DType::i64, {1}).front(),
                  .size = static_cast<Index>(n),
                  .bits = {}};
  if (result.tokens < 1 || result.tokens > kActivityTokens) {
    refuse(stem + ".active_tokens",
           fmt::format("is {}, expected one in [1, {}]", result.tokens, kActivityTokens));
  }
  const auto stored = values<std::uint64_t>(stem + ".activity", DType::u64, {n, kActivityWords});
  const std::int64_t words = result.words();
  for (std::int64_t c = 0; c < n; ++c) {
    const std::uint64_t* row = stored.data() + c * kActivityWords;
    result.bits.insert(result.bits.end(), row, row + words);
    const std::uint64_t beyond =
        result.tokens % 64 == 0 ? 0 : row[words - 1] >> (result.tokens % 64);
    if (beyond != 0 || std::any_of(row + words, row + kActivityWords,
                                   [](std::uint64_t word) { return word != 0; })) {
      refuse(stem + ".activity",
             fmt::format("row {} has bits beyond token {}, expected none", c, result.tokens));
    }
  }
  return result;
}

StatisticsFile::StatisticsFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StatisticsFile::~StatisticsFile() = default;
StatisticsFile::StatisticsFile(StatisticsFile&&) noexcept = default;
StatisticsFile& StatisticsFile::operator=(StatisticsFile&&) noexcept = default;

StatisticsFile StatisticsFile::open(const fs::path& file) {
  auto impl = std::make_unique<Impl>(file);
  for (StoredTensor& tensor : read_safetensors(impl->map, 0)) {
    std::string name = tensor.name;
    impl->tensors.emplace(std::move(name), std::move(tensor));
  }
  // read_safetensors has checked that the header lies within the file and is JSON.
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, impl->map.data, sizeof(header_bytes));
  const auto* text = reinterpret_cast<const char*>(impl->map.data) + sizeof(header_bytes);
  const Json header =
      parse_json(std::string_view(text, static_cast<std::size_t>(header_bytes)), file.string());
  const Json metadata = header.value("__metadata__", Json::object());
  if (metadata.value(std::string(kFormatKey), std::string()) != kFormat) {
    throw Error(ErrorCode::input,
                fmt::format("{}: metadata '{}' is '{}', expected '{}'", file.string(), kFormatKey,
                            metadata.value(std::string(kFormatKey), std::string()), kFormat),
                "a statistics file is what `icd calibrate` writes");
  }
  impl->info = {.structure = text_at(metadata, kStructureKey, file.string()),
                .source = text_at(metadata, kSourceKey, file.string()),
                .tokens_digest = text_at(metadata, kTokensKey, file.string())};
  return StatisticsFile(std::move(impl));
}

const StatisticsInfo& StatisticsFile::info() const noexcept { return impl_->info; }

GroupStatistics StatisticsFile::read(std::string_view group, std::string_view signal) const {
  const std::string stem = stem_of(group, signal);
  const auto mean = impl_->tensors.find(stem + ".train.mean");
  if (mean == impl_->tensors.end()) {
    throw Error(ErrorCode::input, fmt::format("{}: holds no signal '{}' of group '{}'",
                                              impl_->map.path.string(), signal, group));
  }
  if (mean->second.shape.size() != 1) {
    impl_->refuse(mean->first,
                  fmt::format("shape is {}, expected one axis", shape_text(mean->second.shape)));
  }
  const std::int64_t n = mean->second.shape[0];
  GroupStatistics statistics{.group = std::string(group),
                             .signal = std::string(signal),
                             .train = impl_->moments(stem + ".train", n),
                             .heldout = impl_->moments(stem + ".heldout", n)};
  const std::string quantiles = stem + ".dt_quantiles";
  if (impl_->tensors.contains(quantiles)) {
    statistics.dt_quantiles = impl_->values<float>(quantiles, DType::f32, {5, n});
    const auto fault =
        std::find_if_not(statistics.dt_quantiles.begin(), statistics.dt_quantiles.end(),
                         [](float dt) { return std::isfinite(dt); });
    if (fault != statistics.dt_quantiles.end()) {
      impl_->refuse(quantiles, fmt::format("entry {} is {}, expected a number",
                                           fault - statistics.dt_quantiles.begin(), *fault));
    }
  }
  return statistics;
}

}  // namespace icd
