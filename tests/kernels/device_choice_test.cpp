#include "kernels/device_choice.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "icd/error.h"

namespace icd {
namespace {

DeviceInfo device(const std::string& name, const std::string& trouble = {}) {
  DeviceInfo info{};
  info.name = name;
  info.trouble = trouble;
  return info;
}

const std::vector<DeviceInfo> kTwo = {device("old", "CUDA: device 0 (old): no code for it"),
                                      device("new")};

Place place_of(const char* text, const std::vector<DeviceInfo>& listed,
               const std::string& why_none) {
  return choose_place(DeviceRequest::parse(text), listed, why_none);
}

void expect_error(ErrorCode code, const std::string& what, const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "no error, expected: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(error.what(), what);
  }
}

TEST(DeviceChoice, RefusesOtherWords) {
  for (const char* text :
       {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1 ", "cuda0", "cuda:99999999999"}) {
    expect_error(
        ErrorCode::usage,
        "--device: there is no '" + std::string(text) + "', expected auto, cpu, cuda or cuda:N",
        [&] { DeviceRequest::parse(text); });
  }
}

TEST(DeviceChoice, TakesTheFirstDeviceThatServes) {
  for (const char* text : {"auto", "cuda", "cuda:1"}) {
    const Place place = place_of(text, kTwo, "");
    EXPECT_EQ(place.device, 1) << text;
    EXPECT_EQ(place.words, "CUDA device 1 (new)") << text;
    EXPECT_EQ(place.why_cpu, "") << text;
  }
}

TEST(DeviceChoice, TakesTheCpuWhenAsked) {
  const Place place = place_of("cpu", kTwo, "");
  EXPECT_FALSE(place.device);
  EXPECT_EQ(place.words, "the CPU");
  EXPECT_EQ(place.why_cpu, "");
}

TEST(DeviceChoice, FallsBackToTheCpuOnlyOnItsOwn) {
  const std::string why = "CUDA: there is no NVIDIA driver on this machine";
  const Place place = place_of("auto", {}, why);
  EXPECT_FALSE(place.device);
  EXPECT_EQ(place.why_cpu, why);
  expect_error(ErrorCode::unavailable, why, [&] { place_of("cuda", {}, why); });
  expect_error(ErrorCode::unavailable, why, [&] { place_of("cuda:0", {}, why); });
}

TEST(DeviceChoice, NamesTheDeviceThatCannotServe) {
  expect_error(ErrorCode::unavailable, kTwo[0].trouble, [&] { place_of("cuda:0", kTwo, ""); });
  expect_error(ErrorCode::unavailable, "CUDA: there is no device 2, only devices 0 to 1",
               [&] { place_of("cuda:2", kTwo, ""); });
  expect_error(ErrorCode::unavailable, "CUDA: there is no device 1, only device 0",
               [&] { place_of("cuda:1", {kTwo[1]}, ""); });
}

}  // namespace
}  // namespace icd
