#include "icd/objective.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace icd {
namespace {

constexpr std::array kObjectives = {
    Objective{.name = "modularity",
              .summary = "weight inside equal blocks, less what chance puts there",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "Newman's Q, at most 1",
              .needs = {.graph = true},
              .takes = {.gamma = true},
              .block = 64,
              .solver = "swap",
              .source = "M. E. J. Newman, Phys. Rev. E 70, 056131 (2004); gamma: J. Reichardt, "
                        "S. Bornholdt, Phys. Rev. E 74, 016110 (2006)",
              .alters_result = false,
              .buys = "nothing by itself: it finds structure that other uses can build on",
              .problem = modularity_problem},
    Objective{.name = "intra-block",
              .summary = "weight inside equal blocks: what a cache line, sector or tile holds",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "share of the weight",
              .needs = {.graph = true},
              .takes = {},
              .block = 64,
              .solver = "swap",
              .source = "equal-size graph partitioning: B. W. Kernighan, S. Lin, BSTJ 1970",
              .alters_result = false,
              .buys = "fewer lines fetched by kernels that gather related channels; a dense "
                      "kernel fetches all of them in any order",
              .problem = intra_block_problem},
    Objective{.name = "communities",
              .summary = "the modularity of the best communities of any size, side by side",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "Newman's Q, at most 1",
              .needs = {.graph = true},
              .takes = {.gamma = true},
              .block = 0,
              .solver = "leiden",
              .source = "M. E. J. Newman, Phys. Rev. E 70, 056131 (2004); V. A. Traag et al., "
                        "Scientific Reports 9 (2019)",
              .alters_result = false,
              .buys = "nothing by itself: pictures, and how many groups the channels have; "
                      "equal blocks are better found by intra-block",
              .problem = communities_problem},
    Objective{.name = "arrangement",
              .summary = "joined channels near each other on the line, whatever the blocks",
              .direction = Direction::lower,
              .perfect = 1,
              .unit = "positions between the ends of an edge, by weight",
              .needs = {.graph = true},
              .takes = {},
              .block = 0,
              .solver = "arrange",
              .source = "minimum linear arrangement: L. H. Harper, J. SIAM 12 (1964)",
              .alters_result = false,
              .buys = "readable similarity matrices, and long runs where related channels are "
                      "read from storage; a dense kernel reads all of them in any order",
              .problem = arrangement_problem},
    Objective{.name = "icd-j",
              .summary = "the ancestor's J, with its four defects mended: a negative control",
              .direction = Direction::lower,
              .perfect = -0.5,
              .unit = "J = C + 0.2 R_align + 0.1 R_stab - 0.5 Q",
              .needs = {.graph = true},
              .takes = {},
              .block = 64,
              .solver = "swap",
              .source = "mrcha033/iterative-co-design, icd/core/cost.py and docs/Cost_Spec.md",
              .alters_result = false,
              .buys = "nothing: no dense kernel's time depends on the order; kept so that old "
                      "results can be compared",
              .problem = icd_j_problem},
    Objective{.name = "nm",
              .summary = "what N:M sparsity along the axis keeps of the weights' saliency",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "share of the saliency kept",
              .needs = {.readers = true, .inputs = true},
              .takes = {.pattern = true},
              .block = 0,
              .solver = "swap",
              .source = "J. Pool, C. Yu, NeurIPS 2021; saliencies: M. Sun et al., Wanda, ICLR "
                        "2024, Y. Zhang et al., RIA, ICLR 2024",
              .alters_result = true,
              .buys = "less damage from 2:4 (or other N:M) pruning, at no cost at run time",
              .problem = nm_problem},
    Objective{.name = "quant",
              .summary = "what quantising groups of weights along the axis loses",
              .direction = Direction::lower,
              .perfect = 0,
              .unit = "share of the squared output lost",
              .needs = {.readers = true, .inputs = true},
              .takes = {.format = true},
              .block = 0,
              .solver = "swap",
              .source = "Z. Yuan et al., RPTQ, 2023; error weighted by inputs: E. Frantar et al., "
                        "GPTQ, ICLR 2023",
              .alters_result = true,
              .buys = "a smaller error at the same bits, at no cost at run time",
              .problem = quant_problem},
    Objective{.name = "ranges",
              .summary = "static scales of activations, shared by a block of members",
              .direction = Direction::lower,
              .perfect = 1,
              .unit = "mean squared rounding error, 1 with a scale a member",
              .needs = {.signal = true},
              .takes = {},
              .block = 16,
              .solver = "greedy",
              .source = "Z. Yuan et al., RPTQ, 2023; H.-Y. Chiang et al., Quamba2, ICML 2025",
              .alters_result = true,
              .buys = "smaller steps of static activation scales for channels, heads or states",
              .problem = ranges_problem},
    Objective{.name = "timescale",
              .summary = "channels of like memory length (dt * |A|) in one tile",
              .direction = Direction::lower,
              .perfect = 0,
              .unit = "share of the variance of log2(dt |A|) within tiles",
              .needs = {.decay = true},
              .takes = {},
              .block = 32,
              .solver = "sort",
              .source = "one-dimensional equal-size clustering: W. D. Fisher, JASA 53 (1958)",
              .alters_result = false,
              .buys = "homogeneous ranges of dt and A in quantisation groups, and pictures; a "
                      "dense scan gains nothing from it",
              .problem = timescale_problem},
    Objective{.name = "importance",
              .summary = "what carries most comes first, so that any prefix is a slice",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "share that a prefix keeps, averaged over all prefixes",
              .needs = {.readers = true, .inputs = true},
              .takes = {},
              .block = 0,
              .solver = "sort",
              .source = "M. Sun et al., Wanda, ICLR 2024, per column; slices: S. Muralidharan "
                        "et al., Minitron, NeurIPS 2024",
              .alters_result = true,
              .buys = "structured slices of d_inner, heads or states that are one contiguous cut",
              .problem = importance_problem},
    Objective{.name = "act-order",
              .summary = "by the Hessian's diagonal, largest first, as GPTQ's act-order",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "share that a prefix keeps, averaged over all prefixes",
              .needs = {.signal = true},
              .takes = {},
              .block = 0,
              .solver = "sort",
              .source = "E. Frantar et al., GPTQ, ICLR 2023, and its --act-order",
              .alters_result = true,
              .buys = "GPTQ with act-order and contiguous groups: no g_idx look-up at run time",
              .problem = act_order_problem},
    Objective{.name = "block-skip",
              .summary = "tiles in which no member is active for a token",
              .direction = Direction::higher,
              .perfect = 1,
              .unit = "share of the tiles, over tokens",
              .needs = {.activity = true},
              .takes = {},
              .block = 32,
              .solver = "swap",
              .source = "thresholds: TEAL, arXiv 2408.14690; order by co-activation: Ripple, arXiv "
                        "2410.19274",
              .alters_result = true,
              .buys = "tiles that a kernel may skip, where one exists that skips",
              .problem = block_skip_problem},
};

}  // namespace

std::span<const Objective> all_objectives() { return kObjectives; }

const Objective* find_objective(std::string_view name) noexcept {
  const auto found = std::find_if(kObjectives.begin(), kObjectives.end(),
                                  [&](const Objective& known) { return known.name == name; });
  return found != kObjectives.end() ? &*found : nullptr;
}

std::map<std::string, std::string> options_in_words(const Objective& objective,
                                                    const ObjectiveOptions& options) {
  constexpr std::string_view kSaliencies[] = {"magnitude", "wanda", "ria"};
  std::map<std::string, std::string> words;
  if (objective.block > 0) words["block"] = std::to_string(options.block);
  if (objective.takes.gamma) words["gamma"] = fmt::format("{}", options.gamma);
  if (objective.takes.pattern) {
    words["pattern"] = fmt::format("{}:{}", options.kept, options.of);
    words["saliency"] = kSaliencies[static_cast<int>(options.saliency)];
  }
  if (objective.takes.format) {
    words["quant-format"] = std::string(options.format);
    if (options.group > 0) words["group-size"] = std::to_string(options.group);
  }
  return words;
}

}  // namespace icd
