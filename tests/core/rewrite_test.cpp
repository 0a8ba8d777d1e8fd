#include "icd/rewrite.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>

#include "icd/digest.h"
#include "icd/error.h"
#include "icd/layout.h"
#include "icd/random.h"
#include "permute_tensor.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"
#include "support/torch_archive_builder.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::read_file;
using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::write_file;

RewriteReport rewritten(const Checkpoint& checkpoint, const TensorMoves& moves,
                        const fs::path& folder, RewriteOptions options) {
  Progress silent;
  fs::create_directories(folder);
  return rewrite(checkpoint, moves, folder, options, silent);
}

RewriteReport rewritten(const Checkpoint& checkpoint, const TensorMoves& moves,
                        const fs::path& folder) {
  return rewritten(checkpoint, moves, folder, {.container = checkpoint.container()});
}

/// Random orders of every group of a model.
std::map<std::string, Permutation> random_orders(const Layout& layout, std::uint64_t seed) {
  std::map<std::string, Permutation> orders;
  for (const AxisGroup& group : layout.groups) {
    Random random = Random::derived(seed, orders.size());
    orders.emplace(group.name, random_permutation(group.size, random));
  }
  return orders;
}

std::map<std::string, Permutation> inverse(std::map<std::string, Permutation> orders) {
  for (auto& [name, order] : orders) order = order.inverse();
  return orders;
}

RC_GTEST_PROP(PackedPermuter, MovesEveryElementAsThePlainLoopDoes, ()) {
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  constexpr DType kTypes[] = {DType::u8, DType::bf16, DType::f32, DType::f64};
  const DType dtype = kTypes[random.below(4)];
  Shape shape;
  std::vector<AxisMove> moves;
  for (int axis = 0; axis < static_cast<int>(1 + random.below(4)); ++axis) {
    shape.push_back(static_cast<std::int64_t>(1 + random.below(6)));
    if (random.below(2) == 0) {
      moves.push_back({axis, random_permutation(static_cast<Index>(shape.back()), random)});
    }
  }
  const auto strides = packed_strides(shape);
  std::vector<std::byte> data(static_cast<std::size_t>(
      dtype_bytes(dtype) * TensorView{dtype, shape, strides, nullptr}.elements()));
  for (std::byte& byte : data) byte = static_cast<std::byte>(random.below(256));
  const TensorView view{dtype, shape, strides, data.data()};

  std::vector<std::byte> plain(data.size());
  for_each_moved_element(view, moves, [&](std::int64_t to, std::int64_t from) {
    std::copy_n(data.begin() + from, dtype_bytes(dtype), plain.begin() + to);
  });
  std::vector<std::byte> fast(data.size());
  const PackedPermuter permuter(view, moves);
  for (std::int64_t row = 0; row < permuter.rows();) {
    const auto last = std::min<std::int64_t>(permuter.rows(),
                                             row + 1 + static_cast<std::int64_t>(random.below(3)));
    permuter.write_rows(row, last, fast.data() + row * permuter.row_bytes());
    row = last;
  }
  RC_ASSERT(fast == plain);
}

TEST(Rewrite, WithoutMovesGivesTheSameBytes) {
  const ScratchFolder scratch;
  TinyCheckpoint({.dtype = "BF16"}).write(scratch / "one");
  TinyCheckpoint({.dtype = "F16"}).write_sharded(scratch / "three", 3);
  fs::create_directories(scratch / "torch");
  write_file(scratch / "torch/pytorch_model.bin", testing::zip_bytes(testing::small_archive()));
  for (const char* name : {"one", "three", "torch"}) {
    const Checkpoint checkpoint = Checkpoint::open(scratch / name);
    const RewriteReport report = rewritten(checkpoint, {}, scratch / "out" / name);
    EXPECT_EQ(report.inputs, report.outputs);
    EXPECT_EQ(report.moved_tensors, 0);
    for (const FileDigest& file : report.outputs) {
      EXPECT_EQ(read_file(scratch / name / file.name),
                read_file(scratch / "out" / name / file.name));
      EXPECT_EQ(file.sha256, sha256_of_file(scratch / name / file.name));
    }
  }
}

