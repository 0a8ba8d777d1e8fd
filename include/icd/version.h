#pragma once

#include <string_view>

namespace icd {

/// "0.1.0", from the project() line of CMakeLists.txt.
std::string_view version() noexcept;

}  // namespace icd
