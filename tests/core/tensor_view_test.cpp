#include "icd/tensor_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "icd/error.h"

namespace icd {
namespace {

using ::testing::ElementsAre;

template <typename Word>
TensorView view_of(DType dtype, const std::vector<Word>& words, const Shape& shape,
                   const std::vector<std::int64_t>& strides) {
  return {dtype, shape, strides, reinterpret_cast<const std::byte*>(words.data())};
}

TEST(TensorView, KnowsWhenItIsPacked) {
  const std::vector<float> data(12);
  const auto packed = [&](const Shape& shape, const std::vector<std::int64_t>& strides) {
    return view_of(DType::f32, data, shape, strides).is_packed();
  };
  EXPECT_TRUE(packed({3, 4}, {4, 1}));
  EXPECT_FALSE(packed({3, 4}, {1, 3}));
  EXPECT_TRUE(packed({3, 1, 4}, {4, 99, 1}));  // an axis of one is never stepped along
  EXPECT_TRUE(packed({}, {}));
  EXPECT_TRUE(packed({0, 5}, {7, 7}));
}

TEST(ReadAs, FollowsTheStrides) {
  const std::vector<float> data = {0, 1, 2, 3, 4, 5};
  const Shape shape = {3, 2};
  const std::vector<std::int64_t> transposed = {1, 3};
  std::vector<double> out(6);
  read_as(view_of(DType::f32, data, shape, transposed), out);
  EXPECT_THAT(out, ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST(ReadAs, WidensEveryBfloat16Exactly) {
  std::vector<std::uint16_t> words(1 << 16);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint16_t>(i);
  const Shape shape = {1 << 16};
  std::vector<float> out(words.size());
  read_as(view_of(DType::bf16, words, shape, packed_strides(shape)), out);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const float expected = std::bit_cast<float>(static_cast<std::uint32_t>(i) << 16);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(out[i])) << i;
    } else {
      EXPECT_EQ(out[i], expected) << i;
    }
  }
}

TEST(ReadAs, WidensEveryFloat16Exactly) {
  std::vector<std::uint16_t> words(1 << 16);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint16_t>(i);
  const Shape shape = {1 << 16};
  std::vector<double> out(words.size());
  read_as(view_of(DType::f16, words, shape, packed_strides(shape)), out);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31);
    const auto mantissa = static_cast<double>(i & 1023);
    if (exponent == 31) continue;  // infinities and NaN
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(out[i], (i & 0x8000) != 0 ? -magnitude : magnitude) << i;
  }
}

TEST(ReadAs, TakesDataAtAnyAddress) {
  std::vector<std::byte> bytes(1 + 2 * sizeof(double));
  const double values[] = {0.1, -2.5};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  const Shape shape = {2};
  const auto strides = packed_strides(shape);
  std::vector<double> out(2);
  read_as(TensorView{DType::f64, shape, strides, bytes.data() + 1}, out);
  EXPECT_THAT(out, ElementsAre(0.1, -2.5));
}

TEST(ReadAs, RefusesWhatIsNoFloat) {
  const std::vector<std::int32_t> data = {1};
  const Shape shape = {1};
  std::vector<float> out(1);
  EXPECT_THROW(read_as(view_of(DType::i32, data, shape, packed_strides(shape)), out), Error);
}

TEST(ShapeText, ReadsLikePython) {
  EXPECT_EQ(shape_text(Shape{768, 192}), "(768, 192)");
  EXPECT_EQ(shape_text(Shape{768}), "(768,)");
  EXPECT_EQ(shape_text(Shape{}), "()");
}

}  // namespace
}  // namespace icd
