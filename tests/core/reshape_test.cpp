#include "icd/reshape.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "icd/error.h"
#include "icd/kernel_rules.h"
#include "support/files.h"
#include "support/tiny_mamba2.h"
#include "support/torch_archive_builder.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::read_file;
using testing::ScratchFolder;
using testing::TinyMamba2;
using testing::TinyMamba2Options;

std::vector<double> values_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.view(*checkpoint.find(name));
  std::vector<double> values(static_cast<std::size_t>(view.elements()));
  read_as(view, std::span<double>(values));
  return values;
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double softplus(double x) { return std::log1p(std::exp(x)); }

/// A Mamba-2 mixer by plain loops, straight from the equations: (length, in) to (length, out).
/// The norm is over the channels of each group.
std::vector<double> naive_mixer(const Checkpoint& checkpoint, const Block& block, Index headdim,
                                const std::vector<double>& input) {
  const auto size = [&](std::string_view name) {
    return static_cast<std::size_t>(block.sizes.find(name)->second);
  };
  const auto tensor = [&](std::string_view role) {
    return values_of(checkpoint, block.tensors.find(role)->second);
  };
  const std::size_t in = size("in"), out = size("out"), groups = size("ngroups");
  const std::size_t states = size("d_state"), mlp = size("d_mlp"), taps = size("d_conv");
  const std::size_t ssm = size("d_ssm"), p = static_cast<std::size_t>(headdim);
  const std::size_t heads = ssm / p, channels = ssm + 2 * groups * states;
  const std::size_t rows = 2 * mlp + ssm + channels + heads, length = input.size() / in;
  const auto in_proj = tensor("in_proj.weight"), conv = tensor("conv1d.weight");
  const auto conv_bias = tensor("conv1d.bias"), dt_bias = tensor("dt_bias");
  const auto a_log = tensor("A_log"), d = tensor("D"), norm = tensor("norm.weight");
  const auto out_proj = tensor("out_proj.weight");
  EXPECT_EQ(in_proj.size(), rows * in);

  std::vector<double> row(length * rows);
  for (std::size_t t = 0; t < length; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < in; ++i) {
        row[t * rows + r] += in_proj[r * in + i] * input[t * in + i];
      }
    }
  }
  std::vector<double> state(ssm * states), output(length * out);
  for (std::size_t t = 0; t < length; ++t) {
    std::vector<double> xbc(channels), y(mlp + ssm);
    for (std::size_t c = 0; c < channels; ++c) {
      double sum = conv_bias[c];
      for (std::size_t k = 0; k < taps; ++k) {
        if (t + k + 1 < taps) continue;
        sum += conv[c * taps + k] * row[(t + k + 1 - taps) * rows + 2 * mlp + ssm + c];
      }
      xbc[c] = silu(sum);
    }
    const double* z = &row[t * rows + 2 * mlp];
    for (std::size_t c = 0; c < ssm; ++c) {
      const std::size_t h = c / p, g = h / (heads / groups);
      const double dt = softplus(row[t * rows + 2 * mlp + ssm + channels + h] + dt_bias[h]);
      double sum = 0;
      for (std::size_t n = 0; n < states; ++n) {
        double& s = state[c * states + n];
        s = s * std::exp(-std::exp(a_log[h]) * dt) + dt * xbc[c] * xbc[ssm + g * states + n];
        sum += s * xbc[ssm + groups * states + g * states + n];
      }
      y[mlp + c] = (sum + (d.size() == heads ? d[h] : d[c]) * xbc[c]) * silu(z[c]);
    }
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t width = ssm / groups;
      double square = 0;
      for (std::size_t c = g * width; c < (g + 1) * width; ++c) square += y[mlp + c] * y[mlp + c];
      const double scale = 1 / std::sqrt(square / static_cast<double>(width) + 1e-5);
      for (std::size_t c = g * width; c < (g + 1) * width; ++c) y[mlp + c] *= scale * norm[c];
    }
    for (std::size_t c = 0; c < mlp; ++c) y[c] = silu(row[t * rows + c]) * row[t * rows + mlp + c];
    for (std::size_t o = 0; o < out; ++o) {
      for (std::size_t c = 0; c < mlp + ssm; ++c) {
        output[t * out + o] += out_proj[o * (mlp + ssm) + c] * y[c];
      }
    }
  }
  return output;
}

