#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/args.h"

// Elements of any type in host memory, for the reference and its tests.
namespace icd {

inline float from_half(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0)
    return std::copysign(std::ldexp(static_cast<float>(mantissa), -24),
                         std::bit_cast<float>(sign | 0x3F800000U));
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline float from_bfloat(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

/// To nearest, ties to even; NaN stays one.
inline std::uint16_t to_bfloat(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// To nearest, ties to even; beyond 65504 infinity; NaN stays one.
inline std::uint16_t to_half(float x) {
  const auto sign = static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) >> 16) & 0x8000U);
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (magnitude < 0x1p-14F) {  // a sum with 2^-1 ends at multiples of 2^-24
    return static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(magnitude + 0.5F) - 0x3F000000U));
  }
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  return static_cast<std::uint16_t>(sign |
                                    ((bits + 0xFFFU + ((bits >> 13) & 1U) - 0x38000000U) >> 13));
}

/// Element i of an array of ICD_F32, ICD_F16 or ICD_BF16.
inline float load(std::int32_t type, const void* data, std::int64_t i) {
  const auto* bytes = static_cast<const unsigned char*>(data) + i * element_bytes(type);
  if (type == ICD_F32) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return type == ICD_F16 ? from_half(bits) : from_bfloat(bits);
}

inline void store(std::int32_t type, void* data, std::int64_t i, float value) {
  auto* bytes = static_cast<unsigned char*>(data) + i * element_bytes(type);
  if (type == ICD_F32) {
    std::memcpy(bytes, &value, sizeof value);
    return;
  }
  const std::uint16_t bits = type == ICD_F16 ? to_half(value) : to_bfloat(value);
  std::memcpy(bytes, &bits, sizeof bits);
}

/// Where (batch, token, channel) of a tensor is.
inline std::int64_t place(const Strided& tensor, std::int64_t batch, std::int64_t token,
                          std::int64_t channel) {
  return batch * tensor.batch + token * tensor.token + channel * tensor.channel;
}

/// The tokens of sequence b: [first, first + count) of batch row `row`.
struct Tokens {
  std::int64_t row;
  std::int64_t first;
  std::int64_t count;
};

inline Tokens tokens_of(const std::int32_t* starts, std::int64_t length, std::int64_t b) {
  if (starts == nullptr) return {b, 0, length};
  return {0, starts[b], std::int64_t{starts[b + 1]} - starts[b]};
}

}  // namespace icd
