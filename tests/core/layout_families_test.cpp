// Every table against the model it describes, run by plain loops that know nothing of tables:
// each group may be re-ordered, no binding may be forgotten, what looks like a symmetry and is
// none changes the output.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "icd/error.h"
#include "icd/expand.h"
#include "icd/layout.h"
#include "icd/progress.h"
#include "icd/random.h"
#include "icd/rewrite.h"
#include "support/families.h"
#include "support/family_files.h"
#include "support/files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using testing::Family;
using testing::NaiveTensor;
using testing::NaiveTensors;
using testing::ScratchFolder;

constexpr std::uint64_t kSeed = 1;
constexpr std::uint64_t kInputs = 2;

const std::vector<Family>& all_families() {
  static const std::vector<Family> kAll = [] {
    std::vector<Family> all = testing::mamba_families();
    for (auto* list : {&testing::hybrid_families, &testing::other_families}) {
      for (Family& family : (*list)()) all.push_back(std::move(family));
    }
    return all;
  }();
  return kAll;
}

/// An order without a fixed point: nothing stays by chance.
Permutation derangement(Index n, std::uint64_t seed) {
  Random random(seed);
  for (;;) {
    Permutation p = random_permutation(n, random);
    bool fixed = false;
    for (Index i = 0; i < n; ++i) fixed = fixed || p[i] == i;
    if (!fixed || n < 2) return p;
  }
}

/// out[i, j, ...] = from[p0[i], p1[j], ...], an index at a time.
NaiveTensors moved(const NaiveTensors& tensors, const TensorMoves& moves) {
  NaiveTensors result = tensors;
  for (const auto& [name, move] : moves) {
    const NaiveTensor& from = tensors.at(move.from.empty() ? name : move.from);
    NaiveTensor& to = result.at(name);
    const std::size_t rank = from.shape.size();
    std::vector<std::int64_t> index(rank, 0);
    for (double& value : to.values) {
      std::vector<std::int64_t> source = index;
      for (const AxisMove& axis : move.axes) {
        std::int64_t flat = 0;
        for (int a = axis.dim; a < axis.dim + axis.span; ++a) {
          flat =
              flat * from.shape[static_cast<std::size_t>(a)] + index[static_cast<std::size_t>(a)];
        }
        flat = axis.order[static_cast<Index>(flat)];
        for (int a = axis.dim + axis.span; a-- > axis.dim;) {
          source[static_cast<std::size_t>(a)] = flat % from.shape[static_cast<std::size_t>(a)];
          flat /= from.shape[static_cast<std::size_t>(a)];
        }
      }
      std::int64_t at = 0;
      for (std::size_t a = 0; a < rank; ++a) at = at * from.shape[a] + source[a];
      value = from.values[static_cast<std::size_t>(at)];
      for (std::size_t a = rank; a-- > 0;) {
        if (++index[a] < from.shape[a]) break;
        index[a] = 0;
      }
    }
  }
  return result;
}

/// max |difference| / max |output|.
double apart(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  double gap = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i]));
    gap = std::max(gap, std::abs(a[i] - b[i]));
  }
  return std::isfinite(gap) ? gap / largest : HUGE_VAL;
}

class LayoutOfFamily : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    family_ = all_families()[static_cast<std::size_t>(GetParam())];
    tensors_ = family_.make(kSeed);
    testing::write_family(scratch_ / "m", family_, tensors_);
    OpenOptions options;
    if (!family_.config.empty()) options.config = scratch_ / "m" / family_.config_file;
    checkpoint_.emplace(Checkpoint::open(scratch_ / "m", options));
    layout_ = layout_of(*checkpoint_, {.name = "auto", .settings = family_.settings});
    before_ = family_.forward(tensors_, kInputs);
  }

  double change(const Layout& layout, const std::map<std::string, Permutation>& groups) const {
    return apart(before_,
                 family_.forward(moved(tensors_, expand(*checkpoint_, layout, groups)), kInputs));
  }

  bool is_invisible(const std::string& tensor) const {
    return std::any_of(family_.invisible.begin(), family_.invisible.end(),
                       [&](const auto& known) { return tensor.ends_with(known.first); });
  }

  ScratchFolder scratch_;
  Family family_;
  NaiveTensors tensors_;
  std::optional<Checkpoint> checkpoint_;
  Layout layout_;
  std::vector<double> before_;
};

TEST_P(LayoutOfFamily, ReordersEachGroupExactly) {
  ASSERT_FALSE(layout_.groups.empty()) << family_.name;
  for (const AxisGroup& group : layout_.groups) {
    EXPECT_LT(change(layout_, {{group.name, derangement(group.size, 7)}}), 1e-12)
        << family_.name << ": " << group.name;
  }
}

TEST_P(LayoutOfFamily, ReordersAllGroupsTogetherAndBackThroughFiles) {
  std::map<std::string, Permutation> all;
  for (const AxisGroup& group : layout_.groups) {
    all.emplace(group.name, derangement(group.size, all.size() + 1));
  }
  EXPECT_LT(change(layout_, all), 1e-12) << family_.name;

  Progress silent;
  const TensorMoves moves = expand(*checkpoint_, layout_, all);
  fs::create_directories(scratch_ / "o");
  fs::create_directories(scratch_ / "b");
  rewrite(*checkpoint_, moves, scratch_ / "o", {.digests = false}, silent);
  const Checkpoint written = Checkpoint::open(scratch_ / "o");
  for (const auto& [name, tensor] : moved(tensors_, moves)) {
    std::vector<double> values(tensor.values.size());
    const StoredTensor& stored = *written.find(name);
    if (is_readable_float(stored.dtype)) {
      read_as(written.view(stored), std::span<double>(values));
      EXPECT_EQ(values, tensor.values) << family_.name << ": " << name;
    }
  }
  rewrite(written, inverse(moves), scratch_ / "b", {.digests = false}, silent);
  EXPECT_EQ(testing::read_file(scratch_ / "b/model.safetensors"),
            testing::read_file(scratch_ / "m/model.safetensors"))
      << family_.name;
}

