#pragma once

#include <cstdint>
#include <string_view>

namespace icd {

/// Where a long step tells how far it is. The default tells nobody.
/// Called from one thread at a time, never from inside a parallel region; an
/// implementation may throw Error{interrupted} from advance() to end the step.
class Progress {
 public:
  virtual ~Progress() = default;

  /// A step of `total` units begins; it ends the one before it. `unit` is "B",
  /// "tokens", "layers", ...; 0 means that the total is not known.
  virtual void start(std::string_view /*task*/, std::int64_t /*total*/, std::string_view /*unit*/) {
  }

  /// `amount` more units are done; `item` names the last of them, if it has a name.
  virtual void advance(std::int64_t /*amount*/, std::string_view /*item*/ = {}) {}

  /// Something the user should know although the work goes on. One line.
  virtual void warn(std::string_view /*message*/) {}
};

}  // namespace icd
