#include "support/tiny_mamba2.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"
#include "support/torch_archive_builder.h"

namespace icd::testing {
namespace {

std::int64_t elements(const Shape& shape) {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

std::string config_of(const TinyMamba2Options& o) {
  const std::int64_t heads = o.ngroups * o.heads_per_group;
  nlohmann::ordered_json json;
  if (o.hf) {
    json = {{"model_type", "mamba2"},
            {"hidden_size", o.d_model},
            {"expand", heads * o.headdim / o.d_model},
            {"num_hidden_layers", o.n_layer},
            {"num_heads", heads},
            {"head_dim", o.headdim},
            {"n_groups", o.ngroups},
            {"state_size", o.d_state},
            {"conv_kernel", o.d_conv},
            {"vocab_size", o.vocab},
            {"use_bias", o.proj_bias},
            {"use_conv_bias", o.conv_bias},
            {"tie_word_embeddings", o.tied_head}};
  } else {
    nlohmann::ordered_json ssm = {
        {"layer", "Mamba2"},        {"d_state", o.d_state},
        {"d_conv", o.d_conv},       {"expand", (heads * o.headdim + o.d_mlp) / o.d_model},
        {"headdim", o.headdim},     {"ngroups", o.ngroups},
        {"conv_bias", o.conv_bias}, {"bias", o.proj_bias}};
    if (o.d_mlp > 0) ssm["d_ssm"] = heads * o.headdim;
    if (o.d_per_channel) ssm["D_has_hdim"] = true;
    json = {{"d_model", o.d_model},
            {"d_intermediate", 0},
            {"n_layer", o.n_layer},
            {"vocab_size", o.vocab},
            {"ssm_cfg", std::move(ssm)},
            {"attn_layer_idx", nlohmann::ordered_json::array()},
            {"attn_cfg", nlohmann::ordered_json::object()},
            {"rms_norm", true},
            {"residual_in_fp32", true},
            {"fused_add_norm", true},
            {"pad_vocab_size_multiple", 8},
            {"tie_embeddings", o.tied_head}};
  }
  return json.dump(2) + "\n";
}

std::string storage_class(const std::string& dtype) {
  if (dtype == "F32") return "FloatStorage";
  if (dtype == "BF16") return "BFloat16Storage";
  if (dtype == "F16") return "HalfStorage";
  throw std::invalid_argument("no storage class for " + dtype);
}

}  // namespace

TinyMamba2::TinyMamba2(const TinyMamba2Options& o) {
  const std::int64_t heads = o.ngroups * o.heads_per_group;
  const std::int64_t d_ssm = heads * o.headdim;
  const std::int64_t channels = d_ssm + 2 * o.ngroups * o.d_state;
  const auto add = [&](const std::string& name, Shape shape, double scale, double offset = 0) {
    const std::uint64_t seed = o.seed * 1000 + tensors.size();
    const std::int64_t count = elements(shape);
    tensors.push_back(
        {name, o.dtype, std::move(shape), random_bytes(o.dtype, count, scale, offset, seed)});
  };
  const auto add_mixer = [&](const std::string& prefix, Index layer) {
    const std::size_t first = tensors.size();
    const std::int64_t rows = 2 * o.d_mlp + d_ssm + channels + heads;
    add(prefix + "dt_bias", {heads}, 0.7, -1);
    add(prefix + "A_log", {heads}, 0.6, 0.5);
    add(prefix + "D", {o.d_per_channel ? d_ssm : heads}, 0.5, 0.5);
    add(prefix + "in_proj.weight", {rows, o.d_model}, 0.5);
    if (o.proj_bias) add(prefix + "in_proj.bias", {rows}, 0.3);
    add(prefix + "conv1d.weight", {channels, 1, o.d_conv}, 0.5);
    if (o.conv_bias) add(prefix + "conv1d.bias", {channels}, 0.3);
    add(prefix + "norm.weight", {d_ssm}, 0.3, 1);
    add(prefix + "out_proj.weight", {o.d_model, o.d_mlp + d_ssm}, 0.4);
    if (o.proj_bias) add(prefix + "out_proj.bias", {o.d_model}, 0.3);
    const auto index = [](std::int64_t value) { return static_cast<Index>(value); };
    Block block{.type = "mamba2",
                .prefix = prefix,
                .layer = layer,
                .sizes = {{"in", index(o.d_model)},
                          {"out", index(o.d_model)},
                          {"ngroups", index(o.ngroups)},
                          {"heads_per_group", index(o.heads_per_group)},
                          {"nheads", index(heads)},
                          {"headdim", index(o.headdim)},
                          {"d_ssm", index(d_ssm)},
                          {"d_state", index(o.d_state)},
                          {"d_mlp", index(o.d_mlp)},
                          {"d_conv", index(o.d_conv)}},
                .tensors = {},
                .numbers = {}};
    for (std::size_t i = first; i < tensors.size(); ++i) {
      block.tensors[tensors[i].name.substr(prefix.size())] = tensors[i].name;
    }
    layout.blocks.push_back(std::move(block));
  };

  layout.name = o.bare ? "mixers" : "mamba2";
  if (o.bare) {
    add_mixer("", -1);
    return;
  }
  add(o.hf ? "backbone.embeddings.weight" : "backbone.embedding.weight", {o.vocab, o.d_model}, 1);
  for (std::int64_t i = 0; i < o.n_layer; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    add(layer + "norm.weight", {o.d_model}, 0.3, 1);
    add_mixer(layer + "mixer.", static_cast<Index>(i));
  }
  add("backbone.norm_f.weight", {o.d_model}, 0.3, 1);
  if (!o.tied_head) add("lm_head.weight", {o.vocab, o.d_model}, 0.5);
  config = config_of(o);

  ModelSpec& spec = layout.spec;
  spec.architecture = "mamba2";
  spec.dialect = o.hf ? "hf" : "mamba-ssm";
  spec.backbone = "backbone.";
  spec.embedding_name = o.hf ? "embeddings.weight" : "embedding.weight";
  spec.n_layer = static_cast<Index>(o.n_layer);
  spec.vocab = static_cast<Index>(o.vocab);
  spec.d_model = static_cast<Index>(o.d_model);
  spec.d_inner = static_cast<Index>(o.d_mlp + d_ssm);
  spec.d_state = static_cast<Index>(o.d_state);
  spec.d_conv = static_cast<Index>(o.d_conv);
  spec.tied_head = o.tied_head;
  spec.conv_bias = o.conv_bias;
  spec.proj_bias = o.proj_bias;
}

TinyTensor& TinyMamba2::tensor(std::string_view name) {
  for (TinyTensor& each : tensors) {
    if (each.name == name) return each;
  }
  throw std::out_of_range("no tiny tensor " + std::string(name));
}

void TinyMamba2::write(const std::filesystem::path& folder) const {
  std::filesystem::create_directories(folder);
  if (!config.empty()) write_file(folder / "config.json", config);
  write_file(folder / "model.safetensors", safetensors_bytes(tensors));
}

void TinyMamba2::write_torch(const std::filesystem::path& folder, const std::string& file) const {
  std::filesystem::create_directories(folder);
  if (!config.empty()) write_file(folder / "config.json", config);
  std::vector<std::pair<std::string, PickleDraft::View>> views;
  std::vector<std::string> storages;
  for (const TinyTensor& each : tensors) {
    views.push_back({each.name,
                     {.storage_class = storage_class(each.dtype),
                      .key = std::to_string(storages.size()),
                      .storage_elements = elements(each.shape),
                      .shape = each.shape,
                      .strides = packed_strides(each.shape)}});
    storages.push_back(each.bytes);
  }
  write_file(folder / file, zip_bytes(archive_of(pickle_of(views), storages)));
}

}  // namespace icd::testing
