#pragma once

#include <string_view>
#include <vector>

#include "icd/language_model.h"
#include "icd/layout.h"

namespace icd {

/// Where the members of a group stand among the columns of a site: in each stretch, member k is
/// the columns [offset + k * stride, offset + k * stride + block).
struct SiteColumns {
  Site site = Site::normed;
  std::vector<AxisSegment> stretches = {};  ///< empty: nowhere

  /// Values that a member has in a token.
  Index observations() const noexcept;
};

/// A signal of a group, at one layer.
struct SignalColumns {
  std::string_view name;
  SiteColumns columns;
};

/// Of a layer's blocks the one that shows the site, if it is the only one, says where; all show
/// Site::normed alike.
SiteColumns columns_at(const Layout& layout, const AxisGroup& group, Index layer, Site site);

/// The signals of a group at one layer, in the order of signals_of().
std::vector<SignalColumns> signals_at(const Layout& layout, const AxisGroup& group, Index layer);

/// The layers that have blocks, each once, in order.
std::vector<Index> layers_with_blocks(const Layout& layout);

}  // namespace icd
