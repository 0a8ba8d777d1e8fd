#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "icd/calibration.h"
#include "icd/error.h"
#include "icd/random.h"
#include "mapped_file.h"
#include "safetensors.h"
#include "support/files.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::read_file;
using testing::ScratchFolder;
using testing::write_file;

const StatisticsInfo kInfo = {
    .structure = "abc", .source = "a \"text\", 140 tokens", .tokens_digest = "0123"};

/// Two groups, one of an odd size, so that alignment is not there by luck.
std::vector<StatisticsEntry> entries() {
  return {{.group = "layers.0/inner",
           .signal = "gated",
           .layer = 0,
           .size = 3,
           .has_dt_quantiles = true,
           .has_decay = true},
          {.group = "model", .signal = "normed", .layer = -1, .size = 5, .has_activity = true},
          {.group = "model", .signal = "conv", .layer = -1, .size = 2, .has_correlation = false}};
}

Moments moments(const StatisticsEntry& entry, std::uint64_t seed) {
  Random random(seed);
  const auto size = static_cast<std::size_t>(entry.size);
  Moments result{.rows = static_cast<std::int64_t>(seed) + 100,
                 .mean = std::vector<double>(size),
                 .variance = std::vector<double>(size),
                 .minimum = std::vector<float>(size),
                 .maximum = std::vector<float>(size),
                 .correlation = std::vector<float>(size * size)};
  for (std::size_t i = 0; i < size; ++i) {
    result.mean[i] = random.normal();
    result.variance[i] = i == 1 ? 0 : 1 + random.uniform();  // channel 1 never moves
    for (std::size_t j = 0; j <= i; ++j) {
      const bool is_still = i == 1 || j == 1;
      const float r =
          is_still ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(random.uniform());
      result.correlation[i * size + j] = result.correlation[j * size + i] = r;
    }
    result.minimum[i] = static_cast<float>(random.normal());
    result.maximum[i] = result.minimum[i] + static_cast<float>(i);
    if (entry.has_decay) result.decay.push_back(random.uniform());
  }
  if (!entry.has_correlation) result.correlation.clear();
  if (entry.has_activity) {
    Activity activity{
        .tokens = 100 + static_cast<std::int64_t>(seed), .size = entry.size, .bits = {}};
    for (Index i = 0; i < entry.size; ++i) {
      activity.bits.push_back(random.next());
      activity.bits.push_back(random.next() >> (128 - activity.tokens));
    }
    result.activity = std::make_shared<const Activity>(std::move(activity));
  }
  return result;
}

GroupStatistics statistics(const StatisticsEntry& entry) {
  GroupStatistics result{.group = entry.group,
                         .signal = entry.signal,
                         .train = moments(entry, 1),
                         .heldout = moments(entry, 2)};
  if (entry.has_dt_quantiles) {
    for (Index i = 0; i < 5 * entry.size; ++i) result.dt_quantiles.push_back(0.5f + i);
  }
  return result;
}

void write(const std::filesystem::path& file, std::span<const StatisticsEntry> all,
           const std::function<void(GroupStatistics&)>& defect = {}) {
  StatisticsWriter writer(file, kInfo, all);
  for (const StatisticsEntry& entry : all) {
    GroupStatistics each = statistics(entry);
    if (defect) defect(each);
    writer.add(each);
  }
  writer.finish();
}

/// Bytes, since NaN is not equal to itself.
template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

void expect_equal(const Moments& a, const Moments& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.variance, b.variance);
  EXPECT_EQ(a.minimum, b.minimum);
  EXPECT_EQ(a.maximum, b.maximum);
  EXPECT_EQ(bytes_of(a.correlation), bytes_of(b.correlation));
  EXPECT_EQ(a.decay, b.decay);
  ASSERT_EQ(a.activity == nullptr, b.activity == nullptr);
  if (a.activity == nullptr) return;
  EXPECT_EQ(a.activity->tokens, b.activity->tokens);
  EXPECT_EQ(a.activity->size, b.activity->size);
  EXPECT_EQ(a.activity->bits, b.activity->bits);
}

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