TEST(Rewrite, ChangesNoByteOutsideTensorsAndIsUndoneByTheInverse) {
  const ScratchFolder scratch;
  TinyCheckpoint({.dtype = "BF16", .stored_tied_head = true}).write(scratch / "in");
  const Checkpoint before = Checkpoint::open(scratch / "in");
  const Layout layout = layout_of(before, ModelSpec::of(before));
  const auto orders = random_orders(layout, 4);
  const RewriteReport report = rewritten(before, expand(before, layout, orders), scratch / "out");
  EXPECT_NE(report.inputs[0].sha256, report.outputs[0].sha256);
  EXPECT_EQ(report.outputs[0].sha256, sha256_of_file(scratch / "out/model.safetensors"));
  const std::string in = read_file(scratch / "in/model.safetensors");
  const std::string out = read_file(scratch / "out/model.safetensors");
  const auto header = static_cast<std::size_t>(before.tensors().front().begin);
  EXPECT_EQ(in.substr(0, header), out.substr(0, header));

  write_file(scratch / "out/config.json", before.config_text());
  const Checkpoint after = Checkpoint::open(scratch / "out");
  const TensorView embedding = after.view(*after.find("backbone.embeddings.weight"));
  const TensorView head = after.view(*after.find("lm_head.weight"));
  EXPECT_TRUE(std::equal(embedding.data, embedding.data + 2 * embedding.elements(), head.data))
      << "tied tensors stored twice stay equal";
  rewritten(after, expand(after, layout, inverse(orders)), scratch / "back");
  EXPECT_EQ(in, read_file(scratch / "back/model.safetensors"));
}

TEST(Rewrite, OfManyPiecesIsRightToo) {
  // Several pieces of the pump a tensor, and a row that is larger than half a piece.
  const ScratchFolder scratch;
  constexpr std::int64_t kRows = 37;
  constexpr std::int64_t kColumns = 300'000;
  TinyCheckpoint tiny;
  tiny.tensors = {
      {"a", "U8", {11}, std::string(11, 'a')},
      {"w", "BF16", {kRows, kColumns}, testing::random_bytes("BF16", kRows * kColumns, 1, 0, 1)}};
  tiny.write(scratch / "in");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "in");
  Random random(5);
  const AxisMove rows{0, random_permutation(kRows, random)};
  const AxisMove columns{1, random_permutation(kColumns, random)};
  rewritten(checkpoint, {{"w", {rows, columns}}}, scratch / "out");
  const std::string& in = tiny.tensors[1].bytes;
  const std::string out = read_file(scratch / "out/model.safetensors");
  const std::size_t begin = out.size() - in.size();
  for (Index r = 0; r < kRows; ++r) {
    for (Index c = 0; c < kColumns; c += 997) {
      const auto to = static_cast<std::size_t>(r * kColumns + c) * 2;
      const auto from = static_cast<std::size_t>(rows.order[r] * kColumns + columns.order[c]) * 2;
      ASSERT_EQ(out.compare(begin + to, 2, in, from, 2), 0) << r << ", " << c;
    }
  }
}

/// A torch archive of floats 0, 1, 2, ... in one storage, seen as `views` see it.
void write_archive(const fs::path& folder, std::int64_t elements,
                   std::vector<std::pair<std::string, testing::PickleDraft::View>> views) {
  std::string storage;
  for (std::int64_t i = 0; i < elements; ++i) {
    const auto value = static_cast<float>(i);
    storage.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  for (auto& [name, view] : views) view.storage_elements = elements;
  fs::create_directories(folder);
  write_file(folder / "pytorch_model.bin",
             testing::zip_bytes(testing::archive_of(testing::pickle_of(views), {storage})));
}

std::vector<float> values(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.view(*checkpoint.find(name));
  std::vector<float> out(static_cast<std::size_t>(view.elements()));
  read_as(view, out);
  return out;
}

TEST(Rewrite, MovesTransposedAndSlicedViewsInPlace) {
  const ScratchFolder scratch;
  // Two column halves of a (3, 4) matrix, the second seen transposed.
  write_archive(scratch / "in", 12,
                {{"left", {.shape = {3, 2}, .strides = {4, 1}}},
                 {"right", {.offset = 2, .shape = {2, 3}, .strides = {1, 4}}}});
  const Checkpoint before = Checkpoint::open(scratch / "in");
  ASSERT_THAT(values(before, "right"), ElementsAre(2, 6, 10, 3, 7, 11));
  const TensorMoves moves = {{"left", {{0, Permutation::from_gather({2, 0, 1})}}},
                             {"right", {{0, Permutation::from_gather({1, 0})}}}};
  rewritten(before, moves, scratch / "out");
  const Checkpoint after = Checkpoint::open(scratch / "out");
  EXPECT_THAT(values(after, "left"), ElementsAre(8, 9, 0, 1, 4, 5));
  EXPECT_THAT(values(after, "right"), ElementsAre(3, 7, 11, 2, 6, 10));
  const TensorMoves undo = {{"left", {{0, Permutation::from_gather({1, 2, 0})}}},
                            {"right", {{0, Permutation::from_gather({1, 0})}}}};
  rewritten(after, undo, scratch / "back");
  EXPECT_EQ(read_file(scratch / "in/pytorch_model.bin"),
            read_file(scratch / "back/pytorch_model.bin"));
}

TEST(Rewrite, MovesTwoNamesOfOneStorageOnce) {
  const ScratchFolder scratch;
  write_archive(scratch / "in", 6,
                {{"embedding", {.shape = {3, 2}, .strides = {2, 1}}},
                 {"head", {.shape = {3, 2}, .strides = {2, 1}}}});
  const Checkpoint before = Checkpoint::open(scratch / "in");
  const AxisMove swap{1, Permutation::from_gather({1, 0})};
  rewritten(before, {{"embedding", {swap}}, {"head", {swap}}}, scratch / "out");
  const Checkpoint after = Checkpoint::open(scratch / "out");
  EXPECT_THAT(values(after, "embedding"), ElementsAre(1, 0, 3, 2, 5, 4));
  EXPECT_THAT(values(after, "head"), ElementsAre(1, 0, 3, 2, 5, 4));
}

TEST(Rewrite, RefusesToMoveSharedBytesTwoWays) {
  const ScratchFolder scratch;
  write_archive(
      scratch / "in", 6,
      {{"a", {.shape = {6}, .strides = {1}}}, {"b", {.offset = 2, .shape = {2}, .strides = {1}}}});
  const Checkpoint checkpoint = Checkpoint::open(scratch / "in");
  const TensorMoves moves = {{"b", {{0, Permutation::from_gather({1, 0})}}}};
  try {
    rewritten(checkpoint, moves, scratch / "out");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("shares bytes with 'a' but would move differently"));
  }
}

