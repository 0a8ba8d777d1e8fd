#include "icd/layer_activations.h"

#include <gtest/gtest.h>

#include <cmath>

#include "icd/error.h"
#include "icd/tokens.h"
#include "kernels/reference.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

struct Model {
  testing::ScratchFolder folder;
  Checkpoint checkpoint;
  ModelSpec spec;

  explicit Model(const testing::TinyOptions& options = {})
      : checkpoint(written(options, folder)), spec(ModelSpec::of(checkpoint)) {}

  static Checkpoint written(const testing::TinyOptions& options,
                            const testing::ScratchFolder& folder) {
    testing::TinyCheckpoint(options).write(folder.path());
    return Checkpoint::open(folder.path());
  }
};

// What the scan makes of the inputs is what the model saw: every input is right.
void expect_scan_gives_gated(const testing::TinyOptions& options, Index layer) {
  const Model model(options);
  const std::vector<TokenId> tokens = random_tokens(model.spec.vocab, 19, 3);
  LayerActivations found = layer_activations(
      model.checkpoint, model.spec, *fast_model(model.checkpoint, model.spec), layer, tokens);
  ASSERT_EQ(found.tokens, 19);
  ASSERT_EQ(found.d_inner, 16);
  std::vector<float> y(found.gated.size());
  const auto packed = [&](std::vector<float>& values, std::int64_t channels) {
    EXPECT_EQ(std::ssize(values), 19 * channels);
    return Strided{values.data(), 19 * channels, channels, 1};
  };
  SelectiveScan scan{};
  scan.batch = 1;
  scan.length = 19;
  scan.channels = 16;
  scan.states = found.d_state;
  scan.type = ICD_F32;
  scan.softplus = 1;
  scan.u = packed(found.u, 16);
  scan.dt = packed(found.dt, 16);
  scan.z = packed(found.z, 16);
  scan.B = packed(found.B, found.d_state);
  scan.C = packed(found.C, found.d_state);
  scan.y = packed(y, 16);
  scan.A = found.A.data();
  scan.D = found.D.data();
  scan.dt_bias = found.dt_bias.data();
  reference::selective_scan(scan);
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(y[i], found.gated[i], 1e-4 * (1 + std::fabs(found.gated[i]))) << "at " << i;
  }
  EXPECT_EQ(found.out_proj.size(), 8U * 16U);
  EXPECT_EQ(found.conv.size(), 16U * 4U);
}

TEST(LayerActivations, AreWhatTheScanReadsAndGives) {
  expect_scan_gives_gated({}, 0);
  expect_scan_gives_gated({}, 1);
}

TEST(LayerActivations, CountTheBiasesOfProjections) {
  expect_scan_gives_gated({.proj_bias = true}, 1);
}

TEST(LayerActivations, RefuseWhatIsNotThere) {
  const Model model;
  const auto fast = fast_model(model.checkpoint, model.spec);
  const std::vector<TokenId> tokens = {1, 2};
  EXPECT_THROW(layer_activations(model.checkpoint, model.spec, *fast, 2, tokens), Error);
  EXPECT_THROW(layer_activations(model.checkpoint, model.spec, *fast, -1, tokens), Error);
  EXPECT_THROW(layer_activations(model.checkpoint, model.spec, *fast, 0, {}), Error);
}

}  // namespace
}  // namespace icd
