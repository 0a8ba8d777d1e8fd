#include "kernels/counters.h"

#include <cuda_runtime_api.h>
#include <cupti_profiler_host.h>
#include <cupti_profiler_target.h>
#include <cupti_range_profiler.h>
#include <cupti_target.h>
#include <cupti_version.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace icd {
namespace {

namespace fs = std::filesystem;

// Where libcupti may lie. The loader's own search is asked first, with a name and no folder.
std::vector<fs::path> folders(const std::string& wanted) {
  if (!wanted.empty()) return {wanted};
  std::vector<fs::path> found = {""};
  const auto add_from = [&](const char* variable, std::initializer_list<const char*> below) {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') return;
    for (const char* folder : below) found.push_back(fs::path(value) / folder);
  };
  add_from("ICD_CUPTI", {""});
  for (const char* variable : {"CUDA_PATH", "CUDA_HOME"}) {
    add_from(variable, {"lib64", "lib", "extras/CUPTI/lib64"});
  }
  for (const char* folder : {"lib64", "lib", "extras/CUPTI/lib64"}) {
    found.push_back(fs::path("/usr/local/cuda") / folder);
  }
  add_from("CONDA_PREFIX", {"lib"});
  // NVIDIA's Python wheels, which PyTorch brings along
  if (const char* environment = std::getenv("VIRTUAL_ENV"); environment != nullptr) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(fs::path(environment) / "lib", error)) {
      for (const char* package : {"cu13", "cuda_cupti"}) {
        found.push_back(entry.path() / "site-packages" / "nvidia" / package / "lib");
      }
    }
  }
  return found;
}

// The functions of CUPTI that are called here, in a library that is never closed: it keeps threads.
struct Cupti {
  std::string file;
  std::string reason;  // why there is none; then nothing below may be called

  decltype(&cuptiGetResultString) get_result_string = nullptr;
  decltype(&cuptiProfilerHostInitialize) host_initialize = nullptr;
  decltype(&cuptiProfilerHostDeinitialize) host_deinitialize = nullptr;
  decltype(&cuptiProfilerHostGetSupportedChips) host_chips = nullptr;
  decltype(&cuptiProfilerHostConfigAddMetrics) host_add_metrics = nullptr;
  decltype(&cuptiProfilerHostGetConfigImageSize) host_config_size = nullptr;
  decltype(&cuptiProfilerHostGetConfigImage) host_config = nullptr;
  decltype(&cuptiProfilerHostGetNumOfPasses) host_passes = nullptr;
  decltype(&cuptiProfilerHostEvaluateToGpuValues) host_evaluate = nullptr;
  decltype(&cuptiProfilerInitialize) initialize = nullptr;
  decltype(&cuptiProfilerDeviceSupported) device_supported = nullptr;
  decltype(&cuptiProfilerGetCounterAvailability) availability = nullptr;
  decltype(&cuptiDeviceGetChipName) chip_name = nullptr;
  decltype(&cuptiRangeProfilerEnable) enable = nullptr;
  decltype(&cuptiRangeProfilerDisable) disable = nullptr;
  decltype(&cuptiRangeProfilerGetCounterDataSize) data_size = nullptr;
  decltype(&cuptiRangeProfilerCounterDataImageInitialize) data_initialize = nullptr;
  decltype(&cuptiRangeProfilerSetConfig) set_config = nullptr;
  decltype(&cuptiRangeProfilerStart) start = nullptr;
  decltype(&cuptiRangeProfilerStop) stop = nullptr;
  decltype(&cuptiRangeProfilerPushRange) push = nullptr;
  decltype(&cuptiRangeProfilerPopRange) pop = nullptr;
  decltype(&cuptiRangeProfilerDecodeData) decode = nullptr;

  // Empty, or what a status means.
  std::string why(CUptiResult status, const char* call) const {
    if (status == CUPTI_SUCCESS) return {};
    const char* text = nullptr;
    get_result_string(status, &text);
    return counter_reason(static_cast<int>(status), call, text == nullptr ? "unknown" : text);
  }
};

