#include "icd/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "icd/error.h"
#include "icd/write_checkpoint.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"
#include "support/tiny_mamba2.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::TinyMamba2;
using testing::TinyMamba2Options;

std::string bytes_of(const Checkpoint& checkpoint, const StoredTensor& tensor) {
  std::string bytes;
  write_packed(checkpoint.view(tensor), [&](std::span<const std::byte> piece) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return bytes;
}

/// name -> shape and bytes.
std::map<std::string, std::string> contents(const fs::path& model) {
  const Checkpoint checkpoint = Checkpoint::open(model);
  std::map<std::string, std::string> all;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    all[tensor.name] = tensor.dtype_text + shape_text(tensor.shape) + bytes_of(checkpoint, tensor);
  }
  return all;
}

/// Converts what is in `from` into `to`.
Conversion convert(const fs::path& from, const Layout& layout, Dialect dialect,
                   const fs::path& to) {
  const Checkpoint checkpoint = Checkpoint::open(from);
  Conversion conversion = conversion_of(checkpoint, layout, dialect);
  fs::create_directories(to);
  Progress silent;
  write_converted(checkpoint, conversion, conversion.container(), to, silent);
  testing::write_file(to / "config.json", conversion.config);
  EXPECT_EQ(conversion_fault(checkpoint, Checkpoint::open(to), conversion), "");
  return conversion;
}

/// What layout_of() finds in a tiny Mamba-1.
Layout mamba1_layout(const testing::TinyOptions& o) {
  Layout layout;
  layout.name = "mamba1";
  layout.spec.dialect = o.hf ? "hf" : "mamba-ssm";
  layout.spec.prefix = o.prefix;
  layout.spec.backbone = o.prefix + "backbone.";
  layout.spec.embedding_name = o.hf ? "embeddings.weight" : "embedding.weight";
  layout.spec.tied_head = o.tied_head;
  if (o.layer_norm) layout.spec.norm = ModelSpec::Norm::layer;
  const auto index = [](std::int64_t value) { return static_cast<Index>(value); };
  for (Index i = 0; i < o.n_layer; ++i) {
    Block block{.type = "mamba1",
                .prefix = o.prefix + "backbone.layers." + std::to_string(i) + ".mixer.",
                .layer = i,
                .sizes = {{"d_inner", index(o.d_inner)},
                          {"d_state", index(o.d_state)},
                          {"d_conv", index(o.d_conv)},
                          {"dt_rank", index(o.dt_rank)}},
                .tensors = {},
                .numbers = {}};
    if (o.conv_bias) block.tensors["conv1d.bias"] = block.prefix + "conv1d.bias";
    for (const char* role : {"in_proj.bias", "out_proj.bias"}) {
      if (o.proj_bias) block.tensors[role] = block.prefix + role;
    }
    layout.blocks.push_back(std::move(block));
  }
  return layout;
}

/// The layout of the converted model.
Layout other_side(Layout layout, Dialect dialect) {
  layout.spec.dialect = dialect_name(dialect);
  layout.spec.prefix = "";
  layout.spec.backbone = "backbone.";
  layout.spec.embedding_name = dialect == Dialect::hf ? "embeddings.weight" : "embedding.weight";
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

class ConvertMamba1 : public ::testing::TestWithParam<testing::TinyOptions> {};

TEST_P(ConvertMamba1, ThereAndBackGivesTheSameModel) {
  const ScratchFolder scratch;
  const TinyCheckpoint tiny(GetParam());
  tiny.write(scratch / "a");
  const Layout layout = mamba1_layout(GetParam());
  const Dialect there = GetParam().hf ? Dialect::mamba_ssm : Dialect::hf;
  const Dialect back = GetParam().hf ? Dialect::hf : Dialect::mamba_ssm;
  convert(scratch / "a", layout, there, scratch / "b");
  convert(scratch / "b", other_side(layout, there), back, scratch / "c");
  auto expected = contents(scratch / "a");
  auto found = contents(scratch / "c");
  if (GetParam().tied_head) {
    expected.erase(layout.spec.head());
    found.erase("lm_head.weight");
  }
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, content] : expected) {
    EXPECT_EQ(found[name.substr(GetParam().prefix.size())], content) << name;
  }
  // Said twice, the configuration does not change any more: nothing is lost on the way.
  convert(scratch / "c", other_side(layout, back), there, scratch / "d");
  EXPECT_EQ(Json::parse(testing::read_file(scratch / "d" / "config.json")),
            Json::parse(testing::read_file(scratch / "b" / "config.json")));
}

