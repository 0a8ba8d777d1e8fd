#include "npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string>

#include "icd/error.h"
#include "quote.h"

namespace icd {
namespace {

[[noreturn]] void refuse(std::string_view name, std::string_view what) {
  throw Error(ErrorCode::input, fmt::format("{}: {}", name, what));
}

/// The header: a Python dictionary literal with the keys descr, fortran_order and shape,
/// in any order.
class Header {
 public:
  Header(std::string_view text, std::string_view name) : text_(text), name_(name) {}

  void parse(NpyArray& array) {
    bool has_descr = false;
    bool has_order = false;
    bool has_shape = false;
    const auto first = [&](bool& has, std::string_view key) {
      if (has) fault(fmt::format("a second '{}'", key));
      has = true;
    };
    take("{");
    while (!peek("}")) {
      const std::string_view key = string();
      take(":");
      if (key == "descr") {
        first(has_descr, key);
        descr(array);
      } else if (key == "fortran_order") {
        first(has_order, key);
        array.is_fortran = boolean();
      } else if (key == "shape") {
        first(has_shape, key);
        array.shape = shape();
      } else {
        fault(fmt::format("key {}", quote(key)));
      }
      if (!peek("}")) take(",");
    }
    take("}");
    space();
    if (at_ != text_.size()) fault("text after the dictionary");
    if (!has_descr || !has_order || !has_shape) {
      refuse(name_, fmt::format("npy header has no '{}'", !has_descr   ? "descr"
                                                          : !has_order ? "fortran_order"
                                                                       : "shape"));
    }
  }

 private:
  [[noreturn]] void fault(std::string_view what) const {
    refuse(name_, fmt::format("npy header: byte {}: {}, expected descr, fortran_order and shape of "
                              "an array",
                              at_, what));
  }

  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }

  bool peek(std::string_view token) {
    space();
    return text_.substr(at_).starts_with(token);
  }

  void take(std::string_view token) {
    if (!peek(token)) fault(fmt::format("no '{}'", token));
    at_ += token.size();
  }

  std::string_view string() {
    space();
    const char mark = at_ < text_.size() ? text_[at_] : '\0';
    if (mark != '\'' && mark != '"') fault("no string");
    const std::size_t end = text_.find(mark, at_ + 1);
    if (end == std::string_view::npos) fault("a string without an end");
    const std::string_view value = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return value;
  }

  bool boolean() {
    const bool value = peek("True");
    take(value ? "True" : "False");
    return value;
  }

  void descr(NpyArray& array) {
    if (!peek("'") && !peek("\"")) refuse(name_, "has fields, expected integers");
    const std::string_view type = string();
    const bool is_integer = type.size() == 3 &&
                            std::string_view("<>|=").find(type[0]) != std::string_view::npos &&
                            (type[1] == 'i' || type[1] == 'u') &&
                            std::string_view("1248").find(type[2]) != std::string_view::npos;
    if (!is_integer) {
      refuse(name_,
             fmt::format("elements are {}, expected integers (i1..i8, u1..u8)", quote(type)));
    }
    array.is_big_endian = type[0] == '>';
    array.is_signed = type[1] == 'i';
    array.item_bytes = type[2] - '0';
  }

  Shape shape() {
    Shape axes;
    take("(");
    while (!peek(")")) {
      std::int64_t axis = 0;
      const char* begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), axis);
      if (error != std::errc() || axis < 0) fault("an axis that is no length");
      at_ += static_cast<std::size_t>(end - begin);
      axes.push_back(axis);
      if (!peek(")")) take(",");
    }
    take(")");
    return axes;
  }

  std::string_view text_;
  std::string_view name_;
  std::size_t at_ = 0;
};

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

NpyArray read_npy(std::span<const std::byte> file, std::string_view name) {
  if (!text_of(file).starts_with("\x93NUMPY") || file.size() < 10) {
    refuse(name, "is not a .npy file: it does not begin with \\x93NUMPY and a version");
  }
  const auto byte = [&](std::size_t i) { return std::to_integer<std::uint64_t>(file[i]); };
  const std::uint64_t version = byte(6);
  if (version < 1 || version > 3 || byte(7) != 0) {
    refuse(name, fmt::format("npy version is {}.{}, expected 1.0, 2.0 or 3.0", version, byte(7)));
  }
  const std::size_t begin = version == 1 ? 10 : 12;
  if (file.size() < begin) refuse(name, fmt::format("ends after {} bytes", file.size()));
  std::uint64_t header_bytes = byte(8) | byte(9) << 8;
  if (version > 1) header_bytes |= byte(10) << 16 | byte(11) << 24;
  if (header_bytes > file.size() - begin) {
    refuse(name, fmt::format("npy header has {} bytes, the file {} after it begins", header_bytes,
                             file.size() - begin));
  }
  NpyArray array;
  Header(text_of(file.subspan(begin, header_bytes)), name).parse(array);
  array.data = file.subspan(begin + header_bytes);

  const std::uint64_t held = array.data.size() / static_cast<std::uint64_t>(array.item_bytes);
  std::uint64_t elements = 1;
  const bool is_empty = std::find(array.shape.begin(), array.shape.end(), 0) != array.shape.end();
  if (is_empty) elements = 0;
  for (const std::int64_t axis : array.shape) {
    // held is below 2^63, so elements stays below it until it exceeds held.
    if (elements != 0 && static_cast<std::uint64_t>(axis) > held / elements) {
      refuse(name, fmt::format("shape {} does not fit: the file holds {} elements of {} bytes",
                               shape_text(array.shape), held, array.item_bytes));
    }
    elements *= static_cast<std::uint64_t>(axis);
  }
  if (elements * static_cast<std::uint64_t>(array.item_bytes) != array.data.size()) {
    refuse(name,
           fmt::format("shape {} takes {} bytes, the file has {}", shape_text(array.shape),
                       elements * static_cast<std::uint64_t>(array.item_bytes), array.data.size()));
  }
  return array;
}

}  // namespace icd
