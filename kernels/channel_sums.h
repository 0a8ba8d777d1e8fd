#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Sums over rows of channels and the Gram matrix of their values, for calibration. Pointers are on
// the device. All return the status of the launch, do not synchronise and allocate nothing; a call
// without rows or channels is cudaSuccess without a launch. No sum depends on timing.
namespace icd {

#ifdef __CUDACC__
#define ICD_HOST_DEVICE __host__ __device__
#else
#define ICD_HOST_DEVICE
#endif

/// Rows of channels: observations `first` and on of rows of a larger array, `block` observations
/// to one of its rows.
struct ChannelRows {
  const float* x = nullptr;
  std::int64_t first = 0;
  std::int64_t rows = 0;
  std::int64_t block = 1;
  std::int64_t x_row = 0;      ///< elements from row to row of the array
  std::int64_t x_channel = 1;  ///< elements from channel to channel
  std::int64_t channels = 0;

  ICD_HOST_DEVICE float at(std::int64_t row, std::int64_t channel) const {
    const std::int64_t from = first + row;
    return x[from / block * x_row + from % block + channel * x_channel];
  }
};
#undef ICD_HOST_DEVICE

/// Rows of (kChannelTotals, channels).
enum class ChannelTotal {
  shift,    ///< the mean of the first call as f32, which everything is relative to
  sum,      ///< of value - shift
  square,   ///< of (value - shift)^2
  minimum,  ///< of values
  maximum,
  unit,  ///< the power of two that brings value - shift of the last call into [-2, 2]
};
constexpr std::int64_t kChannelTotals = 6;

/// Doubles that channel_sums() takes as workspace.
std::int64_t channel_sums_workspace(std::int64_t rows, std::int64_t channels);

/// Adds rows to totals (kChannelTotals, channels), which `is_first` makes from nothing.
cudaError_t channel_sums(const ChannelRows& args, double* totals, double* workspace, bool is_first,
                         cudaStream_t stream);

/// out (rows, out_row) = (value - shift) / unit, zeros beyond the channels.
cudaError_t centred_rows(const ChannelRows& args, const double* totals, float* out,
                         std::int64_t out_row, cudaStream_t stream);

/// products (channels, channels) += gram (channels, gram_row) times the units of both channels.
cudaError_t add_products(const float* gram, std::int64_t gram_row, const double* totals,
                         std::int64_t channels, double* products, cudaStream_t stream);

/// y = clamp(softplus(x + bias), least, most) * rates: dt times the mean of |A|.
struct StepDecays {
  const float* x = nullptr;  ///< (rows, channels), rows x_row apart
  std::int64_t x_row = 0;
  std::int64_t rows = 0;
  std::int64_t channels = 0;
  const float* bias = nullptr;   ///< (channels)
  const float* rates = nullptr;  ///< (channels)
  float least = 0;
  float most = 0;
  float* y = nullptr;  ///< (rows, channels), packed
};
cudaError_t step_decays(const StepDecays& args, cudaStream_t stream);

}  // namespace icd