template <typename Call>
std::string error_of(ErrorCode code, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(StatisticsFile, GivesBackWhatWasWritten) {
  const ScratchFolder folder;
  write(folder / "statistics.safetensors", entries());
  EXPECT_EQ(files_in(folder.path()), 1u);  // and no temporary

  const StatisticsFile file = StatisticsFile::open(folder / "statistics.safetensors");
  EXPECT_EQ(file.info().structure, kInfo.structure);
  EXPECT_EQ(file.info().source, kInfo.source);
  EXPECT_EQ(file.info().tokens_digest, kInfo.tokens_digest);
  for (const StatisticsEntry& entry : entries()) {
    const GroupStatistics found = file.read(entry.group, entry.signal);
    const GroupStatistics expected = statistics(entry);
    EXPECT_EQ(found.group, expected.group);
    EXPECT_EQ(found.signal, expected.signal);
    expect_equal(found.train, expected.train);
    expect_equal(found.heldout, expected.heldout);
    EXPECT_EQ(found.dt_quantiles, expected.dt_quantiles);
  }
}

TEST(StatisticsFile, HasEveryTensorAtAMultipleOfItsElement) {
  const ScratchFolder folder;
  write(folder / "s", entries());
  const MappedFile map(folder / "s");
  for (const StoredTensor& tensor : read_safetensors(map, 0)) {
    EXPECT_EQ(tensor.begin % dtype_bytes(tensor.dtype), 0) << tensor.name;
  }
}

TEST(StatisticsFile, HasTheSameBytesInWhateverOrderItWasFilled) {
  const ScratchFolder folder;
  write(folder / "forwards", entries());
  StatisticsWriter writer(folder / "backwards", kInfo, entries());
  writer.add(statistics(entries()[2]));
  writer.add(statistics(entries()[1]));
  writer.add(statistics(entries()[0]));
  writer.finish();
  EXPECT_EQ(read_file(folder / "forwards"), read_file(folder / "backwards"));
}

TEST(StatisticsWriter, LeavesNothingBehindUnlessFinished) {
  const ScratchFolder folder;
  {
    StatisticsWriter writer(folder / "s", kInfo, entries());
    writer.add(statistics(entries()[0]));
    EXPECT_EQ(files_in(folder.path()), 1u);
    EXPECT_FALSE(std::filesystem::exists(folder / "s"));
    EXPECT_THAT(error_of(ErrorCode::usage, [&] { writer.finish(); }),
                HasSubstr("model.conv never came"));
  }
  EXPECT_EQ(files_in(folder.path()), 0u);
}

TEST(StatisticsWriter, RefusesWhatWasNotAnnouncedOrCameBefore) {
  const ScratchFolder folder;
  StatisticsWriter writer(folder / "s", kInfo, entries());
  GroupStatistics other = statistics(entries()[0]);
  other.signal = "conv";
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { writer.add(other); }),
              HasSubstr("layers.0/inner: signal 'conv' was added before or not announced"));
  writer.add(statistics(entries()[0]));
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { writer.add(statistics(entries()[0])); }),
              HasSubstr("layers.0/inner: signal 'gated' was added before"));
}

TEST(StatisticsWriter, RefusesStatisticsOfAnotherSize) {
  const ScratchFolder folder;
  StatisticsWriter writer(folder / "s", kInfo, entries());
  GroupStatistics other = statistics(entries()[0]);
  other.heldout.variance.pop_back();
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { writer.add(other); }),
              HasSubstr("layers.0/inner.gated.variance: 2 values, expected 3"));
}

TEST(StatisticsWriter, RefusesWhatTheEntryDoesNotHave) {
  const ScratchFolder folder;
  StatisticsWriter writer(folder / "s", kInfo, entries());
  GroupStatistics other = statistics(entries()[1]);
  other.train.decay.assign(5, 0);
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { writer.add(other); }),
              HasSubstr("model.normed.decay: 5 values, expected 0"));
  other = statistics(entries()[1]);
  other.heldout.activity.reset();
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { writer.add(other); }),
              HasSubstr("model.normed.activity: 0 tokens, expected 1 to 4096"));
}