TEST(Rewrite, ConvertsBetweenContainersAndBack) {
  const ScratchFolder scratch;
  TinyCheckpoint({.dtype = "BF16"}).write_sharded(scratch / "in", 2);
  const Checkpoint before = Checkpoint::open(scratch / "in");
  const Layout layout = layout_of(before, ModelSpec::of(before));
  const auto orders = random_orders(layout, 8);
  const RewriteReport report =
      rewritten(before, expand(before, layout, orders), scratch / "bin",
                {.container = Container::torch,
                 .aliases = {{"lm_head.weight", "backbone.embeddings.weight"}}});
  ASSERT_EQ(report.outputs.size(), 3u);
  EXPECT_EQ(report.outputs[0].name, "pytorch_model-00001-of-00002.bin");
  EXPECT_EQ(report.outputs[2].name, "pytorch_model.bin.index.json");
  write_file(scratch / "bin/config.json", before.config_text());
  const Checkpoint bin = Checkpoint::open(scratch / "bin");
  EXPECT_EQ(bin.find("lm_head.weight")->begin, bin.find("backbone.embeddings.weight")->begin);

  rewritten(bin, expand(bin, layout_of(bin, ModelSpec::of(bin)), inverse(orders)), scratch / "st",
            {.container = Container::safetensors, .omitted = {"lm_head.weight"}});
  const Checkpoint back = Checkpoint::open(scratch / "st");
  EXPECT_EQ(back.structure_digest(), before.structure_digest());
  for (const StoredTensor& tensor : before.tensors()) {
    EXPECT_EQ(values(before, tensor.name), values(back, tensor.name)) << tensor.name;
  }
}

TEST(Rewrite, CarriesNaNBitForBitAndNamesTheTensor) {
  const ScratchFolder scratch;
  TinyCheckpoint tiny;
  auto& bytes = tiny.tensor("backbone.layers.0.mixer.D").bytes;
  const std::uint32_t payload = 0x7FC12345;  // a NaN that arithmetic would not keep
  std::copy_n(reinterpret_cast<const char*>(&payload), 4, bytes.begin() + 8);
  tiny.write(scratch / "in");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "in");
  const Layout layout = layout_of(checkpoint, ModelSpec::of(checkpoint));
  std::vector<Index> source(16);
  for (Index i = 0; i < 16; ++i) source[static_cast<std::size_t>(i)] = (i + 2) % 16;
  const RewriteReport report =
      rewritten(checkpoint,
                expand(checkpoint, layout, {{"layers.0/inner", Permutation::from_gather(source)}}),
                scratch / "out");
  EXPECT_THAT(report.non_finite, ElementsAre("backbone.layers.0.mixer.D"));
  const Checkpoint after = Checkpoint::open(scratch / "out");
  const auto d = values(after, "backbone.layers.0.mixer.D");
  EXPECT_EQ(std::bit_cast<std::uint32_t>(d[0]), payload);
}

TEST(Rewrite, RestoresARealPyTorchFile) {
  const auto model = testing::shared_material("models/protmamba-ssm");
  if (!model) GTEST_SKIP() << "../shared/models/protmamba-ssm is not there";
  const ScratchFolder scratch;
  const Checkpoint before = Checkpoint::open(*model);
  const Layout layout = layout_of(before, ModelSpec::of(before));
  const auto orders = random_orders(layout, 2);
  rewritten(before, expand(before, layout, orders), scratch / "out");
  write_file(scratch / "out/config.json", before.config_text());
  const Checkpoint after = Checkpoint::open(scratch / "out");
  const RewriteReport report =
      rewritten(after, expand(after, layout, inverse(orders)), scratch / "back");
  EXPECT_EQ(report.outputs[0].sha256, sha256_of_file(*model / "pytorch_model.bin"));
}

}  // namespace
}  // namespace icd
