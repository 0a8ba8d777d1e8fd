#include "kernels/bench_inputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "icd/random.h"

namespace icd {
namespace {

const Permutation& order_named(const std::vector<BenchOrder>& orders, const std::string& name) {
  for (const BenchOrder& order : orders) {
    if (order.name == name) return order.order;
  }
  throw std::out_of_range(name);
}

TEST(BenchOrders, AreTheMatrixOfTheReport) {
  Random random(1);
  const Permutation solved = random_permutation(256, random);
  std::vector<float> timescale(256);
  for (int i = 0; i < 256; ++i)
    timescale[static_cast<std::size_t>(i)] = static_cast<float>(i * 37 % 256);
  const std::vector<BenchOrder> orders = bench_orders(solved, timescale, 5);
  EXPECT_EQ(orders.size(), 12U);
  EXPECT_EQ(orders[0].name, "identity");
  EXPECT_TRUE(orders[0].order.is_identity());
  EXPECT_EQ(orders[1].name, "placebo");
  EXPECT_TRUE(orders[1].order.is_identity());
  EXPECT_EQ(order_named(orders, "solved"), solved);
  EXPECT_EQ(order_named(orders, "reverse")[0], 255);
  const Permutation& slow_first = order_named(orders, "timescale");
  for (Index i = 1; i < 256; ++i) {
    EXPECT_LT(timescale[static_cast<std::size_t>(slow_first[i - 1])],
              timescale[static_cast<std::size_t>(slow_first[i])]);
  }
  // neighbours of the solved order are 64 apart
  const Permutation where = order_named(orders, "adversarial").inverse();
  for (Index i = 0; i + 1 < 4; ++i) EXPECT_EQ(where[solved[i + 1]] - where[solved[i]], 64);
  std::set<std::vector<Index>> different;
  for (const BenchOrder& order : orders) {
    different.insert({order.order.gather().begin(), order.order.gather().end()});
  }
  EXPECT_EQ(different.size(), 11U) << "only identity and placebo are the same";
}

TEST(GatherSectors, CountWhatAWarpTouches) {
  // 64 elements of 2 bytes in order: two warps, 2 sectors each, and 4 of places each
  EXPECT_EQ(gather_sectors(Permutation::identity(64), 2), 2 * (2 + 4));
  EXPECT_EQ(gather_sectors(Permutation::identity(64), 4), 2 * (4 + 4));
  EXPECT_EQ(gather_sectors(Permutation::identity(16), 2), 1 + 2);
  // a stride of 16 elements: each of a warp's 32 in a sector of its own
  std::vector<Index> strided;
  for (Index i = 0; i < 16; ++i) {
    for (Index k = 0; k < 32; ++k) strided.push_back(k * 16 + i);
  }
  EXPECT_EQ(gather_sectors(Permutation::from_gather(strided), 2), 16 * (32 + 4));
}

TEST(TouchedRuns, CountRunsWithAMember) {
  const std::vector<char> is_set = {1, 0, 0, 1, 0, 0, 0, 0, 0};
  EXPECT_EQ(touched_runs(Permutation::identity(9), is_set, 4), 1);
  EXPECT_EQ(touched_runs(Permutation::identity(9), is_set, 2), 2);
  EXPECT_EQ(touched_runs(Permutation::from_gather({0, 1, 2, 4, 5, 6, 7, 8, 3}), is_set, 4), 2);
}

TEST(UpdateSectors, CountAllThatAnUpdateTouches) {
  // two of 64 channels, first in one sector, then as far apart as can be
  std::vector<char> near(64);
  near[0] = near[1] = 1;
  std::vector<char> far(64);
  far[0] = far[63] = 1;
  const Permutation identity = Permutation::identity(64);
  UpdateSectors update{.batch = 3, .states = 16, .state_bytes = 4, .row_bytes = 2};
  // of a token: 2 channels of 2 sectors, read and written, and one of u, dt, z and y each; of all
  // tokens: 2 sectors of A a channel, one of D, dt_bias and the places
  EXPECT_EQ(update_sectors(identity, near, update), 3 * (8 + 4) + 4 + 2 + 1);
  EXPECT_EQ(update_sectors(identity, far, update), 3 * (8 + 8) + 4 + 4 + 1);
  update.pieces = 2;
  EXPECT_EQ(update_sectors(identity, near, update), 3 * (8 + 4) + 2 * (4 + 2 + 1));
  update.is_channel_major = true;
  EXPECT_EQ(update_sectors(identity, near, update), 3 * (2 * 16 + 4) + 2 * (4 + 2 + 1));
  EXPECT_EQ(update_sectors(identity, far, update), 3 * (2 * 32 + 8) + 2 * (4 + 4 + 1));
}

// What an H200 counted in the first run (mamba-130m, batch 8, a warm L2), where blocks take 2 and 4
// pieces of the batch.
TEST(UpdateSectors, AreWhatWasCounted) {
  const BenchInputs inputs =
      synthetic_inputs({.model = "mamba-130m", .d_model = 768, .d_inner = 1536}, 0);
  const Permutation identity = Permutation::identity(1536);
  const auto expect = [&](const UpdateSectors& update, double counted, double counted_solved) {
    const auto of = [&](const Permutation& order) {
      return static_cast<double>(update_sectors(order, inputs.is_active, update));
    };
    EXPECT_NEAR(of(identity) / counted, 1, 0.03);
    EXPECT_NEAR(of(inputs.solved) / counted_solved, 1, 0.03);
  };
  UpdateSectors update{.batch = 8, .pieces = 2};
  expect(update, 15315, 12442);
  update.pieces = 4;
  update.is_channel_major = true;
  expect(update, 48463, 13450);
  update.state_bytes = 2;
  expect(update, 31355, 9975);
}

TEST(KeptBlocks, AddUpRowsOfBlocks) {
  std::vector<char> is_kept(2 * 64);
  is_kept[3] = 1;
  is_kept[40] = 1;
  is_kept[64 + 5] = 1;
  EXPECT_EQ(kept_blocks(Permutation::identity(64), is_kept), 3);
}

TEST(HeadsOrder, FollowsItsChannels) {
  EXPECT_TRUE(heads_order(Permutation::identity(12), 4).is_identity());
  const Permutation moved = Permutation::from_gather({8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(heads_order(moved, 4), Permutation::from_gather({2, 0, 1}));
}

// The solved order finds what was planted, which no other does.
TEST(SyntheticInputs, RewardTheSolvedOrder) {
  const BenchShape shape{.model = "x", .d_model = 768, .d_inner = 1536};
  const BenchInputs inputs = synthetic_inputs(shape, 3);
  const std::vector<BenchOrder> orders = bench_orders(inputs.solved, inputs.timescale, 3);
  ASSERT_EQ(inputs.A.size(), 1536U * 16U);
  ASSERT_EQ(inputs.is_kept.size(), 24U * 1536U);
  ASSERT_FALSE(inputs.sparse_rows.empty());
  const auto active = std::count(inputs.is_active.begin(), inputs.is_active.end(), 1);
  EXPECT_GT(active, 100);
  EXPECT_LT(active, 700);
  for (const char* name : {"identity", "random 1", "random 5", "timescale", "shuffled"}) {
    const Permutation& other = order_named(orders, name);
    EXPECT_LT(touched_runs(inputs.solved, inputs.is_active, 8) * 1.5,
              touched_runs(other, inputs.is_active, 8))
        << name;
    EXPECT_LT(kept_blocks(inputs.solved, inputs.is_kept) * 2, kept_blocks(other, inputs.is_kept))
        << name;
  }
  EXPECT_EQ(synthetic_inputs(shape, 3).A, inputs.A);
  EXPECT_NE(synthetic_inputs(shape, 4).A, inputs.A);
}

TEST(LayerInputs, KeepTheLargest) {
  LayerActivations layer;
  layer.d_model = 32;
  layer.d_inner = 40;
  layer.d_state = 2;
  layer.tokens = 2;
  layer.gated.resize(80);
  layer.dt.assign(80, -1.0F);
  layer.dt_bias.assign(40, 0.0F);
  layer.A.assign(80, -1.0F);
  layer.A[1] = -3.0F;
  layer.out_proj.assign(32 * 40, 0.0F);
  for (int i = 0; i < 40; ++i) layer.gated[static_cast<std::size_t>(i)] = static_cast<float>(i);
  for (int i = 0; i < 64; ++i) layer.out_proj[static_cast<std::size_t>(i * 40 % 1280 + i / 32)] = 1;
  const BenchInputs inputs = layer_inputs(layer, Permutation::identity(40), "layer 0 of a test");
  ASSERT_EQ(inputs.sparse_rows.size(), 2U);
  EXPECT_EQ(std::count(inputs.sparse_rows[0].begin(), inputs.sparse_rows[0].end(), 0.0F), 36);
  EXPECT_EQ(inputs.sparse_rows[0][39], 39.0F);
  EXPECT_EQ(std::count(inputs.is_active.begin(), inputs.is_active.end(), 1), 10);
  EXPECT_EQ(inputs.is_active[39], 1);
  EXPECT_EQ(inputs.is_active[29], 0);
  EXPECT_EQ(std::count(inputs.is_kept.begin(), inputs.is_kept.end(), 1), 2);
  EXPECT_NEAR(inputs.timescale[0] / inputs.timescale[1], 2, 1e-5);
}

}  // namespace
}  // namespace icd
