#include "readers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "icd/error.h"

namespace icd {

Index columns_of_a_member(const AxisFacts& facts) {
  if (facts.readers.empty()) {
    throw Error(ErrorCode::usage,
                "axis: no matrix reads it, expected one whose columns are its members");
  }
  const Reader& first = facts.readers.front();
  for (const Reader& reader : facts.readers) {
    if (reader.run != first.run) {
      throw Error(ErrorCode::usage,
                  fmt::format("axis: a member has {} columns in '{}' and {} in '{}', expected the "
                              "same number in both",
                              first.run, first.tensor, reader.run, reader.tensor));
    }
  }
  return first.run;
}

std::optional<Blocks> blocks_of_members(Index n, Index columns, Index columns_of_a_member) {
  if (columns_of_a_member % columns == 0 && columns_of_a_member > 1) return Blocks{std::max(n, 1)};
  if (columns % columns_of_a_member == 0) return Blocks{columns / columns_of_a_member};
  return std::nullopt;
}

bool has_inputs(const AxisFacts& facts) {
  return std::all_of(facts.readers.begin(), facts.readers.end(),
                     [](const Reader& reader) { return !reader.input_square.empty(); });
}

void check_numbers(const AxisFacts& facts) {
  for (const Reader& reader : facts.readers) {
    const auto columns =
        static_cast<std::size_t>(facts.size) * static_cast<std::size_t>(reader.run);
    for (std::size_t i = 0; i < reader.weights->size(); ++i) {
      if (!std::isfinite((*reader.weights)[i])) {
        throw Error(ErrorCode::input,
                    fmt::format("tensor '{}': the weight at ({}, {}) is {}, expected a number",
                                reader.tensor, i / columns, i % columns, (*reader.weights)[i]));
      }
    }
    for (std::size_t c = 0; c < reader.input_square.size(); ++c) {
      if (!(reader.input_square[c] >= 0) || !std::isfinite(reader.input_square[c])) {
        throw Error(ErrorCode::input,
                    fmt::format("tensor '{}': the mean square of input {} is {}, expected a "
                                "number that is not negative",
                                reader.tensor, c, reader.input_square[c]));
      }
    }
  }
}

}  // namespace icd