std::vector<double> some_input(std::size_t count) {
  std::vector<double> input(count);
  for (std::size_t i = 0; i < count; ++i) input[i] = std::sin(1.0 + 3.7 * static_cast<double>(i));
  return input;
}

/// Reshapes what is in `from`, whose heads are as `layout` has them, into `to`.
Reshaping reshape(const fs::path& from, const Layout& layout, Index headdim, const fs::path& to) {
  const Checkpoint checkpoint = Checkpoint::open(from);
  Reshaping reshaping = reshape_heads(checkpoint, layout, headdim);
  const fs::path folder = fs::is_directory(from) ? to : to.parent_path();
  fs::create_directories(folder);
  Progress silent;
  write_reshaped(checkpoint, reshaping, folder, silent);
  if (!reshaping.config.empty()) testing::write_file(folder / "config.json", reshaping.config);
  EXPECT_EQ(reshaping_fault(checkpoint, Checkpoint::open(to), reshaping), "");
  return reshaping;
}

/// `layout` with its heads cut to `headdim`.
Layout recut(Layout layout, Index headdim) {
  for (Block& block : layout.blocks) block = reshaped_block(std::move(block), headdim);
  return layout;
}

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

struct Variant {
  const char* name;
  TinyMamba2Options options;
  Index headdim;
};

class ReshapeVariants : public ::testing::TestWithParam<Variant> {};

TEST_P(ReshapeVariants, ComputeTheSameAndGoBackToEveryByte) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny(GetParam().options);
  tiny.write(scratch / "a");
  const Index headdim = GetParam().headdim;
  const auto before = static_cast<Index>(GetParam().options.headdim);
  const Reshaping there = reshape(scratch / "a", tiny.layout, headdim, scratch / "b");
  const Checkpoint a = Checkpoint::open(scratch / "a");
  const Checkpoint b = Checkpoint::open(scratch / "b");
  Progress silent;
  EXPECT_LT(reshaping_difference(a, b, tiny.layout, there, silent), 1e-6);
  for (const Block& block : tiny.layout.blocks) {
    const auto input = some_input(9 * static_cast<std::size_t>(block.sizes.find("in")->second));
    const auto first = naive_mixer(a, block, before, input);
    const auto second = naive_mixer(b, block, headdim, input);
    EXPECT_EQ(first, second);  // each channel's sums are the same sums
    EXPECT_GT(*std::max_element(first.begin(), first.end()), 0.1);
  }
  reshape(scratch / "b", recut(tiny.layout, headdim), before, scratch / "c");
  const Checkpoint c = Checkpoint::open(scratch / "c");
  ASSERT_EQ(c.tensors().size(), a.tensors().size());
  for (const StoredTensor& tensor : a.tensors()) {
    const StoredTensor& other = *c.find(tensor.name);
    EXPECT_EQ(other.shape, tensor.shape) << tensor.name;
    EXPECT_TRUE(std::equal(a.view(tensor).data, a.view(tensor).data + tensor.span_bytes,
                           c.view(other).data))
        << tensor.name;
  }
  EXPECT_EQ(read_file(scratch / "c" / "config.json"), read_file(scratch / "a" / "config.json"));
}

INSTANTIATE_TEST_SUITE_P(
    Of, ReshapeVariants,
    ::testing::Values(Variant{"hf", {}, 2}, Variant{"hf_to_one_channel", {}, 1},
                      Variant{"mamba_ssm", {.hf = false}, 2},
                      Variant{"one_group", {.ngroups = 1, .heads_per_group = 4}, 2},
                      Variant{"with_mlp", {.hf = false, .d_mlp = 8}, 2},
                      Variant{"d_per_channel", {.hf = false, .d_per_channel = true}, 2}),
    [](const auto& each) { return std::string(each.param.name); });

