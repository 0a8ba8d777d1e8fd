// The program's own list of the devices that it has code for, read from where the CUDA driver
// reads it: the section .nv_fatbin.
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace icd {
namespace {

using Bytes = std::vector<char>;

Bytes contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

template <typename T>
T at(const Bytes& bytes, std::uint64_t offset) {
  T value;
  if (offset + sizeof(T) > bytes.size()) throw std::out_of_range("fat binary ends early");
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Empty if the file has no such section.
Bytes section(const Bytes& elf, const std::string& name) {
  const auto header = at<Elf64_Ehdr>(elf, 0);
  const auto row = [&](std::uint64_t i) {
    return at<Elf64_Shdr>(elf, header.e_shoff + i * header.e_shentsize);
  };
  const Elf64_Shdr names = row(header.e_shstrndx);
  for (std::uint64_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr found = row(i);
    if (name == elf.data() + names.sh_offset + found.sh_name) {
      const auto first = elf.begin() + static_cast<std::ptrdiff_t>(found.sh_offset);
      return {first, first + static_cast<std::ptrdiff_t>(found.sh_size)};
    }
  }
  return {};
}

/// "90" for code of compute capability 9.0, "90-ptx" for PTX. Layout: headers of 16 bytes (magic,
/// version, own size, bytes that follow), then entries (kind, version, own size, bytes that
/// follow, ... the architecture at 28).
std::set<std::string> architectures(const Bytes& fat) {
  constexpr std::uint32_t kMagic = 0xBA55ED50;
  constexpr std::uint16_t kPtx = 1;
  std::set<std::string> found;
  for (std::uint64_t start = 0; start + 16 <= fat.size();) {
    if (at<std::uint32_t>(fat, start) != kMagic) {
      start += 8;  // padding between the fat binaries of two objects
      continue;
    }
    std::uint64_t entry = start + at<std::uint16_t>(fat, start + 6);
    const std::uint64_t end = entry + at<std::uint64_t>(fat, start + 8);
    while (entry < end) {
      const bool is_ptx = at<std::uint16_t>(fat, entry) == kPtx;
      found.insert(std::to_string(at<std::uint32_t>(fat, entry + 28)) + (is_ptx ? "-ptx" : ""));
      entry += at<std::uint32_t>(fat, entry + 4) + at<std::uint64_t>(fat, entry + 8);
    }
    start = end;
  }
  return found;
}

/// What CMake's list asks for: "90-real" code, "90-virtual" PTX, "90" both.
std::set<std::string> asked_for(const std::string& list) {
  std::set<std::string> names;
  std::istringstream words(list);
  for (std::string word; words >> word;) {
    const std::string number = word.substr(0, word.find('-'));
    if (word.find("-virtual") == std::string::npos) names.insert(number);
    if (word.find("-real") == std::string::npos) names.insert(number + "-ptx");
  }
  return names;
}

TEST(FatBinary, HasCodeForEveryArchitectureThatWasAskedFor) {
  const Bytes fat = section(contents(ICD_PROGRAM), ".nv_fatbin");
  ASSERT_FALSE(fat.empty()) << ICD_PROGRAM << " has no section .nv_fatbin";
  EXPECT_EQ(architectures(fat), asked_for(ICD_CUDA_ARCHITECTURES));
}

TEST(FatBinary, ListsOfCMakeMeanCodeAndPtx) {
  EXPECT_THAT(asked_for("75-real 90-virtual 120"),
              ::testing::UnorderedElementsAre("75", "90-ptx", "120", "120-ptx"));
}

}  // namespace
}  // namespace icd
