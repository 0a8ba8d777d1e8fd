#include "torch_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "icd/tensor_view.h"
#include "support/files.h"
#include "support/torch_archive_builder.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MemoryFile;
using testing::PickleDraft;
using testing::RecordDraft;
using testing::ZipDraft;

constexpr std::size_t kPickle = 0;  // places of the records of archive_of
constexpr std::size_t kByteorder = 1;
constexpr std::size_t kStorage = 2;

std::vector<StoredTensor> read(const std::string& bytes) {
  MemoryFile file(bytes);
  return read_torch_archive(file, 0);
}

/// What reading is refused with; fails the test if it is not.
Error refusal(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    EXPECT_TRUE(std::string(error.what()).starts_with("pytorch_model.bin: ")) << error.what();
    return error;
  }
  ADD_FAILURE() << "the archive was read";
  return Error(ErrorCode::io, "");
}

Error refusal(const ZipDraft& draft) { return refusal(testing::zip_bytes(draft)); }

/// A good archive whose record `place` has one defect.
template <typename Edit>
ZipDraft with_defect(std::size_t place, Edit edit) {
  ZipDraft draft = testing::small_archive();
  edit(draft.records[place]);
  return draft;
}

/// The refusal of an archive with one storage of eight floats and one view of it.
Error view_refusal(PickleDraft::View view) {
  view.storage_elements = 8;
  return refusal(testing::archive_of(testing::pickle_of({{"x", view}}), {std::string(32, '\0')}));
}

Error pickle_refusal(const std::string& pickle) {
  return refusal(testing::archive_of(pickle, {std::string(4, '\0')}));
}

/// A committed archive that torch.save wrote (experiments/conformance/torch_archive.py).
std::string torch_file(std::string_view name) {
  return testing::read_file(std::filesystem::path(ICD_SOURCE_DIR) / "tests/data/torch" / name);
}

const StoredTensor& find(const std::vector<StoredTensor>& tensors, std::string_view name) {
  const auto place = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const StoredTensor& tensor) { return tensor.name == name; });
  if (place == tensors.end()) throw std::out_of_range("no tensor " + std::string(name));
  return *place;
}

std::vector<float> floats(const MemoryFile& file, const StoredTensor& tensor) {
  const TensorView view{.dtype = tensor.dtype,
                        .shape = tensor.shape,
                        .strides = tensor.strides,
                        .data = file.data + tensor.begin};
  std::vector<float> values(static_cast<std::size_t>(view.elements()));
  read_as(view, values);
  return values;
}

