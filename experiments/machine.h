#pragma once

#include <fmt/format.h>
#include <sys/utsname.h>

#include <fstream>
#include <string>

namespace icd::experiments {

/// The CPU and the system, for records: "Intel(R) ..., Linux x86_64".
inline std::string machine() {
  std::ifstream file("/proc/cpuinfo");
  std::string cpu = "unknown CPU";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      cpu = line.substr(line.find(':') + 2);
      break;
    }
  }
  utsname system = {};
  uname(&system);
  return fmt::format("{}, {} {}", cpu, system.sysname, system.machine);
}

}  // namespace icd::experiments