void* open_library(const std::string& wanted, std::string& file, std::string& reason) {
  std::string tried;
  for (const fs::path& folder : folders(wanted)) {
    for (const char* name : {"libcupti.so.13", "libcupti.so.12", "libcupti.so"}) {
      std::error_code error;
      const bool is_file = folder.has_filename() && fs::is_regular_file(folder, error);
      const fs::path path = is_file ? folder : folder / name;
      if (folder.empty() || fs::exists(path, error)) {
        // CUPTI opens this one by its bare name and would not find it beside itself
        if (!folder.empty()) {
          dlopen((path.parent_path() / "libnvperf_host.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
        }
        if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) {
          file = path.string();
          return library;
        }
        if (const char* why = dlerror(); why != nullptr && !folder.empty()) tried = why;
      }
    }
  }
  reason = tried.empty()
               ? "counters: there is no libcupti.so.13 or .12" +
                     (wanted.empty() ? " on this machine; --cupti or ICD_CUPTI says where one is"
                                     : " in " + wanted)
               : "counters: " + tried;
  return nullptr;
}

Cupti load_cupti(const std::string& wanted) {
  Cupti cupti;
  void* library = open_library(wanted, cupti.file, cupti.reason);
  if (library == nullptr) return cupti;
  const auto find = [&](auto& function, const char* name) {
    using Function = std::remove_reference_t<decltype(function)>;
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr && cupti.reason.empty()) {
      cupti.reason =
          "counters: " + cupti.file + " has no " + name + "; CUPTI 12.6 or newer is needed";
    }
  };
  find(cupti.get_result_string, "cuptiGetResultString");
  find(cupti.host_initialize, "cuptiProfilerHostInitialize");
  find(cupti.host_deinitialize, "cuptiProfilerHostDeinitialize");
  find(cupti.host_chips, "cuptiProfilerHostGetSupportedChips");
  find(cupti.host_add_metrics, "cuptiProfilerHostConfigAddMetrics");
  find(cupti.host_config_size, "cuptiProfilerHostGetConfigImageSize");
  find(cupti.host_config, "cuptiProfilerHostGetConfigImage");
  find(cupti.host_passes, "cuptiProfilerHostGetNumOfPasses");
  find(cupti.host_evaluate, "cuptiProfilerHostEvaluateToGpuValues");
  find(cupti.initialize, "cuptiProfilerInitialize");
  find(cupti.device_supported, "cuptiProfilerDeviceSupported");
  find(cupti.availability, "cuptiProfilerGetCounterAvailability");
  find(cupti.chip_name, "cuptiDeviceGetChipName");
  find(cupti.enable, "cuptiRangeProfilerEnable");
  find(cupti.disable, "cuptiRangeProfilerDisable");
  find(cupti.data_size, "cuptiRangeProfilerGetCounterDataSize");
  find(cupti.data_initialize, "cuptiRangeProfilerCounterDataImageInitialize");
  find(cupti.set_config, "cuptiRangeProfilerSetConfig");
  find(cupti.start, "cuptiRangeProfilerStart");
  find(cupti.stop, "cuptiRangeProfilerStop");
  find(cupti.push, "cuptiRangeProfilerPushRange");
  find(cupti.pop, "cuptiRangeProfilerPopRange");
  find(cupti.decode, "cuptiRangeProfilerDecodeData");
  return cupti;
}

template <typename Params>
Params params_of(std::size_t size) {
  Params params{};
  params.structSize = size;
  return params;
}

// CUPTI's object that knows the metrics of one chip; needs no device.
class Host {
 public:
  Host(const Cupti& cupti, const std::string& chip, const std::vector<std::uint8_t>& availability)
      : cupti_(cupti) {
    auto params = params_of<CUpti_Profiler_Host_Initialize_Params>(
        CUpti_Profiler_Host_Initialize_Params_STRUCT_SIZE);
    params.profilerType = CUPTI_PROFILER_TYPE_RANGE_PROFILER;
    params.pChipName = chip.c_str();
    params.pCounterAvailabilityImage = availability.empty() ? nullptr : availability.data();
    reason_ = cupti.why(cupti.host_initialize(&params), "cuptiProfilerHostInitialize");
    if (reason_.empty()) object_ = params.pHostObject;
  }
  ~Host() {
    if (object_ == nullptr) return;
    auto params = params_of<CUpti_Profiler_Host_Deinitialize_Params>(
        CUpti_Profiler_Host_Deinitialize_Params_STRUCT_SIZE);
    params.pHostObject = object_;
    cupti_.host_deinitialize(&params);
  }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  const std::string& reason() const { return reason_; }

