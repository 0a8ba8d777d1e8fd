#include "icd/tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <span>
#include <string_view>

#include "icd/error.h"
#include "icd/random.h"
#include "mapped_file.h"
#include "npy.h"
#include "quote.h"
#include "safetensors.h"

namespace icd {
namespace {

constexpr TokenId kMaxId = std::numeric_limits<TokenId>::max();

[[noreturn]] void refuse(std::string_view name, std::string_view what) {
  throw Error(ErrorCode::input, fmt::format("{}: {}", name, what));
}

std::uint64_t load(const std::byte* data, int bytes, bool is_big_endian) {
  std::uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) {
    value = value << 8 | std::to_integer<std::uint64_t>(data[is_big_endian ? i : bytes - 1 - i]);
  }
  return value;
}

TokenId id_of(const std::byte* data, const NpyArray& array, std::int64_t place,
              std::string_view name) {
  const std::uint64_t value = load(data, array.item_bytes, array.is_big_endian);
  if (value <= static_cast<std::uint64_t>(kMaxId) &&
      (!array.is_signed || array.item_bytes > 1 || value < 0x80) &&
      (!array.is_signed || array.item_bytes > 2 || value < 0x8000)) {
    return static_cast<TokenId>(value);
  }
  const int unused = 64 - 8 * array.item_bytes;
  const auto number = static_cast<std::int64_t>(value << unused) >> unused;
  refuse(name,
         fmt::format("element {} is {}, expected an id in 0..{}", place,
                     array.is_signed ? fmt::to_string(number) : fmt::to_string(value), kMaxId));
}

/// The elements of a 1-D or 2-D array, row after row.
std::vector<TokenId> ids_of(const NpyArray& array, std::string_view name) {
  if (array.shape.empty() || array.shape.size() > 2) {
    refuse(name, fmt::format("shape is {}, expected 1 or 2 axes", shape_text(array.shape)));
  }
  const std::int64_t rows = array.shape.size() == 2 ? array.shape[0] : 1;
  const std::int64_t columns = array.shape.back();
  if (rows == 0 || columns == 0) {
    refuse(name, fmt::format("shape is {}, expected ids", shape_text(array.shape)));
  }
  const std::int64_t row_stride = array.is_fortran ? 1 : columns;
  const std::int64_t column_stride = array.is_fortran ? rows : 1;
  std::vector<TokenId> ids;
  ids.reserve(static_cast<std::size_t>(rows * columns));
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const std::int64_t at = (row * row_stride + column * column_stride) * array.item_bytes;
      ids.push_back(id_of(array.data.data() + at, array, row * columns + column, name));
    }
  }
  return ids;
}

std::vector<TokenId> ids_of_safetensors(const WeightFile& file, const std::string& name) {
  const std::vector<StoredTensor> tensors = read_safetensors(file, 0);
  const auto chosen =
      tensors.size() == 1
          ? tensors.begin()
          : std::find_if(tensors.begin(), tensors.end(), [](const StoredTensor& tensor) {
              return tensor.name == "input_ids" || tensor.name == "tokens";
            });
  if (chosen == tensors.end()) {
    refuse(name, fmt::format("has {} tensors, expected one, or one called 'input_ids' or 'tokens'",
                             tensors.size()));
  }
  NpyArray array;
  switch (chosen->dtype) {
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
      array.is_signed = true;
      break;
    case DType::u8:
    case DType::u16:
    case DType::u32:
    case DType::u64:
      break;
    default:
      refuse(name, fmt::format("tensor {}: dtype is {}, expected an integer type",
                               quote(chosen->name), quote(chosen->dtype_text)));
  }
  array.item_bytes = dtype_bytes(chosen->dtype);
  array.shape = chosen->shape;
  array.data = {file.data + chosen->begin, static_cast<std::size_t>(chosen->span_bytes)};
  return ids_of(array, fmt::format("{}: tensor {}", name, quote(chosen->name)));
}

std::vector<TokenId> ids_of_text(std::string_view text, std::string_view name) {
  constexpr std::string_view kBetween = " \t\n\v\f\r,";
  std::vector<TokenId> ids;
  std::int64_t line = 1;
  for (std::size_t i = 0; i < text.size();) {
    if (kBetween.find(text[i]) != std::string_view::npos) {
      if (text[i++] == '\n') ++line;
      continue;
    }
    const std::size_t end = std::min(text.find_first_of(kBetween, i), text.size());
    TokenId id = 0;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end || id < 0) {
      refuse(name, fmt::format("line {}: found {}, expected an id in 0..{}", line,
                               quote(text.substr(i, end - i)), kMaxId));
    }
    ids.push_back(id);
    i = end;
  }
  if (ids.empty()) refuse(name, "holds no ids");
  return ids;
}

}  // namespace

std::vector<TokenId> read_tokens(const std::filesystem::path& file) {
  const MappedFile map(file);
  const std::string name = file.string();
  const std::span<const std::byte> bytes(map.data, static_cast<std::size_t>(map.bytes));
  const std::filesystem::path extension = file.extension();
  if (extension == ".npy") return ids_of(read_npy(bytes, name), name);
  if (extension == ".safetensors") return ids_of_safetensors(map, name);
  return ids_of_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, name);
}

std::vector<TokenId> random_tokens(Index vocab, std::int64_t count, std::uint64_t seed) {
  if (vocab < 1 || count < 0) {
    throw Error(ErrorCode::usage, fmt::format("random tokens: {} of a vocabulary of {}, expected "
                                              "at least 0 of at least 1",
                                              count, vocab));
  }
  Random random(seed);
  std::vector<TokenId> ids(static_cast<std::size_t>(count));
  for (TokenId& id : ids) {
    id = static_cast<TokenId>(random.below(static_cast<std::uint64_t>(vocab)));
  }
  return ids;
}

TokenSplit split_tokens(std::span<const TokenId> ids, Index length, std::int64_t limit,
                        double heldout) {
  if (length < 2) {
    throw Error(ErrorCode::usage,
                fmt::format("sequence length is {}, expected at least 2", length));
  }
  if (!(heldout >= 0.0 && heldout <= 1.0)) {
    throw Error(ErrorCode::usage, fmt::format("held-out share is {}, expected 0 to 1", heldout));
  }
  const std::int64_t used = std::min(limit, static_cast<std::int64_t>(ids.size()));
  if (used < 4) {
    throw Error(ErrorCode::usage, fmt::format("{} ids of {}: expected at least 4, two sequences of "
                                              "2 tokens",
                                              used, ids.size()));
  }
  const auto fitting = static_cast<Index>(std::min<std::int64_t>(length, used / 2));
  const std::int64_t sequences =
      std::min<std::int64_t>(used / fitting, std::numeric_limits<Index>::max());
  const auto share = static_cast<std::int64_t>(heldout * static_cast<double>(sequences));
  const std::int64_t held = std::clamp<std::int64_t>(share, 1, sequences - 1);

  TokenSplit split;
  split.train_shape = {.sequences = static_cast<Index>(sequences - held), .length = fitting};
  split.heldout_shape = {.sequences = static_cast<Index>(held), .length = fitting};
  const auto middle = ids.begin() + split.train_shape.rows();
  split.train.assign(ids.begin(), middle);
  split.heldout.assign(middle, middle + split.heldout_shape.rows());
  return split;
}

}  // namespace icd
