#include "support/tiny_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <Eigen/Core>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "icd/random.h"
#include "support/files.h"

namespace icd::testing {
namespace {

template <typename Stored>
void append(std::string& bytes, double value) {
  const auto stored = static_cast<Stored>(static_cast<float>(value));
  bytes.append(reinterpret_cast<const char*>(&stored), sizeof stored);
}

std::int64_t elements(const Shape& shape) {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

}  // namespace

std::string random_bytes(const std::string& dtype, std::int64_t count, double scale, double offset,
                         std::uint64_t seed) {
  Random random(seed);
  std::string bytes;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = offset + scale * random.normal();
    if (dtype == "F32") {
      append<float>(bytes, value);
    } else if (dtype == "F64") {
      append<double>(bytes, value);
    } else if (dtype == "BF16") {
      append<Eigen::bfloat16>(bytes, value);
    } else if (dtype == "F16") {
      append<Eigen::half>(bytes, value);
    } else {
      throw std::invalid_argument("random_bytes: no values of type " + dtype);
    }
  }
  return bytes;
}

TinyCheckpoint::TinyCheckpoint(const TinyOptions& o) {
  const auto add = [&](const std::string& name, Shape shape, double scale, double offset = 0) {
    const std::uint64_t seed = o.seed * 1000 + tensors.size();
    const std::int64_t count = elements(shape);
    tensors.push_back({o.prefix + name, o.dtype, std::move(shape),
                       random_bytes(o.dtype, count, scale, offset, seed)});
  };
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", {o.d_model}, 0.3, 1);
    if (o.layer_norm) add(name + ".bias", {o.d_model}, 0.3);
  };

  add(o.hf ? "backbone.embeddings.weight" : "backbone.embedding.weight", {o.vocab, o.d_model}, 1);
  for (std::int64_t i = 0; i < o.n_layer; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    add_norm(layer + "norm");
    add(layer + "mixer.in_proj.weight", {2 * o.d_inner, o.d_model}, 0.5);
    if (o.proj_bias) add(layer + "mixer.in_proj.bias", {2 * o.d_inner}, 0.3);
    add(layer + "mixer.conv1d.weight", {o.d_inner, 1, o.d_conv}, 0.5);
    if (o.conv_bias) add(layer + "mixer.conv1d.bias", {o.d_inner}, 0.3);
    add(layer + "mixer.x_proj.weight", {o.dt_rank + 2 * o.d_state, o.d_inner}, 0.4);
    add(layer + "mixer.dt_proj.weight", {o.d_inner, o.dt_rank}, 0.5);
    add(layer + "mixer.dt_proj.bias", {o.d_inner}, 0.7, -1);
    add(layer + "mixer.A_log", {o.d_inner, o.d_state}, 0.6, 0.5);
    add(layer + "mixer.D", {o.d_inner}, 0.5, 0.5);
    add(layer + "mixer.out_proj.weight", {o.d_model, o.d_inner}, 0.4);
    if (o.proj_bias) add(layer + "mixer.out_proj.bias", {o.d_model}, 0.3);
  }
  add_norm("backbone.norm_f");
  if (!o.tied_head) add("lm_head.weight", {o.vocab, o.d_model}, 0.5);
  if (o.tied_head && o.stored_tied_head) {
    TinyTensor copy = tensors.front();
    copy.name = o.prefix + "lm_head.weight";
    tensors.push_back(std::move(copy));
  }

  nlohmann::ordered_json json;
  if (o.hf) {
    json = {{"model_type", "mamba"},
            {"hidden_size", o.d_model},
            {"intermediate_size", o.d_inner},
            {"num_hidden_layers", o.n_layer},
            {"state_size", o.d_state},
            {"conv_kernel", o.d_conv},
            {"time_step_rank", o.dt_rank},
            {"vocab_size", o.vocab},
            {"use_bias", o.proj_bias},
            {"use_conv_bias", o.conv_bias},
            {"tie_word_embeddings", o.tied_head}};
  } else {
    json = {{"d_model", o.d_model},
            {"n_layer", o.n_layer},
            {"vocab_size", o.vocab},
            {"ssm_cfg",
             {{"layer", "Mamba1"},
              {"d_state", o.d_state},
              {"d_conv", o.d_conv},
              {"expand", o.d_inner / o.d_model},
              {"dt_rank", o.dt_rank},
              {"conv_bias", o.conv_bias},
              {"bias", o.proj_bias}}},
            {"rms_norm", !o.layer_norm},
            {"pad_vocab_size_multiple", 8},
            {"tie_embeddings", o.tied_head}};
  }
  config = json.dump(2) + "\n";
}

TinyTensor& TinyCheckpoint::tensor(std::string_view name) {
  for (TinyTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::out_of_range("no tiny tensor " + std::string(name));
}

void TinyCheckpoint::write(const std::filesystem::path& folder) const {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config);
  write_file(folder / "model.safetensors", safetensors_bytes(tensors));
}

void TinyCheckpoint::write_sharded(const std::filesystem::path& folder, int shards) const {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config);
  nlohmann::ordered_json index;
  std::size_t total = 0;
  const auto count = static_cast<std::size_t>(shards);
  for (std::size_t s = 0; s < count; ++s) {
    const std::size_t first = tensors.size() * s / count;
    const std::size_t last = tensors.size() * (s + 1) / count;
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, count);
    const std::vector<TinyTensor> part(tensors.begin() + static_cast<std::ptrdiff_t>(first),
                                       tensors.begin() + static_cast<std::ptrdiff_t>(last));
    write_file(folder / name, safetensors_bytes(part));
    for (const TinyTensor& tensor : part) {
      index["weight_map"][tensor.name] = name;
      total += tensor.bytes.size();
    }
  }
  index["metadata"]["total_size"] = total;
  write_file(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

std::string safetensors_bytes(const std::vector<TinyTensor>& tensors,
                              const std::function<void(std::string&)>& edit) {
  // Written apart from src/safetensors.cpp on purpose: the reader is tested against this.
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    header += fmt::format(R"(,"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          tensor.name, tensor.dtype, fmt::join(tensor.shape, ","), data.size(),
                          data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  header += "}";
  if (edit) edit(header);
  std::uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + data;
}

}  // namespace icd::testing
