#include "signals.h"

#include <algorithm>
#include <array>
#include <utility>

#include "icd/block_forward.h"
#include "icd/calibration.h"

namespace icd {
namespace {

/// Sites whose channels are solved on, the first of a group before its others.
constexpr std::array kSignalSites = {Site::gated, Site::conv, Site::x_proj, Site::normed};

/// What stands at a site in two stretches is there twice a token: only B and C are.
std::string_view signal_name(const SiteColumns& columns) {
  const bool is_twice = columns.stretches.size() == 2;
  switch (columns.site) {
    case Site::gated:
      return "gated";
    case Site::conv:
      return is_twice ? "bc" : "conv";
    case Site::x_proj:
      return is_twice ? "bc" : "dt_rank";
    case Site::normed:
      return "normed";
    case Site::dt:
    case Site::decay:
      break;
  }
  return {};
}

std::vector<AxisSegment> stretches_on(const AxisGroup& group, const TensorAxis& axis) {
  std::vector<AxisSegment> stretches;
  for (const AxisSegment& segment : group.segments) {
    if (segment.dim == axis.dim && segment.tensor == axis.tensor && segment.within.empty()) {
      stretches.push_back(segment);
    }
  }
  return stretches;
}

struct ReadSignal {
  std::string_view role;
  std::string_view signal;
};

// In the roles of mixers, attention and MLPs; a model's head has none.
constexpr std::array kReadSignals = {
    ReadSignal{"", "normed"},
    ReadSignal{"in_proj.weight", "normed"},
    ReadSignal{"x_proj.weight", "conv"},
    ReadSignal{"dt_proj.weight", "dt_rank"},
    ReadSignal{"out_proj.weight", "gated"},
    ReadSignal{"q_proj.weight", "normed"},
    ReadSignal{"k_proj.weight", "normed"},
    ReadSignal{"v_proj.weight", "normed"},
    ReadSignal{"gate_proj.weight", "normed"},
    ReadSignal{"up_proj.weight", "normed"},
    ReadSignal{"fc1.weight", "normed"},
    ReadSignal{"input_linear.weight", "normed"},
    ReadSignal{"router.weight", "normed"},
    ReadSignal{"router.layer.weight", "normed"},
    ReadSignal{"gate.weight", "normed"},
};

}  // namespace

Index SiteColumns::observations() const noexcept {
  Index sum = 0;
  for (const AxisSegment& stretch : stretches) sum += stretch.block;
  return sum;
}

SiteColumns columns_at(const Layout& layout, const AxisGroup& group, Index layer, Site site) {
  SiteColumns columns{.site = site};
  int showing = 0;
  for (const Block& block : layout.blocks) {
    if (block.layer != layer) continue;
    for (const BlockSite& shown : block_sites(block)) {
      if (shown.site != site) continue;
      ++showing;
      auto stretches = stretches_on(group, shown.axis);
      if (columns.stretches.empty()) columns.stretches = std::move(stretches);
    }
  }
  // Rows of two blocks could not be told apart.
  if (showing > 1 && site != Site::normed) columns.stretches.clear();
  return columns;
}

std::vector<SignalColumns> signals_at(const Layout& layout, const AxisGroup& group, Index layer) {
  std::vector<SignalColumns> signals;
  for (const Site site : kSignalSites) {
    SiteColumns columns = columns_at(layout, group, layer, site);
    if (columns.stretches.empty()) continue;
    const std::string_view name = signal_name(columns);
    if (std::ranges::find(signals, name, &SignalColumns::name) != signals.end()) continue;
    signals.push_back({name, std::move(columns)});
  }
  return signals;
}

std::vector<Index> layers_with_blocks(const Layout& layout) {
  std::vector<Index> layers;
  for (const Block& block : layout.blocks) layers.push_back(block.layer);
  std::ranges::sort(layers);
  const auto repeated = std::ranges::unique(layers);
  layers.erase(repeated.begin(), repeated.end());
  return layers;
}

std::vector<std::string_view> signals_of(const Layout& layout, const AxisGroup& group) {
  std::vector<std::string_view> names;
  const std::vector<Index> layers =
      group.layer >= 0 ? std::vector<Index>{group.layer} : layers_with_blocks(layout);
  for (const Index layer : layers) {
    for (const SignalColumns& signal : signals_at(layout, group, layer)) {
      if (std::ranges::find(names, signal.name) == names.end()) names.push_back(signal.name);
    }
  }
  return names;
}

std::string_view signal_for(const Layout& layout, const AxisGroup& group, std::string_view wanted) {
  const std::vector<std::string_view> names = signals_of(layout, group);
  const auto found = std::ranges::find(names, wanted);
  if (found != names.end()) return *found;
  return names.empty() ? std::string_view() : names.front();
}

std::string_view signal_read_by(std::string_view role) noexcept {
  const auto* found = std::ranges::find(kReadSignals, role, &ReadSignal::role);
  return found == kReadSignals.end() ? std::string_view() : found->signal;
}

bool can_calibrate(const Layout& layout) {
  return has_model(layout) && std::ranges::any_of(layout.groups, [&](const AxisGroup& group) {
           return !signals_of(layout, group).empty();
         });
}

}  // namespace icd