TEST_P(LayoutOfFamily, NeedsEveryBinding) {
  for (std::size_t g = 0; g < layout_.groups.size(); ++g) {
    const AxisGroup& group = layout_.groups[g];
    const Permutation order = derangement(group.size, 11);
    for (std::size_t s = 0; s < group.segments.size(); ++s) {
      if (is_invisible(group.segments[s].tensor)) continue;
      Layout lame = layout_;
      auto& segments = lame.groups[g].segments;
      segments.erase(segments.begin() + static_cast<std::ptrdiff_t>(s));
      EXPECT_GT(change(lame, {{group.name, order}}), 1e-9)
          << family_.name << ": " << group.name << " without " << group.segments[s].tensor
          << " axis " << group.segments[s].dim << " at " << group.segments[s].offset;
    }
  }
}

TEST_P(LayoutOfFamily, IsNotWhatSomeoneMightTakeForIt) {
  for (const auto& [name, change] : family_.wrong) {
    NaiveTensors tensors = tensors_;
    change(tensors);
    EXPECT_GT(apart(before_, family_.forward(tensors, kInputs)), 1e-6)
        << family_.name << ": " << name;
  }
}

const Family& family_named(const std::vector<Family>& all, std::string_view beginning) {
  const auto at = std::find_if(all.begin(), all.end(), [&](const Family& family) {
    return family.name.starts_with(beginning);
  });
  EXPECT_NE(at, all.end()) << beginning;
  return *at;
}

/// Why a family's files are refused after `change` of what is written.
std::string refusal(const Family& family, const NaiveTensors& tensors,
                    const LayoutRequest& request = {}) {
  const ScratchFolder scratch;
  testing::write_family(scratch / "m", family, tensors);
  try {
    layout_of(Checkpoint::open(scratch / "m"), request);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(LayoutRefusal, OfAZambaFileThatIsDeclaredMamba1) {
  // in_proj has the same shape in both, and its rows mean something else.
  const auto& families = all_families();
  Family zamba = family_named(families, "zamba");
  const NaiveTensors tensors = zamba.make(kSeed);
  const auto at = zamba.config.find("\"zamba\"");
  ASSERT_NE(at, std::string::npos);
  zamba.config.replace(at, 7, "\"mamba\"");
  EXPECT_NE(refusal(zamba, tensors), "accepted");
  EXPECT_NE(refusal(family_named(families, "zamba"), tensors, {.name = "mamba1", .settings = {}}),
            "accepted");
}

TEST(LayoutRefusal, OfSizesThatOnlyAConfigTells) {
  const auto& families = all_families();
  const Family& pair = family_named(families, "pair of mamba-2");
  const NaiveTensors tensors = pair.make(kSeed);
  EXPECT_THAT(refusal(pair, tensors), ::testing::HasSubstr("ngroups: cannot be read"));
  EXPECT_EQ(refusal(pair, tensors, {.name = "auto", .settings = pair.settings}), "accepted");
}

TEST(LayoutRefusal, OfAStrangerOnAnAxisThatMoves) {
  const auto& families = all_families();
  for (const char* name : {"jamba", "nemotron_h", "falcon_h1", "vim v2"}) {
    const Family& family = family_named(families, name);
    NaiveTensors tensors = family.make(kSeed);
    const auto layer = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
      return tensor.first.find("layers.0.") != std::string::npos &&
             tensor.second.shape.size() == 1;  // a norm: as long as the stream
    });
    ASSERT_NE(layer, tensors.end());
    const std::string prefix = layer->first.substr(0, layer->first.find("layers.0.") + 9);
    tensors[prefix + "adapter.weight"] = layer->second;
    EXPECT_THAT(refusal(family, tensors), ::testing::HasSubstr("adapter.weight': is not part of"))
        << name;
  }
}

TEST(LayoutRefusal, OfATensorThatIsMissing) {
  const auto& families = all_families();
  for (const char* name : {"jamba", "bamba", "granitemoehybrid", "zamba2", "mamba-ssm Mamba3"}) {
    const Family& family = family_named(families, name);
    NaiveTensors tensors = family.make(kSeed);
    const auto gone = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
      return tensor.first.ends_with("out_proj.weight");
    });
    ASSERT_NE(gone, tensors.end()) << name;
    const std::string tensor = gone->first;
    tensors.erase(gone);
    EXPECT_EQ(refusal(family, tensors), fmt::format("tensor '{}': is missing", tensor)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, LayoutOfFamily,
                         ::testing::Range(0, static_cast<int>(all_families().size())),
                         [](const ::testing::TestParamInfo<int>& which) {
                           std::string name =
                               all_families()[static_cast<std::size_t>(which.param)].name;
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return fmt::format("{}_{}", which.param, name);
                         });

}  // namespace
}  // namespace icd
