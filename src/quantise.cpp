#include "icd/quantise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>

namespace icd {
namespace {

// Adding and subtracting this leaves a whole number, ties to even, for |x| <= 2^22. Unlike
// std::nearbyint it is no function call.
constexpr float kWhole = 12582912.0F;  // 1.5 * 2^23

float round_half_even(float x) { return (x + kWhole) - kWhole; }

/// As roundf: ties away from zero. For |x| < 2^31.
float round_half_away(float x) {
  const auto whole = static_cast<float>(static_cast<std::int32_t>(x));
  const float rest = x - whole;
  return whole + (rest >= 0.5F ? 1.0F : 0.0F) - (rest <= -0.5F ? 1.0F : 0.0F);
}

/// As whole numbers, magnitudes are in the same order, and compilers know how to compare many.
float largest_magnitude(std::span<const float> group) {
  std::int32_t largest = 0;
  for (const float w : group) {
    largest = std::max(largest, std::bit_cast<std::int32_t>(w) & 0x7FFFFFFF);
  }
  return std::bit_cast<float>(largest);
}

float rounded_to_half(float x) {
  const float rounded = rounded_to_minifloat(std::clamp(x, -65536.0F, 65536.0F), 10, -14);
  return std::fabs(rounded) < 65536.0F ? rounded
                                       : std::copysign(std::numeric_limits<float>::infinity(), x);
}

float rounded_to_e4m3(float x) {
  return rounded_to_minifloat(std::clamp(x, -448.0F, 448.0F), 3, -6);
}

float rounded_to_e2m1(float x) { return rounded_to_minifloat(std::clamp(x, -6.0F, 6.0F), 1, 0); }

void all_zero(std::span<float> out) { std::fill(out.begin(), out.end(), 0.0F); }

/// Whole multiples -kLevels ... kLevels of the largest magnitude / kLevels.
template <int kLevels>
void symmetric(std::span<const float> group, float, std::span<float> out) {
  const float scale = largest_magnitude(group) / float{kLevels};
  if (scale == 0) return all_zero(out);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const float step = round_half_even(group[i] / scale);
    out[i] = std::clamp(step, -float{kLevels}, float{kLevels}) * scale;
  }
}

/// 0 ... kLevels steps over the range of the group, which has 0 in it; 0 is one of them.
template <int kLevels>
void asymmetric(std::span<const float> group, float, std::span<float> out) {
  float low = 0;
  float high = 0;
  for (const float w : group) {
    low = w < low ? w : low;
    high = high < w ? w : high;
  }
  const auto scale = static_cast<float>((double{high} - double{low}) / kLevels);
  if (scale == 0) return all_zero(out);
  const float zero = round_half_even(-low / scale);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const float step = round_half_even(group[i] / scale) + zero;
    out[i] = (std::clamp(step, 0.0F, float{kLevels}) - zero) * scale;
  }
}

void q8_0(std::span<const float> group, float, std::span<float> out) {
  const float d = largest_magnitude(group) / 127.0F;
  const float inverse = 1.0F / d;
  const float stored = rounded_to_half(d);
  if (stored == 0) return all_zero(out);
  for (std::size_t i = 0; i < group.size(); ++i) {
    out[i] = round_half_away(group[i] * inverse) * stored;
  }
}

void q4_0(std::span<const float> group, float, std::span<float> out) {
  const float magnitude = largest_magnitude(group);
  // The first of that magnitude lends its sign: it becomes -8 exactly.
  const auto extreme =
      std::find_if(group.begin(), group.end(), [&](float w) { return std::fabs(w) == magnitude; });
  const float d = extreme != group.end() ? *extreme / -8.0F : 0.0F;
  const float inverse = 1.0F / d;
  const float stored = rounded_to_half(d);
  if (stored == 0) return all_zero(out);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto step = static_cast<std::int32_t>(group[i] * inverse + 8.5F);
    out[i] = static_cast<float>(std::min(15, step) - 8) * stored;
  }
}

void mxfp4(std::span<const float> group, float, std::span<float> out) {
  constexpr int kLargestElement = 2;  // the exponent of 6
  const float largest = largest_magnitude(group);
  if (largest == 0) return all_zero(out);
  const int exponent = std::clamp(std::ilogb(largest) - kLargestElement, -127, 127);
  const float scale = std::ldexp(1.0F, exponent);
  for (std::size_t i = 0; i < group.size(); ++i) {
    out[i] = rounded_to_e2m1(group[i] / scale) * scale;
  }
}

void nvfp4(std::span<const float> group, float tensor_scale, std::span<float> out) {
  const float largest = largest_magnitude(group);
  if (largest == 0 || tensor_scale == 0) return all_zero(out);
  const float scale = rounded_to_e4m3(largest / 6.0F / tensor_scale) * tensor_scale;
  if (scale == 0) return all_zero(out);
  for (std::size_t i = 0; i < group.size(); ++i) {
    out[i] = rounded_to_e2m1(group[i] / scale) * scale;
  }
}

