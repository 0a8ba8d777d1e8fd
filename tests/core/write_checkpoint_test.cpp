#include "icd/write_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "icd/error.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::random_bytes;
using testing::read_file;
using testing::ScratchFolder;

/// A tensor whose bytes come in pieces of `piece`.
NewTensor tensor_of(std::string name, DType dtype, Shape shape, std::string bytes,
                    std::size_t piece = 7) {
  return {.name = std::move(name),
          .dtype = dtype,
          .shape = std::move(shape),
          .produce = [bytes = std::move(bytes), piece](const ByteSink& sink) {
            for (std::size_t at = 0; at < bytes.size(); at += piece) {
              sink(std::as_bytes(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at))));
            }
          }};
}

std::string bytes_of(const Checkpoint& checkpoint, std::string_view name) {
  std::string bytes;
  write_packed(checkpoint.view(*checkpoint.find(name)), [&](std::span<const std::byte> piece) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return bytes;
}

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

class WriteCheckpoint : public ::testing::TestWithParam<Container> {
 protected:
  std::string file_name() const {
    return GetParam() == Container::torch ? "pytorch_model.bin" : "model.safetensors";
  }
  ScratchFolder folder_;
};

TEST_P(WriteCheckpoint, IsReadBackByteForByte) {
  const std::string a = random_bytes("F32", 6, 1, 0, 1);
  const std::string b = random_bytes("BF16", 5, 1, 0, 2);
  write_weight_file(
      folder_ / file_name(), GetParam(),
      {tensor_of("a.weight", DType::f32, {2, 3}, a), tensor_of("empty", DType::f16, {0, 4}, ""),
       tensor_of("b", DType::bf16, {5}, b, 1)});
  const Checkpoint checkpoint = Checkpoint::open(folder_ / file_name());
  EXPECT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.find("a.weight")->shape, (Shape{2, 3}));
  EXPECT_EQ(checkpoint.find("b")->dtype, DType::bf16);
  EXPECT_EQ(checkpoint.find("empty")->shape, (Shape{0, 4}));
  EXPECT_EQ(bytes_of(checkpoint, "a.weight"), a);
  EXPECT_EQ(bytes_of(checkpoint, "b"), b);
}

TEST_P(WriteCheckpoint, IsTheSameFileFromTheSameTensorsHoweverTheyAreCut) {
  const std::string bytes = random_bytes("F32", 100, 1, 0, 1);
  write_weight_file(folder_ / ("1." + file_name()), GetParam(),
                    {tensor_of("a", DType::f32, {100}, bytes, 400)});
  write_weight_file(folder_ / ("2." + file_name()), GetParam(),
                    {tensor_of("a", DType::f32, {100}, bytes, 3)});
  EXPECT_EQ(read_file(folder_ / ("1." + file_name())), read_file(folder_ / ("2." + file_name())));
}

TEST_P(WriteCheckpoint, RefusesTooFewAndTooManyBytes) {
  for (const std::int64_t count : {5, 7}) {
    const std::string bytes = random_bytes("F32", count, 1, 0, 1);
    EXPECT_THROW(write_weight_file(folder_ / (std::to_string(count) + file_name()), GetParam(),
                                   {tensor_of("a", DType::f32, {6}, bytes)}),
                 Error);
  }
}

TEST_P(WriteCheckpoint, RefusesElementsThatDoNotFillBytes) {
  EXPECT_THAT(message_of([&] {
                write_weight_file(folder_ / file_name(), GetParam(),
                                  {tensor_of("a", DType::f4, {4}, "ab")});
              }),
              HasSubstr("tensor 'a': is of type F4"));
}

TEST_P(WriteCheckpoint, CarriesATensorUnderAnotherName) {
  testing::TinyCheckpoint().write(folder_ / "m");
  const Checkpoint tiny = Checkpoint::open(folder_ / "m");
  const std::string name = "backbone.layers.1.mixer.A_log";
  write_weight_file(folder_ / file_name(), GetParam(), {carried(tiny, *tiny.find(name), "other")});
  const Checkpoint written = Checkpoint::open(folder_ / file_name());
  EXPECT_EQ(bytes_of(written, "other"), bytes_of(tiny, name));
  EXPECT_EQ(written.find("other")->shape, tiny.find(name)->shape);
}

INSTANTIATE_TEST_SUITE_P(Containers, WriteCheckpoint,
                         ::testing::Values(Container::safetensors, Container::torch),
                         [](const auto& each) { return std::string(container_name(each.param)); });

TEST(WriteCheckpointAliases, ShareOneStorageInAPyTorchFile) {
  const ScratchFolder folder;
  NewTensor tensor = tensor_of("embedding", DType::f32, {6}, random_bytes("F32", 6, 1, 0, 1));
  tensor.aliases = {"lm_head"};
  write_weight_file(folder / "m.bin", Container::torch, {tensor});
  const Checkpoint checkpoint = Checkpoint::open(folder / "m.bin");
  ASSERT_NE(checkpoint.find("lm_head"), nullptr);
  EXPECT_EQ(checkpoint.find("lm_head")->begin, checkpoint.find("embedding")->begin);
  EXPECT_THAT(message_of([&] {
                write_weight_file(folder / "m.safetensors", Container::safetensors, {tensor});
              }),
              HasSubstr("safetensors give a tensor one name"));
}

TEST(WritePacked, PacksAStridedView) {
  const std::vector<float> stored = {0, 1, 2, 3, 4, 5};
  const Shape shape = {3, 2};
  const std::vector<std::int64_t> strides = {1, 3};
  std::string bytes;
  write_packed({DType::f32, shape, strides, reinterpret_cast<const std::byte*>(stored.data())},
               [&](std::span<const std::byte> piece) {
                 bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
               });
  const std::vector<float> expected = {0, 3, 1, 4, 2, 5};
  EXPECT_EQ(bytes, std::string(reinterpret_cast<const char*>(expected.data()), 24));
}

}  // namespace
}  // namespace icd