  bool add(std::vector<const char*> metrics) {
    auto params = params_of<CUpti_Profiler_Host_ConfigAddMetrics_Params>(
        CUpti_Profiler_Host_ConfigAddMetrics_Params_STRUCT_SIZE);
    params.pHostObject = object_;
    params.ppMetricNames = metrics.data();
    params.numMetrics = metrics.size();
    const CUptiResult status = cupti_.host_add_metrics(&params);
    reason_ = cupti_.why(status, "cuptiProfilerHostConfigAddMetrics");
    return status == CUPTI_SUCCESS;
  }

  // What the device is to be set up with for the metrics added; empty and reason() if that fails.
  std::vector<std::uint8_t> config() {
    auto size = params_of<CUpti_Profiler_Host_GetConfigImageSize_Params>(
        CUpti_Profiler_Host_GetConfigImageSize_Params_STRUCT_SIZE);
    size.pHostObject = object_;
    reason_ = cupti_.why(cupti_.host_config_size(&size), "cuptiProfilerHostGetConfigImageSize");
    if (!reason_.empty()) return {};
    std::vector<std::uint8_t> image(size.configImageSize);
    auto params = params_of<CUpti_Profiler_Host_GetConfigImage_Params>(
        CUpti_Profiler_Host_GetConfigImage_Params_STRUCT_SIZE);
    params.pHostObject = object_;
    params.configImageSize = image.size();
    params.pConfigImage = image.data();
    reason_ = cupti_.why(cupti_.host_config(&params), "cuptiProfilerHostGetConfigImage");
    return reason_.empty() ? image : std::vector<std::uint8_t>{};
  }

  int passes(std::vector<std::uint8_t>& config) {
    auto params = params_of<CUpti_Profiler_Host_GetNumOfPasses_Params>(
        CUpti_Profiler_Host_GetNumOfPasses_Params_STRUCT_SIZE);
    params.configImageSize = config.size();
    params.pConfigImage = config.data();
    reason_ = cupti_.why(cupti_.host_passes(&params), "cuptiProfilerHostGetNumOfPasses");
    return reason_.empty() ? static_cast<int>(params.numOfPasses) : 0;
  }

  // The value of one metric in the only range of an image.
  std::optional<double> value(const std::vector<std::uint8_t>& data, const char* metric) {
    double found = 0;
    auto params = params_of<CUpti_Profiler_Host_EvaluateToGpuValues_Params>(
        CUpti_Profiler_Host_EvaluateToGpuValues_Params_STRUCT_SIZE);
    params.pHostObject = object_;
    params.pCounterDataImage = data.data();
    params.counterDataImageSize = data.size();
    params.ppMetricNames = &metric;
    params.numMetrics = 1;
    params.pMetricValues = &found;
    const std::string why =
        cupti_.why(cupti_.host_evaluate(&params), "cuptiProfilerHostEvaluateToGpuValues");
    if (!why.empty()) {
      reason_ = why + " for " + metric;
      return {};
    }
    if (!(found >= 0)) return {};  // CUPTI answers NaN for what it did not collect
    return found;
  }

 private:
  const Cupti& cupti_;
  CUpti_Profiler_Host_Object* object_ = nullptr;
  std::string reason_;
};

std::vector<const char*> metric_names(const ResolvedCounters& resolved) {
  std::vector<const char*> names;
  for (const ResolvedCounter& counter : resolved.counters) {
    if (!counter.metric.empty()) names.push_back(counter.metric.c_str());
  }
  return names;
}

