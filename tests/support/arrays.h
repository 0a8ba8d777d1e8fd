#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "icd/random.h"
#include "kernels/args.h"
#include "kernels/element.h"

// Arrays for tests of kernels: the same values in host memory and on the device.
namespace icd::testing {

/// Of the elements that kernels take.
constexpr std::array<std::int32_t, 3> kTypes = {ICD_F32, ICD_F16, ICD_BF16};

/// `count` elements of ICD_F32, ICD_F16 or ICD_BF16 (or any other 4-byte word, as ICD_F32).
class HostArray {
 public:
  HostArray(std::int32_t type, std::int64_t count)
      : type_(type), count_(count), bytes_(static_cast<std::size_t>(count * element_bytes(type))) {}

  std::int32_t type() const { return type_; }
  std::int64_t count() const { return count_; }
  std::int64_t size_bytes() const { return static_cast<std::int64_t>(bytes_.size()); }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  float* f32() { return reinterpret_cast<float*>(bytes_.data()); }
  const float* f32() const { return reinterpret_cast<const float*>(bytes_.data()); }

  float operator[](std::int64_t i) const { return load(type_, bytes_.data(), i); }
  void set(std::int64_t i, float value) { store(type_, bytes_.data(), i, value); }
  bool operator==(const HostArray& other) const {
    return type_ == other.type_ && bytes_ == other.bytes_;
  }

 private:
  std::int32_t type_;
  std::int64_t count_;
  std::vector<std::uint8_t> bytes_;
};

/// mean + deviation * normal, rounded to the type.
inline HostArray normal_array(std::int32_t type, std::int64_t count, Random& random,
                              double deviation = 1, double mean = 0) {
  HostArray array(type, count);
  for (std::int64_t i = 0; i < count; ++i) {
    array.set(i, static_cast<float>(mean + deviation * random.normal()));
  }
  return array;
}

/// Every byte 0xff: NaN in all three types, which shows where nothing was written.
inline HostArray poisoned_array(std::int32_t type, std::int64_t count) {
  HostArray array(type, count);
  std::memset(array.data(), 0xff, static_cast<std::size_t>(array.size_bytes()));
  return array;
}

/// A packed (batch, length, channels) tensor.
inline Strided packed(void* data, std::int64_t length, std::int64_t channels) {
  return {data, length * channels, channels, 1};
}
/// For inputs, whose struct is shared with outputs.
inline Strided packed(const void* data, std::int64_t length, std::int64_t channels) {
  return packed(const_cast<void*>(data), length, channels);
}

/// ||found - expected|| / ||expected|| over what is finite in both; infinity if one is NaN or
/// infinite where the other is not the same.
inline double relative_l2(const HostArray& found, const HostArray& expected) {
  if (found.count() != expected.count()) return INFINITY;
  double difference = 0;
  double norm = 0;
  for (std::int64_t i = 0; i < expected.count(); ++i) {
    const double x = found[i];
    const double y = expected[i];
    if (!std::isfinite(y) || !std::isfinite(x)) {
      if ((std::isnan(x) && std::isnan(y)) || x == y) continue;
      return INFINITY;
    }
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

/// What an order of f32 sums and one rounding to the type may leave in relative_l2.
inline double tolerance(std::int32_t type) {
  return type == ICD_F32 ? 2e-5 : type == ICD_F16 ? 5e-4 : 4e-3;
}

}  // namespace icd::testing
