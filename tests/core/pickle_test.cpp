#include "pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/error.h"
#include "support/torch_archive_builder.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PickleDraft;

/// Texts of the result lie in `pickle`.
Pickle read(const std::string& pickle, const PickleLimits& limits = {}) {
  return read_pickle(std::as_bytes(std::span(pickle)), "m.bin: data.pkl", limits);
}

/// What reading is refused with; fails the test if it is not.
Error refusal(const std::string& pickle, const PickleLimits& limits = {}) {
  try {
    read(pickle, limits);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error;
  }
  ADD_FAILURE() << "the pickle was read";
  return Error(ErrorCode::io, "");
}

/// The pickle of one value, from its opcodes.
std::string pickled(std::string_view opcodes) { return PickleDraft().raw(opcodes).stop(); }

const PickleValue& root(const Pickle& pickle) { return pickle.values[pickle.root]; }

std::int64_t integer(std::string_view opcodes) {
  const Pickle pickle = read(pickled(opcodes));
  EXPECT_EQ(root(pickle).kind, PickleKind::integer);
  return root(pickle).integer;
}

TEST(Pickle, ReadsIntegersOfEveryWidth) {
  EXPECT_EQ(integer("K\xff"), 255);
  EXPECT_EQ(integer("M\xff\xff"), 65535);
  EXPECT_EQ(integer("J\xff\xff\xff\xff"), -1);
  EXPECT_EQ(integer(std::string_view("\x8a\x00", 2)), 0);
  EXPECT_EQ(integer("\x8a\x01\xff"), -1);
  EXPECT_EQ(integer(std::string_view("\x8a\x02\xff\x00", 4)), 255);
  EXPECT_EQ(integer(std::string_view("\x8b\x03\x00\x00\x00\x00\x00\x80", 8)), -8388608);
  EXPECT_EQ(integer(std::string_view("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", 10)),
            std::numeric_limits<std::int64_t>::max());
}

TEST(Pickle, AnIntegerOfMoreThan64BitsIsNoSize) {
  const Pickle pickle = read(pickled("\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01"));
  EXPECT_EQ(root(pickle).kind, PickleKind::constant);
}

TEST(Pickle, ReadsTextsAndBytesOfEveryProtocol) {
  for (const std::string_view opcodes :
       {std::string_view("X\x02\x00\x00\x00hi", 7), std::string_view("\x8c\x02hi", 4),
        std::string_view("\x8d\x02\x00\x00\x00\x00\x00\x00\x00hi", 11)}) {
    const Pickle pickle = read(pickled(opcodes));
    EXPECT_EQ(root(pickle).kind, PickleKind::text);
  }
  for (const std::string_view opcodes :
       {std::string_view("T\x02\x00\x00\x00hi", 7), std::string_view("U\x02hi", 4),
        std::string_view("B\x02\x00\x00\x00hi", 7), std::string_view("C\x02hi", 4),
        std::string_view("\x8e\x02\x00\x00\x00\x00\x00\x00\x00hi", 11),
        std::string_view("\x96\x02\x00\x00\x00\x00\x00\x00\x00hi", 11)}) {
    const Pickle pickle = read(pickled(opcodes));
    EXPECT_EQ(root(pickle).kind, PickleKind::bytes);
  }
}

TEST(Pickle, TextsLieInTheBytesThatWereRead) {
  const std::string bytes = PickleDraft().text("in_proj").stop();
  const Pickle pickle = read(bytes);
  EXPECT_EQ(root(pickle).text, "in_proj");
  EXPECT_EQ(root(pickle).text.data(), bytes.data() + 7);
}

TEST(Pickle, CollectsWhatLiesAboveTheMark) {
  const Pickle list =
      read(pickled("](K\x01K\x02"
                   "eK\x03"
                   "a"));
  EXPECT_EQ(root(list).kind, PickleKind::list);
  EXPECT_EQ(root(list).items.size(), 3u);
  const Pickle dict = read(pickled("}(K\x01K\x02uK\x03K\x04s"));
  EXPECT_EQ(root(dict).kind, PickleKind::dict);
  EXPECT_EQ(root(dict).items.size(), 4u);
  const Pickle tuple =
      read(pickled("(K\x01(1K\x02"
                   "0t"));
  EXPECT_EQ(root(tuple).items.size(), 1u);
}

TEST(Pickle, AMemoEntryIsTheValueItself) {
  // (x, x) by BINPUT and BINGET, by LONG_BINPUT and LONG_BINGET, by MEMOIZE.
  for (const std::string_view opcodes :
       {std::string_view("(]q\x05h\x05t", 7),
        std::string_view("(]r\x00\x01\x00\x00j\x00\x01\x00\x00t", 13),
        std::string_view("(]\x94h\x00t", 6)}) {
    const Pickle pickle = read(pickled(opcodes));
    ASSERT_EQ(root(pickle).items.size(), 2u);
    EXPECT_EQ(root(pickle).items[0], root(pickle).items[1]);
  }
}

