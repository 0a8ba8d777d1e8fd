#pragma once

#include <dlfcn.h>

#include <initializer_list>
#include <string>

#include "icd/error.h"

namespace icd {

/// A shared library that is used where a machine has it, and not linked. Stays loaded: what CUDA's
/// libraries have registered with the driver outlives their handles.
class DynamicLibrary {
 public:
  /// The first of `names` that loads. Throws Error{unavailable}, `hint` saying how to get it.
  DynamicLibrary(std::initializer_list<const char*> names, const std::string& hint) {
    std::string tried;
    for (const char* name : names) {
      library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) {
        name_ = name;
        return;
      }
      tried += (tried.empty() ? "" : " or ") + std::string(name);
    }
    throw Error(ErrorCode::unavailable, "cannot load " + tried, hint);
  }
  DynamicLibrary(const DynamicLibrary&) = delete;
  DynamicLibrary& operator=(const DynamicLibrary&) = delete;

  const std::string& name() const noexcept { return name_; }

  /// Sets `function` to what the library has under `name`. Throws Error{unavailable} if it has not.
  template <typename Function>
  void find(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (function == nullptr) {
      throw Error(ErrorCode::unavailable, name_ + ": there is no function " + name);
    }
  }

 private:
  void* library_ = nullptr;
  std::string name_;
};

}  // namespace icd