TEST(Reshape, StatesTheNewHeadsInTheConfigurationAndLeavesTheRest) {
  const ScratchFolder scratch;
  const TinyMamba2 hf;
  hf.write(scratch / "hf");
  const Reshaping of_hf = reshape_heads(Checkpoint::open(scratch / "hf"), hf.layout, 2);
  std::string expected = hf.config;
  expected.replace(expected.find("\"num_heads\": 4"), 14, "\"num_heads\": 8");
  expected.replace(expected.find("\"head_dim\": 4"), 13, "\"head_dim\": 2");
  EXPECT_EQ(of_hf.config, expected);
  EXPECT_EQ(of_hf.heads_before, 4);
  EXPECT_EQ(of_hf.heads, 8);

  TinyMamba2 ssm({.hf = false});
  ssm.config.replace(ssm.config.find("    \"headdim\": 4,\n"), 18, "");
  ssm.write(scratch / "ssm");
  const Reshaping of_ssm = reshape_heads(Checkpoint::open(scratch / "ssm"), ssm.layout, 2);
  EXPECT_THAT(of_ssm.config, HasSubstr("    \"bias\": false,\n    \"headdim\": 2\n"));
}

TEST(Reshape, RefusesToJoinHeadsThatDiffer) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny;
  tiny.write(scratch / "a");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "a");
  EXPECT_EQ(refusal([&] { reshape_heads(checkpoint, tiny.layout, 8); }),
            "tensor 'backbone.layers.0.mixer.A_log': head 1 differs from head 0, expected copies, "
            "to be one head of 8 channels");
}

TEST(Reshape, NoticesOneBitOfOneCopy) {
  const ScratchFolder scratch;
  TinyMamba2 tiny;
  tiny.write(scratch / "a");
  reshape(scratch / "a", tiny.layout, 2, scratch / "b");
  const Checkpoint b = Checkpoint::open(scratch / "b");
  for (const char* leaf : {"in_proj.weight", "dt_bias", "A_log", "D"}) {
    const StoredTensor& tensor = *b.find("backbone.layers.1.mixer." + std::string(leaf));
    std::string bytes = read_file(scratch / "b" / "model.safetensors");
    bytes[static_cast<std::size_t>(tensor.begin + tensor.span_bytes - 1)] ^= 1;
    testing::write_file(scratch / "damaged.safetensors", bytes);
    testing::write_file(scratch / "config.json", read_file(scratch / "b" / "config.json"));
    const Checkpoint damaged = Checkpoint::open(scratch / "damaged.safetensors");
    EXPECT_THAT(refusal([&] { reshape_heads(damaged, recut(tiny.layout, 2), 4); }),
                HasSubstr(fmt::format("tensor '{}': head 7 differs from head 6", tensor.name)));
  }
}

TEST(Reshape, RefusesSizesThatCannotBe) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny;
  tiny.write(scratch / "a");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "a");
  const auto message = [&](Index headdim) {
    return refusal([&] { reshape_heads(checkpoint, tiny.layout, headdim); });
  };
  EXPECT_THAT(message(3), HasSubstr("--headdim: is 3, expected a divisor or a multiple of 4"));
  EXPECT_THAT(message(0), HasSubstr("--headdim: is 0, expected 1 or more"));
  EXPECT_THAT(message(16),
              HasSubstr("--headdim: is 16, expected a divisor of 8, the 2 heads of 4"));
}

TEST(Reshape, TheSameHeaddimChangesNothing) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny;
  tiny.write(scratch / "a");
  const Reshaping none = reshape_heads(Checkpoint::open(scratch / "a"), tiny.layout, 4);
  EXPECT_TRUE(none.blocks.empty());
  EXPECT_TRUE(none.tensors.empty());
}