TEST(TorchArchive, ReadsNamesViewsAndPositions) {
  MemoryFile file(testing::zip_bytes(testing::small_archive()));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 3);
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "weight");  // by position, then as the pickle names them
  EXPECT_EQ(tensors[1].name, "transposed");
  EXPECT_EQ(tensors[2].name, "halves");
  EXPECT_EQ(tensors[0].begin, tensors[1].begin);
  EXPECT_EQ(tensors[0].span_bytes, 24);
  EXPECT_EQ(tensors[0].file, 3);
  EXPECT_EQ(tensors[2].dtype, DType::f16);
  EXPECT_EQ(tensors[2].dtype_text, "F16");
  EXPECT_THAT(floats(file, tensors[0]), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(floats(file, tensors[1]), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THAT(floats(file, tensors[2]), ElementsAre(1, 2));
}

/// Every place where a record's checksum is written, for each way to write it.
TEST(TorchArchive, KnowsWhereTheChecksumsAre) {
  struct Case {
    std::uint16_t flags;
    bool zip64;
    bool descriptor_signed;
    std::size_t places;
  };
  for (const Case& way : {Case{0, false, true, 2}, Case{0, true, true, 2}, Case{8, false, true, 2},
                          Case{8, true, true, 2}, Case{8, false, false, 2}}) {
    const ZipDraft draft = with_defect(kStorage, [&](RecordDraft& record) {
      record.flags = way.flags;
      record.zip64 = way.zip64;
      record.descriptor_signed = way.descriptor_signed;
    });
    MemoryFile file(testing::zip_bytes(draft));
    read_torch_archive(file, 0);
    ASSERT_EQ(file.records.size(), 2u);
    const StorageRecord& record = file.records[0];
    EXPECT_EQ(record.bytes, 24);
    EXPECT_EQ(record.crc32_positions.size(), way.places);
    EXPECT_TRUE(std::is_sorted(record.crc32_positions.begin(), record.crc32_positions.end()));
    for (const std::int64_t position : record.crc32_positions) {
      std::uint32_t crc = 0;
      std::memcpy(&crc, file.data + position, sizeof crc);
      EXPECT_EQ(crc, record.crc32);
    }
  }
}

/// A changed storage and the checksums at the stated places make a sound archive.
TEST(TorchArchive, AStorageCanBePatchedInPlace) {
  std::string bytes = testing::zip_bytes(testing::small_archive());
  MemoryFile file(bytes);
  read_torch_archive(file, 0);
  ZipDraft changed = testing::small_archive();
  std::reverse(changed.records[kStorage].bytes.begin(), changed.records[kStorage].bytes.end());
  const std::string expected = testing::zip_bytes(changed);
  MemoryFile target(expected);
  read_torch_archive(target, 0);
  const StorageRecord& from = file.records[0];
  const StorageRecord& to = target.records[0];
  ASSERT_EQ(from.crc32_positions, to.crc32_positions);
  std::memcpy(bytes.data() + from.begin, target.data + to.begin,
              static_cast<std::size_t>(from.bytes));
  for (const std::int64_t position : from.crc32_positions) {
    std::memcpy(bytes.data() + position, &to.crc32, sizeof to.crc32);
  }
  EXPECT_EQ(bytes, expected);
}

TEST(TorchArchive, ReadsAZip64Directory) {
  ZipDraft draft = testing::small_archive();
  draft.zip64_end = true;
  EXPECT_EQ(read(testing::zip_bytes(draft)).size(), 3u);
}

TEST(TorchArchive, ReadsThousandsOfRecords) {
  std::vector<std::pair<std::string, PickleDraft::View>> tensors;
  std::vector<std::string> storages;
  for (int i = 0; i < 5000; ++i) {
    tensors.push_back(
        {"layers." + std::to_string(i),
         {.key = std::to_string(i), .storage_elements = 1, .shape = {1}, .strides = {1}}});
    storages.emplace_back(4, '\0');
  }
  EXPECT_EQ(
      read(testing::zip_bytes(testing::archive_of(testing::pickle_of(tensors), storages))).size(),
      5000u);
}

// --- defects of the zip archive

TEST(TorchArchive, RefusesWhatIsNoZip) {
  EXPECT_THAT(refusal("").what(), HasSubstr("is not a zip archive"));
  EXPECT_THAT(refusal("<html>").what(), HasSubstr("starts with '<html>'"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\n").hint(), HasSubstr("LFS"));
}

TEST(TorchArchive, RefusesTheFormatsBefore16) {
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  for (const std::string& bytes : {torch_file("legacy.pt"), tar}) {
    const Error error = refusal(bytes);
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("format of PyTorch before 1.6"));
    EXPECT_THAT(error.hint(), HasSubstr("torch.save(torch.load(f, weights_only=True), f)"));
  }
}

TEST(TorchArchive, RefusesDeflatedRecords) {
  const Error error =
      refusal(with_defect(kStorage, [](RecordDraft& record) { record.method = 8; }));
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_THAT(error.what(), HasSubstr("'pytorch_model/data/0' is compressed (zip method 8)"));
}

TEST(TorchArchive, RefusesEncryptedRecords) {
  for (const std::uint16_t flag : {1 << 0, 1 << 6, 1 << 13}) {
    const Error error =
        refusal(with_defect(kStorage, [&](RecordDraft& record) { record.flags = flag; }));
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("'pytorch_model/data/0' is encrypted"));
  }
}

TEST(TorchArchive, RefusesHeadersThatDisagree) {
  const auto found = [](auto edit) {
    return std::string(refusal(with_defect(kStorage, edit)).what());
  };
  EXPECT_THAT(found([](RecordDraft& record) { record.local_name = "pytorch_model/data/9"; }),
              HasSubstr("its local header calls it 'pytorch_model/data/9'"));
  EXPECT_THAT(found([](RecordDraft& record) { record.local_flags = 1; }),
              HasSubstr("its flags are 0x1 in the local header and 0x0"));
  EXPECT_THAT(found([](RecordDraft& record) { record.local_bytes = 20; }),
              HasSubstr("its size is 20 in the local header and 24"));
  EXPECT_THAT(found([](RecordDraft& record) { record.central_bytes = 20; }),
              HasSubstr("its size is 24 in the local header and 20"));
  EXPECT_THAT(found([](RecordDraft& record) { record.local_crc = 7; }),
              HasSubstr("its CRC-32 is 00000007 in the local header"));
  EXPECT_THAT(found([](RecordDraft& record) {
                record.flags = 8;
                record.local_bytes = 20;
              }),
              HasSubstr("its size is 20 in the local header and 24"));
  EXPECT_THAT(found([](RecordDraft& record) {
                record.flags = 8;
                record.local_crc = 7;
              }),
              HasSubstr("its CRC-32 is 00000007 in the local header"));
}

TEST(TorchArchive, RefusesADescriptorThatDisagrees) {
  const auto found = [](auto edit) {
    return std::string(refusal(with_defect(kStorage, edit)).what());
  };
  EXPECT_THAT(found([](RecordDraft& record) {
                record.flags = 8;
                record.descriptor_crc = 7;
              }),
              HasSubstr("the descriptor behind its data does not state 24 bytes"));
  EXPECT_THAT(found([](RecordDraft& record) {
                record.flags = 8;
                record.descriptor_bytes = 20;
              }),
              HasSubstr("the descriptor behind its data does not state 24 bytes"));
}

TEST(TorchArchive, RefusesOverlappingRecords) {
  // data/0 reaches over data/1, and says so in both of its headers.
  const Error error = refusal(with_defect(
      kStorage, [](RecordDraft& record) { record.local_bytes = record.central_bytes = 64; }));
  EXPECT_THAT(error.what(), HasSubstr("expected at most"));
  EXPECT_THAT(error.what(), HasSubstr("where 'pytorch_model/data/1' starts"));
}

TEST(TorchArchive, RefusesTwoEntriesForOneRecord) {
  ZipDraft draft = testing::small_archive();
  draft.records[kStorage + 1].local_name = draft.records[kStorage].name;
  draft.records[kStorage + 1].name = draft.records[kStorage].name;
  EXPECT_THAT(refusal(draft).what(), HasSubstr("two records are called 'pytorch_model/data/0'"));
  draft = with_defect(kStorage + 1, [](RecordDraft& record) { record.central_offset = 0; });
  EXPECT_THAT(refusal(draft).what(), HasSubstr("'pytorch_model/data/1'"));
}

TEST(TorchArchive, RefusesRecordsOutsideTheFile) {
  EXPECT_THAT(
      refusal(with_defect(kStorage, [](RecordDraft& record) { record.central_bytes = 1u << 30; }))
          .what(),
      HasSubstr("its sizes are 1073741824"));
  EXPECT_THAT(
      refusal(with_defect(kStorage, [](RecordDraft& record) { record.central_offset = 1u << 30; }))
          .what(),
      HasSubstr("there is no local header at byte 1073741824"));
}

TEST(TorchArchive, RefusesBytesAroundTheArchive) {
  ZipDraft draft = testing::small_archive();
  draft.before = std::string("PK\x03\x04", 4) + std::string(60, '\0');
  EXPECT_THAT(refusal(draft).what(), HasSubstr("not where it is stated to be"));
  draft = testing::small_archive();
  draft.before = "MZ";
  EXPECT_THAT(refusal(draft).what(), HasSubstr("is not a zip archive"));
  draft = testing::small_archive();
  draft.after = "more";
  EXPECT_THAT(refusal(draft).what(), HasSubstr("4 bytes follow its zip directory"));
  draft = testing::small_archive();
  draft.comment = "hello";
  EXPECT_THAT(refusal(draft).what(), HasSubstr("5 bytes follow its zip directory"));
}

TEST(TorchArchive, RefusesNamesThatLeaveTheFolder) {
  for (const std::string_view name : {"pytorch_model/../x", "/data/7", "pytorch_model/a\\b", "..",
                                      "pytorch_model/./x", "pytorch_model/\x1b[2J"}) {
    EXPECT_THAT(refusal(with_defect(kStorage + 2,
                                    [&](RecordDraft& record) { record.name = std::string(name); }))
                    .what(),
                HasSubstr("expected a plain relative path"));
  }
}

TEST(TorchArchive, RefusesTwoTopFolders) {
  for (const std::string_view name : {"other/version", "version"}) {
    EXPECT_THAT(refusal(with_defect(kStorage + 2,
                                    [&](RecordDraft& record) { record.name = std::string(name); }))
                    .what(),
                HasSubstr("does not lie in one top folder"));
  }
}

TEST(TorchArchive, RefusesBigEndianStorages) {
  const Error error =
      refusal(with_defect(kByteorder, [](RecordDraft& record) { record.bytes = "big"; }));
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_THAT(error.what(), HasSubstr("byteorder is 'big', expected 'little'"));
}

TEST(TorchArchive, RefusesTorchScript) {
  const Error error = refusal(torch_file("script.pt"));
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_THAT(error.what(), HasSubstr("is a TorchScript archive"));
}

TEST(TorchArchive, RefusesAnArchiveWithoutAPickle) {
  const Error error = refusal(
      with_defect(kPickle, [](RecordDraft& record) { record.name = "pytorch_model/model.json"; }));
  EXPECT_THAT(error.what(), HasSubstr("has no record data.pkl"));
}

TEST(TorchArchive, RefusesADamagedPickle) {
  std::string bytes = testing::zip_bytes(testing::small_archive());
  bytes[bytes.find("weight")] = 'W';
  EXPECT_THAT(refusal(bytes).what(), HasSubstr("data.pkl has CRC-32"));
}

// --- defects of the pickle

TEST(TorchArchive, RefusesViewsThatLeaveTheirStorage) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  const PickleDraft::View views[] = {
      {.shape = {9}, .strides = {1}},
      {.offset = 1, .shape = {8}, .strides = {1}},
      {.offset = 9, .shape = {0}, .strides = {1}},
      {.offset = -1, .shape = {1}, .strides = {1}},
      {.offset = kHuge, .shape = {1}, .strides = {1}},
      {.shape = {2, 2}, .strides = {7, 1}},
      {.offset = 7, .shape = {2}, .strides = {-1}},
      {.shape = {-1}, .strides = {1}},
      {.shape = {kHuge, kHuge}, .strides = {kHuge, 1}},
      {.shape = {5, 5}, .strides = {kHuge, kHuge}},
  };
  for (const PickleDraft::View& view : views) {
    const Error error = view_refusal(view);
    EXPECT_EQ(error.code(), ErrorCode::input);
    EXPECT_THAT(error.what(), HasSubstr("tensor 'x': shape "));
    EXPECT_THAT(error.what(), HasSubstr("leave its storage data/0 of 8 elements"));
  }
}

