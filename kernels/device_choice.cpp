#include "kernels/device_choice.h"

#include <array>
#include <charconv>
#include <utility>

#include "icd/error.h"

namespace icd {
namespace {

struct Word {
  std::string_view text;
  DeviceRequest::Kind kind;
};

constexpr std::array kWords = {Word{"auto", DeviceRequest::Kind::automatic},
                               Word{"cpu", DeviceRequest::Kind::cpu},
                               Word{"cuda", DeviceRequest::Kind::cuda}};

constexpr std::string_view kNumbered = "cuda:";

std::optional<int> number_in(std::string_view text) {
  int number = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || number < 0) return std::nullopt;
  return number;
}

Error unavailable(const std::string& why) {
  return Error(ErrorCode::unavailable, why, "`icd doctor` shows what this machine has");
}

Place on_device(int number, const DeviceInfo& info) {
  return {.device = number,
          .words = "CUDA device " + std::to_string(number) + " (" + info.name + ")",
          .why_cpu = {}};
}

Place numbered(int number, std::span<const DeviceInfo> listed, const std::string& why_none) {
  const auto count = static_cast<int>(listed.size());
  if (number >= count) {
    if (count == 0) throw unavailable(why_none);
    throw unavailable(
        "CUDA: there is no device " + std::to_string(number) + ", " +
        (count == 1 ? "only device 0" : "only devices 0 to " + std::to_string(count - 1)));
  }
  const DeviceInfo& info = listed[static_cast<std::size_t>(number)];
  if (!info.trouble.empty()) throw unavailable(info.trouble);
  return on_device(number, info);
}

}  // namespace

DeviceRequest DeviceRequest::parse(std::string_view text) {
  for (const Word& word : kWords) {
    if (word.text == text) return {.kind = word.kind};
  }
  if (text.starts_with(kNumbered)) {
    if (const auto number = number_in(text.substr(kNumbered.size()))) {
      return {.kind = Kind::cuda, .number = number};
    }
  }
  throw Error(ErrorCode::usage, "--device: there is no '" + std::string(text) +
                                    "', expected auto, cpu, cuda or cuda:N");
}

Place cpu_because(std::string why) {
  return {.device = std::nullopt, .words = "the CPU", .why_cpu = std::move(why)};
}

Place choose_place(const DeviceRequest& request, std::span<const DeviceInfo> listed,
                   const std::string& why_none) {
  if (request.kind == DeviceRequest::Kind::cpu) return cpu_because({});
  if (request.number) return numbered(*request.number, listed, why_none);
  for (std::size_t i = 0; i < listed.size(); ++i) {
    if (listed[i].trouble.empty()) return on_device(static_cast<int>(i), listed[i]);
  }
  if (request.kind == DeviceRequest::Kind::automatic) return cpu_because(why_none);
  throw unavailable(why_none);
}

Place choose_place(const DeviceRequest& request) {
  if (request.kind == DeviceRequest::Kind::cpu) return cpu_because({});
  return choose_place(request, devices(), why_no_device());
}

}  // namespace icd
