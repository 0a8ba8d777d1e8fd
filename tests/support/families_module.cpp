// State-space modules in networks of which nothing else is known: recurrences as textbooks write
// them, and Mamba mixers anywhere in a Lightning checkpoint, with what the optimizer keeps.
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "support/families_parts.h"
#include "support/naive_conv.h"
#include "support/naive_mamba3.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"

namespace icd::testing {
namespace {

constexpr std::size_t kTokens = 6;

// Textbook: h_t = A h_{t-1} + B x_t, y_t = C h_t + D x_t

struct Recurrence {
  std::int64_t in, hidden, out;
};
constexpr Recurrence kRecurrences[] = {{5, 8, 7}, {7, 6, 4}};

enum class Skip { no, yes };  // is there a D?

std::string textbook_layer(std::size_t i) { return fmt::format("layers.{}", i); }

NaiveTensors make_textbook(Skip skip, std::uint64_t seed) {
  TensorMaker maker(seed);
  for (std::size_t i = 0; i < std::size(kRecurrences); ++i) {
    const auto [in, hidden, out] = kRecurrences[i];
    const std::string layer = textbook_layer(i) + ".";
    maker.linear(layer + "A", hidden, hidden);
    maker.linear(layer + "B", hidden, in, Bias::yes);
    maker.linear(layer + "C", out, hidden);
    if (skip == Skip::yes) maker.linear(layer + "D", out, in);
  }
  return maker.take();
}

std::vector<double> run_textbook(const NaiveTensors& tensors, std::uint64_t seed) {
  const Scope model(tensors);
  Rows x = random_rows(seed, kTokens, static_cast<std::size_t>(kRecurrences[0].in));
  for (std::size_t i = 0; i < std::size(kRecurrences); ++i) {
    const Scope layer = model.in(textbook_layer(i));
    Row state(static_cast<std::size_t>(kRecurrences[i].hidden));
    Rows y;
    for (const Row& token : x) {
      state = sum(linear(state, layer, "A"), linear(token, layer, "B"));
      Row out = linear(state, layer, "C");
      if (layer.has("D.weight")) out = sum(out, linear(token, layer, "D"));
      y.push_back(std::move(out));
    }
    x = std::move(y);
  }
  std::vector<double> out;
  append(out, x);
  return out;
}

Family textbook_family(const std::string& name, Skip skip) {
  Family f;
  f.name = "textbook" + name;
  f.make = [skip](std::uint64_t seed) { return make_textbook(skip, seed); };
  f.forward = run_textbook;
  f.wrong["states that A writes in another order than it reads"] = [](NaiveTensors& t) {
    const std::vector<Move> moves = {{"layers.0.A.weight", 0},
                                     {"layers.0.B.weight", 0},
                                     {"layers.0.B.bias", 0},
                                     {"layers.0.C.weight", 1}};
    move_axes(t, moves, rotation(static_cast<Index>(kRecurrences[0].hidden)));
  };
  f.wrong["what a layer takes in, without the layer before"] = [skip](NaiveTensors& t) {
    std::vector<Move> moves = {{"layers.1.B.weight", 1}};
    if (skip == Skip::yes) moves.push_back({"layers.1.D.weight", 1});
    move_axes(t, moves, rotation(static_cast<Index>(kRecurrences[1].in)));
  };
  return f;
}

// Mixers anywhere

constexpr std::int64_t kInputs = 5;
constexpr std::int64_t kChannels = 12;
constexpr std::int64_t kOutputs = 4;
constexpr std::int64_t kTaps = 3;
constexpr Mamba1Sizes kMamba1 = {.d_model = kChannels, .d_inner = 14, .d_state = 5, .dt_rank = 2};
constexpr Mamba2Sizes kMamba2 = {
    .d_model = kChannels, .heads = 6, .headdim = 5, .groups = 2, .d_state = 4};
constexpr Mamba3Sizes kMamba3 = {
    .d_model = kChannels, .heads = 4, .headdim = 3, .groups = 2, .d_state = 8};

/// What of the network there is in the file, beside the network.
enum class Kept { weights, training };

const char* const kPrefix = "state_dict.model.net.";

/// Adam's moments of every parameter as optimizer_states.0.state.{k}, where k counts the state
/// dict's tensors by name, which is their order in NaiveTensors and so in a file made from it;
/// and a mean of every weight over the training, by name: ema.model.net.0.weight.
void add_training_state(NaiveTensors& tensors, std::uint64_t seed) {
  TensorMaker maker(seed ^ 0x5EED);
  std::size_t k = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::string state = fmt::format("optimizer_states.0.state.{}.", k++);
    maker.tensor(state + "exp_avg", tensor.shape, 0, 1e-2);
    maker.tensor(state + "exp_avg_sq", tensor.shape, 1e-2, 1e-3);
    maker.tensor(state + "step", {}, 1000, 100);
    maker.tensor("ema." + name.substr(std::string("state_dict.").size()), tensor.shape, 0, 1);
  }
  tensors.merge(maker.take());
}

NaiveTensors make_network(Kept kept, std::uint64_t seed) {
  TensorMaker maker(seed);
  const std::string net = kPrefix;
  maker.linear(net + "0", kChannels, kInputs, Bias::yes);
  make_mamba1(maker, net + "1.", kMamba1);
  make_conv(maker, net + "2", {kChannels, kChannels, kTaps});
  make_mamba2(maker, net + "3.", kMamba2);
  maker.norm(net + "4", kChannels, Bias::yes);
  make_mamba3(maker, net + "5.", kMamba3);
  maker.linear(net + "6", kOutputs, kChannels, Bias::yes);
  NaiveTensors tensors = maker.take();
  if (kept == Kept::training) add_training_state(tensors, seed);
  return tensors;
}

std::vector<double> run_network(const NaiveTensors& tensors, std::uint64_t seed) {
  const Scope net = Scope(tensors).in("state_dict").in("model").in("net");
  Rows x = linear(random_rows(seed, kTokens, kInputs), net, "0");
  x = sum(x, naive_mamba1(x, net.in("1")));
  x = map(silu, naive_conv(x, net, "2", {.padding = (kTaps - 1) / 2}));
  x = sum(x, naive_mamba2(x, net.in("3"),
                          {.groups = static_cast<std::size_t>(kMamba2.groups),
                           .norm_groups = static_cast<std::size_t>(kMamba2.groups)}));
  x = norm(x, net, "4");
  x = sum(x, naive_mamba3(x, net.in("5"), kMamba3));
  std::vector<double> out;
  append(out, linear(x, net, "6"));
  return out;
}

Family network_family(const std::string& name, Kept kept) {
  Family f;
  f.name = name;
  f.settings["ngroups"] = 2;  // of Mamba-2 and Mamba-3 alike
  f.make = [kept](std::uint64_t seed) { return make_network(kept, seed); };
  f.forward = run_network;
  if (kept == Kept::training) {
    for (const char* moment : {".exp_avg", ".exp_avg_sq", ".step"})
      f.invisible[moment] = "only the optimizer reads it";
    for (const auto& [tensor, value] : make_network(kept, 0)) {
      if (tensor.starts_with("ema."))
        f.invisible[tensor] = "a mean of the weights over the training";
    }
  }
  const std::string net = kPrefix;
  for (auto& [order, moves] : wrong_mamba2(net + "3.", kMamba2))
    f.wrong["Mamba-2: " + order] = moves;
  for (auto& [order, moves] : wrong_mamba3(net + "5.", kMamba3))
    f.wrong["Mamba-3: " + order] = moves;
  f.wrong["what the mixers read and write in one order"] = [net](NaiveTensors& t) {
    std::vector<Move> moves;
    for (const char* mixer : {"1.", "3.", "5."}) {
      moves.push_back({net + mixer + "in_proj.weight", 1});
      moves.push_back({net + mixer + "out_proj.weight", 0});
    }
    move_axes(t, moves, rotation(kChannels));
  };
  return f;
}

}  // namespace

std::vector<Family> module_families() {
  return {textbook_family("", Skip::yes), textbook_family(" without D", Skip::no),
          network_family("mixers among other layers", Kept::weights),
          network_family("mixers of a training checkpoint", Kept::training)};
}

}  // namespace icd::testing
