#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <list>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "kernels/device.h"
#include "kernels/icd_kernels.h"
#include "kernels/reference.h"
#include "support/arrays.h"

// The shared library as someone else's program sees it: its symbols, its lines, and that calls on
// host memory leave the bytes of the reference.
namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StrEq;

constexpr std::int64_t kBatch = 2;
constexpr std::int64_t kLength = 7;
constexpr std::int64_t kHeads = 4;
constexpr std::int64_t kHeadDim = 3;
constexpr std::int64_t kChannels = kHeads * kHeadDim;
constexpr std::int64_t kGroups = 2;
constexpr std::int64_t kStates = 6;
constexpr std::int32_t kType = ICD_BF16;

/// Arrays of one call. Two memories are filled alike.
class Memory {
 public:
  Strided tensor(std::int64_t length, std::int64_t channels, std::int32_t type = kType) {
    return testing::packed(array(type, kBatch * length * channels), length, channels);
  }
  float* f32(std::int64_t count, double mean = 0) {
    return static_cast<float*>(array(ICD_F32, count, mean));
  }
  void* array(std::int32_t type, std::int64_t count, double mean = 0) {
    arrays_.push_back(testing::normal_array(type, count, random_, 0.3, mean));
    return arrays_.back().data();
  }
  bool operator==(const Memory& other) const {
    return std::equal(arrays_.begin(), arrays_.end(), other.arrays_.begin(), other.arrays_.end());
  }

 private:
  Random random_{1};
  std::list<testing::HostArray> arrays_;
};

/// The struct that `make` builds, run by the library and by the reference: the same in every array.
template <typename Args>
void expect_bytes_of(void (*reference)(const Args&), int (*call)(const Args*, void*),
                     const std::function<Args(Memory&)>& make) {
  Memory before;
  Memory found;
  Memory expected;
  make(before);
  const Args args = make(found);
  EXPECT_EQ(call(&args, nullptr), 0) << icd_kernels_error();
  reference(make(expected));
  EXPECT_TRUE(found == expected);
  EXPECT_FALSE(found == before) << "nothing was written";
}

SelectiveScan selective_scan_args(Memory& memory) {
  SelectiveScan a{};
  a.batch = kBatch;
  a.length = kLength;
  a.channels = kChannels;
  a.states = kStates;
  a.type = kType;
  a.softplus = 1;
  a.u = memory.tensor(kLength, kChannels);
  a.dt = memory.tensor(kLength, kChannels);
  a.z = memory.tensor(kLength, kChannels);
  a.B = memory.tensor(kLength, kStates);
  a.C = memory.tensor(kLength, kStates);
  a.y = memory.tensor(kLength, kChannels);
  a.A = memory.f32(kChannels * kStates, -1);
  a.D = memory.f32(kChannels);
  a.dt_bias = memory.f32(kChannels);
  a.initial_state = memory.f32(kBatch * kChannels * kStates);
  a.final_state = memory.f32(kBatch * kChannels * kStates);
  return a;
}

TEST(CApi, RunsSelectiveScanOnTheHost) {
  expect_bytes_of<SelectiveScan>(reference::selective_scan, icd_selective_scan,
                                 selective_scan_args);
}

TEST(CApi, RunsCausalConv1dOnTheHost) {
  expect_bytes_of<CausalConv1d>(reference::causal_conv1d, icd_causal_conv1d, [](Memory& memory) {
    CausalConv1d a{};
    a.batch = kBatch;
    a.length = kLength;
    a.channels = kChannels;
    a.width = 4;
    a.type = kType;
    a.silu = 1;
    a.x = memory.tensor(kLength, kChannels);
    a.y = memory.tensor(kLength, kChannels);
    a.weight = memory.array(kType, kChannels * 4);
    a.bias = memory.array(kType, kChannels);
    a.final_state = memory.array(kType, kBatch * kChannels * 3);
    return a;
  });
}

TEST(CApi, RunsCausalConv1dUpdateOnTheHost) {
  expect_bytes_of<CausalConv1dUpdate>(reference::causal_conv1d_update, icd_causal_conv1d_update,
                                      [](Memory& memory) {
                                        CausalConv1dUpdate a{};
                                        a.batch = kBatch;
                                        a.channels = kChannels;
                                        a.width = 4;
                                        a.type = kType;
                                        a.x = memory.tensor(1, kChannels);
                                        a.y = memory.tensor(1, kChannels);
                                        a.weight = memory.array(kType, kChannels * 4);
                                        a.kept = 4;
                                        a.state = memory.array(kType, kBatch * kChannels * a.kept);
                                        a.state_channel = a.kept;
                                        a.state_slot = kChannels * a.kept;
                                        return a;
                                      });
}