TEST(TorchArchive, RefusesViewsWhoseElementsShareBytes) {
  const PickleDraft::View views[] = {
      {.shape = {1000000}, .strides = {0}},
      {.shape = {4, 4}, .strides = {1, 1}},
      {.shape = {2, 3}, .strides = {2, 1}},
  };
  for (const PickleDraft::View& view : views) {
    const Error error = view_refusal(view);
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("share bytes"));
  }
  EXPECT_EQ(refusal(torch_file("expanded.pt")).code(), ErrorCode::unsupported);
}

TEST(TorchArchive, RefusesAStorageOfAnotherSize) {
  const auto refused = [](PickleDraft::View view) {
    return std::string(pickle_refusal(testing::pickle_of({{"x", std::move(view)}})).what());
  };
  EXPECT_THAT(refused({.storage_elements = 2, .shape = {1}, .strides = {1}}),
              HasSubstr("storage 'data/0': has 4 bytes, expected 2 elements of 4"));
  EXPECT_THAT(refused({.storage_elements = -1, .shape = {1}, .strides = {1}}),
              HasSubstr("expected -1 elements"));
  EXPECT_THAT(refused({.storage_elements = std::int64_t{1} << 62, .shape = {1}, .strides = {1}}),
              HasSubstr("has 4 bytes"));
  EXPECT_THAT(refused({.key = "7", .storage_elements = 1, .shape = {1}, .strides = {1}}),
              HasSubstr("storage 'data/7': its record is missing"));
  EXPECT_THAT(refused({.key = "../version", .storage_elements = 1, .shape = {1}, .strides = {1}}),
              HasSubstr("its record is missing"));
}

