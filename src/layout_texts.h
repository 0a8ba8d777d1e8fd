#pragma once

#include <span>
#include <string_view>

namespace icd {

/// A file of src/layouts, made part of the program by CMake.
struct LayoutText {
  std::string_view name;
  std::string_view text;
};

std::span<const LayoutText> layout_texts() noexcept;

}  // namespace icd