TEST(CApi, RunsStateUpdateOnTheHost) {
  expect_bytes_of<StateUpdate>(reference::state_update, icd_state_update, [](Memory& memory) {
    StateUpdate a{};
    a.batch = kBatch;
    a.channels = kChannels;
    a.states = kStates;
    a.type = kType;
    a.softplus = 1;
    a.state_type = ICD_F16;
    a.state_layout = ICD_STATE_ND;
    a.u = memory.tensor(1, kChannels);
    a.dt = memory.tensor(1, kChannels);
    a.B = memory.tensor(1, kStates);
    a.C = memory.tensor(1, kStates);
    a.y = memory.tensor(1, kChannels);
    a.A = memory.f32(kChannels * kStates, -1);
    a.state = memory.array(ICD_F16, kBatch * kChannels * kStates);
    return a;
  });
}

TEST(CApi, RunsHeadStateUpdateOnTheHost) {
  expect_bytes_of<HeadStateUpdate>(reference::head_state_update, icd_head_state_update,
                                   [](Memory& memory) {
                                     HeadStateUpdate a{};
                                     a.batch = kBatch;
                                     a.heads = kHeads;
                                     a.head_dim = kHeadDim;
                                     a.groups = kGroups;
                                     a.states = kStates;
                                     a.type = kType;
                                     a.softplus = 1;
                                     a.x = memory.tensor(1, kChannels);
                                     a.dt = memory.tensor(1, kHeads);
                                     a.z = memory.tensor(1, kChannels);
                                     a.B = memory.tensor(1, kGroups * kStates);
                                     a.C = memory.tensor(1, kGroups * kStates);
                                     a.y = memory.tensor(1, kChannels);
                                     a.A = memory.f32(kHeads, -1);
                                     a.state = memory.f32(kBatch * kChannels * kStates);
                                     return a;
                                   });
}

TEST(CApi, RunsSsdOnTheHost) {
  expect_bytes_of<Ssd>(reference::ssd, icd_ssd, [](Memory& memory) {
    Ssd a{};
    a.batch = kBatch;
    a.length = kLength;
    a.heads = kHeads;
    a.head_dim = kHeadDim;
    a.groups = kGroups;
    a.states = kStates;
    a.type = kType;
    a.softplus = 1;
    a.x = memory.tensor(kLength, kChannels);
    a.dt = memory.tensor(kLength, kHeads);
    a.B = memory.tensor(kLength, kGroups * kStates);
    a.C = memory.tensor(kLength, kGroups * kStates);
    a.y = memory.tensor(kLength, kChannels);
    a.A = memory.f32(kHeads, -1);
    a.D = memory.f32(kHeads);
    a.final_state = memory.f32(kBatch * kChannels * kStates);
    return a;
  });
}

TEST(CApi, RunsMamba3OnTheHost) {
  expect_bytes_of<Mamba3Scan>(reference::mamba3, icd_mamba3, [](Memory& memory) {
    Mamba3Scan a{};
    a.batch = kBatch;
    a.length = kLength;
    a.heads = kHeads;
    a.head_dim = kHeadDim;
    a.groups = kGroups;
    a.states = kStates;
    a.rank = 1;
    a.angles = 2;
    a.type = kType;
    a.x = memory.tensor(kLength, kChannels);
    a.z = memory.tensor(kLength, kChannels);
    a.B = memory.tensor(kLength, kGroups * kStates);
    a.C = memory.tensor(kLength, kGroups * kStates);
    a.y = memory.tensor(kLength, kChannels);
    a.dt = memory.tensor(kLength, kHeads, ICD_F32);
    a.decay = memory.tensor(kLength, kHeads, ICD_F32);
    a.trap = memory.tensor(kLength, kHeads, ICD_F32);
    a.turn = memory.tensor(kLength, 2, ICD_F32);
    a.B_bias = memory.f32(kHeads * kStates);
    a.C_bias = memory.f32(kHeads * kStates);
    return a;
  });
}

TEST(CApi, RunsRmsNormOnTheHost) {
  expect_bytes_of<RmsNorm>(reference::rms_norm, icd_rms_norm, [](Memory& memory) {
    RmsNorm a{};
    a.rows = kBatch;
    a.columns = kChannels;
    a.type = kType;
    a.eps = 1e-5F;
    a.x = memory.array(kType, kBatch * kChannels);
    a.z = memory.array(kType, kBatch * kChannels);
    a.y = memory.array(kType, kBatch * kChannels);
    a.x_row = a.z_row = a.y_row = kChannels;
    a.weight = memory.f32(kChannels, 1);
    return a;
  });
}

TEST(CApi, RunsSkipZeroGemvOnTheHost) {
  expect_bytes_of<SkipZeroGemv>(reference::skip_zero_gemv, icd_skip_zero_gemv, [](Memory& memory) {
    SkipZeroGemv a{};
    a.rows = kChannels;
    a.columns = kStates;
    a.type = kType;
    a.W = memory.array(kType, kChannels * kStates);
    a.x = memory.array(kType, kStates);
    a.y = memory.array(kType, kChannels);
    return a;
  });
}