// Fills counters, passes and reason of an answer whose chip is set; returns the configuration.
std::vector<std::uint8_t> resolve(const Cupti& cupti, const std::vector<std::uint8_t>& availability,
                                  ResolvedCounters& answer) {
  // A name that fails may leave its host object in any state, so each has one of its own.
  const auto exists = [&](const std::string& metric) {
    Host host(cupti, answer.chip, availability);
    return host.reason().empty() && host.add({metric.c_str()}) && !host.config().empty();
  };
  Host host(cupti, answer.chip, availability);
  answer.reason = host.reason();
  if (!answer.reason.empty()) return {};
  for (const Counter& counter : counters()) {
    ResolvedCounter& found = answer.counters.emplace_back(
        ResolvedCounter{std::string(counter.name), std::string(counter.unit), {}});
    std::string_view rest = counter.metrics;
    while (found.metric.empty() && !rest.empty()) {
      const std::size_t space = std::min(rest.find(' '), rest.size());
      const std::string metric(rest.substr(0, space));
      if (exists(metric)) found.metric = metric;
      rest.remove_prefix(std::min(space + 1, rest.size()));
    }
  }
  const std::vector<const char*> names = metric_names(answer);
  if (names.empty()) {
    answer.reason = "counters: " + answer.chip + " has none of the metrics asked for";
    return {};
  }
  if (!host.add(names)) {
    answer.reason = host.reason();
    return {};
  }
  std::vector<std::uint8_t> config = host.config();
  if (!config.empty()) answer.passes = host.passes(config);
  answer.reason = host.reason();
  return config;
}

// The current context, from the driver's library, which is not linked either.
CUcontext current_context(std::string& reason) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  const auto get_current =
      driver == nullptr
          ? nullptr
          : reinterpret_cast<CUresult (*)(CUcontext*)>(dlsym(driver, "cuCtxGetCurrent"));
  if (get_current == nullptr) {
    reason = "counters: there is no NVIDIA driver on this machine";
    return nullptr;
  }
  CUcontext context = nullptr;
  if (cudaFree(nullptr) != cudaSuccess || get_current(&context) != CUDA_SUCCESS ||
      context == nullptr) {
    cudaGetLastError();
    reason = "counters: there is no CUDA device to count on";
  }
  return context;
}

}  // namespace

struct CounterSession::Parts {
  Cupti cupti;
  ResolvedCounters resolved;
  std::vector<std::uint8_t> availability;
  std::vector<std::uint8_t> config;
  CUcontext context = nullptr;
};

ResolvedCounters resolve_counters(const std::string& chip, const std::string& cupti_file) {
  ResolvedCounters answer;
  answer.chip = chip;
  const Cupti cupti = load_cupti(cupti_file);
  answer.library = cupti.file;
  answer.reason = cupti.reason;
  if (answer.reason.empty()) resolve(cupti, {}, answer);
  return answer;
}

CounterSession::CounterSession(const std::string& cupti_file) : parts_(std::make_unique<Parts>()) {
  Parts& parts = *parts_;
  parts.cupti = load_cupti(cupti_file);
  const Cupti& cupti = parts.cupti;
  parts.resolved.library = cupti.file;
  std::string& reason = parts.resolved.reason;
  reason = cupti.reason;
  if (!reason.empty()) return;
  parts.context = current_context(reason);
  if (!reason.empty()) return;
  int device = 0;
  cudaGetDevice(&device);

  auto initialize =
      params_of<CUpti_Profiler_Initialize_Params>(CUpti_Profiler_Initialize_Params_STRUCT_SIZE);
  reason = cupti.why(cupti.initialize(&initialize), "cuptiProfilerInitialize");
  if (!reason.empty()) return;

  auto chip =
      params_of<CUpti_Device_GetChipName_Params>(CUpti_Device_GetChipName_Params_STRUCT_SIZE);
  chip.deviceIndex = static_cast<std::size_t>(device);
  reason = cupti.why(cupti.chip_name(&chip), "cuptiDeviceGetChipName");
  if (!reason.empty()) return;
  parts.resolved.chip = chip.pChipName;

  auto supported = params_of<CUpti_Profiler_DeviceSupported_Params>(
      CUpti_Profiler_DeviceSupported_Params_STRUCT_SIZE);
  supported.cuDevice = device;
  supported.api = CUPTI_PROFILER_RANGE_PROFILING;
  reason = cupti.why(cupti.device_supported(&supported), "cuptiProfilerDeviceSupported");
  if (!reason.empty()) return;
  if (supported.isSupported != CUPTI_PROFILER_CONFIGURATION_SUPPORTED) {
    const auto off = [](CUpti_Profiler_Support_Level level) {
      return level == CUPTI_PROFILER_CONFIGURATION_UNSUPPORTED ||
             level == CUPTI_PROFILER_CONFIGURATION_DISABLED;
    };
    reason = "counters: this device cannot be profiled" +
             std::string(off(supported.architecture) ? ": older than compute capability 7.0"
                         : off(supported.vGpu)       ? ": a virtual GPU"
                         : off(supported.confidentialCompute) ? ": confidential computing is on"
                         : off(supported.cmp)                 ? ": a mining card"
                         : off(supported.wsl)                 ? ": WSL"
                         : off(supported.sli)                 ? ": SLI"
                                                              : "");
    return;
  }

  auto available = params_of<CUpti_Profiler_GetCounterAvailability_Params>(
      CUpti_Profiler_GetCounterAvailability_Params_STRUCT_SIZE);
  available.ctx = parts.context;
  reason = cupti.why(cupti.availability(&available), "cuptiProfilerGetCounterAvailability");
  if (!reason.empty()) return;
  parts.availability.resize(available.counterAvailabilityImageSize);
  available.pCounterAvailabilityImage = parts.availability.data();
  reason = cupti.why(cupti.availability(&available), "cuptiProfilerGetCounterAvailability");
  if (!reason.empty()) return;
  parts.config = resolve(cupti, parts.availability, parts.resolved);
}