TEST(TorchArchive, RefusesAStorageOfTwoTypes) {
  const Error error = pickle_refusal(testing::pickle_of(
      {{"x", {.storage_elements = 1, .shape = {1}, .strides = {1}}},
       {"y",
        {.storage_class = "HalfStorage", .storage_elements = 2, .shape = {2}, .strides = {1}}}}));
  EXPECT_THAT(error.what(), HasSubstr("at once, expected one type"));
}

TEST(TorchArchive, RefusesTwoTensorsOfOneName) {
  const PickleDraft::View one{.storage_elements = 1, .shape = {1}, .strides = {1}};
  EXPECT_THAT(pickle_refusal(testing::pickle_of({{"x", one}, {"x", one}})).what(),
              HasSubstr("two tensors are called 'x'"));
  PickleDraft draft;
  draft.raw("}(").text("a.b").tensor(one).text("a").raw("}").text("b").tensor(one).raw("su");
  EXPECT_THAT(pickle_refusal(draft.stop()).what(), HasSubstr("two tensors are called 'a.b'"));
}

TEST(TorchArchive, RefusesNamesThatAreNoText) {
  const PickleDraft::View one{.storage_elements = 1, .shape = {1}, .strides = {1}};
  for (const std::string_view name : {"a\nb", "\xff", "", "\x1b[2J"}) {
    EXPECT_THAT(pickle_refusal(testing::pickle_of({{std::string(name), one}})).what(),
                HasSubstr("expected printable UTF-8"));
  }
  EXPECT_THAT(pickle_refusal(PickleDraft().raw("}").raw(")").tensor(one).raw("s").stop()).what(),
              HasSubstr("has no name of texts and integers"));
  EXPECT_THAT(pickle_refusal(testing::pickle_of({{std::string(2000, 'x'), one}})).what(),
              HasSubstr("expected at most 1024"));
}