TEST(StatisticsWriter, SaysWhereItCannotWrite) {
  const ScratchFolder folder;
  EXPECT_THAT(
      error_of(ErrorCode::io, [&] { StatisticsWriter(folder / "none/s", kInfo, entries()); }),
      HasSubstr("cannot create: No such file or directory"));
}

TEST(StatisticsFile, RefusesSafetensorsOfSomeoneElse) {
  const ScratchFolder folder;
  write_file(folder / "s", safetensors_header({}));
  EXPECT_THAT(error_of(ErrorCode::input, [&] { StatisticsFile::open(folder / "s"); }),
              HasSubstr("metadata 'icd_statistics' is '', expected '1'"));
}

TEST(StatisticsFile, RefusesAFileThatLacksItsSource) {
  const ScratchFolder folder;
  const std::vector<std::pair<std::string, std::string>> metadata = {
      {"icd_statistics", "1"}, {"icd_structure", "abc"}, {"icd_tokens_sha256", "0123"}};
  write_file(folder / "s", safetensors_header({}, metadata));
  EXPECT_THAT(error_of(ErrorCode::input, [&] { StatisticsFile::open(folder / "s"); }),
              HasSubstr("icd_source"));
}

TEST(StatisticsFile, RefusesAFileCutShort) {
  const ScratchFolder folder;
  write(folder / "s", entries());
  const std::string text = read_file(folder / "s");
  write_file(folder / "cut", text.substr(0, text.size() - 1));
  error_of(ErrorCode::input, [&] { StatisticsFile::open(folder / "cut"); });
}

TEST(StatisticsFile, NamesAGroupAndSignalThatItDoesNotHold) {
  const ScratchFolder folder;
  write(folder / "s", entries());
  const StatisticsFile file = StatisticsFile::open(folder / "s");
  EXPECT_THAT(error_of(ErrorCode::input, [&] { file.read("layers.0/inner", "conv"); }),
              HasSubstr("holds no signal 'conv' of group 'layers.0/inner'"));
}

/// A file with one tensor's header line changed; both texts are of one length.
void expect_refused_header(const std::string& from, const std::string& to,
                           const std::string& message) {
  const ScratchFolder folder;
  write(folder / "s", entries());
  std::string text = read_file(folder / "s");
  const std::size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  ASSERT_EQ(from.size(), to.size());
  write_file(folder / "s", text.replace(at, from.size(), to));
  const StatisticsFile file = StatisticsFile::open(folder / "s");
  EXPECT_THAT(error_of(ErrorCode::input, [&] { file.read("model", "normed"); }),
              HasSubstr(message));
}

TEST(StatisticsFile, RefusesAMissingTensor) {
  expect_refused_header("model.normed.heldout.variance", "model.normed.heldout.variancf",
                        "tensor 'model.normed.heldout.variance': is missing, expected (5,)");
}

/// A file whose values have a defect, which the writer does not look for.
void expect_refused_values(const std::function<void(Moments&)>& defect,
                           const std::string& message) {
  const ScratchFolder folder;
  write(folder / "s", entries(), [&](GroupStatistics& each) { defect(each.heldout); });
  const StatisticsFile file = StatisticsFile::open(folder / "s");
  EXPECT_THAT(error_of(ErrorCode::input, [&] { file.read("model", "normed"); }),
              HasSubstr(message));
}

TEST(StatisticsFile, RefusesAMeanThatIsNoNumber) {
  expect_refused_values([](Moments& m) { m.mean[2] = std::numeric_limits<double>::quiet_NaN(); },
                        "tensor 'model.normed.heldout.mean': entry 2 is nan");
}