constexpr std::string_view kWhitePaper =
    "M. Nagel et al., A White Paper on Neural Network Quantization, arXiv 2106.08295 (2021)";
constexpr std::string_view kLlamaCpp = "llama.cpp, ggml/src/ggml-quants.c, quantize_row_*_ref";

constexpr std::array kFormats = {
    GroupFormat{.name = "int8",
                .summary = "-127 ... 127 times a scale in f32",
                .group = 128,
                .is_fixed = false,
                .is_asymmetric = false,
                .element_bits = 8,
                .group_bits = 32,
                .largest_of_tensor = 0,
                .source = kWhitePaper,
                .round_trip = symmetric<127>},
    GroupFormat{.name = "int4",
                .summary = "-7 ... 7 times a scale in f32",
                .group = 128,
                .is_fixed = false,
                .is_asymmetric = false,
                .element_bits = 4,
                .group_bits = 32,
                .largest_of_tensor = 0,
                .source = kWhitePaper,
                .round_trip = symmetric<7>},
    GroupFormat{.name = "int8-asym",
                .summary = "0 ... 255 less a zero, times a scale in f32",
                .group = 128,
                .is_fixed = false,
                .is_asymmetric = true,
                .element_bits = 8,
                .group_bits = 40,
                .largest_of_tensor = 0,
                .source = "GPTQ, quant.py, Quantizer.find_params without sym",
                .round_trip = asymmetric<255>},
    GroupFormat{.name = "int4-asym",
                .summary = "0 ... 15 less a zero, times a scale in f32",
                .group = 128,
                .is_fixed = false,
                .is_asymmetric = true,
                .element_bits = 4,
                .group_bits = 36,
                .largest_of_tensor = 0,
                .source = "GPTQ, quant.py, Quantizer.find_params without sym",
                .round_trip = asymmetric<15>},
    GroupFormat{.name = "q8_0",
                .summary = "llama.cpp: -127 ... 127 times a scale in f16",
                .group = 32,
                .is_fixed = true,
                .is_asymmetric = false,
                .element_bits = 8,
                .group_bits = 16,
                .largest_of_tensor = 0,
                .source = kLlamaCpp,
                .round_trip = q8_0},
    GroupFormat{.name = "q4_0",
                .summary = "llama.cpp: -8 ... 7 times a scale in f16, the extreme at -8",
                .group = 32,
                .is_fixed = true,
                .is_asymmetric = false,
                .element_bits = 4,
                .group_bits = 16,
                .largest_of_tensor = 0,
                .source = kLlamaCpp,
                .round_trip = q4_0},
    GroupFormat{.name = "mxfp4",
                .summary = "E2M1 times a power of two",
                .group = 32,
                .is_fixed = true,
                .is_asymmetric = false,
                .element_bits = 4,
                .group_bits = 8,
                .largest_of_tensor = 0,
                .source = "OCP Microscaling Formats (MX) Specification v1.0, section 6.3",
                .round_trip = mxfp4},
    GroupFormat{.name = "nvfp4",
                .summary = "E2M1 times a scale in E4M3 times a scale of the tensor in f32",
                .group = 16,
                .is_fixed = true,
                .is_asymmetric = false,
                .element_bits = 4,
                .group_bits = 8,
                .largest_of_tensor = 6.0F * 448.0F,
                .source = "NVIDIA, Pretraining Large Language Models with NVFP4, "
                          "arXiv 2509.25149 (2025), appendix B",
                .round_trip = nvfp4},
};

}  // namespace

std::span<const GroupFormat> all_group_formats() { return kFormats; }

const GroupFormat* find_group_format(std::string_view name) noexcept {
  const auto found = std::find_if(kFormats.begin(), kFormats.end(),
                                  [&](const GroupFormat& known) { return known.name == name; });
  return found != kFormats.end() ? &*found : nullptr;
}

void quantise(const GroupFormat& format, std::span<const float> group, std::span<float> out,
              float tensor_scale) {
  assert(out.size() == group.size());
  format.round_trip(group, tensor_scale, out);
}

float tensor_scale(const GroupFormat& format, float largest) noexcept {
  return format.largest_of_tensor > 0 ? largest / format.largest_of_tensor : 1;
}

float rounded_to_minifloat(float x, int mantissa_bits, int smallest_exponent) noexcept {
  // A sum with 1.5 * 2^(23 + e) ends at multiples of 2^e, the step of the format near x.
  const std::int32_t biased = (std::bit_cast<std::int32_t>(x) >> 23) & 0xFF;
  const std::int32_t step = std::max(biased, smallest_exponent + 127) - mantissa_bits;
  const auto whole = std::bit_cast<float>(((step + 23) << 23) | 0x400000);
  return (x + whole) - whole;
}

}  // namespace icd
