// Speech enhancement: SEMamba and PrimeKnet-Mamba (layouts.md 1.16, 1.17, 2.16, 2.17), from a
// spectrogram of magnitudes and phases to another.
#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "support/families_parts.h"
#include "support/naive_conv.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"

namespace icd::testing {
namespace {

constexpr std::size_t kTimes = 4;
constexpr std::size_t kBins = 7;  // frequencies; 3 after the encoder's stride

/// (channels, times * bins)
struct Image {
  Rows channels;
  std::size_t bins = kBins;

  std::size_t times() const { return channels.front().size() / bins; }
};

/// What the two networks have in common, and the names under which they have it.
struct Codec {
  std::string root;    ///< of every name, "generator."
  std::int64_t width;  ///< channels
  std::int64_t depth;  ///< layers of a dense block
  bool separable;      ///< dense layers are a depthwise convolution and one of 1 x 1

  /// "dense_block.dense_block.2.": a layer of the dense block of the part `where`.
  std::string dense_layer(const std::string& where, std::int64_t layer) const {
    return fmt::format("{}{}.dense_block.dense_block.{}.", root, where, layer);
  }
};

/// weight (out, in, height, width) and bias of a Conv2d, or (in, out, ...) of its transpose.
void make_conv2d(TensorMaker& maker, const std::string& name, const Shape& shape,
                 std::int64_t fan_in, std::int64_t out) {
  maker.tensor(name + ".weight", shape, 0, 1 / std::sqrt(static_cast<double>(fan_in)));
  maker.tensor(name + ".bias", {out}, 0, 0.5);
}

/// InstanceNorm2d `first` and PReLU `first` + 1 of the sequence `name`.
void make_norm_and_slope(TensorMaker& maker, const std::string& name, int first, std::int64_t d) {
  maker.norm(fmt::format("{}.{}", name, first), d, Bias::yes);
  maker.tensor(fmt::format("{}.{}.weight", name, first + 1), {d}, 0.3, 0.1);
}

void make_dense_block(TensorMaker& maker, const Codec& codec, const std::string& where) {
  const std::int64_t d = codec.width;
  for (std::int64_t i = 0; i < codec.depth; ++i) {
    const std::string layer = codec.dense_layer(where, i);
    const std::int64_t in = d * (i + 1);
    if (codec.separable) {
      make_conv2d(maker, layer + "0", {in, 1, 3, 3}, 9, in);
      make_conv2d(maker, layer + "1", {d, in, 1, 1}, in, d);
    } else {
      make_conv2d(maker, layer + "0", {d, in, 3, 3}, 9 * in, d);
    }
    make_norm_and_slope(maker, layer.substr(0, layer.size() - 1), codec.separable ? 2 : 1, d);
  }
}

void make_codec(TensorMaker& maker, const Codec& codec) {
  const std::int64_t d = codec.width;
  const std::string encoder = codec.root + "dense_encoder.";
  make_conv2d(maker, encoder + "dense_conv_1.0", {d, 2, 1, 1}, 2, d);
  make_norm_and_slope(maker, encoder + "dense_conv_1", 1, d);
  make_dense_block(maker, codec, "dense_encoder");
  make_conv2d(maker, encoder + "dense_conv_2.0", {d, d, 1, 3}, 3 * d, d);
  make_norm_and_slope(maker, encoder + "dense_conv_2", 1, d);

  const std::string mask = codec.root + "mask_decoder.";
  make_dense_block(maker, codec, "mask_decoder");
  make_conv2d(maker, mask + "mask_conv.0", {d, d, 1, 3}, 2 * d, d);
  make_conv2d(maker, mask + "mask_conv.1", {1, d, 1, 1}, d, 1);
  make_norm_and_slope(maker, mask + "mask_conv", 2, 1);
  make_conv2d(maker, mask + "mask_conv.4", {1, 1, 1, 1}, 1, 1);
  maker.tensor(mask + "lsigmoid.slope", {kBins, 1}, 1.1, 0.3);

  const std::string phase = codec.root + "phase_decoder.";
  make_dense_block(maker, codec, "phase_decoder");
  make_conv2d(maker, phase + "phase_conv.0", {d, d, 1, 3}, 2 * d, d);
  make_norm_and_slope(maker, phase + "phase_conv", 1, d);
  make_conv2d(maker, phase + "phase_conv_r", {1, d, 1, 1}, d, 1);
  make_conv2d(maker, phase + "phase_conv_i", {1, d, 1, 1}, d, 1);
}

struct Conv2dOptions {
  std::size_t dilation = 1;  ///< along times
  std::size_t stride = 1;    ///< along bins
  enum class Padding { none, same } padding = Padding::none;
};

/// Conv2d by weight (out, in / groups, height, width): height along times, width along bins.
Image conv(const Image& x, const Scope& scope, const std::string& name,
           const Conv2dOptions& options = {}) {
  const NaiveTensor& weight = scope.at(name + ".weight");
  const NaiveTensor& bias = scope.at(name + ".bias");
  const std::size_t out = extent(weight, 0);
  const std::size_t in = extent(weight, 1);  // of a group
  const std::size_t height = extent(weight, 2);
  const std::size_t width = extent(weight, 3);
  const std::size_t groups = x.channels.size() / in;
  const bool same = options.padding == Conv2dOptions::Padding::same;
  const std::size_t above = same ? options.dilation * (height - 1) / 2 : 0;
  const std::size_t left = same ? (width - 1) / 2 : 0;
  const std::size_t times = x.times() + 2 * above - options.dilation * (height - 1);
  Image y{Rows(out), (x.bins + 2 * left - width) / options.stride + 1};
  for (std::size_t o = 0; o < out; ++o) {
    for (std::size_t t = 0; t < times; ++t) {
      for (std::size_t f = 0; f < y.bins; ++f) {
        double value = bias.values[o];
        for (std::size_t i = 0; i < in; ++i) {
          const Row& channel = x.channels[o / (out / groups) * in + i];
          for (std::size_t a = 0; a < height; ++a) {
            for (std::size_t b = 0; b < width; ++b) {
              const std::size_t row = t + a * options.dilation;  // counted from the padding
              const std::size_t column = f * options.stride + b;
              if (row < above || row - above >= x.times()) continue;
              if (column < left || column - left >= x.bins) continue;
              value += weight.values[((o * in + i) * height + a) * width + b] *
                       channel[(row - above) * x.bins + column - left];
            }
          }
        }
        y.channels[o].push_back(value);
      }
    }
  }
  return y;
}

/// ConvTranspose2d by weight (in, out, 1, width), stride 2 along bins.
Image conv_transposed(const Image& x, const Scope& scope, const std::string& name) {
  const NaiveTensor& weight = scope.at(name + ".weight");
  const std::size_t out = extent(weight, 1);
  const std::size_t width = extent(weight, 3);
  Image y{Rows(out), (x.bins - 1) * 2 + width};
  for (std::size_t o = 0; o < out; ++o) {
    y.channels[o].assign(x.times() * y.bins, scope.at(name + ".bias").values[o]);
    for (std::size_t i = 0; i < x.channels.size(); ++i) {
      for (std::size_t t = 0; t < x.times(); ++t) {
        for (std::size_t f = 0; f < x.bins; ++f) {
          for (std::size_t b = 0; b < width; ++b) {
            y.channels[o][t * y.bins + 2 * f + b] +=
                weight.values[(i * out + o) * width + b] * x.channels[i][t * x.bins + f];
          }
        }
      }
    }
  }
  return y;
}

/// InstanceNorm2d `first`, then PReLU `first` + 1.
Image normed(Image x, const Scope& scope, const std::string& name, int first) {
  const Row& weight = scope.at(fmt::format("{}.{}.weight", name, first)).values;
  const Row& bias = scope.at(fmt::format("{}.{}.bias", name, first)).values;
  const Row& slope = scope.at(fmt::format("{}.{}.weight", name, first + 1)).values;
  for (std::size_t c = 0; c < x.channels.size(); ++c) {
    const std::size_t size = x.channels[c].size();
    const NaiveTensor scale{{}, Row(size, weight[c])};
    const NaiveTensor shift{{}, Row(size, bias[c])};
    x.channels[c] = layer_norm(x.channels[c], scale, &shift);
    for (double& value : x.channels[c]) value = value > 0 ? value : slope[c] * value;
  }
  return x;
}

/// Every layer reads all before it, the newest first.
Image dense_block(const Image& x, const Scope& part, const Codec& codec) {
  Image seen = x;
  Image y;
  for (std::int64_t i = 0; i < codec.depth; ++i) {
    const Scope block = part.in("dense_block.dense_block");
    const std::string layer = std::to_string(i);
    y = conv(seen, block, layer + ".0",
             {.dilation = std::size_t{1} << i, .padding = Conv2dOptions::Padding::same});
    if (codec.separable) y = conv(y, block, layer + ".1");
    y = normed(std::move(y), block, layer, codec.separable ? 2 : 1);
    Rows channels = y.channels;
    channels.insert(channels.end(), seen.channels.begin(), seen.channels.end());
    seen.channels = std::move(channels);
  }
  return y;
}

Image encoded(const Image& x, const Scope& encoder, const Codec& codec) {
  Image y = normed(conv(x, encoder, "dense_conv_1.0"), encoder, "dense_conv_1", 1);
  y = conv(dense_block(y, encoder, codec), encoder, "dense_conv_2.0", {.stride = 2});
  return normed(std::move(y), encoder, "dense_conv_2", 1);
}

/// What the magnitudes are multiplied by: (times * bins).
Row decoded_mask(const Image& x, const Scope& decoder, const Codec& codec) {
  Image y = conv_transposed(dense_block(x, decoder, codec), decoder, "mask_conv.0");
  y = normed(conv(y, decoder, "mask_conv.1"), decoder, "mask_conv", 2);
  Row mask = conv(y, decoder, "mask_conv.4").channels[0];
  const Row& slope = decoder.at("lsigmoid.slope").values;
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = 2 * sigmoid(slope[i % kBins] * mask[i]);
  return mask;
}

/// Real and imaginary part of the phase, not yet of length 1.
std::pair<Row, Row> decoded_phase(const Image& x, const Scope& decoder, const Codec& codec) {
  Image y = conv_transposed(dense_block(x, decoder, codec), decoder, "phase_conv.0");
  y = normed(std::move(y), decoder, "phase_conv", 1);
  return {conv(y, decoder, "phase_conv_r").channels[0],
          conv(y, decoder, "phase_conv_i").channels[0]};
}

/// The encoder, the blocks between, both decoders; the output in complex numbers, which unlike
/// the phase do not jump.
template <typename Blocks>
std::vector<double> enhanced(const NaiveTensors& tensors, std::uint64_t seed, const Codec& codec,
                             const Blocks& blocks) {
  const Scope model(tensors, codec.root);
  const Image noisy{random_rows(seed, 2, kTimes * kBins)};
  const Image x = blocks(encoded(noisy, model.in("dense_encoder"), codec), model);
  const Row mask = decoded_mask(x, model.in("mask_decoder"), codec);
  const auto [real, imaginary] = decoded_phase(x, model.in("phase_decoder"), codec);
  std::vector<double> out;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    const double magnitude = mask[i] * noisy.channels[0][i];
    const double phase = std::atan2(imaginary[i], real[i]);
    out.insert(out.end(), {magnitude, magnitude * std::cos(phase), magnitude * std::sin(phase)});
  }
  return out;
}

/// Applies `f` to every sequence (times, channels), one a bin; or (bins, channels), one a time.
enum class Along { times, bins };
template <typename F>
Image each_sequence(const Image& x, Along along, const F& f) {
  Image y{Rows(x.channels.size(), Row(x.channels.front().size())), x.bins};
  const bool over_times = along == Along::times;
  const std::size_t length = over_times ? x.times() : x.bins;
  const auto place = [&](std::size_t sequence, std::size_t token) {
    return over_times ? token * x.bins + sequence : sequence * x.bins + token;
  };
  for (std::size_t s = 0; s < x.channels.front().size() / length; ++s) {
    Rows rows(length);
    for (std::size_t t = 0; t < length; ++t) {
      for (const Row& channel : x.channels) rows[t].push_back(channel[place(s, t)]);
    }
    const Rows result = f(rows);
    for (std::size_t t = 0; t < length; ++t) {
      for (std::size_t c = 0; c < x.channels.size(); ++c) y.channels[c][place(s, t)] = result[t][c];
    }
  }
  return y;
}

void add_invisible_biases(Family& f, const Codec& codec) {
  const char* const reason = "a constant, which the InstanceNorm behind it takes away";
  for (const char* tensor : {"dense_encoder.dense_conv_1.0.bias",
                             "dense_encoder.dense_conv_2.0.bias", "mask_decoder.mask_conv.0.bias",
                             "mask_decoder.mask_conv.1.bias", "phase_decoder.phase_conv.0.bias"})
    f.invisible[tensor] = reason;
  for (std::int64_t i = 0; i < codec.depth; ++i) {
    f.invisible[fmt::format("dense_block.{}.0.bias", i)] = reason;
    if (codec.separable) f.invisible[fmt::format("dense_block.{}.1.bias", i)] = reason;
  }
}

/// A layer's inputs of `width` channels, `first` of them on.
void add_dense_inputs(std::vector<Move>& moves, const Codec& codec, const std::string& where,
                      std::int64_t layer, std::int64_t first) {
  const std::string name = codec.dense_layer(where, layer);
  const auto at = static_cast<std::size_t>(first);
  if (!codec.separable) {
    moves.push_back({name + "0.weight", 1, at});
    return;
  }
  moves.push_back({name + "0.weight", 0, at});
  moves.push_back({name + "0.bias", 0, at});
  moves.push_back({name + "1.weight", 1, at});
}

/// What writes the stream and what reads it, outside of the blocks.
std::vector<Move> codec_stream_moves(const Codec& codec) {
  const std::string conv = codec.root + "dense_encoder.dense_conv_2.";
  std::vector<Move> moves;
  for (const char* name : {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"})
    moves.push_back({conv + name});
  for (const char* decoder : {"mask_decoder", "phase_decoder"}) {
    for (std::int64_t i = 0; i < codec.depth; ++i)
      add_dense_inputs(moves, codec, decoder, i, i * codec.width);
  }
  return moves;
}

void add_wrong_dense_order(Family& f, const Codec& codec) {
  f.wrong["a dense layer that reads the oldest first"] = [codec](NaiveTensors& t) {
    const std::string first = codec.dense_layer("mask_decoder", 0);
    std::vector<Move> moves;
    const int norm = codec.separable ? 2 : 1;
    for (const std::string& name :
         {fmt::format("{}.weight", norm - 1), fmt::format("{}.bias", norm - 1),
          fmt::format("{}.weight", norm), fmt::format("{}.bias", norm),
          fmt::format("{}.weight", norm + 1)})
      moves.push_back({first + name});
    for (std::int64_t i = 1; i < codec.depth; ++i)
      add_dense_inputs(moves, codec, "mask_decoder", i, codec.width);
    move_axes(t, moves, rotation(static_cast<Index>(codec.width)));
  };
}

// SEMamba

constexpr std::size_t kSeBlocks = 2;
constexpr std::int64_t kSeWidth = 5;
constexpr Mamba1Sizes kSeMixer = {
    .d_model = kSeWidth, .d_inner = 4 * kSeWidth, .d_state = 3, .dt_rank = 2};

Codec se_codec() {
  return {.root = "generator.", .width = kSeWidth, .depth = 4, .separable = false};
}

std::string se_mamba(std::size_t block, const char* axis, const char* way) {
  return fmt::format("generator.TSMamba.{}.{}_mamba.{}_blocks.0.", block, axis, way);
}

NaiveTensors make_se(std::uint64_t seed) {
  TensorMaker maker(seed);
  make_codec(maker, se_codec());
  for (std::size_t i = 0; i < kSeBlocks; ++i) {
    for (const char* axis : {"time", "freq"}) {
      for (const char* way : {"forward", "backward"}) {
        const std::string block = se_mamba(i, axis, way);
        maker.norm(block + "norm", kSeWidth);
        make_mamba1(maker, block + "mixer.", kSeMixer);
      }
      const std::string linear = fmt::format("generator.TSMamba.{}.{}linear", i, axis[0]);
      make_conv2d(maker, linear, {2 * kSeWidth, kSeWidth, 1}, 2 * kSeWidth, kSeWidth);
    }
  }
  return maker.take();
}

/// ConvTranspose1d of one tap: weight (in, out, 1).
Rows transposed_linear(const Rows& x, const Scope& scope, const std::string& name) {
  const NaiveTensor& weight = scope.at(name + ".weight");
  NaiveTensor turned{{weight.shape[1], weight.shape[0]}, Row(weight.values.size())};
  const std::size_t in = extent(weight, 0);
  const std::size_t out = extent(weight, 1);
  for (std::size_t i = 0; i < in; ++i) {
    for (std::size_t o = 0; o < out; ++o) turned.values[o * in + i] = weight.values[i * out + o];
  }
  return linear(x, turned, &scope.at(name + ".bias"));
}

std::vector<double> run_se(const NaiveTensors& tensors, std::uint64_t seed) {
  return enhanced(tensors, seed, se_codec(), [](Image x, const Scope& model) {
    for (std::size_t i = 0; i < kSeBlocks; ++i) {
      const Scope block = model.in(fmt::format("TSMamba.{}", i));
      const auto mixed = [&](const Rows& rows, const char* axis, const char* linear) {
        const auto way = [&](const Rows& in, const char* name) {
          const Scope layer = block.in(axis).in(name).in("0");
          return sum(in, naive_mamba1(norm(in, layer, "norm"), layer.in("mixer")));
        };
        const Rows there = way(rows, "forward_blocks");
        const Rows back = reversed(way(reversed(rows), "backward_blocks"));
        return sum(rows, transposed_linear(joined(there, back), block, linear));
      };
      x = each_sequence(x, Along::times,
                        [&](const Rows& rows) { return mixed(rows, "time_mamba", "tlinear"); });
      x = each_sequence(x, Along::bins,
                        [&](const Rows& rows) { return mixed(rows, "freq_mamba", "flinear"); });
    }
    return x;
  });
}

Family se_family() {
  Family f;
  f.name = "semamba";
  f.make = make_se;
  f.forward = run_se;
  add_invisible_biases(f, se_codec());
  add_wrong_dense_order(f, se_codec());
  f.wrong["the stream in half of the inputs of tlinear and flinear"] = [](NaiveTensors& t) {
    std::vector<Move> moves = codec_stream_moves(se_codec());
    for (std::size_t i = 0; i < kSeBlocks; ++i) {
      for (const char* axis : {"time", "freq"}) {
        for (const char* way : {"forward", "backward"}) {
          const std::string block = se_mamba(i, axis, way);
          moves.push_back({block + "norm.weight"});
          moves.push_back({block + "mixer.in_proj.weight", 1});
          moves.push_back({block + "mixer.out_proj.weight"});
        }
        const std::string linear = fmt::format("generator.TSMamba.{}.{}linear.", i, axis[0]);
        moves.push_back({linear + "weight", 0});
        moves.push_back({linear + "weight", 1});
        moves.push_back({linear + "bias"});
      }
    }
    move_axes(t, moves, rotation(kSeWidth));
  };
  return f;
}

// PrimeKnet-Mamba

constexpr std::size_t kPrimeBlocks = 2;
constexpr std::int64_t kPrimeWidth = 5;
constexpr std::int64_t kPrimeHidden = 6;
constexpr std::int64_t kPrimeKernels[] = {3, 5, 7};
constexpr std::int64_t kPrimeChunks = std::size(kPrimeKernels);
constexpr Mamba1Sizes kPrimeMixer = {
    .d_model = kPrimeHidden, .d_inner = 2 * kPrimeHidden, .d_state = 3, .dt_rank = 2};

Codec prime_codec() { return {.root = "", .width = kPrimeWidth, .depth = 4, .separable = true}; }

void make_beta(TensorMaker& maker, const std::string& name) {
  maker.tensor(name, {1, kPrimeWidth, 1}, 0.6, 0.2);
}

void make_channel_attention(TensorMaker& maker, const std::string& part, std::int64_t taps) {
  const std::int64_t d = kPrimeWidth;
  maker.norm(part + "norm", d, Bias::yes);
  make_conv(maker, part + "gate.0", {2 * d, d, 1});
  make_conv(maker, part + "gate.1", {2 * d, 1, taps});
  make_conv(maker, part + "channel_attn.1", {d, d, 1});
  make_conv(maker, part + "pwconv", {d, d, 1});
  make_beta(maker, part + "beta");
}

NaiveTensors make_prime(std::uint64_t seed) {
  TensorMaker maker(seed);
  make_codec(maker, prime_codec());
  const std::int64_t d = kPrimeWidth;
  for (std::size_t i = 0; i < kPrimeBlocks; ++i) {
    const std::string block = fmt::format("sequence_block.{}.", i);
    make_beta(maker, block + "beta_t");
    make_beta(maker, block + "beta_f");

    const std::string time = block + "time_stage.0.";
    make_channel_attention(maker, time + "0.", 1);
    maker.norm(time + "1.norm", d, Bias::yes);
    make_conv(maker, time + "1.proj_conv1", {kPrimeHidden, d, 1});
    make_mamba1(maker, time + "1.mamba.", kPrimeMixer);
    make_conv(maker, time + "1.proj_conv2", {d, kPrimeHidden, 1});
    make_beta(maker, time + "1.beta");

    const std::string freq = block + "freq_stage.0.";
    make_channel_attention(maker, freq + "0.", 3);
    maker.norm(freq + "1.norm", d, Bias::yes);
    make_conv(maker, freq + "1.proj_conv1", {d * kPrimeChunks, d, 1});
    for (const std::int64_t taps : kPrimeKernels) {
      make_conv(maker, fmt::format("{}1.attn_{}.0", freq, taps), {d, 1, taps});
      make_conv(maker, fmt::format("{}1.attn_{}.1", freq, taps), {d, d, 1});
      make_conv(maker, fmt::format("{}1.conv_{}", freq, taps), {d, 1, taps});
    }
    make_conv(maker, freq + "1.proj_conv2", {d, d * kPrimeChunks, 1});
    make_beta(maker, freq + "1.beta");
  }
  return maker.take();
}

/// Depthwise Conv1d by name.weight (channels, 1, taps), zeros beyond the ends.
Rows depthwise(const Rows& x, const Scope& scope, const std::string& name) {
  const NaiveTensor& weight = scope.at(name + ".weight");
  const std::size_t padding = (extent(weight, 2) - 1) / 2;
  const Rows zeros(padding, Row(x.front().size()));
  Rows longer = x;
  longer.insert(longer.end(), zeros.begin(), zeros.end());
  const Rows y = causal_conv(longer, weight, &scope.at(name + ".bias"));
  return Rows(y.begin() + static_cast<std::ptrdiff_t>(padding), y.end());
}

/// beta (1, channels, 1) times every token.
Rows weighted(Rows x, const NaiveTensor& beta) {
  for (Row& row : x) row = product(row, beta.values);
  return x;
}

Rows prime_norm(const Rows& x, const Scope& part) {
  return layer_norm(x, part.at("norm.weight"), &part.at("norm.bias"), 1e-6);
}

Rows channel_attention(const Rows& x, const Scope& scope) {
  constexpr auto kWidth = static_cast<std::size_t>(kPrimeWidth);
  const Rows both = depthwise(linear(prime_norm(x, scope), scope, "gate.0"), scope, "gate.1");
  Rows y = product(part(both, 0, kWidth), part(both, kWidth, kWidth));
  Row mean(kWidth);
  for (const Row& row : y) mean = sum(mean, scaled(row, 1 / static_cast<double>(y.size())));
  const Row attention = linear(mean, scope, "channel_attn.1");
  for (Row& row : y) row = product(row, attention);
  return sum(x, weighted(linear(y, scope, "pwconv"), scope.at("beta")));
}

Rows mamba_network(const Rows& x, const Scope& part) {
  const Rows y = naive_mamba1(linear(prime_norm(x, part), part, "proj_conv1"), part.in("mamba"));
  return sum(x, weighted(linear(y, part, "proj_conv2"), part.at("beta")));
}

Rows kernel_network(const Rows& x, const Scope& scope) {
  constexpr auto kWidth = static_cast<std::size_t>(kPrimeWidth);
  const Rows wide = linear(prime_norm(x, scope), scope, "proj_conv1");
  Rows y(x.size());
  for (std::size_t q = 0; q < kPrimeChunks; ++q) {
    const Rows chunk = part(wide, q * kWidth, kWidth);
    const std::string attention = fmt::format("attn_{}", kPrimeKernels[q]);
    const Rows a = linear(depthwise(chunk, scope, attention + ".0"), scope, attention + ".1");
    y = joined(y, product(a, depthwise(chunk, scope, fmt::format("conv_{}", kPrimeKernels[q]))));
  }
  return sum(x, weighted(linear(y, scope, "proj_conv2"), scope.at("beta")));
}

std::vector<double> run_prime(const NaiveTensors& tensors, std::uint64_t seed) {
  return enhanced(tensors, seed, prime_codec(), [](Image x, const Scope& model) {
    for (std::size_t i = 0; i < kPrimeBlocks; ++i) {
      const Scope block = model.in(fmt::format("sequence_block.{}", i));
      x = each_sequence(x, Along::times, [&](const Rows& rows) {
        const Scope stage = block.in("time_stage.0");
        return sum(mamba_network(channel_attention(rows, stage.in("0")), stage.in("1")),
                   weighted(rows, block.at("beta_t")));
      });
      x = each_sequence(x, Along::bins, [&](const Rows& rows) {
        const Scope stage = block.in("freq_stage.0");
        return sum(kernel_network(channel_attention(rows, stage.in("0")), stage.in("1")),
                   weighted(rows, block.at("beta_f")));
      });
    }
    return x;
  });
}

Family prime_family() {
  Family f;
  f.name = "primeknet-mamba";
  f.make = make_prime;
  f.forward = run_prime;
  add_invisible_biases(f, prime_codec());
  add_wrong_dense_order(f, prime_codec());
  const std::string time = "sequence_block.0.time_stage.0.1.";
  const std::string freq = "sequence_block.0.freq_stage.0.1.";
  f.wrong["proj_conv1 without the columns of in_proj"] = [=](NaiveTensors& t) {
    move_axes(t, {{time + "proj_conv1.weight"}, {time + "proj_conv1.bias"}},
              rotation(kPrimeHidden));
  };
  f.wrong["input and output of the mixer as one space"] = [=](NaiveTensors& t) {
    move_axes(t,
              {{time + "proj_conv1.weight"},
               {time + "proj_conv1.bias"},
               {time + "mamba.in_proj.weight", 1},
               {time + "proj_conv2.weight", 1}},
              rotation(kPrimeHidden));
  };
  f.wrong["channels of all chunks in one order across chunks"] = [=](NaiveTensors& t) {
    move_axes(
        t,
        {{freq + "proj_conv1.weight"}, {freq + "proj_conv1.bias"}, {freq + "proj_conv2.weight", 1}},
        rotation(kPrimeWidth * kPrimeChunks));
  };
  f.wrong["one half of the gate"] = [](NaiveTensors& t) {
    const std::string gate = "sequence_block.1.time_stage.0.0.gate.";
    move_axes(t, {{gate + "0.weight"}, {gate + "0.bias"}, {gate + "1.weight"}, {gate + "1.bias"}},
              rotation(kPrimeWidth));
  };
  return f;
}

}  // namespace

std::vector<Family> speech_families() { return {se_family(), prime_family()}; }

}  // namespace icd::testing
