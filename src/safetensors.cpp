// The safetensors format, and how to distrust it.
//
// Source  the format's README and the reference implementation, huggingface/safetensors
//         safetensors/src/tensor.rs, as of 2026-05.
#include "safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <unordered_set>

#include "icd/error.h"
#include "json.h"

namespace icd {
namespace {

constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr int kLengthBytes = 8;

/// What the header says of one tensor, before any of it is believed.
struct Claim {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::uint64_t>> shape;
  std::optional<std::vector<std::uint64_t>> offsets;
};

/// Collects claims event by event: no document is built, so a header of 100 MB costs no
/// more than its tensors, and a key that stands twice is seen (a document keeps the last).
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  std::vector<Claim> take_claims() { return std::move(claims_); }

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t) override { return scalar("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return scalar("a fraction"); }
  bool binary(binary_t&) override { return scalar("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ == 3 && list_ != nullptr) {
      list_->push_back(value);
      return true;
    }
    return scalar("a number");
  }

  bool string(string_t& value) override {
    if (in_metadata() && depth_ == 2) return true;
    if (depth_ == 2 && field_ == "dtype") {
      claims_.back().dtype = std::move(value);
      return true;
    }
    return scalar("a string");
  }

  bool start_object(std::size_t) override {
    ++depth_;
    if (depth_ == 1 || depth_ == 2) {
      fields_.clear();
      return true;
    }
    return nested("an object");
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata()) check_complete();
    --depth_;
    return true;
  }

  bool start_array(std::size_t) override {
    ++depth_;
    if (depth_ == 1) refuse("is an array, expected an object");
    if (depth_ == 3 && !in_metadata() && field_ == "shape") {
      list_ = &claims_.back().shape.emplace();
      return true;
    }
    if (depth_ == 3 && !in_metadata() && field_ == "data_offsets") {
      list_ = &claims_.back().offsets.emplace();
      return true;
    }
    return nested("an array");
  }

  bool end_array() override {
    --depth_;
    list_ = nullptr;
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1) {
      if (!names_.insert(value).second) refuse(fmt::format("holds '{}' twice", value));
      name_ = value;
      if (!in_metadata()) claims_.push_back({value, {}, {}, {}});
    } else if (depth_ == 2) {
      if (!fields_.insert(value).second) {
        refuse_entry(fmt::format("holds '{}' twice", value));
      }
      field_ = value;
    }
    return true;
  }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::detail::exception& error) override {
    refuse("is not JSON: " + json_reason(error));
  }

 private:
  bool in_metadata() const { return name_ == "__metadata__"; }
  std::string subject() const {
    return in_metadata() ? "__metadata__" : fmt::format("tensor '{}'", name_);
  }

  /// Where a number, string, ... has no business. Fields that the format may grow are let
  /// pass, as the reference implementation does.
  bool scalar(std::string_view kind) {
    if (depth_ == 0) refuse(fmt::format("is {}, expected an object", kind));
    if (depth_ == 1) refuse_entry(fmt::format("is {}, expected an object", kind));
    if (in_metadata()) refuse_entry(fmt::format("'{}' is {}, expected a string", field_, kind));
    if (is_known_field() || list_ != nullptr) misplaced(kind);
    return true;
  }
  bool nested(std::string_view kind) {
    if (depth_ == 2) refuse_entry(fmt::format("is {}, expected an object", kind));
    if (in_metadata()) refuse_entry(fmt::format("'{}' is {}, expected a string", field_, kind));
    if (is_known_field()) misplaced(kind);
    if (depth_ > 64) refuse("is nested deeper than 64 levels");
    return true;
  }
  bool is_known_field() const {
    return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets";
  }
  [[noreturn]] void misplaced(std::string_view kind) const {
    refuse_entry(fmt::format("'{}' holds {}, expected {}", field_, kind,
                             field_ == "dtype" ? "a string" : "whole numbers from 0"));
  }

  void check_complete() const {
    const Claim& claim = claims_.back();
    const char* missing = !claim.dtype     ? "dtype"
                          : !claim.shape   ? "shape"
                          : !claim.offsets ? "data_offsets"
                                           : nullptr;
    if (missing != nullptr) refuse_entry(fmt::format("'{}' is missing", missing));
    if (claim.offsets->size() != 2) {
      refuse_entry(fmt::format("'data_offsets' has {} entries, expected 2", claim.offsets->size()));
    }
  }

  [[noreturn]] void refuse(const std::string& reason) const {
    throw Error(ErrorCode::input, fmt::format("{}: header {}", file_, reason));
  }
  /// Of one entry: the tensor is at fault, and where to look for it is the header.
  [[noreturn]] void refuse_entry(const std::string& reason) const {
    throw Error(ErrorCode::input, fmt::format("{}: header: {}: {}", file_, subject(), reason));
  }

  const std::string& file_;
  std::vector<Claim> claims_;
  std::unordered_set<std::string> names_;  // asked, never walked
  std::set<std::string> fields_;
  std::string name_;
  std::string field_;
  std::vector<std::uint64_t>* list_ = nullptr;
  int depth_ = 0;
};

