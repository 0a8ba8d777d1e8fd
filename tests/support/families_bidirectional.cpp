// Mixers that run over a sequence both ways: Vim, Caduceus, and pairs in any network
// (layouts.md 1.14, 1.15, 2.13 to 2.15).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "support/families_parts.h"
#include "support/naive_conv.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"

namespace icd::testing {
namespace {

constexpr std::size_t kLayers = 2;

/// {n-1, 0, 1, ...}: another order than rotation(n).
std::vector<Index> rotation_back(Index n) {
  std::vector<Index> order = rotation(n);
  for (Index i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = (i + n - 1) % n;
  return order;
}

// Vim

constexpr std::int64_t kVimChannels = 10;
constexpr std::int64_t kVimInner = 20;
constexpr std::int64_t kVimStates = 5;
constexpr std::int64_t kVimRank = 3;
constexpr std::int64_t kVimClasses = 7;
constexpr std::size_t kPatch = 2;         // pixels, each way
constexpr std::size_t kImageColors = 3;   // input channels
constexpr std::size_t kImageRows = 4;     // pixels
constexpr std::size_t kImageColumns = 6;  // pixels
constexpr std::size_t kImagePixels = kImageRows * kImageColumns;
constexpr std::size_t kPatches = kImagePixels / (kPatch * kPatch);

enum class ClassToken { middle, ends };

struct Vim {
  int version = 2;  ///< of its bidirectional mixer
  ClassToken token = ClassToken::middle;
  bool gamma = false;
};

NaiveTensors make_vim(const Vim& vim, std::uint64_t seed) {
  TensorMaker maker(seed);
  const std::int64_t d = kVimChannels;
  maker.tensor("model.patch_embed.proj.weight", {d, kImageColors, kPatch, kPatch}, 0, 0.3);
  maker.tensor("model.patch_embed.proj.bias", {d}, 0, 0.5);
  const bool middle = vim.token == ClassToken::middle;
  for (const char* name : {"cls_token", "cls_token_head", "cls_token_tail"}) {
    if (middle == (std::string(name) == "cls_token"))
      maker.tensor(fmt::format("model.{}", name), {1, 1, d}, 0, 1);
  }
  maker.tensor("model.pos_embed", {1, static_cast<std::int64_t>(kPatches) + (middle ? 1 : 2), d}, 0,
               0.5);
  for (std::size_t i = 0; i < kLayers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const std::string mixer = layer + "mixer.";
    maker.norm(layer + "norm", d);
    make_mamba1(maker, mixer,
                {.d_model = d, .d_inner = kVimInner, .d_state = kVimStates, .dt_rank = kVimRank});
    maker.tensor(mixer + "A_b_log", {kVimInner, kVimStates}, 0, 0.5);
    if (vim.version == 2) {
      maker.conv(mixer + "conv1d_b", kVimInner, 4);
      maker.linear(mixer + "x_proj_b", kVimRank + 2 * kVimStates, kVimInner);
      maker.linear(mixer + "dt_proj_b", kVimInner, kVimRank, Bias::yes);
      maker.tensor(mixer + "D_b", {kVimInner}, 0.5, 0.5);
    }
    if (vim.gamma) maker.tensor(mixer + "gamma", {d}, 0.8, 0.2);
  }
  maker.norm("model.norm_f", d);
  maker.linear("model.head", kVimClasses, d, Bias::yes);
  return maker.take();
}

/// Version 2: a convolution, projections and a scan for each way, in_proj and out_proj for both.
Rows vim_v2(const Rows& hidden, const Scope& mixer) {
  const Rows xz = linear(hidden, mixer, "in_proj");
  const Rows x = part(xz, 0, kVimInner);
  const Rows z = map(silu, part(xz, kVimInner, kVimInner));
  const Rows there = mamba1_scan(x, mamba1_core(mixer));
  const Rows back = reversed(mamba1_scan(reversed(x), mamba1_core(mixer, "_b")));
  return linear(scaled(product(sum(there, back), z), 0.5), mixer, "out_proj");
}

/// h = exp(dt A) h + dt B u, y = <C, h> + D u over (tokens, d_inner) of what is projected already.
Rows scanned(const Rows& u, const Rows& dt, const Rows& B, const Rows& C, const NaiveTensor& A_log,
             const NaiveTensor& D) {
  const std::size_t states = extent(A_log, 1);
  Rows y(u.size(), Row(u.front().size()));
  for (std::size_t c = 0; c < u.front().size(); ++c) {
    for (std::size_t t = 0; t < u.size(); ++t) y[t][c] = D.values[c] * u[t][c];
    for (std::size_t n = 0; n < states; ++n) {
      const double A = -std::exp(A_log.values[c * states + n]);
      double h = 0;
      for (std::size_t t = 0; t < u.size(); ++t) {
        h = std::exp(dt[t][c] * A) * h + dt[t][c] * B[t][n] * u[t][c];
        y[t][c] += C[t][n] * h;
      }
    }
  }
  return y;
}

/// Version 1: only A differs; convolution and projections are those of the way forward.
Rows vim_v1(const Rows& hidden, const Scope& mixer) {
  const Rows xz = linear(hidden, mixer, "in_proj");
  const Rows u = map(silu, causal_conv(part(xz, 0, kVimInner), mixer.at("conv1d.weight"),
                                       &mixer.at("conv1d.bias")));
  const Rows z = map(silu, part(xz, kVimInner, kVimInner));
  const Rows low = linear(u, mixer, "x_proj");
  const Rows dt = map(softplus, linear(part(low, 0, kVimRank), mixer, "dt_proj"));
  const Rows B = part(low, kVimRank, kVimStates);
  const Rows C = part(low, kVimRank + kVimStates, kVimStates);
  const Rows there = scanned(u, dt, B, C, mixer.at("A_log"), mixer.at("D"));
  const Rows back = reversed(scanned(reversed(u), reversed(dt), reversed(B), reversed(C),
                                     mixer.at("A_b_log"), mixer.at("D")));
  return linear(product(sum(there, back), z), mixer, "out_proj");
}

/// (patches, colors * pixels of a patch), row by row; `image` is (colors, pixels).
Rows patches_of(const Rows& image) {
  Rows patches;
  for (std::size_t y = 0; y < kImageRows; y += kPatch) {
    for (std::size_t x = 0; x < kImageColumns; x += kPatch) {
      Row pixels;
      for (const Row& color : image) {
        for (std::size_t j = 0; j < kPatch; ++j)
          pixels = joined(pixels, part(color, (y + j) * kImageColumns + x, kPatch));
      }
      patches.push_back(std::move(pixels));
    }
  }
  return patches;
}

std::vector<double> run_vim(const Vim& vim, const NaiveTensors& tensors, std::uint64_t seed) {
  constexpr std::size_t kImages = 2;
  const Scope model = Scope(tensors).in("model");
  const Rows colors = random_rows(seed, kImages * kImageColors, kImagePixels);
  const auto place = [&](Rows& tokens, const char* name, std::size_t at) {
    tokens.insert(tokens.begin() + static_cast<std::ptrdiff_t>(at), model.at(name).values);
  };
  std::vector<double> out;
  for (std::size_t i = 0; i < kImages; ++i) {
    const auto image = colors.begin() + static_cast<std::ptrdiff_t>(i * kImageColors);
    Rows x =
        linear(patches_of(Rows(image, image + kImageColors)),
               flattened(model.at("patch_embed.proj.weight")), &model.at("patch_embed.proj.bias"));
    if (vim.token == ClassToken::middle) {
      place(x, "cls_token", kPatches / 2);
    } else {
      place(x, "cls_token_head", 0);
      place(x, "cls_token_tail", x.size());
    }
    for (std::size_t t = 0; t < x.size(); ++t)
      x[t] = sum(x[t], part(model.at("pos_embed").values, t * kVimChannels, kVimChannels));
    for (std::size_t k = 0; k < kLayers; ++k) {
      const Scope layer = model.in(fmt::format("layers.{}", k));
      const Scope mixer = layer.in("mixer");
      const Rows normed = norm(x, layer, "norm");
      Rows y = vim.version == 2 ? vim_v2(normed, mixer) : vim_v1(normed, mixer);
      if (vim.gamma) {
        for (Row& row : y) row = product(row, mixer.at("gamma").values);
      }
      x = sum(x, y);
    }
    x = norm(x, model, "norm_f");
    const Row read =
        vim.token == ClassToken::middle ? x[kPatches / 2] : scaled(sum(x.front(), x.back()), 0.5);
    append(out, {linear(read, model, "head")});
  }
  return out;
}

/// What the second way of version 2 has of its own on d_inner.
std::vector<Move> vim_back_moves(const std::string& mixer) {
  return {{mixer + "conv1d_b.weight"},
          {mixer + "conv1d_b.bias"},
          {mixer + "x_proj_b.weight", 1},
          {mixer + "dt_proj_b.weight"},
          {mixer + "dt_proj_b.bias"},
          {mixer + "A_b_log"},
          {mixer + "D_b"}};
}

Family vim_family(const std::string& name, const Vim& vim) {
  Family f;
  f.name = "vim " + name;
  f.make = [vim](std::uint64_t seed) { return make_vim(vim, seed); };
  f.forward = [vim](const NaiveTensors& t, std::uint64_t seed) { return run_vim(vim, t, seed); };
  const std::string mixer = "model.layers.0.mixer.";
  f.wrong["d_inner of the way forward only"] = [=](NaiveTensors& t) {
    move_axes(t, mamba1_inner_moves(t, mixer), rotation(kVimInner));
  };
  if (vim.version == 2) {
    f.wrong["d_inner of each way in an order of its own"] = [=](NaiveTensors& t) {
      move_axes(t, mamba1_inner_moves(t, mixer), rotation(kVimInner));
      move_axes(t, vim_back_moves(mixer), rotation_back(kVimInner));
    };
  } else {
    f.wrong["states of A_log without A_b_log"] = [=](NaiveTensors& t) {
      move_axes(t,
                {{mixer + "x_proj.weight", 0, kVimRank},
                 {mixer + "x_proj.weight", 0, kVimRank + kVimStates},
                 {mixer + "A_log", 1}},
                rotation(kVimStates));
    };
  }
  return f;
}

// Caduceus

constexpr std::int64_t kBases = 12;  // rows of the embedding
constexpr std::int64_t kCaduceusChannels = 8;
constexpr Mamba1Sizes kCaduceusMixer = {
    .d_model = kCaduceusChannels, .d_inner = 16, .d_state = 5, .dt_rank = 3};

/// Token ids of the other strand: A with T and C with G, the rest with itself.
constexpr Index kComplement[kBases] = {0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11};

enum class Head { tied, own };
enum class Directions { untied, tied };
enum class Strands { one, both };  ///< both: RCPS
enum class AddNorm { plain, fused };

struct Caduceus {
  std::size_t layers = 2;
  Directions directions = Directions::tied;
  Strands strands = Strands::one;
  AddNorm add_norm = AddNorm::fused;
  Head head = Head::tied;
  Bias norm_bias = Bias::no;  ///< LayerNorm instead of RMSNorm
  bool multiply = false;      ///< the two ways, instead of adding them

  bool rcps() const { return strands == Strands::both; }
  bool wrapped_norms() const { return rcps() && add_norm == AddNorm::plain; }
  std::string embedding() const {
    return rcps() ? "caduceus.backbone.embeddings.word_embeddings.embedding.weight"
                  : "caduceus.backbone.embeddings.word_embeddings.weight";
  }
  std::string layer(std::size_t i) const { return fmt::format("caduceus.backbone.layers.{}.", i); }
  std::string norm() const { return wrapped_norms() ? "norm.submodule" : "norm"; }
  std::string final_norm() const { return wrapped_norms() ? "norm_f.submodule" : "norm_f"; }
  std::string mixer() const { return rcps() ? "mixer.submodule." : "mixer."; }
};

std::string config_of(const Caduceus& c) {
  std::vector<std::string> complement;
  for (std::size_t i = 0; i < kBases; ++i)
    complement.push_back(fmt::format(R"("{}": {})", i, kComplement[i]));
  return fmt::format(
      R"({{"model_type": "caduceus", "architectures": ["CaduceusForMaskedLM"], "d_model": {}, )"
      R"("n_layer": {}, "vocab_size": {}, "ssm_cfg": {{"d_state": {}, "d_conv": {}, "expand": 2, )"
      R"("dt_rank": {}, "bias": false, "conv_bias": true}}, "rms_norm": {}, )"
      R"("residual_in_fp32": false, "fused_add_norm": {}, "pad_vocab_size_multiple": 4, )"
      R"("bidirectional": true, "bidirectional_strategy": "{}", )"
      R"("bidirectional_weight_tie": {}, "rcps": {}, "tie_word_embeddings": {}, )"
      R"("complement_map": {{{}}}}})",
      kCaduceusChannels, c.layers, kBases, kCaduceusMixer.d_state, kCaduceusMixer.d_conv,
      kCaduceusMixer.dt_rank, c.norm_bias == Bias::no, c.add_norm == AddNorm::fused,
      c.multiply ? "ew_multiply" : "add", c.directions == Directions::tied, c.rcps(),
      c.head == Head::tied, fmt::join(complement, ", "));
}

NaiveTensors make_caduceus(const Caduceus& c, std::uint64_t seed) {
  TensorMaker maker(seed);
  maker.embedding(c.embedding(), kBases, kCaduceusChannels);
  for (std::size_t i = 0; i < c.layers; ++i) {
    const std::string layer = c.layer(i);
    maker.norm(layer + c.norm(), kCaduceusChannels, c.norm_bias);
    make_mamba1(maker, layer + c.mixer() + "mamba_fwd.", kCaduceusMixer);
    make_mamba1(maker, layer + c.mixer() + "mamba_rev.", kCaduceusMixer);
  }
  maker.norm("caduceus.backbone." + c.final_norm(), kCaduceusChannels, c.norm_bias);
  if (c.head == Head::own) maker.linear("lm_head", kBases, kCaduceusChannels);

  NaiveTensors tensors = maker.take();
  for (std::size_t i = 0; i < c.layers && c.directions == Directions::tied; ++i) {
    for (const char* name : {"mamba_rev.in_proj.weight", "mamba_rev.out_proj.weight"})
      tensors.erase(c.layer(i) + c.mixer() + name);
  }
  if (c.rcps()) {
    const NaiveTensor complement{{kBases}, Row(std::begin(kComplement), std::end(kComplement))};
    tensors["caduceus.backbone.embeddings.word_embeddings.complement_map"] = complement;
    tensors["lm_head.complement_map"] = complement;
  }
  return tensors;
}

/// Both ways over one strand.
Rows both_ways(const Rows& x, const Scope& mixer, const Caduceus& c) {
  const Scope forward = mixer.in("mamba_fwd");
  const Scope backward = mixer.in("mamba_rev");
  const Scope& outer = c.directions == Directions::tied ? forward : backward;
  const Rows there = naive_mamba1(x, forward);
  const Rows back = reversed(naive_mamba1(reversed(x), outer, mamba1_core(backward)));
  return c.multiply ? product(there, back) : sum(there, back);
}

/// The other strand read along this one: tokens and channels in reverse.
Rows reverse_complement(Rows x) {
  std::reverse(x.begin(), x.end());
  for (Row& row : x) std::reverse(row.begin(), row.end());
  return x;
}

std::vector<double> run_caduceus(const Caduceus& c, const NaiveTensors& tensors,
                                 std::uint64_t seed) {
  const Scope model(tensors);
  const Scope backbone = model.in("caduceus.backbone");
  const NaiveTensor& table = model.at(c.embedding());
  const NaiveTensor& head = c.head == Head::own ? model.at("lm_head.weight") : table;
  return naive_logits(table, head, seed, [&](Rows x) {
    for (std::size_t i = 0; i < c.layers; ++i) {
      const Scope layer = backbone.in(fmt::format("layers.{}", i));
      x = sum(x, both_ways(norm(x, layer, "norm"), layer.in("mixer"), c));
    }
    return norm(x, backbone, "norm_f");
  });
}

/// RCPS: the channels twice, once for each strand. In the fused form each layer takes the halves
/// the other way round, so that its mixer sees reversed channels in every second layer.
std::vector<double> run_rcps(const Caduceus& c, const NaiveTensors& tensors, std::uint64_t seed) {
  const Scope model(tensors);
  const Scope backbone = model.in("caduceus.backbone");
  const NaiveTensor& table = model.at(c.embedding());
  const auto complement_of = [&](const char* name, std::size_t id) {
    return static_cast<std::size_t>(model.at(name).values[id]);
  };
  std::vector<double> out;
  for (std::vector<std::size_t> ids : random_ids(seed, kBases)) {
    Rows first = embedding(table, ids);
    for (std::size_t& id : ids)
      id = complement_of("caduceus.backbone.embeddings.word_embeddings.complement_map", id);
    Rows second = embedding(table, ids);
    for (Row& row : second) std::reverse(row.begin(), row.end());

    for (std::size_t i = 0; i < c.layers; ++i) {
      const Scope layer = backbone.in(fmt::format("layers.{}", i));
      const auto mixed = [&](const Rows& x) {
        return both_ways(norm(x, layer, c.norm()), layer.in("mixer.submodule"), c);
      };
      if (c.add_norm == AddNorm::fused) std::swap(first, second);
      first = sum(first, mixed(first));
      second = sum(second, reverse_complement(mixed(reverse_complement(second))));
    }
    first = norm(first, backbone, c.final_norm());
    second = norm(reverse_complement(second), backbone, c.final_norm());
    NaiveTensor other_head = table;  // its rows are those of the complements
    for (std::size_t id = 0; id < kBases; ++id) {
      const Row row = slice(table, complement_of("lm_head.complement_map", id)).values;
      std::copy(row.begin(), row.end(),
                other_head.values.begin() + static_cast<std::ptrdiff_t>(id * kCaduceusChannels));
    }
    // The head flips the channels back, not the tokens.
    append(out, sum(linear(first, table), linear(reversed(second), other_head)));
  }
  return out;
}

/// Everything on the stream of the strands: the layers of `parity` 0 (even) or 1 (odd), or what is
/// outside of the layers.
constexpr std::size_t kOutside = 2;
std::vector<Move> stream_moves(const NaiveTensors& tensors, const Caduceus& c, std::size_t parity) {
  std::vector<Move> moves;
  const auto norm_moves = [&](const std::string& name) {
    moves.push_back({name + ".weight"});
    if (c.norm_bias == Bias::yes) moves.push_back({name + ".bias"});
  };
  if (parity == kOutside) {
    moves.push_back({c.embedding(), 1});
    norm_moves("caduceus.backbone." + c.final_norm());
    return moves;
  }
  for (std::size_t i = parity; i < c.layers; i += 2) {
    norm_moves(c.layer(i) + c.norm());
    for (const char* way : {"mamba_fwd.", "mamba_rev."}) {
      const std::string mixer = c.layer(i) + c.mixer() + way;
      if (!tensors.contains(mixer + "in_proj.weight")) continue;
      moves.push_back({mixer + "in_proj.weight", 1});
      moves.push_back({mixer + "out_proj.weight", 0});
    }
  }
  return moves;
}

Family caduceus_family(const std::string& name, const Caduceus& c) {
  Family f;
  f.name = "caduceus " + name;
  f.config = config_of(c);
  f.make = [c](std::uint64_t seed) { return make_caduceus(c, seed); };
  f.forward = [c](const NaiveTensors& t, std::uint64_t seed) {
    return c.rcps() ? run_rcps(c, t, seed) : run_caduceus(c, t, seed);
  };
  if (c.rcps()) f.index_tensors = {"complement_map"};
  if (c.directions == Directions::tied) {
    f.wrong["d_inner of mamba_fwd only"] = [c](NaiveTensors& t) {
      const std::string mixer = c.layer(1) + c.mixer() + "mamba_fwd.";
      move_axes(t, mamba1_inner_moves(t, mixer), rotation(kCaduceusMixer.d_inner));
    };
  }
  if (c.rcps() && c.add_norm == AddNorm::fused) {
    const auto order = rotation(kCaduceusChannels);
    f.wrong["the stream in any one order"] = [=](NaiveTensors& t) {
      for (const std::size_t parity : {std::size_t{0}, std::size_t{1}, kOutside})
        move_axes(t, stream_moves(t, c, parity), order);
    };
    if (c.layers % 2 == 1) {
      // rho pi rho of {1, 2, ..., 0} is {d-1, 0, 1, ...}.
      f.wrong["even layers in the mirrored order, with a tied head"] = [=](NaiveTensors& t) {
        move_axes(t, stream_moves(t, c, 0), rotation_back(kCaduceusChannels));
        move_axes(t, stream_moves(t, c, 1), order);
        move_axes(t, stream_moves(t, c, kOutside), order);
      };
    }
  }
  return f;
}

// Pairs of mixers in a network of which nothing else is known

constexpr std::int64_t kSignals = 3;
constexpr std::int64_t kPairChannels = 10;
constexpr std::int64_t kPairTaps = 3;
constexpr Mamba1Sizes kPairMamba1 = {
    .d_model = kPairChannels, .d_inner = 14, .d_state = 5, .dt_rank = 2, .proj_bias = Bias::yes};
constexpr Mamba2Sizes kPairMamba2 = {
    .d_model = kPairChannels, .heads = 4, .headdim = 3, .groups = 1, .d_state = 5};

/// A pair by its names and its mixers' version.
struct Pair {
  int version = 1;
  std::string forward = "mamba_fwd";
  std::string backward = "mamba_bwd";
};

std::string pair_layer(std::size_t i) { return fmt::format("encoder.layers.{}", i); }

NaiveTensors make_pair_net(const Pair& pair, std::uint64_t seed) {
  TensorMaker maker(seed);
  make_conv(maker, "encoder.stem", {kPairChannels, kSignals, kPairTaps});
  for (std::size_t i = 0; i < kLayers; ++i) {
    const std::string layer = pair_layer(i) + ".";
    maker.norm(layer + "norm", kPairChannels, Bias::yes);
    for (const std::string& name : {pair.forward, pair.backward}) {
      if (pair.version == 1) make_mamba1(maker, layer + name + ".", kPairMamba1);
      if (pair.version == 2) make_mamba2(maker, layer + name + ".", kPairMamba2);
    }
    maker.linear(layer + "merge", kPairChannels, 2 * kPairChannels, Bias::yes);
  }
  maker.linear("head", kSignals, kPairChannels, Bias::yes);
  return maker.take();
}

std::vector<double> run_pair_net(const Pair& pair, const NaiveTensors& tensors,
                                 std::uint64_t seed) {
  const Scope model(tensors);
  const auto mixed = [&](const Rows& in, const Scope& mixer) {
    return pair.version == 1 ? naive_mamba1(in, mixer) : naive_mamba2(in, mixer);
  };
  const Scope encoder = model.in("encoder");
  Rows x =
      naive_conv(random_rows(seed, 8, kSignals), encoder, "stem", {.padding = (kPairTaps - 1) / 2});
  for (std::size_t i = 0; i < kLayers; ++i) {
    const Scope layer = model.in(pair_layer(i));
    const Rows normed = norm(x, layer, "norm");
    const Rows there = mixed(normed, layer.in(pair.forward));
    const Rows back = reversed(mixed(reversed(normed), layer.in(pair.backward)));
    x = sum(x, map(gelu, linear(joined(there, back), layer, "merge")));
  }
  std::vector<double> out;
  append(out, linear(x, model, "head"));
  return out;
}

Family pair_family(const std::string& name, const Pair& pair) {
  Family f;
  f.name = "pair of " + name;
  if (pair.version == 2) f.settings["ngroups"] = 1;
  f.make = [pair](std::uint64_t seed) { return make_pair_net(pair, seed); };
  f.forward = [pair](const NaiveTensors& t, std::uint64_t seed) {
    return run_pair_net(pair, t, seed);
  };
  const std::string forward = pair_layer(0) + "." + pair.forward + ".";
  if (pair.version == 2) {
    f.wrong = wrong_mamba2(forward, kPairMamba2);
  } else {
    f.wrong["what one mixer reads in another order"] = [=](NaiveTensors& t) {
      move_axis(t, {forward + "in_proj.weight", 1}, rotation(kPairChannels));
    };
  }
  return f;
}

}  // namespace

std::vector<Family> bidirectional_families() {
  constexpr auto kFused = AddNorm::fused;
  constexpr auto kPlain = AddNorm::plain;
  return {vim_family("v2", {}),
          vim_family("v2, class tokens at both ends, gamma",
                     {.token = ClassToken::ends, .gamma = true}),
          vim_family("v1", {.version = 1}),
          caduceus_family("untied", {.directions = Directions::untied}),
          caduceus_family("untied, layer norms, ways multiplied, own head",
                          {.directions = Directions::untied,
                           .head = Head::own,
                           .norm_bias = Bias::yes,
                           .multiply = true}),
          caduceus_family("tied", {.layers = 3}),
          caduceus_family("rcps, two layers", {.strands = Strands::both, .add_norm = kPlain}),
          caduceus_family(
              "rcps, three layers, layer norms",
              {.layers = 3, .strands = Strands::both, .add_norm = kPlain, .norm_bias = Bias::yes}),
          caduceus_family("rcps fused, two layers", {.strands = Strands::both, .add_norm = kFused}),
          caduceus_family("rcps fused, three layers, untied", {.layers = 3,
                                                               .directions = Directions::untied,
                                                               .strands = Strands::both,
                                                               .add_norm = kFused}),
          pair_family("mamba-1", {}),
          pair_family("mamba-2",
                      {.version = 2, .forward = "forward_mamba", .backward = "backward_mamba"})};
}

}  // namespace icd::testing
