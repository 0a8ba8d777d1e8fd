#include <array>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "kernels/c_api_device.h"
#include "kernels/fields.h"
#include "kernels/icd_kernels.h"
#include "kernels/reference.h"

namespace icd::c_api {
namespace {

enum Status { kDone = 0, kRefused = 1, kFailed = 2 };

// Plain bytes: a thread may end after the library was unloaded, when no destructor is there to run.
using Line = std::array<char, 1024>;
thread_local Line last_error;
thread_local Line why_no_device_line;

void write(std::string_view text, Line& line) {
  line[text.copy(line.data(), line.size() - 1)] = '\0';
}

int answer(Status status, std::string_view text) {
  write(text, last_error);
  return status;
}

/// Where the arrays of a call lie.
class Places {
 public:
  void size(const char*, std::int64_t, std::int64_t = 0, std::int64_t = 0) {}
  void type(const char*, std::int32_t) {}
  template <typename... Pieces>
  void expect(bool, Pieces...) {}
  void tensor(const char* name, const Strided& tensor, std::int32_t, fields::Need,
              const fields::Axes&) {
    look(name, tensor.data);
  }
  void array(const char* name, const void* pointer, std::int64_t, fields::Need, fields::Shape) {
    look(name, pointer);
  }

  bool on_device() const {
    return device_.name != nullptr || (host_name_ == nullptr && managed_.name != nullptr);
  }
  bool on_host() const { return host_name_ != nullptr; }
  int device() const { return device_.name != nullptr ? device_.number : managed_.number; }

  /// Names two fields that no call can serve together.
  std::string fault() const {
    const auto on = [](const Device& device) {
      return std::string(device.name) + " is on CUDA device " + std::to_string(device.number);
    };
    if (device_.name != nullptr && host_name_ != nullptr) {
      return on(device_) + ", but " + host_name_ + " in host memory; expected all in one place";
    }
    if (other_.name != nullptr) {
      return on(device_) + ", but " + on(other_) + "; expected all on one device";
    }
    return {};
  }

 private:
  struct Device {
    const char* name = nullptr;  // of the first field there
    int number = -1;
  };

  void look(const char* name, const void* pointer) {
    if (pointer == nullptr) return;
    const Home home = home_of(pointer);
    switch (home.kind) {
      case Home::Kind::host:
        if (host_name_ == nullptr) host_name_ = name;
        break;
      case Home::Kind::device:
        if (device_.name == nullptr) device_ = {name, home.device};
        if (home.device != device_.number) other_ = {name, home.device};
        break;
      case Home::Kind::managed:
        managed_ = {name, home.device};
        break;
      case Home::Kind::pinned:
        break;
    }
  }

  const char* host_name_ = nullptr;
  Device device_;
  Device other_;
  Device managed_;
};

template <typename Args>
Places places_of(const Args& args) {
  Places places;
  fields::visit(args, places);
  return places;
}

/// Whether everything but the pointers is as it should be.
class Sizes {
 public:
  void size(const char*, std::int64_t value, std::int64_t least = 0,
            std::int64_t most = fields::kAnySize) {
    hold_ = hold_ && value >= least && value <= most;
  }
  void type(const char*, std::int32_t value) { hold_ = hold_ && element_bytes(value) != 0; }
  template <typename... Pieces>
  void expect(bool holds, Pieces...) {
    hold_ = hold_ && holds;
  }
  void tensor(const char*, const Strided&, std::int32_t, fields::Need, const fields::Axes&) {}
  void array(const char*, const void*, std::int64_t, fields::Need, fields::Shape) {}

  bool hold() const { return hold_; }

 private:
  bool hold_ = true;
};

template <typename Args>
int run(const char* call, const Args* args, void* stream, void (*on_host)(const Args&)) noexcept {
  try {
    if (args == nullptr) {
      return answer(kRefused, std::string(call) + ": args is NULL, expected a struct");
    }
    std::string fault = why_not(*args);
    if (!fault.empty()) return answer(kRefused, fault);
    const Places places = places_of(*args);
    fault = places.fault();
    if (!fault.empty()) return answer(kRefused, std::string(call) + ": " + fault);
    if (places.on_device()) {
      fault = launch(*args, places.device(), stream);
      if (!fault.empty()) return answer(kFailed, std::string(call) + ": " + fault);
    } else {
      on_host(*args);
    }
    return answer(kDone, {});
  } catch (const std::bad_alloc&) {
    return answer(kFailed, "no host memory is left");
  } catch (const std::exception& error) {
    return answer(kFailed, error.what());
  }
}

template <typename Args>
std::int64_t workspace_of(const Args* args) noexcept {
  try {
    if (args == nullptr) return 0;
    Sizes sizes;
    fields::visit(*args, sizes);
    const Places places = places_of(*args);
    if (!sizes.hold() || places.on_host()) return 0;
    return workspace(*args, places.device());
  } catch (const std::exception&) {
    return 0;  // the call itself will say what there is to say
  }
}

}  // namespace
}  // namespace icd::c_api

using icd::c_api::run;
using icd::c_api::workspace_of;
namespace reference = icd::reference;

int icd_selective_scan(const icd_selective_scan_args* args, void* stream) {
  return run("selective_scan", args, stream, reference::selective_scan);
}
std::int64_t icd_selective_scan_workspace(const icd_selective_scan_args* args) {
  return workspace_of(args);
}

int icd_causal_conv1d(const icd_causal_conv1d_args* args, void* stream) {
  return run("causal_conv1d", args, stream, reference::causal_conv1d);
}

int icd_causal_conv1d_update(const icd_causal_conv1d_update_args* args, void* stream) {
  return run("causal_conv1d_update", args, stream, reference::causal_conv1d_update);
}

int icd_state_update(const icd_state_update_args* args, void* stream) {
  return run("state_update", args, stream, reference::state_update);
}

int icd_head_state_update(const icd_head_state_update_args* args, void* stream) {
  return run("head_state_update", args, stream, reference::head_state_update);
}

int icd_ssd(const icd_ssd_args* args, void* stream) {
  return run("ssd", args, stream, reference::ssd);
}
std::int64_t icd_ssd_workspace(const icd_ssd_args* args) { return workspace_of(args); }

int icd_mamba3(const icd_mamba3_args* args, void* stream) {
  return run("mamba3", args, stream, reference::mamba3);
}

int icd_rms_norm(const icd_rms_norm_args* args, void* stream) {
  return run("rms_norm", args, stream, reference::rms_norm);
}

int icd_skip_zero_gemv(const icd_skip_zero_gemv_args* args, void* stream) {
  return run("skip_zero_gemv", args, stream, reference::skip_zero_gemv);
}
std::int64_t icd_skip_zero_gemv_workspace(const icd_skip_zero_gemv_args* args) {
  return workspace_of(args);
}

int icd_kernels_version(void) { return ICD_KERNELS_VERSION; }

const char* icd_kernels_why_no_device(void) {
  using namespace icd::c_api;
  try {
    write(why_not_current_device(), why_no_device_line);
  } catch (const std::exception& error) {
    write(error.what(), why_no_device_line);
  }
  return why_no_device_line.data();
}

const char* icd_kernels_error(void) { return icd::c_api::last_error.data(); }