INSTANTIATE_TEST_SUITE_P(
    Of, ConvertMamba1,
    ::testing::Values(testing::TinyOptions{}, testing::TinyOptions{.hf = false},
                      testing::TinyOptions{.dtype = "BF16", .proj_bias = true},
                      testing::TinyOptions{.hf = false, .conv_bias = false, .tied_head = false},
                      testing::TinyOptions{.hf = false, .vocab = 40, .stored_tied_head = true},
                      testing::TinyOptions{.prefix = "model."}));

class ConvertMamba2 : public ::testing::TestWithParam<TinyMamba2Options> {};

TEST_P(ConvertMamba2, ThereAndBackGivesTheSameModel) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny(GetParam());
  tiny.write(scratch / "a");
  const Dialect there = GetParam().hf ? Dialect::mamba_ssm : Dialect::hf;
  const Dialect back = GetParam().hf ? Dialect::hf : Dialect::mamba_ssm;
  convert(scratch / "a", tiny.layout, there, scratch / "b");
  convert(scratch / "b", other_side(tiny.layout, there), back, scratch / "c");
  auto found = contents(scratch / "c");
  if (GetParam().tied_head) found.erase("lm_head.weight");
  EXPECT_EQ(found, contents(scratch / "a"));
  const Json before = Json::parse(tiny.config);
  const Json after = Json::parse(testing::read_file(scratch / "c" / "config.json"));
  const auto same = [](const Json& a, const Json& b, const auto& self) -> void {
    for (const auto& [key, value] : a.items()) {
      if (!b.contains(key)) continue;  // a default
      if (value.is_object()) {
        self(value, b.at(key), self);
      } else {
        EXPECT_EQ(b.at(key), value) << key;
      }
    }
  };
  same(before, after, same);
}

INSTANTIATE_TEST_SUITE_P(Of, ConvertMamba2,
                         ::testing::Values(TinyMamba2Options{}, TinyMamba2Options{.hf = false},
                                           TinyMamba2Options{.dtype = "BF16", .proj_bias = true},
                                           TinyMamba2Options{.hf = false,
                                                             .ngroups = 1,
                                                             .heads_per_group = 4,
                                                             .conv_bias = false,
                                                             .tied_head = false}));

TEST(Convert, WritesWhatTransformersReads) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny({.hf = false, .ngroups = 2, .heads_per_group = 2});
  tiny.write(scratch / "a");
  const Conversion conversion = convert(scratch / "a", tiny.layout, Dialect::hf, scratch / "b");
  const Json config = Json::parse(conversion.config);
  EXPECT_EQ(config.at("model_type"), "mamba2");
  EXPECT_EQ(config.at("num_heads"), 4);
  EXPECT_EQ(config.at("head_dim"), 4);
  EXPECT_EQ(config.at("n_groups"), 2);
  EXPECT_EQ(config.at("expand"), 2);
  EXPECT_EQ(config.at("tie_word_embeddings"), true);
  EXPECT_EQ(config.at("dtype"), "float32");
  EXPECT_TRUE(fs::exists(scratch / "b" / "model.safetensors"));
  const auto tensors = contents(scratch / "b");
  EXPECT_TRUE(tensors.contains("backbone.embeddings.weight"));
  EXPECT_FALSE(tensors.contains("lm_head.weight"));
  EXPECT_THAT(conversion.notes, Contains(HasSubstr("transformers#40861")));
}