TEST(StatisticsFile, RefusesANegativeVariance) {
  expect_refused_values([](Moments& m) { m.variance[0] = -1; },
                        "tensor 'model.normed.heldout.variance': entry 0 is -1");
}

TEST(StatisticsFile, RefusesNaNBetweenChannelsThatMove) {
  expect_refused_values(
      [](Moments& m) { m.correlation[2] = std::numeric_limits<float>::quiet_NaN(); },
      "tensor 'model.normed.heldout.correlation': entry (0, 2) is nan, expected one in [-1, 1]");
}

TEST(StatisticsFile, RefusesANumberWhereAChannelNeverMoves) {
  expect_refused_values([](Moments& m) { m.correlation[1] = 0.5f; },
                        "entry (0, 1) is 0.5, expected NaN, as a variance is 0");
}

TEST(StatisticsFile, RefusesAMatrixThatIsNotSymmetric) {
  expect_refused_values(
      [](Moments& m) {
        m.correlation[2] = 0.5f;
        m.correlation[m.mean.size() * 2] = 0.25f;
      },
      "entries (0, 2) and (2, 0) are 0.5 and 0.25, expected a symmetric matrix");
}

/// Renames a tensor in the header, so that the file lacks it.
StatisticsFile without(const ScratchFolder& folder, const std::string& tensor) {
  write(folder / "s", entries());
  std::string text = read_file(folder / "s");
  for (const char* half : {"train", "heldout"}) {
    const std::string name = fmt::format("model.normed.{}.{}\"", half, tensor);
    const std::size_t at = text.find(name);
    EXPECT_NE(at, std::string::npos) << name;
    text[at + name.size() - 2] = '_';
  }
  write_file(folder / "s", text);
  return StatisticsFile::open(folder / "s");
}

TEST(StatisticsFile, OfAnOlderVersionIsReadWithoutWhatCameLater) {
  for (const char* later : {"activity", "correlation"}) {
    const ScratchFolder folder;
    const GroupStatistics found = without(folder, later).read("model", "normed");
    EXPECT_EQ(found.train.activity == nullptr, later == std::string("activity"));
    EXPECT_EQ(found.train.correlation.empty(), later == std::string("correlation"));
    EXPECT_EQ(found.heldout.mean, statistics(entries()[1]).heldout.mean);
  }
  const ScratchFolder folder;
  EXPECT_THAT(
      error_of(ErrorCode::input, [&] { without(folder, "minimum").read("model", "normed"); }),
      HasSubstr("tensor 'model.normed.train.minimum': is missing, expected both"));
}

TEST(StatisticsFile, RefusesARangeThatIsNone) {
  expect_refused_values([](Moments& m) { m.maximum[3] = m.minimum[3] - 1; },
                        "tensor 'model.normed.heldout.minimum': entry 3 is ");
}

TEST(StatisticsFile, RefusesANegativeDecay) {
  const ScratchFolder folder;
  write(folder / "s", entries(), [](GroupStatistics& each) {
    if (!each.train.decay.empty()) each.train.decay[1] = -0.5;
  });
  const StatisticsFile file = StatisticsFile::open(folder / "s");
  EXPECT_THAT(error_of(ErrorCode::input, [&] { file.read("layers.0/inner", "gated"); }),
              HasSubstr("train.decay': entry 1 is -0.5, expected a number >= 0"));
}

TEST(StatisticsFile, RefusesActivityOfTokensThatWereNotMarked) {
  const auto defect = [](Moments& m) {
    if (m.activity == nullptr) return;
    Activity activity = *m.activity;  // of 102 tokens
    activity.bits[5] |= std::uint64_t{1} << 40;
    m.activity = std::make_shared<const Activity>(std::move(activity));
  };
  expect_refused_values(defect, "heldout.activity': row 2 has bits beyond token 102");
}

TEST(StatisticsFile, RefusesAnEmptySample) {
  expect_refused_values([](Moments& m) { m.rows = 0; }, "is 0, expected at least 1");
}

}  // namespace
}  // namespace icd