TEST(Pickle, ReadsATensor) {
  const std::string bytes = PickleDraft()
                                .tensor({.storage_class = "BFloat16Storage",
                                         .key = "7",
                                         .location = "cuda:0",
                                         .storage_elements = 12,
                                         .offset = 2,
                                         .shape = {2, 3},
                                         .strides = {1, 4}})
                                .stop();
  const Pickle pickle = read(bytes);
  ASSERT_EQ(root(pickle).kind, PickleKind::tensor);
  ASSERT_EQ(pickle.tensors.size(), 1u);
  const PickledTensor& tensor = pickle.tensors[0];
  EXPECT_EQ(tensor.element.dtype, DType::bf16);
  EXPECT_EQ(tensor.offset, 2);
  EXPECT_THAT(tensor.shape, ElementsAre(2, 3));
  EXPECT_THAT(tensor.strides, ElementsAre(1, 4));
  EXPECT_EQ(pickle.storages[tensor.storage].key, "7");
  EXPECT_EQ(pickle.storages[tensor.storage].elements, 12);
}

TEST(Pickle, AParameterIsItsTensor) {
  PickleDraft draft;
  draft.global("torch._utils", "_rebuild_parameter").raw("(");
  draft.tensor({.storage_elements = 1, .shape = {1}, .strides = {1}}).raw("\x88");
  draft.global("collections", "OrderedDict").raw(")RtR");
  EXPECT_EQ(root(read(draft.stop())).kind, PickleKind::tensor);
}

TEST(Pickle, AttributesOfAStateDictAreIgnored) {
  PickleDraft draft;
  draft.global("collections", "OrderedDict").raw(")R}").text("_metadata").raw("K\x01sb");
  const Pickle pickle = read(draft.stop());
  EXPECT_EQ(root(pickle).kind, PickleKind::dict);
  EXPECT_TRUE(root(pickle).items.empty());
}

struct Hostile {
  std::string_view module;
  std::string_view name;
};

class HostileGlobal : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileGlobal, IsRefusedByNameBeforeItIsCalled) {
  const Error error = refusal(PickleDraft().global(GetParam().module, GetParam().name).stop());
  EXPECT_EQ(error.code(), ErrorCode::input);
  EXPECT_EQ(std::string(error.what()),
            "m.bin: data.pkl asks for the global '" + std::string(GetParam().module) + "." +
                std::string(GetParam().name) + "', which a state dict has no need of");
  EXPECT_THAT(error.hint(), HasSubstr("does not execute pickles"));
}

INSTANTIATE_TEST_SUITE_P(
    Pickle, HostileGlobal,
    ::testing::Values(Hostile{"os", "system"}, Hostile{"posix", "system"},
                      Hostile{"builtins", "eval"}, Hostile{"builtins", "getattr"},
                      Hostile{"subprocess", "Popen"}, Hostile{"torch", "load"},
                      Hostile{"torch.hub", "load"}, Hostile{"collections", ""},
                      Hostile{"torch._utils", "_rebuild_tensor_v2.__globals__"},
                      Hostile{"numpy.core.multiarray", "_reconstruct"}));

TEST(Pickle, RefusesHostileGlobalsFromTheStack) {
  const Error error = refusal(PickleDraft().text("os").text("system").raw("\x93").stop());
  EXPECT_THAT(error.what(), HasSubstr("'os.system'"));
}

TEST(Pickle, AGlobalCannotForgeTheMessage) {
  const Error error = refusal(PickleDraft().text("os\n\x1b[2J").text("x").raw("\x93").stop());
  EXPECT_THAT(error.what(), HasSubstr("'os\\n\\x1b[2J.x'"));
}

TEST(Pickle, RefusesTensorsWithoutAPlainStorage) {
  for (const std::string_view name : {"_rebuild_sparse_tensor", "_rebuild_qtensor"}) {
    const Error error = refusal(PickleDraft().global("torch._utils", name).stop());
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("torch._utils." + std::string(name)));
  }
}

TEST(Pickle, RefusesValuesOfTheWrongKind) {
  const auto found = [](const std::string& pickle) { return std::string(refusal(pickle).what()); };
  EXPECT_THAT(found(pickled("K\x01)R")), HasSubstr("calls an integer, expected a global"));
  EXPECT_THAT(found(pickled("K\x01Q")), HasSubstr("a persistent id is an integer"));
  EXPECT_THAT(found(pickled("]K\x01K\x02s")), HasSubstr("adds elements to a list"));
  EXPECT_THAT(found(pickled("}(K\x01u")), HasSubstr("expected pairs"));
  EXPECT_THAT(found(pickled("K\x01}b")), HasSubstr("sets attributes of an integer"));
  EXPECT_THAT(found(PickleDraft().raw("(").text("s").text("t").raw("K\x01K\x01K\x01tQ").stop()),
              HasSubstr("does not read ('storage'"));
  EXPECT_THAT(found(PickleDraft().global("torch", "FloatStorage").raw(")R").stop()),
              HasSubstr("'FloatStorage', which is not a function"));
  EXPECT_THAT(found(PickleDraft().global("torch._utils", "_rebuild_tensor_v2").raw(")R").stop()),
              HasSubstr("has 0 arguments, expected 6 to 7"));
  EXPECT_THAT(
      found(PickleDraft().tensor({.storage_elements = 4, .shape = {2, 2}, .strides = {1}}).stop()),
      HasSubstr("a tensor of 2 axes has 1 strides"));
}