TEST(TorchArchive, ADictionaryThatContainsItselfEnds) {
  EXPECT_THAT(pickle_refusal(PickleDraft()
                                 .raw(std::string_view("}q\x00", 3))
                                 .text("a")
                                 .raw(std::string_view("h\x00s", 3))
                                 .stop())
                  .what(),
              HasSubstr("nested more than 64 deep"));
}

TEST(TorchArchive, ABillionLaughsEnd) {
  // Each list holds the one before ten times: 10^30 values on 300 bytes.
  std::string opcodes = "](Ne";
  for (char level = 0; level < 30; ++level) {
    opcodes += 'q';
    opcodes += level;
    opcodes += "0](";
    for (int i = 0; i < 10; ++i) (opcodes += 'h') += level;
    opcodes += 'e';
  }
  EXPECT_THAT(pickle_refusal(PickleDraft().raw(opcodes).stop()).what(),
              HasSubstr("more than 4194304 values"));
}

// --- every small damage

TEST(TorchArchive, EveryPrefixIsRefused) {
  for (const bool zip64 : {false, true}) {
    ZipDraft draft = testing::small_archive();
    draft.zip64_end = zip64;
    draft.records[kStorage].flags = 8;
    const std::string whole = testing::zip_bytes(draft);
    EXPECT_EQ(read(whole).size(), 3u);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      EXPECT_THROW(read(whole.substr(0, size)), Error) << size;
    }
  }
}

