#include "icd/synthetic.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "icd/error.h"
#include "icd/random.h"
#include "json.h"
#include "safetensors.h"

namespace icd {
namespace {

constexpr std::array kShapes = {
    Mamba1Shape{"mamba-130m", 24, 768},  Mamba1Shape{"mamba-370m", 48, 1024},
    Mamba1Shape{"mamba-790m", 48, 1536}, Mamba1Shape{"mamba-1.4b", 48, 2048},
    Mamba1Shape{"mamba-2.8b", 64, 2560},
};

std::vector<SafetensorsEntry> entries_of(const Mamba1Shape& s) {
  std::vector<SafetensorsEntry> entries;
  const auto add = [&](std::string name, Shape shape) {
    entries.push_back({std::move(name), DType::bf16, std::move(shape)});
  };
  add("backbone.embeddings.weight", {s.vocab, s.d_model});
  for (Index i = 0; i < s.n_layer; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    add(layer + "mixer.A_log", {s.d_inner(), s.d_state});
    add(layer + "mixer.D", {s.d_inner()});
    add(layer + "mixer.conv1d.bias", {s.d_inner()});
    add(layer + "mixer.conv1d.weight", {s.d_inner(), 1, s.d_conv});
    add(layer + "mixer.dt_proj.bias", {s.d_inner()});
    add(layer + "mixer.dt_proj.weight", {s.d_inner(), s.dt_rank()});
    add(layer + "mixer.in_proj.weight", {2 * s.d_inner(), s.d_model});
    add(layer + "mixer.out_proj.weight", {s.d_model, s.d_inner()});
    add(layer + "mixer.x_proj.weight", {s.dt_rank() + 2 * s.d_state, s.d_inner()});
    add(layer + "norm.weight", {s.d_model});
  }
  add("backbone.norm_f.weight", {s.d_model});
  return entries;
}

/// Four BF16 values: random sign and mantissa, magnitudes from 1/32 to 1/2.
std::uint64_t four_values(Random& random) {
  constexpr std::uint64_t kSignAndMantissa = 0x81FF81FF81FF81FFu;  // and two bits of the exponent
  constexpr std::uint64_t kExponent = 0x3D003D003D003D00u;
  return (random.next() & kSignAndMantissa) | kExponent;
}

}  // namespace

std::optional<Mamba1Shape> published_shape(std::string_view name) noexcept {
  for (const Mamba1Shape& shape : kShapes) {
    if (shape.name == name) return shape;
  }
  return std::nullopt;
}

void write_synthetic(const Mamba1Shape& shape, int shards, std::uint64_t seed,
                     const std::filesystem::path& folder, Progress& progress) {
  const auto entries = entries_of(shape);
  std::int64_t total = 0;
  for (const SafetensorsEntry& entry : entries) total += entry_bytes(entry);
  progress.start("making a synthetic checkpoint", total, "B");

  Random random(seed);
  std::vector<std::uint64_t> piece(std::size_t{1} << 17);
  Json index = {{"metadata", {{"total_size", total}}}};
  for (int shard = 0; shard < shards; ++shard) {
    const std::size_t first =
        entries.size() * static_cast<std::size_t>(shard) / static_cast<std::size_t>(shards);
    const std::size_t last =
        entries.size() * (static_cast<std::size_t>(shard) + 1) / static_cast<std::size_t>(shards);
    const std::string name =
        shards == 1 ? std::string("model.safetensors")
                    : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
    const auto part = std::span(entries).subspan(first, last - first);
    std::ofstream out(folder / name, std::ios::binary);
    const std::string header = safetensors_header(part);
    out.write(header.data(), static_cast<std::streamsize>(header.size()));
    for (const SafetensorsEntry& entry : part) {
      index["weight_map"][entry.name] = name;
      for (std::int64_t left = entry_bytes(entry); left > 0;) {
        std::generate(piece.begin(), piece.end(), [&] { return four_values(random); });
        const auto bytes =
            std::min(left, static_cast<std::int64_t>(piece.size() * sizeof piece[0]));
        out.write(reinterpret_cast<const char*>(piece.data()), bytes);
        left -= bytes;
        progress.advance(bytes, entry.name);
      }
    }
    if (!out.flush()) {
      throw Error(ErrorCode::io, fmt::format("{}: cannot be written: {}", (folder / name).string(),
                                             std::strerror(errno)));
    }
  }
  if (shards > 1) std::ofstream(folder / "model.safetensors.index.json") << index.dump(2) << "\n";
  const Json config = {{"model_type", "mamba"},
                       {"hidden_size", shape.d_model},
                       {"num_hidden_layers", shape.n_layer},
                       {"vocab_size", shape.vocab},
                       {"state_size", shape.d_state},
                       {"conv_kernel", shape.d_conv},
                       {"expand", 2},
                       {"time_step_rank", shape.dt_rank()},
                       {"use_bias", false},
                       {"use_conv_bias", true},
                       {"tie_word_embeddings", true}};
  std::ofstream out(folder / "config.json");
  out << config.dump(2) << "\n";
  if (!out.flush()) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be written", (folder / "config.json").string()));
  }
}

}  // namespace icd