TEST(Pickle, RefusesADtypeAsAStorageClass) {
  const Error error = refusal(PickleDraft().storage({.storage_class = "float32"}).stop());
  EXPECT_THAT(error.what(), HasSubstr("no storage class"));
}

TEST(Pickle, RefusesMoreAxesThanPyTorchHas) {
  const std::vector<std::int64_t> ones(65, 1);
  const Error error =
      refusal(PickleDraft().tensor({.storage_elements = 1, .shape = ones, .strides = ones}).stop());
  EXPECT_THAT(error.what(), HasSubstr("65 axes, expected at most 64"));
}

TEST(Pickle, TheStackCannotBeTakenBelowAMark) {
  EXPECT_THAT(refusal(pickled("K\x01K\x02(\x86")).what(),
              HasSubstr("takes 2 values from a stack of 0"));
  EXPECT_THAT(refusal(pickled("t")).what(), HasSubstr("no mark"));
  EXPECT_THAT(refusal(pickled("0")).what(), HasSubstr("takes 1 values from a stack of 0"));
  EXPECT_THAT(refusal(pickled("")).what(), HasSubstr("stops with 0 values"));
  EXPECT_THAT(refusal(pickled("K\x01K\x02")).what(), HasSubstr("stops with 2 values"));
}

TEST(Pickle, RefusesMemoEntriesThatWereNeverMade) {
  EXPECT_THAT(refusal(pickled("h\x05")).what(), HasSubstr("memo entry 5 was never made"));
  EXPECT_THAT(refusal(pickled("Nr\xff\xff\xff\xff")).what(), HasSubstr("memo entry 4294967295"));
}

TEST(Pickle, RefusesTextOpcodesAndUnknownOnes) {
  for (const std::string_view opcode : {"I1\n", "S'a'\n", "i", "o", "P0\n", "\x82\x01", "\xff"}) {
    EXPECT_THAT(refusal(pickled(opcode)).what(), HasSubstr("has no place in a state dict"));
  }
}

TEST(Pickle, RefusesOtherProtocols) {
  EXPECT_THAT(refusal("\x80\x06N.").what(), HasSubstr("pickle protocol is 6, expected 2 to 5"));
}

TEST(Pickle, EveryPrefixIsRefused) {
  const std::string whole = PickleDraft()
                                .raw("}(")
                                .text("a")
                                .tensor({.storage_elements = 1, .shape = {1}, .strides = {1}})
                                .raw("u")
                                .stop();
  EXPECT_EQ(root(read(whole)).kind, PickleKind::dict);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::vector<char> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(read_pickle(std::as_bytes(std::span(part)), "m"), Error) << size;
  }
}

TEST(Pickle, KeepsToItsLimits) {
  const PickleLimits limits{.bytes = 64, .opcodes = 16, .memo = 2, .stack = 4, .text = 8};
  EXPECT_EQ(root(read(pickled("NNN00"), limits)).kind, PickleKind::constant);
  EXPECT_THAT(refusal(pickled(std::string(64, 'N')), limits).what(),
              HasSubstr("has 67 bytes, expected at most 64"));
  EXPECT_THAT(refusal(pickled("N0N0N0N0N0N0N0N0N"), limits).what(),
              HasSubstr("more than 16 opcodes"));
  EXPECT_THAT(refusal(pickled("Nq\x02"), limits).what(),
              HasSubstr("memo entry 2, expected at most 1"));
  EXPECT_THAT(refusal(pickled("NNNNN"), limits).what(), HasSubstr("more than 4 values"));
  EXPECT_THAT(refusal(PickleDraft().text("123456789").stop(), limits).what(),
              HasSubstr("a text of 9 bytes, expected at most 8"));
}

TEST(Pickle, NestsAsDeepAsItLikes) {
  std::string deep;
  for (int i = 0; i < 200'000; ++i) deep += "]";
  for (int i = 0; i < 199'999; ++i) deep += "a";
  EXPECT_EQ(root(read(pickled(deep))).items.size(), 1u);
}

TEST(Pickle, MayContainItself) {
  const Pickle pickle =
      read(pickled(std::string_view("]q\x00h\x00"
                                    "a",
                                    6)));
  ASSERT_EQ(root(pickle).items.size(), 1u);
  EXPECT_EQ(root(pickle).items[0], pickle.root);
}

}  // namespace
}  // namespace icd
