#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace icd {

/// Who has to act on a failure. The command line turns it into an exit status.
enum class ErrorCode {
  io,           ///< the machine's storage: full, unreadable, not writable
  usage,        ///< the caller: a flag, an argument, a size that does not fit
  input,        ///< the file: missing, cut short, malformed, of another model
  unsupported,  ///< nobody yet: well-formed, but icd does not handle it
  unavailable,  ///< the machine: offline, no device, a backend that was not built
  interrupted,  ///< the user: Ctrl-C
};

/// The one exception type of icd. what() is a single line that starts with the
/// thing at fault (file, tensor, flag), then says what was found and what was
/// expected. hint() is empty or one line that says what to try.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& what, std::string hint = {})
      : std::runtime_error(what), code_(code), hint_(std::move(hint)) {}

  ErrorCode code() const noexcept { return code_; }
  const std::string& hint() const noexcept { return hint_; }

 private:
  ErrorCode code_;
  std::string hint_;
};

}  // namespace icd