TEST(Convert, WritesWhatMambaSsmReads) {
  const ScratchFolder scratch;
  const testing::TinyOptions options{.vocab = 20};
  TinyCheckpoint(options).write(scratch / "a");
  const Conversion conversion =
      convert(scratch / "a", mamba1_layout(options), Dialect::mamba_ssm, scratch / "b");
  EXPECT_EQ(Json::parse(conversion.config),
            Json::parse(R"({"d_model": 8, "n_layer": 2, "vocab_size": 20,
                            "ssm_cfg": {"d_state": 5, "dt_rank": 3}, "rms_norm": true,
                            "residual_in_fp32": true, "fused_add_norm": true,
                            "pad_vocab_size_multiple": 1})"));
  const Checkpoint written = Checkpoint::open(scratch / "b" / "pytorch_model.bin");
  ASSERT_NE(written.find("lm_head.weight"), nullptr);
  EXPECT_EQ(written.find("lm_head.weight")->begin,
            written.find("backbone.embedding.weight")->begin);
  EXPECT_THAT(conversion.notes, Not(Contains(HasSubstr("40861"))));
}

TEST(Convert, TellsWhatTheOtherSideHasNoWordFor) {
  const ScratchFolder scratch;
  TinyMamba2 tiny;
  Json config = Json::parse(tiny.config);
  config["initializer_range"] = 0.1;
  config["bos_token_id"] = 0;
  config["time_step_limit"] = {0.001, 0.5};
  config["time_step_max"] = 0.2;
  config["chunk_size"] = 64;
  tiny.config = config.dump();
  tiny.write(scratch / "a");
  const Conversion conversion =
      conversion_of(Checkpoint::open(scratch / "a"), tiny.layout, Dialect::mamba_ssm);
  EXPECT_THAT(conversion.notes,
              Contains("config.json: mamba-ssm has no word for initializer_range, bos_token_id: "
                       "not carried"));
  const Json ssm = Json::parse(conversion.config).at("ssm_cfg");
  EXPECT_EQ(ssm.at("dt_limit"), (Json{0.001, 0.5}));
  EXPECT_EQ(ssm.at("dt_max"), 0.2);
  EXPECT_EQ(ssm.at("chunk_size"), 64);
}

TEST(Convert, StatesTheWidestOfSeveralTypes) {
  const ScratchFolder scratch;
  TinyMamba2 tiny({.hf = false, .dtype = "BF16"});
  testing::TinyTensor& d = tiny.tensor("backbone.layers.0.mixer.D");
  d.dtype = "F32";
  d.bytes = testing::random_bytes("F32", 4, 1, 0, 3);
  tiny.write(scratch / "a");
  const Conversion conversion =
      conversion_of(Checkpoint::open(scratch / "a"), tiny.layout, Dialect::hf);
  EXPECT_EQ(Json::parse(conversion.config).at("dtype"), "float32");
  EXPECT_THAT(conversion.notes, Contains(HasSubstr("several types")));
}

std::string refused(TinyMamba2Options options, const std::function<void(TinyMamba2&)>& change) {
  const ScratchFolder scratch;
  TinyMamba2 tiny(options);
  change(tiny);
  tiny.write(scratch / "a");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "a");
  return refusal([&] {
    conversion_of(checkpoint, tiny.layout, options.hf ? Dialect::mamba_ssm : Dialect::hf);
  });
}

/// A change of one key of config.json.
std::function<void(TinyMamba2&)> key(std::vector<std::string> path, Json value) {
  return [path = std::move(path), value = std::move(value)](TinyMamba2& tiny) {
    Json config = Json::parse(tiny.config);
    Json* at = &config;
    for (const std::string& part : path) at = &(*at)[part];
    *at = value;
    tiny.config = config.dump();
  };
}

const auto kNothing = [](TinyMamba2&) {};

