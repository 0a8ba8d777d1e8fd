#include "torch_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "support/files.h"
#include "support/torch_archive_builder.h"
#include "torch_archive.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MemoryFile;
using testing::ScratchFolder;
using Entry = TorchWriter::Entry;

std::string counted(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i % 2);
  return bytes;
}

/// A whole file of the entries, its storages filled with 0, 1, 0, 1, ...
void write_counted(const std::filesystem::path& file, const std::vector<Entry>& entries) {
  TorchWriter writer(file, "pytorch_model", entries);
  int next = 0;
  for (const Entry& entry : entries) {
    if (entry.storage != next) continue;
    ++next;
    std::int64_t elements = 1;
    for (const std::int64_t size : entry.shape) elements *= size;
    const std::string bytes =
        counted(static_cast<std::size_t>(elements * dtype_bytes(entry.dtype)));
    writer.write(std::as_bytes(std::span(bytes)));
  }
  writer.finish();
}

std::optional<Error> refusal(const std::vector<Entry>& entries) {
  const ScratchFolder folder;
  try {
    TorchWriter(folder / "m.bin", "pytorch_model", entries);
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

const std::vector<Entry>& every_storage_type() {
  static const std::vector<Entry> entries = {
      {"float32", DType::f32, {2, 3}, 0},    {"float16", DType::f16, {2, 3}, 1},
      {"bfloat16", DType::bf16, {2, 3}, 2},  {"float64", DType::f64, {2, 3}, 3},
      {"int64", DType::i64, {2, 3}, 4},      {"int32", DType::i32, {2, 3}, 5},
      {"int16", DType::i16, {2, 3}, 6},      {"int8", DType::i8, {2, 3}, 7},
      {"uint8", DType::u8, {2, 3}, 8},       {"bool", DType::boolean, {2, 3}, 9},
      {"complex64", DType::c64, {2, 3}, 10}, {"tied", DType::f32, {2, 3}, 0},
      {"empty", DType::f32, {0, 4}, 11},     {"scalar", DType::f32, {}, 12},
  };
  return entries;
}

/// With ICD_KEEP=folder the file stays there for experiments/conformance/torch_archive.py.
TEST(TorchWriter, EveryStorageType) {
  const ScratchFolder folder;
  const char* keep = std::getenv("ICD_KEEP");
  const std::filesystem::path file =
      (keep != nullptr ? std::filesystem::path(keep) : folder.path()) / "every_storage_type.bin";
  std::filesystem::remove(file);
  write_counted(file, every_storage_type());

  MemoryFile archive(testing::read_file(file));
  std::vector<StoredTensor> tensors = read_torch_archive(archive, 0);
  ASSERT_EQ(tensors.size(), every_storage_type().size());
  for (const Entry& entry : every_storage_type()) {
    const auto place =
        std::find_if(tensors.begin(), tensors.end(),
                     [&](const StoredTensor& tensor) { return tensor.name == entry.name; });
    ASSERT_NE(place, tensors.end()) << entry.name;
    EXPECT_EQ(place->dtype, entry.dtype) << entry.name;
    EXPECT_EQ(place->shape, entry.shape) << entry.name;
    EXPECT_EQ(place->begin % 64, 0) << entry.name;
    const std::string bytes(reinterpret_cast<const char*>(archive.data) + place->begin,
                            static_cast<std::size_t>(place->span_bytes));
    EXPECT_EQ(bytes, counted(bytes.size())) << entry.name;
  }
  EXPECT_EQ(tensors[0].name, "float32");
  EXPECT_EQ(tensors[1].name, "tied");
  EXPECT_EQ(tensors[0].begin, tensors[1].begin);
}

TEST(TorchWriter, StatesTheChecksumsOfItsStorages) {
  const ScratchFolder folder;
  write_counted(folder / "m.bin", every_storage_type());
  MemoryFile archive(testing::read_file(folder / "m.bin"));
  read_torch_archive(archive, 0);
  ASSERT_EQ(archive.records.size(), 13u);
  for (const StorageRecord& record : archive.records) {
    EXPECT_EQ(record.crc32, crc32_z(0, reinterpret_cast<const Bytef*>(archive.data + record.begin),
                                    static_cast<std::size_t>(record.bytes)));
  }
}

TEST(TorchWriter, IsAFunctionOfItsArguments) {
  const ScratchFolder folder;
  write_counted(folder / "a.bin", every_storage_type());
  write_counted(folder / "b.bin", every_storage_type());
  EXPECT_EQ(testing::read_file(folder / "a.bin"), testing::read_file(folder / "b.bin"));
}

TEST(TorchWriter, ChunksOfAnySizeMakeTheSameFile) {
  const ScratchFolder folder;
  const std::vector<Entry> entries = {{"a", DType::f32, {50}, 0}, {"b", DType::u8, {7}, 1}};
  write_counted(folder / "whole.bin", entries);
  TorchWriter writer(folder / "parts.bin", "pytorch_model", entries);
  for (const std::size_t size : {200u, 7u}) {
    const std::string bytes = counted(size);
    for (const char& byte : bytes) writer.write(std::as_bytes(std::span(&byte, 1)));
  }
  writer.finish();
  EXPECT_EQ(testing::read_file(folder / "whole.bin"), testing::read_file(folder / "parts.bin"));
}

TEST(TorchWriter, WritesMoreTensorsThanShortMemoEntriesReach) {
  const ScratchFolder folder;
  std::vector<Entry> entries;
  for (int i = 0; i < 400; ++i)
    entries.push_back({"t" + std::to_string(i), DType::u8, {300, 1}, i});
  write_counted(folder / "m.bin", entries);
  MemoryFile archive(testing::read_file(folder / "m.bin"));
  const std::vector<StoredTensor> tensors = read_torch_archive(archive, 0);
  ASSERT_EQ(tensors.size(), 400u);
  EXPECT_EQ(tensors[399].name, "t399");
  EXPECT_THAT(tensors[399].shape, ElementsAre(300, 1));
}

TEST(TorchWriter, AnEmptyStateDictIsOne) {
  const ScratchFolder folder;
  write_counted(folder / "m.bin", {});
  MemoryFile archive(testing::read_file(folder / "m.bin"));
  EXPECT_TRUE(read_torch_archive(archive, 0).empty());
}

TEST(TorchWriter, RefusesTypesWithoutAStorageClass) {
  for (const DType dtype : {DType::f8_e4m3, DType::u16, DType::f4, DType::unknown}) {
    const std::optional<Error> error = refusal({{"x", dtype, {2}, 0}});
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::unsupported);
    EXPECT_THAT(error->what(), HasSubstr("tensor 'x': PyTorch has no storage for"));
  }
}

TEST(TorchWriter, RefusesEntriesThatDisagreeOnTheirStorage) {
  EXPECT_THAT(refusal({{"x", DType::f32, {2}, 0}, {"y", DType::f32, {3}, 0}})->what(),
              HasSubstr("tensor 'y': has 12 bytes of F32, expected 8 of F32 as its storage 0"));
  EXPECT_THAT(refusal({{"x", DType::f32, {2}, 0}, {"y", DType::i32, {2}, 0}})->what(),
              HasSubstr("tensor 'y': has 8 bytes of I32"));
  EXPECT_THAT(refusal({{"x", DType::f32, {2}, 1}})->what(),
              HasSubstr("is in storage 1, expected at most 0"));
  EXPECT_THAT(refusal({{"x", DType::f32, {std::int64_t{1} << 62, 4}, 0}})->what(),
              HasSubstr("has no size in bytes"));
}

TEST(TorchWriter, KeepsAFileThatIsThere) {
  const ScratchFolder folder;
  testing::write_file(folder / "m.bin", "mine");
  EXPECT_THROW(TorchWriter(folder / "m.bin", "m", {}), Error);
  EXPECT_EQ(testing::read_file(folder / "m.bin"), "mine");
  EXPECT_THROW(TorchWriter(folder / "no/such/folder.bin", "m", {}), Error);
}

TEST(TorchWriter, RefusesTooManyAndTooFewBytes) {
  const ScratchFolder folder;
  const std::vector<Entry> entries = {{"a", DType::u8, {4}, 0}};
  const std::string bytes(5, '\0');
  TorchWriter writer(folder / "m.bin", "m", entries);
  EXPECT_THROW(writer.write(std::as_bytes(std::span(bytes))), Error);
  writer.write(std::as_bytes(std::span(bytes)).first(3));
  EXPECT_THROW(writer.finish(), Error);
  writer.write(std::as_bytes(std::span(bytes)).first(1));
  EXPECT_THROW(writer.write(std::as_bytes(std::span(bytes)).first(1)), Error);
  writer.finish();
}

TEST(TorchWriter, AFileThatWasNotFinishedIsNoArchive) {
  const ScratchFolder folder;
  { TorchWriter writer(folder / "m.bin", "m", {{"a", DType::u8, {4}, 0}}); }
  MemoryFile archive(testing::read_file(folder / "m.bin"));
  EXPECT_THROW(read_torch_archive(archive, 0), Error);
}

/// A limit on the size of files stands for a full disk.
TEST(TorchWriter, AFullDiskIsAnError) {
  const ScratchFolder folder;
  const std::string bytes(1 << 20, '\0');
  TorchWriter writer(folder / "m.bin", "m", {{"a", DType::u8, {1 << 20}, 0}});
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::optional<Error> error;
  try {
    writer.write(std::as_bytes(std::span(bytes)));
    writer.finish();
  } catch (const Error& caught) {
    error = caught;
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::io);
  EXPECT_THAT(error->what(), HasSubstr("cannot be written: File too large"));
}

}  // namespace
}  // namespace icd
