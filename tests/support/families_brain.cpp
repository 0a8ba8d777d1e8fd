// brain_brr (layouts.md 1.18, 2.18): stacks of two-way Mamba-2 layers whose mixers write into
// spaces of their own, not into the stream.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>

#include "support/families_parts.h"
#include "support/naive_conv.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"

namespace icd::testing {
namespace {

constexpr std::int64_t kElectrodes = 5;  // 19 in the files; the edges grow with their square
constexpr std::size_t kSamples = 12;
constexpr std::int64_t kStride = 2;
constexpr std::int64_t kTcnChannels[] = {6, 7};
constexpr std::int64_t kTcnOut = 9;
constexpr std::int64_t kTaps = 3;
constexpr std::int64_t kPlaces = 3;  // of an electrode in the graph: extra inputs of the GNN
constexpr std::size_t kGraphLayers = 2;

/// Expansion 2, one group, as the code has it.
constexpr Mamba2Sizes mixer_sizes(std::int64_t channels, std::int64_t headdim,
                                  std::int64_t states) {
  return {.d_model = channels,
          .heads = 2 * channels / headdim,
          .headdim = headdim,
          .groups = 1,
          .d_state = states,
          .d_conv = 4};
}
constexpr Mamba2Sizes kMain = mixer_sizes(10, 5, 3);
constexpr Mamba2Sizes kNode = mixer_sizes(8, 8, 5);
constexpr Mamba2Sizes kEdge = mixer_sizes(6, 4, 2);

/// The name of a tensor in the file.
std::string stored(const std::string& name) { return "model_state_dict." + name; }

void make_stack(TensorMaker& maker, const std::string& stack, std::size_t layers,
                const Mamba2Sizes& sizes) {
  const std::int64_t d = sizes.d_model;
  for (std::size_t i = 0; i < layers; ++i) {
    const std::string layer = fmt::format("{}.layers.{}.", stack, i);
    for (const char* way : {"forward", "backward"}) {
      make_mamba2(maker, fmt::format("{}{}_mamba_real.", layer, way), sizes);
      maker.conv(fmt::format("{}{}_mamba_fallback", layer, way), d, sizes.d_conv);
    }
    maker.linear(layer + "output_proj", d, 2 * d, Bias::yes);
    maker.norm(layer + "layer_norm", d, Bias::yes);
  }
}

void make_tcn(TensorMaker& maker) {
  const std::string tcn = stored("tcn_encoder.");
  std::int64_t in = kElectrodes;
  for (std::size_t i = 0; i < std::size(kTcnChannels); ++i) {
    // Convolution, ReLU and dropout take a number each.
    const std::string conv = fmt::format("{}tcn.network.{}.", tcn, 3 * i);
    maker.tensor(conv + "weight_g", {kTcnChannels[i], 1, 1}, 1.2, 0.3);
    maker.tensor(conv + "weight_v", {kTcnChannels[i], in, kTaps}, 0, 1);
    maker.tensor(conv + "bias", {kTcnChannels[i]}, 0.5, 0.5);
    in = kTcnChannels[i];
  }
  make_conv(maker, tcn + "tcn.projection", {kTcnOut, in, 1});
  make_conv(maker, tcn + "channel_proj", {kMain.d_model, kTcnOut, 1});
  make_conv(maker, tcn + "downsample", {kMain.d_model, kMain.d_model, kStride});
}

void make_heads(TensorMaker& maker) {
  make_conv(maker, stored("proj_head.proj"), {kElectrodes, kMain.d_model, 1});
  make_conv(maker, stored("detection_head"), {1, kElectrodes, 1});
}

NaiveTensors make_main(std::uint64_t seed) {
  TensorMaker maker(seed);
  make_tcn(maker);
  make_stack(maker, stored("mamba"), 2, kMain);
  make_heads(maker);
  return maker.take();
}

NaiveTensors make_two_streams(std::uint64_t seed) {
  TensorMaker maker(seed);
  make_tcn(maker);
  make_stack(maker, stored("mamba"), 1, kMain);
  make_stack(maker, stored("node_mamba"), 2, kNode);
  make_stack(maker, stored("edge_mamba"), 1, kEdge);
  const std::int64_t nodes = kElectrodes * kNode.d_model;
  make_conv(maker, stored("proj_to_electrodes"), {nodes, kMain.d_model, 1});
  make_conv(maker, stored("proj_from_electrodes"), {kMain.d_model, nodes, 1});
  make_conv(maker, stored("edge_in_proj"), {kEdge.d_model, 1, 1}, Bias::no);
  make_conv(maker, stored("edge_out_proj"), {1, kEdge.d_model, 1});
  maker.tensor(stored("gnn.static_pe"), {kElectrodes, kPlaces}, 0, 0.5);
  maker.linear(stored("gnn.edge_transform"), 1, 1, Bias::yes);
  for (std::size_t i = 0; i < kGraphLayers; ++i) {
    maker.linear(stored(fmt::format("gnn.gnn_layers.{}.lin", i)), kNode.d_model,
                 kNode.d_model + (i == 0 ? kPlaces : 0), Bias::yes);
    maker.norm(stored(fmt::format("gnn.layer_norms.{}", i)), kNode.d_model, Bias::yes);
  }
  make_heads(maker);
  return maker.take();
}

double dot(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double relu(double x) { return std::max(x, 0.0); }

Rows clamped(Rows x, double limit) {
  for (Row& row : x) {
    for (double& value : row) value = std::clamp(value, -limit, limit);
  }
  return x;
}

/// Weight norm: each output's weight_v scaled to the length weight_g.
NaiveTensor normed_weight(const Scope& conv) {
  NaiveTensor weight = conv.at("weight_v");
  const std::size_t out = extent(weight, 0);
  const std::size_t size = weight.values.size() / out;
  for (std::size_t o = 0; o < out; ++o) {
    const Row row = part(weight.values, o * size, size);
    const double scale = conv.at("weight_g").values[o] / std::sqrt(dot(row, row));
    for (std::size_t i = 0; i < size; ++i) weight.values[o * size + i] *= scale;
  }
  return weight;
}

/// (samples, electrodes) to (tokens, channels) of the main stream.
Rows encoded(Rows x, const Scope& encoder) {
  for (std::size_t i = 0; i < std::size(kTcnChannels); ++i) {
    const Scope layer = encoder.in(fmt::format("tcn.network.{}", 3 * i));
    const std::size_t dilation = std::size_t{1} << i;
    x = map(relu, naive_conv(x, normed_weight(layer), &layer.at("bias"),
                             {.dilation = dilation, .padding = dilation * (kTaps - 1) / 2}));
  }
  x = naive_conv(naive_conv(x, encoder, "tcn.projection"), encoder, "channel_proj");
  return naive_conv(x, encoder, "downsample", {.stride = kStride});
}

/// The layers of a stack, with the mixers and not their fallbacks.
Rows stacked(Rows x, const Scope& stack) {
  for (std::size_t i = 0; stack.has(fmt::format("layers.{}.output_proj.weight", i)); ++i) {
    const Scope layer = stack.in(fmt::format("layers.{}", i));
    x = clamped(x, 10);
    const Rows there = naive_mamba2(x, layer.in("forward_mamba_real"));
    const Rows back = reversed(naive_mamba2(reversed(x), layer.in("backward_mamba_real")));
    const Rows y = clamped(linear(joined(there, back), layer, "output_proj"), 5);
    x = clamped(norm(sum(x, y), layer, "layer_norm"), 10);
  }
  return x;
}

/// One electrode's channels of (tokens, electrodes * channels).
Rows electrode(const Rows& all, std::size_t e) {
  constexpr auto kChannels = static_cast<std::size_t>(kNode.d_model);
  return part(all, e * kChannels, kChannels);
}

/// (tokens, electrodes^2): how much of each electrode reaches each other, from how alike they are.
Rows adjacency(const Rows& electrodes, const Scope& model) {
  constexpr auto kCount = static_cast<std::size_t>(kElectrodes);
  Rows result(electrodes.size(), Row(kCount * kCount));
  for (std::size_t a = 0; a < kCount; ++a) {
    for (std::size_t b = a + 1; b < kCount; ++b) {
      const Rows x = electrode(electrodes, a);
      const Rows y = electrode(electrodes, b);
      Rows likeness;
      for (std::size_t t = 0; t < x.size(); ++t)
        likeness.push_back({dot(x[t], y[t]) / std::sqrt(dot(x[t], x[t]) * dot(y[t], y[t]))});
      const Rows lifted = clamped(naive_conv(likeness, model, "edge_in_proj"), 3);
      const Rows edge = map(
          softplus, naive_conv(stacked(lifted, model.in("edge_mamba")), model, "edge_out_proj"));
      for (std::size_t t = 0; t < edge.size(); ++t)
        result[t][a * kCount + b] = result[t][b * kCount + a] = edge[t][0];
    }
  }
  return result;
}

/// One token of all electrodes through the graph: SSGConv, norm; from the second layer on with a
/// residual. `nodes` is (electrodes, channels).
Rows graph_mixed(const Rows& nodes, const Row& weights, const Scope& gnn) {
  constexpr double kOwn = 0.05;  // alpha of SSGConv
  const std::size_t count = nodes.size();
  const auto spread = [&](const Rows& x) {
    Rows y;
    for (std::size_t a = 0; a < count; ++a) {
      Row mean(x[a].size());
      double total = 0;
      for (std::size_t b = 0; b < count; ++b) {
        mean = sum(mean, scaled(x[b], weights[a * count + b]));
        total += weights[a * count + b];
      }
      y.push_back(scaled(mean, 1 / total));
    }
    return y;
  };
  Rows x = nodes;
  for (std::size_t i = 0; i < kGraphLayers; ++i) {
    Rows in = x;
    for (std::size_t e = 0; i == 0 && e < count; ++e)
      in[e] = joined(in[e], slice(gnn.at("static_pe"), e).values);
    const Rows once = spread(in);
    const Rows mixed = sum(scaled(in, kOwn), scaled(sum(once, spread(once)), (1 - kOwn) / 2));
    const Rows y = linear(mixed, gnn.in(fmt::format("gnn_layers.{}", i)), "lin");
    x = norm(i == 0 ? y : sum(y, x), gnn, fmt::format("layer_norms.{}", i));
  }
  return x;
}

Rows two_streams(const Rows& features, const Scope& model) {
  const Rows electrodes = naive_conv(features, model, "proj_to_electrodes");
  const Rows weights = adjacency(electrodes, model);
  std::vector<Rows> nodes;
  for (std::size_t e = 0; e < static_cast<std::size_t>(kElectrodes); ++e)
    nodes.push_back(stacked(electrode(electrodes, e), model.in("node_mamba")));
  Rows flat;
  for (std::size_t t = 0; t < features.size(); ++t) {
    Rows at;
    for (const Rows& node : nodes) at.push_back(node[t]);
    Row all;
    for (const Row& row : graph_mixed(at, weights[t], model.in("gnn"))) all = joined(all, row);
    flat.push_back(std::move(all));
  }
  return naive_conv(flat, model, "proj_from_electrodes");
}

enum class Streams { main, two };

std::vector<double> forward(Streams streams, const NaiveTensors& tensors, std::uint64_t seed) {
  const Scope model = Scope(tensors).in("model_state_dict");
  const Rows features = encoded(random_rows(seed, kSamples, kElectrodes), model.in("tcn_encoder"));
  const Rows x = streams == Streams::main ? stacked(features, model.in("mamba"))
                                          : two_streams(features, model);
  std::vector<double> out;
  append(out, naive_conv(naive_conv(x, model, "proj_head.proj"), model, "detection_head"));
  return out;
}

/// The stream of a stack, from what writes it to what reads it, as if the mixers wrote it too.
std::vector<Move> stream_with_mixers(const std::string& stack, std::size_t layers) {
  std::vector<Move> moves;
  for (std::size_t i = 0; i < layers; ++i) {
    const std::string layer = stored(fmt::format("{}.layers.{}.", stack, i));
    for (const char* way : {"forward_mamba_real.", "backward_mamba_real."}) {
      moves.push_back({layer + way + "in_proj.weight", 1});
      moves.push_back({layer + way + "out_proj.weight", 0});
    }
    for (const char* name :
         {"output_proj.weight", "output_proj.bias", "layer_norm.weight", "layer_norm.bias"})
      moves.push_back({layer + name});
  }
  return moves;
}

Family family(const std::string& name, Streams streams) {
  Family f;
  f.name = "brain_brr " + name;
  f.make = streams == Streams::main ? make_main : make_two_streams;
  f.forward = [streams](const NaiveTensors& t, std::uint64_t seed) {
    return forward(streams, t, seed);
  };
  for (const char* tensor : {"_mamba_fallback.weight", "_mamba_fallback.bias"})
    f.invisible[tensor] = "runs only where the mixer does not";
  return f;
}

Family main_family() {
  Family f = family("main stream", Streams::main);
  f.wrong["out_proj of the mixers on the stream"] = [](NaiveTensors& t) {
    std::vector<Move> moves = stream_with_mixers("mamba", 2);
    moves.push_back({stored("tcn_encoder.downsample.weight")});
    moves.push_back({stored("tcn_encoder.downsample.bias")});
    moves.push_back({stored("proj_head.proj.weight"), 1});
    move_axes(t, moves, rotation(kMain.d_model));
  };
  return f;
}

Family two_stream_family() {
  Family f = family("node and edge streams", Streams::two);
  for (const auto& [name, tensor] : make_two_streams(0)) {
    if (name.starts_with(stored("mamba.")))
      f.invisible[name] = "the main stack does not run beside the two streams";
  }
  for (const char* tensor : {"gnn.edge_transform.weight", "gnn.edge_transform.bias"})
    f.invisible[tensor] = "passed by: the edge stream ends in a softplus";
  f.wrong["out_proj of the mixers on the edge stream"] = [](NaiveTensors& t) {
    std::vector<Move> moves = stream_with_mixers("edge_mamba", 1);
    moves.push_back({stored("edge_in_proj.weight")});
    moves.push_back({stored("edge_out_proj.weight"), 1});
    move_axes(t, moves, rotation(kEdge.d_model));
  };
  f.wrong["node channels of one electrode"] = [](NaiveTensors& t) {
    move_axes(t, {{stored("proj_to_electrodes.weight")}, {stored("proj_to_electrodes.bias")}},
              rotation(kNode.d_model));
  };
  f.wrong["places among the inputs of the graph"] = [](NaiveTensors& t) {
    move_axis(t, {stored("gnn.gnn_layers.0.lin.weight"), 1}, rotation(kNode.d_model + kPlaces));
  };
  return f;
}

}  // namespace

std::vector<Family> brain_families() { return {main_family(), two_stream_family()}; }

}  // namespace icd::testing