TEST(CApi, NeedsNoWorkspaceInHostMemory) {
  Memory memory;
  const SelectiveScan args = selective_scan_args(memory);
  EXPECT_EQ(icd_selective_scan_workspace(&args), 0);
  EXPECT_EQ(icd_selective_scan_workspace(nullptr), 0);
  const Ssd refused{};
  EXPECT_EQ(icd_ssd_workspace(&refused), 0);
}

TEST(CApi, SaysInOneLineWhatIsWrongAndForgetsItAfterACallThatWorked) {
  SelectiveScan args{};
  EXPECT_NE(icd_selective_scan(&args, nullptr), 0);
  EXPECT_THAT(icd_kernels_error(), StrEq("selective_scan: states is 0, expected 1 to 256"));
  EXPECT_NE(icd_ssd(nullptr, nullptr), 0);
  EXPECT_THAT(icd_kernels_error(), StrEq("ssd: args is NULL, expected a struct"));
  std::thread([] { EXPECT_THAT(icd_kernels_error(), StrEq("")); }).join();
  args.states = 16;
  EXPECT_EQ(icd_selective_scan(&args, nullptr), 0);
  EXPECT_THAT(icd_kernels_error(), StrEq(""));
}

TEST(CApi, NamesItsVersionAndWhetherThereIsADevice) {
  EXPECT_EQ(icd_kernels_version(), ICD_KERNELS_VERSION);
  EXPECT_EQ(std::strlen(icd_kernels_why_no_device()) == 0, why_no_device().empty())
      << icd_kernels_why_no_device();
}

/// What a shared library of this machine says of itself.
struct Elf {
  std::set<std::string> exported;
  std::vector<std::string> needed;
  std::string soname;
};

Elf read_elf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const auto read = [&](std::uint64_t offset, auto& value) {
    ASSERT_LE(offset + sizeof value, bytes.size());
    std::memcpy(&value, bytes.data() + offset, sizeof value);
  };
  Elf elf;
  Elf64_Ehdr header{};
  read(0, header);
  for (int section = 0; section < header.e_shnum; ++section) {
    const auto header_of = [&](std::uint64_t index) {
      Elf64_Shdr found{};
      read(header.e_shoff + index * header.e_shentsize, found);
      return found;
    };
    const Elf64_Shdr found = header_of(static_cast<std::uint64_t>(section));
    if (found.sh_type != SHT_DYNSYM && found.sh_type != SHT_DYNAMIC) continue;
    const Elf64_Shdr names = header_of(found.sh_link);
    const auto name = [&](std::uint64_t offset) {
      return std::string(bytes.c_str() + names.sh_offset + offset);
    };
    for (std::uint64_t at = 0; at < found.sh_size; at += found.sh_entsize) {
      if (found.sh_type == SHT_DYNSYM) {
        Elf64_Sym symbol{};
        read(found.sh_offset + at, symbol);
        const int type = ELF64_ST_TYPE(symbol.st_info);
        const bool is_name_of_something = type == STT_FUNC || type == STT_OBJECT;
        if (symbol.st_shndx != SHN_UNDEF && is_name_of_something && symbol.st_shndx != SHN_ABS) {
          elf.exported.insert(name(symbol.st_name));
        }
      } else {
        Elf64_Dyn entry{};
        read(found.sh_offset + at, entry);
        if (entry.d_tag == DT_NEEDED) elf.needed.push_back(name(entry.d_un.d_val));
        if (entry.d_tag == DT_SONAME) elf.soname = name(entry.d_un.d_val);
      }
    }
  }
  return elf;
}

TEST(KernelLibrary, ExportsItsHeaderAndNothingElse) {
  const Elf elf = read_elf(ICD_KERNELS_LIBRARY);
  EXPECT_THAT(elf.exported,
              ElementsAre("icd_causal_conv1d", "icd_causal_conv1d_update", "icd_head_state_update",
                          "icd_kernels_error", "icd_kernels_version", "icd_kernels_why_no_device",
                          "icd_mamba3", "icd_rms_norm", "icd_selective_scan",
                          "icd_selective_scan_workspace", "icd_skip_zero_gemv",
                          "icd_skip_zero_gemv_workspace", "icd_ssd", "icd_ssd_workspace",
                          "icd_state_update"));
  EXPECT_EQ(elf.soname, "libicd_kernels.so." + std::to_string(ICD_KERNELS_VERSION));
}

TEST(KernelLibrary, NeedsNoCudaNoTorchAndNoCxxRuntime) {
  for (const std::string& needed : read_elf(ICD_KERNELS_LIBRARY).needed) {
    if (needed.starts_with("libasan") || needed.starts_with("libubsan")) {
      GTEST_SKIP() << "built with sanitizers, which bring runtimes";
    }
    for (const char* other : {"cuda", "torch", "c10", "stdc++", "gcc_s", "gomp"}) {
      EXPECT_THAT(needed, Not(HasSubstr(other)));
    }
  }
}

}  // namespace
}  // namespace icd
