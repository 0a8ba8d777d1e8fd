#include "icd/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using testing::ScratchFolder;
using testing::TinyCheckpoint;

TEST(Checkpoint, OfTheBundledModelHasItsTensors) {
  const Checkpoint checkpoint = Checkpoint::open(testing::bundled_model());
  EXPECT_EQ(checkpoint.container(), Container::safetensors);
  EXPECT_EQ(checkpoint.tensors().size(), 62u);
  EXPECT_THAT(checkpoint.side_files(), ElementsAre("config.json", "tokenizer.json"));
  const StoredTensor* in_proj = checkpoint.find("backbone.layers.5.mixer.in_proj.weight");
  ASSERT_NE(in_proj, nullptr);
  EXPECT_EQ(in_proj->shape, (Shape{768, 192}));
  EXPECT_EQ(checkpoint.find("lm_head.weight"), nullptr);
}

TEST(Checkpoint, IsTheSameInOneFileAndInShards) {
  const ScratchFolder scratch;
  const TinyCheckpoint tiny;
  tiny.write(scratch / "one");
  tiny.write_sharded(scratch / "three", 3);
  const Checkpoint one = Checkpoint::open(scratch / "one");
  const Checkpoint three = Checkpoint::open(scratch / "three");
  EXPECT_EQ(three.files().size(), 3u);
  EXPECT_EQ(three.index_file(), "model.safetensors.index.json");
  EXPECT_EQ(one.structure_digest(), three.structure_digest());
  for (const StoredTensor& tensor : one.tensors()) {
    const StoredTensor* other = three.find(tensor.name);
    ASSERT_NE(other, nullptr);
    const std::byte* a = one.view(tensor).data;
    const std::byte* b = three.view(*other).data;
    EXPECT_TRUE(std::equal(a, a + tensor.span_bytes, b)) << tensor.name;
  }
}

TEST(Checkpoint, OpensAFileLikeItsFolder) {
  const ScratchFolder scratch;
  TinyCheckpoint().write(scratch / "m");
  testing::write_file(scratch / "m/diary.txt", "private");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m/model.safetensors");
  EXPECT_EQ(checkpoint.folder(), scratch / "m");
  EXPECT_FALSE(checkpoint.config_text().empty());
  EXPECT_THAT(checkpoint.side_files(), ElementsAre("config.json"));  // not the diary
}

TEST(Checkpoint, CarriesNoOtherWeightsAlong) {
  const ScratchFolder scratch;
  TinyCheckpoint().write(scratch / "m");
  for (const char* name :
       {"pytorch_model.bin", "tf_model.h5", "model.gguf", "README.md", "icd.json"}) {
    testing::write_file(scratch / "m" / name, "x");
  }
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m");
  EXPECT_THAT(checkpoint.left_out(), ElementsAre("model.gguf", "pytorch_model.bin", "tf_model.h5"));
  EXPECT_THAT(checkpoint.side_files(), ElementsAre("README.md", "config.json"));
}

TEST(Checkpoint, PrefersSafetensorsAsTransformersDoes) {
  const ScratchFolder scratch;
  TinyCheckpoint().write(scratch / "m");
  testing::write_file(scratch / "m/pytorch_model.bin", "not even a zip");
  EXPECT_EQ(Checkpoint::open(scratch / "m").files().front()->name, "model.safetensors");
}

}  // namespace
}  // namespace icd