TEST(Convert, RefusesByNameWhatTransformersCannotSay) {
  const TinyMamba2Options ssm{.hf = false};
  EXPECT_EQ(refused(ssm, key({"rms_norm"}, false)),
            "config.json: rms_norm is false: hf has no word for LayerNorm");
  EXPECT_EQ(refused(ssm, key({"d_intermediate"}, 64)),
            "config.json: d_intermediate is 64: hf has no word for MLPs between the mixers");
  EXPECT_EQ(refused(ssm, key({"attn_layer_idx"}, {1})),
            "config.json: attn_layer_idx is [1]: hf has no word for attention layers");
  EXPECT_EQ(refused(ssm, key({"ssm_cfg", "norm_before_gate"}, true)),
            "config.json: ssm_cfg: norm_before_gate is true: hf has no word for a norm before the "
            "gate");
  EXPECT_EQ(refused({.hf = false, .d_mlp = 8}, kNothing),
            "block 'backbone.layers.0.mixer.': hf has no word for d_ssm (16) below d_inner (24)");
  EXPECT_EQ(refused({.hf = false, .d_per_channel = true}, kNothing),
            "tensor 'backbone.layers.0.mixer.D': hf has no word for D_has_hdim (a D for each "
            "channel)");
  EXPECT_EQ(refused({.hf = false, .d_model = 6}, kNothing),
            "config.json: ssm_cfg: expand is 16 / 6: hf has no word for an expand that is not "
            "whole");
  EXPECT_EQ(
      refused(ssm, [](TinyMamba2& tiny) { tiny.layout.blocks[0].tensors.erase("norm.weight"); }),
      "block 'backbone.layers.0.mixer.': hf has no word for rmsnorm false (no gated norm)");
  EXPECT_EQ(refused(ssm, [](TinyMamba2& tiny) { tiny.layout.blocks[1].type = "attention"; }),
            "block 'backbone.layers.1.mixer.': hf has no word for a block of type attention in a "
            "mamba2 model");
}

TEST(Convert, RefusesByNameWhatMambaSsmCannotSay) {
  EXPECT_EQ(refused({}, key({"layer_norm_epsilon"}, 1e-6)),
            "config.json: layer_norm_epsilon is 1e-06: mamba-ssm has no word for another epsilon "
            "than 1e-05");
  EXPECT_EQ(refused({}, key({"hidden_act"}, "gelu")),
            "config.json: hidden_act is \"gelu\": mamba-ssm has no word for another activation "
            "than silu");
  EXPECT_THAT(refused({}, key({"time_step_limit"}, {0.1, {{"__float__", "Infinity"}}})),
              HasSubstr("a lower limit without an upper one"));
  EXPECT_EQ(refused({},
                    [](TinyMamba2& tiny) {
                      tiny.tensors.push_back({"extra", "F32", {1}, "abcd"});
                      tiny.layout.strangers = {"extra"};
                    }),
            "tensor 'extra': mamba-ssm has no word for it, and its loader is strict");
}

TEST(Convert, RefusesOtherModelsAndTheDialectItHas) {
  const ScratchFolder scratch;
  TinyMamba2 tiny;
  tiny.write(scratch / "a");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "a");
  EXPECT_EQ(refusal([&] { conversion_of(checkpoint, tiny.layout, Dialect::hf); }),
            "--to: is hf, and the model is in hf's names already");
  tiny.layout.name = "jamba";
  EXPECT_THAT(refusal([&] { conversion_of(checkpoint, tiny.layout, Dialect::mamba_ssm); }),
              HasSubstr("layout jamba: expected mamba1 or mamba2"));
}

TEST(Convert, TheProofNoticesAByte) {
  const ScratchFolder scratch;
  const TinyMamba2 tiny({.hf = false});
  tiny.write(scratch / "a");
  const Conversion conversion = convert(scratch / "a", tiny.layout, Dialect::hf, scratch / "b");
  std::string bytes = testing::read_file(scratch / "b" / "model.safetensors");
  bytes.back() ^= 1;
  testing::write_file(scratch / "b" / "model.safetensors", bytes);
  EXPECT_EQ(conversion_fault(Checkpoint::open(scratch / "a"), Checkpoint::open(scratch / "b"),
                             conversion),
            "tensor 'backbone.norm_f.weight': differs");
}

}  // namespace
}  // namespace icd
