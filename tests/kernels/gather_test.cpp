#include "kernels/gather.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <ostream>
#include <vector>

#include "icd/random.h"
#include "kernels/device_buffer.h"
#include "kernels/reference.h"
#include "support/device.h"

namespace icd {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::uint8_t kPoison = 0xa5;
constexpr std::int64_t kGuard = 64;  // bytes behind the output that have to stay poisoned

Bytes random_bytes(std::int64_t size, Random& random) {
  Bytes bytes(static_cast<std::size_t>(size));
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random.next());
  return bytes;
}

std::vector<Index> random_order(Index size, Random& random) {
  const Permutation order = random_permutation(size, random);
  return {order.gather().begin(), order.gather().end()};
}

// How far input, output and the table of sources start behind an address that is a multiple
// of 256: what decides between the wide and the narrow code.
struct Offsets {
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t source = 0;
};

std::ostream& operator<<(std::ostream& to, const Offsets& at) {
  return to << "offsets " << at.in << ", " << at.out << ", " << at.source;
}

// What a gather leaves in its output and in the guard behind it. `call` takes
// (in, source, out), on the device, and launches.
template <typename Call>
Bytes on_device(const Bytes& in, const std::vector<Index>& source, const Offsets& at,
                const Call& call) {
  const auto size = static_cast<std::int64_t>(in.size());
  const auto source_bytes = static_cast<std::int64_t>(source.size() * sizeof(Index));
  DeviceBuffer device_in(at.in + size + 1);
  DeviceBuffer device_out(at.out + size + kGuard);
  DeviceBuffer device_source(at.source + source_bytes + 1);
  const auto to_device = [](std::uint8_t* to, const void* from, std::int64_t bytes) {
    check(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  };
  to_device(device_in.data() + at.in, in.data(), size);
  to_device(device_source.data() + at.source, source.data(), source_bytes);
  check(cudaMemset(device_out.data(), kPoison, static_cast<std::size_t>(device_out.bytes())),
        "cudaMemset");

  check(call(device_in.data() + at.in,
             reinterpret_cast<const std::int32_t*>(device_source.data() + at.source),
             device_out.data() + at.out),
        "gather");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");

  Bytes whole(static_cast<std::size_t>(device_out.bytes()));
  check(cudaMemcpy(whole.data(), device_out.data(), whole.size(), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  for (std::int64_t i = 0; i < at.out; ++i) {
    EXPECT_EQ(whole[static_cast<std::size_t>(i)], kPoison)
        << "byte " << i << " ahead of the output";
  }
  return {whole.begin() + at.out, whole.end()};
}

Bytes with_guard(Bytes expected) {
  expected.resize(expected.size() + static_cast<std::size_t>(kGuard), kPoison);
  return expected;
}

void expect_rows_agree(Index rows, std::int64_t row_bytes, const Offsets& at, Random& random) {
  const Bytes in = random_bytes(rows * row_bytes, random);
  const std::vector<Index> source = random_order(rows, random);
  Bytes expected(in.size());
  reference::gather_rows(in.data(), source.data(), expected.data(), rows, row_bytes);
  const Bytes found = on_device(in, source, at, [&](const void* x, const Index* p, void* y) {
    return gather_rows(x, p, y, rows, row_bytes, nullptr);
  });
  EXPECT_EQ(found == with_guard(expected), true)
      << "rows " << rows << ", row_bytes " << row_bytes << ", " << at;
}

void expect_columns_agree(std::int64_t rows, Index columns, int element_bytes, const Offsets& at,
                          Random& random) {
  const Bytes in = random_bytes(rows * columns * element_bytes, random);
  const std::vector<Index> source = random_order(columns, random);
  Bytes expected(in.size());
  reference::gather_columns(in.data(), source.data(), expected.data(), rows, columns,
                            element_bytes);
  const Bytes found = on_device(in, source, at, [&](const void* x, const Index* p, void* y) {
    return gather_columns(x, p, y, rows, columns, element_bytes, nullptr);
  });
  EXPECT_EQ(found == with_guard(expected), true)
      << "rows " << rows << ", columns " << columns << ", element_bytes " << element_bytes << ", "
      << at;
}

class GatherRows : public testing::DeviceTest {};
class GatherColumns : public testing::DeviceTest {};

TEST_F(GatherRows, MovesRowsOfEveryWidth) {
  Random random(1);
  for (const Index rows : {1, 2, 7, 33, 257}) {
    for (const std::int64_t row_bytes :
         {1, 2, 3, 4, 6, 8, 12, 16, 17, 32, 48, 64, 96, 511, 512, 1536, 2048, 2064, 5120, 10246}) {
      expect_rows_agree(rows, row_bytes, {}, random);
    }
  }
}

TEST_F(GatherRows, StartsAtAnyAddress) {
  Random random(2);
  for (std::int64_t in = 0; in <= 16; ++in) {
    for (const std::int64_t out : {0, 1, 2, 4, 8, 16}) {
      expect_rows_agree(37, 96, {.in = in, .out = out}, random);
      expect_rows_agree(5, 2304, {.in = in, .out = out}, random);
    }
  }
}

TEST_F(GatherRows, MovesManyShortRowsAndAFewLongOnes) {
  Random random(3);
  expect_rows_agree(1'000'003, 2, {}, random);
  expect_rows_agree(100'001, 64, {}, random);
  expect_rows_agree(3, 5'000'016, {}, random);
}

TEST_F(GatherRows, ReachesBeyondFourGigabytes) {
  // Row 0 comes from the last of 4 GiB and 1 MiB: a 32-bit offset would wrap.
  constexpr std::int64_t kRowBytes = 1 << 20;
  constexpr Index kRows = 4097;
  DeviceBuffer in(kRows * kRowBytes);
  DeviceBuffer out(kRows * kRowBytes);
  DeviceBuffer source(kRows * static_cast<std::int64_t>(sizeof(Index)));
  check(cudaMemset(in.data(), 1, static_cast<std::size_t>(in.bytes())), "cudaMemset");
  check(cudaMemset(in.data() + (kRows - 1) * kRowBytes, 2, kRowBytes), "cudaMemset");
  std::vector<Index> backwards(kRows);
  std::iota(backwards.rbegin(), backwards.rend(), 0);
  check(cudaMemcpy(source.data(), backwards.data(), backwards.size() * sizeof(Index),
                   cudaMemcpyHostToDevice),
        "cudaMemcpy");
  check(gather_rows(in.data(), reinterpret_cast<const Index*>(source.data()), out.data(), kRows,
                    kRowBytes, nullptr),
        "gather_rows");
  const auto byte_at = [&](std::int64_t place) {
    std::uint8_t byte = 0;
    check(cudaMemcpy(&byte, out.data() + place, 1, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return static_cast<int>(byte);
  };
  EXPECT_EQ(byte_at(0), 2);
  EXPECT_EQ(byte_at(kRowBytes - 1), 2);
  EXPECT_EQ(byte_at(kRowBytes), 1);
  EXPECT_EQ(byte_at(kRows * kRowBytes - 1), 1);
}

TEST_F(GatherColumns, MovesElementsOfEverySize) {
  Random random(4);
  for (const int element_bytes : {1, 2, 4, 8, 16}) {
    for (const std::int64_t rows : {1, 3, 40}) {
      for (const Index columns : {1, 2, 3, 8, 16, 31, 256, 768, 1001, 1536}) {
        expect_columns_agree(rows, columns, element_bytes, {}, random);
      }
    }
  }
}

TEST_F(GatherColumns, StartsAtAnyAddressThatSuitsTheElement) {
  Random random(5);
  for (const int element_bytes : {1, 2, 4, 8, 16}) {
    for (std::int64_t elements = 0; elements <= 2; ++elements) {
      for (const std::int64_t source : {0, 4, 8, 16}) {
        const std::int64_t offset = elements * element_bytes;
        expect_columns_agree(9, 96, element_bytes, {.in = offset, .source = source}, random);
        expect_columns_agree(9, 96, element_bytes, {.out = offset, .source = source}, random);
      }
    }
  }
}

TEST_F(GatherColumns, PutsSeveralRowsInATile) {
  Random random(6);
  expect_columns_agree(10'001, 64, 2, {}, random);
  expect_columns_agree(5'003, 1536, 2, {}, random);
  expect_columns_agree(70'001, 5, 1, {}, random);
}

TEST_F(GatherColumns, MovesRowsThatSharedMemoryCannotHold) {
  Random random(7);
  expect_columns_agree(3, 24'576, 2, {}, random);  // 48 KiB: the longest that fits
  expect_columns_agree(3, 24'584, 2, {}, random);  // 16 bytes more
  expect_columns_agree(3, 50'281, 2, {}, random);  // and of an odd length
  for (const int element_bytes : {1, 4, 8, 16}) {
    expect_columns_agree(2, 50'288, element_bytes, {}, random);
  }
}

// No data is touched by a call that fails or has nothing to do, so these need no device.
TEST(Gather, SucceedsOnNothing) {
  EXPECT_EQ(gather_rows(nullptr, nullptr, nullptr, 0, 16, nullptr), cudaSuccess);
  EXPECT_EQ(gather_rows(nullptr, nullptr, nullptr, 16, 0, nullptr), cudaSuccess);
  EXPECT_EQ(gather_columns(nullptr, nullptr, nullptr, 0, 16, 2, nullptr), cudaSuccess);
  EXPECT_EQ(gather_columns(nullptr, nullptr, nullptr, 16, 0, 2, nullptr), cudaSuccess);
}

TEST(Gather, RefusesSizesThatMakeNoSense) {
  EXPECT_EQ(gather_rows(nullptr, nullptr, nullptr, -1, 16, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(gather_rows(nullptr, nullptr, nullptr, 1, -16, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(gather_columns(nullptr, nullptr, nullptr, -1, 16, 2, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(gather_columns(nullptr, nullptr, nullptr, 1, -16, 2, nullptr), cudaErrorInvalidValue);
  for (const int element_bytes : {-1, 0, 3, 32}) {
    EXPECT_EQ(gather_columns(nullptr, nullptr, nullptr, 1, 16, element_bytes, nullptr),
              cudaErrorInvalidValue);
  }
}

TEST(Gather, RefusesColumnsBetweenElements) {
  alignas(16) std::uint8_t bytes[32] = {};
  for (const int element_bytes : {2, 4, 8, 16}) {
    EXPECT_EQ(gather_columns(bytes + 1, nullptr, bytes, 1, 1, element_bytes, nullptr),
              cudaErrorMisalignedAddress);
    EXPECT_EQ(
        gather_columns(bytes, nullptr, bytes + element_bytes / 2, 1, 1, element_bytes, nullptr),
        cudaErrorMisalignedAddress);
  }
}

}  // namespace
}  // namespace icd