CounterSession::~CounterSession() = default;

const std::string& CounterSession::reason() const noexcept { return parts_->resolved.reason; }

const ResolvedCounters& CounterSession::resolved() const noexcept { return parts_->resolved; }

namespace {

// CUPTI's hold on a context, given back at the end of its life.
class RangeProfiler {
 public:
  RangeProfiler(const Cupti& cupti, CUcontext context) : cupti_(cupti) {
    auto params =
        params_of<CUpti_RangeProfiler_Enable_Params>(CUpti_RangeProfiler_Enable_Params_STRUCT_SIZE);
    params.ctx = context;
    reason_ = cupti.why(cupti.enable(&params), "cuptiRangeProfilerEnable");
    if (reason_.empty()) object_ = params.pRangeProfilerObject;
  }
  ~RangeProfiler() {
    if (object_ == nullptr) return;
    auto params = params_of<CUpti_RangeProfiler_Disable_Params>(
        CUpti_RangeProfiler_Disable_Params_STRUCT_SIZE);
    params.pRangeProfilerObject = object_;
    cupti_.disable(&params);
  }
  RangeProfiler(const RangeProfiler&) = delete;
  RangeProfiler& operator=(const RangeProfiler&) = delete;

  const std::string& reason() const { return reason_; }

  // Each returns whether it worked, else reason() says why not.
  bool set_up(std::vector<const char*> metrics, const std::vector<std::uint8_t>& config) {
    auto size = params_of<CUpti_RangeProfiler_GetCounterDataSize_Params>(
        CUpti_RangeProfiler_GetCounterDataSize_Params_STRUCT_SIZE);
    size.pRangeProfilerObject = object_;
    size.pMetricNames = metrics.data();
    size.numMetrics = metrics.size();
    size.maxNumOfRanges = 1;
    size.maxNumRangeTreeNodes = 1;
    if (!worked(cupti_.data_size(&size), "cuptiRangeProfilerGetCounterDataSize")) return false;
    data_.resize(size.counterDataSize);
    auto clear = params_of<CUpti_RangeProfiler_CounterDataImage_Initialize_Params>(
        CUpti_RangeProfiler_CounterDataImage_Initialize_Params_STRUCT_SIZE);
    clear.pRangeProfilerObject = object_;
    clear.counterDataSize = data_.size();
    clear.pCounterData = data_.data();
    if (!worked(cupti_.data_initialize(&clear), "cuptiRangeProfilerCounterDataImageInitialize")) {
      return false;
    }
    auto set = params_of<CUpti_RangeProfiler_SetConfig_Params>(
        CUpti_RangeProfiler_SetConfig_Params_STRUCT_SIZE);
    set.pRangeProfilerObject = object_;
    set.configSize = config.size();
    set.pConfig = config.data();
    set.counterDataImageSize = data_.size();
    set.pCounterDataImage = data_.data();
    set.range = CUPTI_UserRange;
    set.replayMode = CUPTI_UserReplay;
    set.maxRangesPerPass = 1;
    set.numNestingLevels = 1;
    set.minNestingLevel = 1;
    set.targetNestingLevel = 1;
    return worked(cupti_.set_config(&set), "cuptiRangeProfilerSetConfig");
  }