TEST(Reshape, RepairsABareModuleInOneFile) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny({.bare = true,
                         .d_model = 64,
                         .ngroups = 1,
                         .heads_per_group = 2,
                         .headdim = 64,
                         .d_state = 128});
  const auto breaks = [](const Block& block) {
    for (const KernelRule& rule : kernel_rules(block)) {
      if (rule.id == "conv-row-stride") return !rule.holds;
    }
    return false;
  };
  EXPECT_TRUE(breaks(tiny.layout.blocks[0]));
  tiny.write_torch(scratch.path(), "net.pt");
  fs::create_directories(scratch / "out");
  const Reshaping reshaping =
      reshape(scratch / "net.pt", tiny.layout, 8, scratch / "out" / "net.pt");
  EXPECT_THAT(reshaping.blocks, ElementsAre(""));
  EXPECT_FALSE(reshaping.config_says_so);
  EXPECT_FALSE(breaks(recut(tiny.layout, 8).blocks[0]));
  const Checkpoint before = Checkpoint::open(scratch / "net.pt");
  const Checkpoint after = Checkpoint::open(scratch / "out" / "net.pt");
  EXPECT_EQ(after.find("in_proj.weight")->shape, (Shape{528, 64}));
  const auto input = some_input(6 * 64);
  EXPECT_EQ(naive_mixer(before, tiny.layout.blocks[0], 64, input),
            naive_mixer(after, tiny.layout.blocks[0], 8, input));
}

TEST(Reshape, RefusesAPyTorchFileThatHoldsMoreThanAStateDict) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny({.bare = true});
  testing::PickleDraft pickle;
  pickle.raw("}").raw("(").text("epoch").integer(3).text("A_log").tensor(
      {.storage_elements = 4, .shape = {4}, .strides = {1}});
  testing::write_file(scratch / "net.pt", testing::zip_bytes(testing::archive_of(
                                              pickle.raw("u").stop(), {std::string(16, 'x')})));
  EXPECT_EQ(refusal([&] { reshape_heads(Checkpoint::open(scratch / "net.pt"), tiny.layout, 2); }),
            "net.pt: holds more than a state dict, which a new file would lose");
}

TEST(Reshape, TheProofNoticesAWrongRow) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny;
  tiny.write(scratch / "a");
  const Checkpoint a = Checkpoint::open(scratch / "a");
  const Reshaping reshaping = reshape(scratch / "a", tiny.layout, 2, scratch / "b");
  std::string bytes = read_file(scratch / "b" / "model.safetensors");
  const Checkpoint b = Checkpoint::open(scratch / "b");
  bytes[static_cast<std::size_t>(b.find("backbone.layers.0.mixer.D")->begin + 5 * 4)] ^= 1;
  testing::write_file(scratch / "b" / "model.safetensors", bytes);
  EXPECT_EQ(reshaping_fault(a, Checkpoint::open(scratch / "b"), reshaping),
            "tensor 'backbone.layers.0.mixer.D': row 5 differs");
}

TEST(Reshape, RunningTheBlocksNoticesAWrongValue) {
  const ScratchFolder scratch;
  TinyMamba2 tiny;
  tiny.write(scratch / "a");
  const Checkpoint a = Checkpoint::open(scratch / "a");
  const Reshaping reshaping = reshape(scratch / "a", tiny.layout, 2, scratch / "b");
  std::string bytes = read_file(scratch / "b" / "model.safetensors");
  const Checkpoint b = Checkpoint::open(scratch / "b");
  // The sign of one head's D, in the second block.
  bytes[static_cast<std::size_t>(b.find("backbone.layers.1.mixer.D")->begin + 3)] ^= '\x80';
  testing::write_file(scratch / "c.safetensors", bytes);
  testing::write_file(scratch / "config.json", read_file(scratch / "b" / "config.json"));
  const Checkpoint damaged = Checkpoint::open(scratch / "c.safetensors");
  Progress silent;
  EXPECT_GT(reshaping_difference(a, damaged, tiny.layout, reshaping, silent), 1e-3);
}

}  // namespace
}  // namespace icd