/// One byte changed: refused, or read as tensors that lie inside the file.
void expect_no_flip_escapes(const std::string& whole) {
  int refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x20, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      MemoryFile file(bytes);
      try {
        for (const StoredTensor& tensor : read_torch_archive(file, 0)) {
          ASSERT_GE(tensor.begin, 0) << at;
          ASSERT_LE(tensor.begin + tensor.span_bytes, file.bytes) << at;
          if (is_readable_float(tensor.dtype)) floats(file, tensor);
        }
        for (const StorageRecord& record : file.records) {
          for (const std::int64_t position : record.crc32_positions) {
            ASSERT_LE(position + 4, file.bytes) << at;
          }
        }
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(TorchArchive, NoFlippedByteEscapes) {
  ZipDraft draft = testing::small_archive();
  expect_no_flip_escapes(testing::zip_bytes(draft));
  draft.zip64_end = true;
  draft.records[kStorage].flags = 8;
  draft.records[kStorage].zip64 = true;
  expect_no_flip_escapes(testing::zip_bytes(draft));
}

TEST(TorchArchive, NoFlippedByteOfAPickleWithoutChecksumEscapes) {
  expect_no_flip_escapes(torch_file("no_crc.pt"));
}

// --- archives by PyTorch 2.11

TEST(TorchArchive, ReadsAPlainStateDict) {
  for (const std::string_view name : {"plain.pt", "protocol4.pt", "no_crc.pt"}) {
    MemoryFile file(torch_file(name));
    const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
    ASSERT_EQ(tensors.size(), 2u) << name;
    EXPECT_EQ(tensors[0].name, "weight");
    EXPECT_THAT(tensors[0].shape, ElementsAre(2, 3));
    EXPECT_THAT(floats(file, tensors[0]), ElementsAre(0, 1, 2, 3, 4, 5));
    EXPECT_EQ(tensors[1].name, "bias");
    EXPECT_THAT(floats(file, tensors[1]), ElementsAre(10, 11, 12));
    ASSERT_EQ(file.records.size(), 2u);
    EXPECT_EQ(file.records[0].begin % 64, 0);
    EXPECT_EQ(file.records[0].crc32 == 0, name == "no_crc.pt");
  }
}

TEST(TorchArchive, NamesNestedTensorsByTheirPath) {
  MemoryFile file(torch_file("nested.pt"));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
  std::vector<std::string> names;
  for (const StoredTensor& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  EXPECT_THAT(names, ElementsAre("layers.0", "layers.1.0", "optimizer.state.0.exp_avg",
                                 "optimizer.state.0.exp_avg_sq", "optimizer.state.0.step",
                                 "optimizer.state.1.exp_avg", "optimizer.state.1.exp_avg_sq",
                                 "optimizer.state.1.step", "state_dict.bias", "state_dict.weight"));
  EXPECT_THAT(floats(file, find(tensors, "state_dict.weight")), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(floats(file, find(tensors, "layers.1.0")), ElementsAre(8));
  EXPECT_THAT(find(tensors, "optimizer.state.0.step").shape, IsEmpty());
}

TEST(TorchArchive, ReadsTransposedAndSlicedViews) {
  MemoryFile file(torch_file("views.pt"));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
  EXPECT_EQ(file.records.size(), 1u);
  const StoredTensor& base = find(tensors, "base");
  const StoredTensor& transposed = find(tensors, "transposed");
  EXPECT_EQ(transposed.begin, base.begin);
  EXPECT_THAT(transposed.shape, ElementsAre(6, 4));
  EXPECT_THAT(transposed.strides, ElementsAre(1, 6));
  EXPECT_EQ(floats(file, transposed)[1], 6);
  EXPECT_EQ(find(tensors, "rows").begin, base.begin + 6 * 4);
  EXPECT_THAT(floats(file, find(tensors, "columns")), ElementsAre(2, 3, 8, 9, 14, 15, 20, 21));
  EXPECT_THAT(floats(file, find(tensors, "stepped")), ElementsAre(1, 13));
  EXPECT_EQ(find(tensors, "stepped").span_bytes, 13 * 4);
}

TEST(TorchArchive, ReadsTiedTensorsAsTwoNamesForOneStorage) {
  MemoryFile file(torch_file("tied.pt"));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(file.records.size(), 1u);
  EXPECT_EQ(tensors[0].name, "embedding");
  EXPECT_EQ(tensors[1].name, "lm_head");
  EXPECT_EQ(tensors[0].begin, tensors[1].begin);
}

TEST(TorchArchive, ReadsEveryDtype) {
  struct Expected {
    std::string_view name;
    DType dtype;
    std::int64_t span_bytes;
  };
  MemoryFile file(torch_file("dtypes.pt"));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
  const Expected table[] = {
      {"float32", DType::f32, 8},
      {"float16", DType::f16, 4},
      {"bfloat16", DType::bf16, 4},
      {"float64", DType::f64, 16},
      {"int64", DType::i64, 16},
      {"int32", DType::i32, 8},
      {"int16", DType::i16, 4},
      {"int8", DType::i8, 2},
      {"uint8", DType::u8, 2},
      {"bool", DType::boolean, 2},
      {"complex64", DType::c64, 16},
      {"complex128", DType::unknown, 32},
      {"uint16", DType::u16, 4},
      {"uint32", DType::u32, 8},
      {"uint64", DType::u64, 16},
      {"float8_e4m3fn", DType::f8_e4m3, 2},
      {"float8_e5m2", DType::f8_e5m2, 2},
      {"float8_e4m3fnuz", DType::f8_e4m3fnuz, 2},
      {"float8_e5m2fnuz", DType::f8_e5m2fnuz, 2},
      {"float8_e8m0fnu", DType::f8_e8m0, 2},
  };
  EXPECT_EQ(tensors.size(), std::size(table));
  for (const Expected& expected : table) {
    const StoredTensor& tensor = find(tensors, expected.name);
    EXPECT_EQ(tensor.dtype, expected.dtype) << expected.name;
    EXPECT_EQ(tensor.span_bytes, expected.span_bytes) << expected.name;
    if (is_readable_float(tensor.dtype)) {
      EXPECT_THAT(floats(file, tensor), ElementsAre(1, 2));
    }
  }
}

TEST(TorchArchive, ReadsParametersScalarsAndEmptyTensors) {
  MemoryFile file(torch_file("shapes.pt"));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_THAT(floats(file, find(tensors, "parameter")), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(find(tensors, "scalar").shape, IsEmpty());
  EXPECT_THAT(floats(file, find(tensors, "scalar")), ElementsAre(1.5f));
  EXPECT_THAT(find(tensors, "empty").shape, ElementsAre(0, 4));
  EXPECT_EQ(find(tensors, "empty").span_bytes, 0);
}

TEST(TorchArchive, RefusesWhatIsNoStateDict) {
  EXPECT_THAT(refusal(torch_file("bare.pt")).what(), HasSubstr("one bare tensor"));
  EXPECT_THAT(refusal(torch_file("sparse.pt")).what(), HasSubstr("_rebuild_sparse_tensor"));
  EXPECT_THAT(refusal(torch_file("conjugate.pt")).what(), HasSubstr("lazily conjugated"));
  EXPECT_THAT(refusal(torch_file("module.pt")).what(),
              HasSubstr("data.pkl asks for the global 'torch.nn.modules.linear.Linear'"));
}

TEST(TorchArchive, ReadsProtMamba) {
  const auto path = testing::shared_material("models/protmamba-ssm/pytorch_model.bin");
  if (!path) GTEST_SKIP() << "shared/models/protmamba-ssm is not here";
  MemoryFile file(testing::read_file(*path));
  const std::vector<StoredTensor> tensors = read_torch_archive(file, 0);
  const StoredTensor& embedding = find(tensors, "backbone.embedding.weight");
  const StoredTensor& head = find(tensors, "lm_head.weight");
  EXPECT_EQ(embedding.begin, head.begin);
  EXPECT_EQ(embedding.shape, head.shape);
  EXPECT_EQ(tensors.size(), file.records.size() + 1);
  for (const StoredTensor& tensor : tensors) EXPECT_EQ(tensor.dtype, DType::f32) << tensor.name;
}

}  // namespace
}  // namespace icd