  bool run_pass(const std::string& range, const std::function<void()>& launch, bool& is_last) {
    auto start =
        params_of<CUpti_RangeProfiler_Start_Params>(CUpti_RangeProfiler_Start_Params_STRUCT_SIZE);
    start.pRangeProfilerObject = object_;
    if (!worked(cupti_.start(&start), "cuptiRangeProfilerStart")) return false;
    auto push = params_of<CUpti_RangeProfiler_PushRange_Params>(
        CUpti_RangeProfiler_PushRange_Params_STRUCT_SIZE);
    push.pRangeProfilerObject = object_;
    push.pRangeName = range.c_str();
    const bool pushed = worked(cupti_.push(&push), "cuptiRangeProfilerPushRange");
    bool popped = false;
    if (pushed) {
      launch();
      cudaDeviceSynchronize();
      auto pop = params_of<CUpti_RangeProfiler_PopRange_Params>(
          CUpti_RangeProfiler_PopRange_Params_STRUCT_SIZE);
      pop.pRangeProfilerObject = object_;
      popped = worked(cupti_.pop(&pop), "cuptiRangeProfilerPopRange");
    }
    auto stop =
        params_of<CUpti_RangeProfiler_Stop_Params>(CUpti_RangeProfiler_Stop_Params_STRUCT_SIZE);
    stop.pRangeProfilerObject = object_;
    const CUptiResult stopped = cupti_.stop(&stop);
    is_last = stop.isAllPassSubmitted != 0;
    return pushed && popped && worked(stopped, "cuptiRangeProfilerStop");
  }

  bool decode() {
    auto params = params_of<CUpti_RangeProfiler_DecodeData_Params>(
        CUpti_RangeProfiler_DecodeData_Params_STRUCT_SIZE);
    params.pRangeProfilerObject = object_;
    if (!worked(cupti_.decode(&params), "cuptiRangeProfilerDecodeData")) return false;
    if (params.numOfRangeDropped > 0) reason_ = "counters: CUPTI dropped the range";
    return reason_.empty();
  }

  const std::vector<std::uint8_t>& data() const { return data_; }

 private:
  bool worked(CUptiResult status, const char* call) {
    if (reason_.empty()) reason_ = cupti_.why(status, call);
    return status == CUPTI_SUCCESS;
  }

  const Cupti& cupti_;
  CUpti_RangeProfiler_Object* object_ = nullptr;
  std::vector<std::uint8_t> data_;
  std::string reason_;
};

}  // namespace

CounterValues CounterSession::measure(const std::string& range,
                                      const std::function<void()>& restore,
                                      const std::function<void()>& launch) {
  Parts& parts = *parts_;
  if (!reason().empty()) return no_counters(reason());
  RangeProfiler profiler(parts.cupti, parts.context);
  if (!profiler.reason().empty()) return no_counters(profiler.reason());
  if (!profiler.set_up(metric_names(parts.resolved), parts.config)) {
    return no_counters(profiler.reason());
  }
  // Twice the passes that were foreseen: a profiler that never ends must not keep the device.
  const int most = std::max(2 * parts.resolved.passes, 8);
  int pass = 0;
  for (bool is_last = false; !is_last; ++pass) {
    if (pass == most) {
      return no_counters("counters: not done after " + std::to_string(most) + " passes");
    }
    restore();
    cudaDeviceSynchronize();
    if (!profiler.run_pass(range, launch, is_last)) return no_counters(profiler.reason());
  }
  if (!profiler.decode()) return no_counters(profiler.reason());

  Host host(parts.cupti, parts.resolved.chip, parts.availability);
  if (!host.reason().empty() || !host.add(metric_names(parts.resolved))) {
    return no_counters(host.reason());
  }
  CounterValues values;
  values.passes = pass;
  for (const ResolvedCounter& counter : parts.resolved.counters) {
    CounterValue& value =
        values.values.emplace_back(CounterValue{counter.name, counter.unit, counter.metric, {}});
    if (!counter.metric.empty()) value.value = host.value(profiler.data(), counter.metric.c_str());
  }
  values.reason = host.reason();
  return values;
}

}  // namespace icd
