#include "kernels/args.h"

#include <cinttypes>
#include <cmath>
#include <concepts>
#include <cstdio>
#include <utility>

#include "kernels/fields.h"

namespace icd {
namespace {

using fields::Axes;
using fields::Axis;
using fields::Need;
using fields::Shape;

// Room for what kernels round sizes up to.
constexpr double kMostBytes = 0x1p62;

std::string text(const char* words) { return words; }
std::string text(const std::string& words) { return words; }
std::string text(std::integral auto number) { return std::to_string(number); }
std::string text(float number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", static_cast<double>(number));
  return digits;
}
std::string text(const void* address) {
  if (address == nullptr) return "NULL";
  char digits[32];
  std::snprintf(digits, sizeof digits, "0x%" PRIxPTR, reinterpret_cast<std::uintptr_t>(address));
  return digits;
}

// "(batch, length) = (2, 5)"; an axis without a name is not one.
std::string shape_text(const Axis* begin, const Axis* end) {
  std::string names;
  std::string sizes;
  for (const Axis* axis = begin; axis != end; ++axis) {
    if (axis->name == nullptr) continue;
    names += (names.empty() ? "" : ", ") + text(axis->name);
    sizes += (sizes.empty() ? "" : ", ") + text(axis->size);
  }
  return "(" + names + ") = (" + sizes + ")";
}

bool is_empty(const Axis* begin, const Axis* end) {
  for (const Axis* axis = begin; axis != end; ++axis) {
    if (axis->size == 0) return true;
  }
  return false;
}

/// Keeps the first fault. A launch passes through here, so without a fault no text is made, and
/// sizes are multiplied as doubles, which do not overflow.
class Check {
 public:
  explicit Check(const char* call) : call_(call) {}

  void size(const char* name, std::int64_t value, std::int64_t least = 0,
            std::int64_t most = fields::kAnySize) {
    if (value >= least && value <= most) return;
    if (most == fields::kAnySize) return refuse(name, value, "at least ", least);
    if (most == least) return refuse(name, value, least);
    refuse(name, value, least, " to ", most);
  }

  void type(const char* name, std::int32_t value) {
    if (element_bytes(value) != 0) return;
    refuse(name, value, "0 (f32), 1 (f16) or 2 (bf16)");
  }

  template <typename Value, typename... Pieces>
  void expect(bool holds, const char* name, Value value, Pieces... expected) {
    if (!holds) refuse(name, value, expected...);
  }

  void tensor(const char* name, const Strided& tensor, std::int32_t type, Need need,
              const Axes& axes) {
    const auto bytes = static_cast<double>(element_bytes(type));
    const std::int64_t strides[] = {tensor.batch, tensor.token, tensor.channel};
    double reach = bytes;
    for (std::size_t k = 0; k < axes.size(); ++k) {
      const auto steps = static_cast<double>(axes[k].size) - 1;
      if (steps > 0) reach += steps * std::fabs(static_cast<double>(strides[k])) * bytes;
    }
    place(name, ".data", tensor.data, element_bytes(type), need, axes.begin(), axes.end());
    if (reach > kMostBytes) {
      refuse(name, "too large", "it to end within 2^62 bytes, ",
             shape_text(axes.begin(), axes.end()));
    }
    if (need != Need::output || is_empty(axes.begin(), axes.end())) return;
    static constexpr const char* kStrides[] = {".batch", ".token", ".channel"};
    for (std::size_t k = 0; k < axes.size(); ++k) {
      if (axes[k].size <= 1 || strides[k] != 0) continue;
      refuse((text(name) + kStrides[k]).c_str(), 0, "a stride that keeps ", axes[k].name, " = ",
             axes[k].size, " apart");
    }
  }

  void array(const char* name, const void* pointer, std::int64_t bytes, Need need, Shape shape) {
    place(name, "", pointer, bytes, need, shape.begin(), shape.end());
  }

  std::string fault() { return std::move(fault_); }

 private:
  void place(const char* name, const char* member, const void* pointer, std::int64_t bytes,
             Need need, const Axis* begin, const Axis* end) {
    double size = static_cast<double>(bytes);
    for (const Axis* axis = begin; axis != end; ++axis) {
      if (axis->size > 1) size *= static_cast<double>(axis->size);
    }
    if (size > kMostBytes) {
      refuse(name, "too large", "at most 2^62 bytes, ", shape_text(begin, end));
    }
    if (!fields::is_multiple(pointer, bytes)) {
      refuse((text(name) + member).c_str(), pointer, "a multiple of ", bytes);
    }
    if (pointer == nullptr && need != Need::optional && !is_empty(begin, end)) {
      refuse((text(name) + member).c_str(), pointer, shape_text(begin, end));
    }
  }

  template <typename Value, typename... Pieces>
  void refuse(const char* name, Value value, Pieces... expected) {
    if (!fault_.empty()) return;
    fault_ = text(call_) + ": " + name + " is " + text(value) + ", expected ";
    (fault_.append(text(expected)), ...);
  }

  const char* call_;
  std::string fault_;
};

template <typename Args>
std::string fault_of(const char* call, const Args& args) {
  Check check(call);
  fields::visit(args, check);
  return check.fault();
}

}  // namespace

std::string why_not(const SelectiveScan& args) { return fault_of("selective_scan", args); }
std::string why_not(const CausalConv1d& args) { return fault_of("causal_conv1d", args); }
std::string why_not(const CausalConv1dUpdate& args) {
  return fault_of("causal_conv1d_update", args);
}
std::string why_not(const StateUpdate& args) { return fault_of("state_update", args); }
std::string why_not(const HeadStateUpdate& args) { return fault_of("head_state_update", args); }
std::string why_not(const Ssd& args) { return fault_of("ssd", args); }
std::string why_not(const Mamba3Scan& args) { return fault_of("mamba3", args); }
std::string why_not(const RmsNorm& args) { return fault_of("rms_norm", args); }
std::string why_not(const SkipZeroGemv& args) { return fault_of("skip_zero_gemv", args); }

}  // namespace icd
