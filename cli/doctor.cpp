// icd doctor: what this program and this machine can do, and why not more.
#include <omp.h>

#include <memory>
#include <thread>

#include "commands.h"
#include "icd/hub_cache.h"
#include "icd/language_model.h"
#include "icd/version.h"
#include "kernels/device.h"

namespace icd::cli {
namespace {

std::vector<std::string> cpu_features() {
  std::vector<std::string> features;
#if defined(__x86_64__)
  // The builtin takes a literal, so the list cannot be a loop over a table.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2")) features.emplace_back("sse4.2");
  if (__builtin_cpu_supports("avx")) features.emplace_back("avx");
  if (__builtin_cpu_supports("avx2")) features.emplace_back("avx2");
  if (__builtin_cpu_supports("fma")) features.emplace_back("fma");
  if (__builtin_cpu_supports("avx512f")) features.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bf16")) features.emplace_back("avx512bf16");
#endif
  return features;
}

int run(bool as_json, Context& context) {
  nlohmann::ordered_json json = {{"schema", "icd.doctor/1"},
                                 {"icd", version()},
                                 {"onednn", is_built_with_onednn()},
                                 {"cuda", is_built_with_cuda()},
                                 {"cuda_runtime", cuda_runtime_version()},
                                 {"cuda_driver", cuda_driver_version()},
                                 {"cpu_features", cpu_features()},
                                 {"cpu_threads", std::thread::hardware_concurrency()},
                                 {"threads", omp_get_max_threads()},
                                 {"hub_cache", hub_cache_root(+[](const char* name) -> const char* {
                                                 return std::getenv(name);
                                               }).string()},
                                 {"devices", nlohmann::ordered_json::array()},
                                 {"why_no_device", why_no_device()}};
  for (const DeviceInfo& device : devices()) {
    json["devices"].push_back(
        {{"name", device.name},
         {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
         {"memory_bytes", device.memory_bytes},
         {"trouble", device.trouble}});
  }
  if (as_json) {
    context.terminal.print_json(json);
    return kDone;
  }
  Terminal& terminal = context.terminal;
  terminal.print("icd {}", version());
  terminal.print("matrix products  fixed order (built in){}",
                 is_built_with_onednn() ? ", oneDNN" : "; oneDNN was not built in");
  terminal.print("CPU              {} threads, {}", json["threads"].get<int>(),
                 fmt::join(cpu_features(), " "));
  terminal.print("model cache      {}", json["hub_cache"].get<std::string>());
  terminal.print("CUDA             {}",
                 is_built_with_cuda()
                     ? fmt::format("{} built in, driver {}", cuda_runtime_version(),
                                   cuda_driver_version().empty() ? "none" : cuda_driver_version())
                     : "not built in");
  for (const DeviceInfo& device : devices()) {
    terminal.print("device           {}, {}.{}, {}{}", device.name, device.major, device.minor,
                   bytes_text(device.memory_bytes),
                   device.trouble.empty() ? "" : ": " + device.trouble);
  }
  if (const std::string why = why_no_device(); !why.empty())
    terminal.print("no device        {}", why);
  return kDone;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App& command = *app.add_subcommand("doctor", "what this program and this machine can do");
  command.add_flag("--json", *as_json, "one JSON object on standard output");
  command.footer("Example: icd doctor");
  command.callback([as_json, &action] {
    action = [as_json](Context& context) { return run(*as_json, context); };
  });
}

}  // namespace icd::cli
