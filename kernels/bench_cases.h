#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/args.h"
#include "kernels/bench_device.h"
#include "kernels/bench_matrix.h"
#include "kernels/element.h"

// What the makers of the matrix share, and the makers.
namespace icd {

/// Channels of a head in the Mamba-2 kernels.
inline constexpr Index kHeadDim = 64;

/// As bf16, for upload.
inline std::vector<std::uint16_t> bfloats(std::span<const float> values) {
  std::vector<std::uint16_t> rounded;
  rounded.reserve(values.size());
  for (const float value : values) rounded.push_back(to_bfloat(value));
  return rounded;
}

/// A packed (batch, length, channels) tensor, or one whose channels are outermost in a sequence.
inline Strided channel_last(void* data, std::int64_t length, std::int64_t channels) {
  return {data, length * channels, channels, 1};
}
inline Strided channel_first(void* data, std::int64_t length, std::int64_t channels) {
  return {data, length * channels, 1, length};
}

using CaseMaker = std::unique_ptr<BenchCase> (*)(const BenchShape&, const BenchInputs&,
                                                 std::uint64_t seed);

/// A case whose orders are of channels.
class ChannelCase : public BenchCase {
 protected:
  ChannelCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed)
      : BenchCase(bench_orders(inputs.solved, inputs.timescale, seed)),
        shape_(shape),
        inputs_(inputs),
        seed_(seed) {}

  static constexpr std::int32_t kType = ICD_BF16;
  static constexpr std::int32_t kBytes = 2;

  std::int64_t channels() const { return inputs_.d_inner; }
  std::int64_t states() const { return inputs_.d_state; }
  std::int64_t tokens() const { return shape_.batch * shape_.length; }

  /// A base of bf16 rows, (rows, columns): those of `real`, (inputs.tokens, columns), again and
  /// again, or a bell if there are none.
  void fill_rows(Id id, std::span<const float> real, std::int64_t rows, std::int64_t columns,
                 float mean, float deviation, cudaStream_t stream);
  void fill_bell_of(Id id, std::int32_t type, float mean, float deviation, cudaStream_t stream);

  template <typename T>
  void upload_all(Id id, const std::vector<T>& values, cudaStream_t stream) {
    upload(id, values.data(), static_cast<std::int64_t>(values.size() * sizeof(T)), stream);
  }

  const BenchShape shape_;
  const BenchInputs& inputs_;
  const std::uint64_t seed_;
};

// Null controls.
std::unique_ptr<BenchCase> make_scan(const BenchShape&, const BenchInputs&, std::uint64_t seed);
std::unique_ptr<BenchCase> make_scan_channel_first(const BenchShape&, const BenchInputs&,
                                                   std::uint64_t seed);
std::unique_ptr<BenchCase> make_conv(const BenchShape&, const BenchInputs&, std::uint64_t seed);
std::unique_ptr<BenchCase> make_conv_channel_first(const BenchShape&, const BenchInputs&,
                                                   std::uint64_t seed);
std::unique_ptr<BenchCase> make_update_dn_f32(const BenchShape&, const BenchInputs&,
                                              std::uint64_t seed);
std::unique_ptr<BenchCase> make_update_dn_bf16(const BenchShape&, const BenchInputs&,
                                               std::uint64_t seed);
std::unique_ptr<BenchCase> make_update_nd_f32(const BenchShape&, const BenchInputs&,
                                              std::uint64_t seed);
std::unique_ptr<BenchCase> make_ssd(const BenchShape&, const BenchInputs&, std::uint64_t seed);
std::unique_ptr<BenchCase> make_gemm(const BenchShape&, const BenchInputs&, std::uint64_t seed);
std::unique_ptr<BenchCase> make_gemv_input_major(const BenchShape&, const BenchInputs&,
                                                 std::uint64_t seed);

// Positive controls.
std::unique_ptr<BenchCase> make_gather(const BenchShape&, const BenchInputs&, std::uint64_t seed);
std::unique_ptr<BenchCase> make_active_dn_f32(const BenchShape&, const BenchInputs&,
                                              std::uint64_t seed);
std::unique_ptr<BenchCase> make_active_nd_f32(const BenchShape&, const BenchInputs&,
                                              std::uint64_t seed);
std::unique_ptr<BenchCase> make_active_nd_bf16(const BenchShape&, const BenchInputs&,
                                               std::uint64_t seed);
std::unique_ptr<BenchCase> make_gemv_row_major(const BenchShape&, const BenchInputs&,
                                               std::uint64_t seed);
std::unique_ptr<BenchCase> make_block_sparse(const BenchShape&, const BenchInputs&,
                                             std::uint64_t seed);

}  // namespace icd
