#include "icd/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::TinyOptions;

ModelSpec spec_of(const TinyCheckpoint& tiny) {
  const ScratchFolder scratch;
  tiny.write(scratch / "m");
  return ModelSpec::of(Checkpoint::open(scratch / "m"));
}

/// What is said of a tiny checkpoint after `from` in its config.json became `to`.
std::string message(const TinyOptions& options, const std::string& from, const std::string& to) {
  TinyCheckpoint tiny(options);
  const auto at = tiny.config.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  tiny.config.replace(at, from.size(), to);
  try {
    spec_of(tiny);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(ModelSpec, ReadsBothDialects) {
  for (const bool hf : {true, false}) {
    const ModelSpec spec = spec_of(TinyCheckpoint({.hf = hf, .n_layer = 3, .prefix = "model."}));
    EXPECT_EQ(spec.dialect, hf ? "hf" : "mamba-ssm");
    EXPECT_EQ(spec.n_layer, 3);
    EXPECT_EQ(spec.d_model, 8);
    EXPECT_EQ(spec.d_inner, 16);
    EXPECT_EQ(spec.d_state, 5);
    EXPECT_EQ(spec.dt_rank, 3);
    EXPECT_EQ(spec.vocab, 24);
    EXPECT_EQ(spec.tensor(2, "mixer.D"), "model.backbone.layers.2.mixer.D");
    EXPECT_EQ(spec.head(), "model.lm_head.weight");
  }
}

TEST(ModelSpec, PadsTheVocabularyAsMambaSsmDoes) {
  EXPECT_EQ(message({.hf = false}, "\"vocab_size\": 24", "\"vocab_size\": 17"), "accepted");
  EXPECT_THAT(message({.hf = false}, "\"vocab_size\": 24", "\"vocab_size\": 16"),
              HasSubstr("vocab_size, padded, is 16, but"));
}

TEST(ModelSpec, NamesEachDisagreementOfConfigAndTensors) {
  const auto hf = [](const char* from, const char* to) { return message({}, from, to); };
  EXPECT_EQ(hf("\"hidden_size\": 8", "\"hidden_size\": 16"),
            "config.json: hidden_size is 16, but tensor 'backbone.embeddings.weight' is (24, 8): "
            "d_model = 8");
  EXPECT_THAT(hf("\"intermediate_size\": 16", "\"intermediate_size\": 32"),
              HasSubstr("d_inner = 16"));
  EXPECT_THAT(hf("\"state_size\": 5", "\"state_size\": 16"), HasSubstr("d_state = 5"));
  EXPECT_THAT(hf("\"conv_kernel\": 4", "\"conv_kernel\": 3"), HasSubstr("d_conv = 4"));
  EXPECT_THAT(hf("\"time_step_rank\": 3", "\"time_step_rank\": \"auto\""),
              HasSubstr("time_step_rank is 1, but"));
  EXPECT_THAT(hf("\"vocab_size\": 24", "\"vocab_size\": 32"), HasSubstr("vocabulary = 24"));
  EXPECT_EQ(hf("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
            "config.json: num_hidden_layers is 3, but the tensors have 2 layers");
}

TEST(ModelSpec, RefusesArchitecturesItDoesNotKnow) {
  EXPECT_EQ(message({}, "\"mamba\"", "\"falcon_mamba\""),
            "config.json: model_type is 'falcon_mamba', expected 'mamba'");
  EXPECT_THAT(message({.hf = false}, "\"Mamba1\"", "\"Mamba2\""), HasSubstr("layer is 'Mamba2'"));
  EXPECT_THAT(message({.hf = false}, "\"rms_norm\"", "\"attn_layer_idx\": [1], \"rms_norm\""),
              HasSubstr("attn_layer_idx"));
  EXPECT_THAT(message({.hf = false}, "\"rms_norm\"", "\"d_intermediate\": 64, \"rms_norm\""),
              HasSubstr("d_intermediate is 64"));
}

TEST(ModelSpec, WantsATiedHeadToBeTheEmbedding) {
  TinyCheckpoint tiny({.stored_tied_head = true});
  EXPECT_TRUE(spec_of(tiny).tied_head);
  tiny.tensor("lm_head.weight").bytes[5] ^= 1;
  EXPECT_THROW(spec_of(tiny), Error);
}

}  // namespace
}  // namespace icd