/// shape as signed numbers, and the bytes its elements fill.
/// Throws Error{input} on overflow or when sub-byte elements end inside a byte.
std::int64_t claimed_bytes(const Claim& claim, int bits, const std::string& file, Shape& shape) {
  const auto refuse = [&](std::string_view reason) {
    throw Error(ErrorCode::input, fmt::format("{}: tensor '{}': {}", file, claim.name, reason));
  };
  std::int64_t total_bits = bits;
  for (const std::uint64_t extent : *claim.shape) {
    std::int64_t product = 0;
    if (extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
        __builtin_mul_overflow(total_bits, static_cast<std::int64_t>(extent), &product)) {
      refuse(fmt::format("shape ({}) overflows 64 bits", fmt::join(*claim.shape, ", ")));
    }
    total_bits = product;
    shape.push_back(static_cast<std::int64_t>(extent));
  }
  if (total_bits % 8 != 0) {
    refuse(fmt::format("{} elements of {} bits do not end on a byte", total_bits / bits, bits));
  }
  return total_bits / 8;
}

}  // namespace

std::vector<StoredTensor> read_safetensors(const WeightFile& weights, int file) {
  const std::string& name = weights.name;
  const auto refuse = [&](const std::string& reason, const std::string& hint = {}) {
    throw Error(ErrorCode::input, fmt::format("{}: {}", name, reason), hint);
  };
  if (weights.bytes < kLengthBytes) {
    refuse(fmt::format("is {} bytes long, expected at least 8 for the length of the header",
                       weights.bytes));
  }
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t stated = 0;
  std::memcpy(&stated, weights.data, sizeof stated);
  if (stated > static_cast<std::uint64_t>(kMaxHeaderBytes)) {
    refuse(fmt::format("header is stated to be {} bytes long, expected at most {}", stated,
                       kMaxHeaderBytes),
           "this may not be a safetensors file");
  }
  const auto header_bytes = static_cast<std::int64_t>(stated);
  if (header_bytes > weights.bytes - kLengthBytes) {
    refuse(
        fmt::format("header is stated to be {} bytes long, but the file holds {} after its length",
                    header_bytes, weights.bytes - kLengthBytes),
        "the file is cut short; compare its size with the original's");
  }

  const auto* text = reinterpret_cast<const char*>(weights.data + kLengthBytes);
  HeaderReader reader(name);
  nlohmann::json::sax_parse(text, text + header_bytes, &reader);

  const std::int64_t data_begin = kLengthBytes + header_bytes;
  const std::int64_t data_bytes = weights.bytes - data_begin;
  std::vector<StoredTensor> tensors;
  for (Claim& claim : reader.take_claims()) {
    const std::uint64_t begin = (*claim.offsets)[0];
    const std::uint64_t end = (*claim.offsets)[1];
    if (begin > end) {
      refuse(fmt::format("tensor '{}': data begins at byte {} and ends before it, at {}",
                         claim.name, begin, end));
    }
    if (end > static_cast<std::uint64_t>(data_bytes)) {
      refuse(fmt::format("tensor '{}': data ends at byte {}, but the file holds {} data bytes",
                         claim.name, end, data_bytes),
             "the file is cut short; compare its size with the original's");
    }
    StoredTensor tensor;
    tensor.dtype = dtype_from_name(*claim.dtype).value_or(DType::unknown);
    tensor.dtype_text = *claim.dtype;
    tensor.file = file;
    tensor.begin = data_begin + static_cast<std::int64_t>(begin);
    tensor.span_bytes = static_cast<std::int64_t>(end - begin);
    // Of a type that icd does not know, the size cannot be checked; it is only ever carried.
    const bool known = tensor.dtype != DType::unknown;
    const int bits = known ? dtype_bits(tensor.dtype) : 8;
    const std::int64_t bytes = claimed_bytes(claim, bits, name, tensor.shape);
    if (known && bytes != tensor.span_bytes) {
      refuse(fmt::format("tensor '{}': {} {} takes {} bytes, but data_offsets give it {}",
                         claim.name, tensor.dtype_text, shape_text(tensor.shape), bytes,
                         tensor.span_bytes));
    }
    tensor.strides = packed_strides(tensor.shape);
    tensor.name = std::move(claim.name);
    tensors.push_back(std::move(tensor));
  }

  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const StoredTensor& a, const StoredTensor& b) {
                     return std::pair(a.begin, a.span_bytes) < std::pair(b.begin, b.span_bytes);
                   });
  std::int64_t filled = data_begin;
  const StoredTensor* before = nullptr;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin < filled) {
      refuse(
          fmt::format("tensor '{}': data begins at byte {}, inside that of '{}', which ends at {}",
                      tensor.name, tensor.begin - data_begin, before->name, filled - data_begin));
    }
    if (tensor.begin > filled) {
      refuse(fmt::format("tensor '{}': data begins at byte {}, leaving a hole after byte {}",
                         tensor.name, tensor.begin - data_begin, filled - data_begin));
    }
    filled = tensor.begin + tensor.span_bytes;
    before = &tensor;
  }
  if (filled != weights.bytes) {
    refuse(fmt::format("tensors end at data byte {}, but the file holds {} data bytes",
                       filled - data_begin, data_bytes));
  }
  return tensors;
}

std::int64_t entry_bytes(const SafetensorsEntry& entry) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : entry.shape) elements *= extent;
  return elements * dtype_bytes(entry.dtype);
}

std::string safetensors_header(std::span<const SafetensorsEntry> entries,
                               std::span<const std::pair<std::string, std::string>> metadata) {
  Json header = Json::object();
  header["__metadata__"]["format"] = "pt";
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  std::int64_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    const std::int64_t end = offset + entry_bytes(entry);
    header[entry.name] = {{"dtype", dtype_name(entry.dtype)},
                          {"shape", entry.shape},
                          {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(kLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + text;
}

}  // namespace icd
