#include <limits>

#include "kernels/channel_sums.h"
#include "kernels/element.cuh"
#include "kernels/launch.h"

namespace icd {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 32;                    // of a block of channel_parts: lines of 128 bytes
constexpr int kRowLanes = kThreads / kColumns;  // threads that share the rows of a column
constexpr std::int64_t kSliceRows = 128;        // of a block, so that 2048 rows fill a device

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Of one channel over some rows.
struct Part {
  double sum;
  double square;
  double minimum;
  double maximum;

  // Comparisons with NaN are false, so it is left out of the extremes; the sums keep it.
  __device__ void add(const Part& other) {
    sum += other.sum;
    square += other.square;
    if (other.minimum < minimum) minimum = other.minimum;
    if (other.maximum > maximum) maximum = other.maximum;
  }
};

__device__ Part part_of_nothing() { return {0, 0, kInfinity, -kInfinity}; }

// parts (slices, channels) of the slices of kSliceRows rows; a null shift is 0.
__global__ void __launch_bounds__(kThreads)
    channel_parts_kernel(ChannelRows args, const double* shift, Part* parts, std::int64_t tiles) {
  __shared__ Part shared[kRowLanes][kColumns];
  const int column = static_cast<int>(threadIdx.x) % kColumns;
  const int lane = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t slice = blockIdx.x / tiles;
  const std::int64_t channel = blockIdx.x % tiles * kColumns + column;
  Part part = part_of_nothing();
  if (channel < args.channels) {
    const double centre = shift == nullptr ? 0.0 : shift[channel];
    const std::int64_t begin = slice * kSliceRows;
    const std::int64_t end = min(begin + kSliceRows, args.rows);
    for (std::int64_t row = begin + lane; row < end; row += kRowLanes) {
      const double value = static_cast<double>(args.at(row, channel));
      const double centred = value - centre;
      part.add({centred, centred * centred, value, value});
    }
  }
  shared[lane][column] = part;
  __syncthreads();
  if (lane != 0 || channel >= args.channels) return;
  for (int other = 1; other < kRowLanes; ++other) part.add(shared[other][column]);
  parts[slice * args.channels + channel] = part;
}

__device__ Part sum_of_slices(const Part* parts, std::int64_t slices, std::int64_t channels,
                              std::int64_t channel) {
  Part part = part_of_nothing();
  for (std::int64_t slice = 0; slice < slices; ++slice) {
    part.add(parts[slice * channels + channel]);
  }
  return part;
}

__device__ double& total(double* totals, ChannelTotal which, std::int64_t channels,
                         std::int64_t channel) {
  return totals[static_cast<int>(which) * channels + channel];
}

// Totals of nothing, relative to the mean of these parts.
__global__ void __launch_bounds__(kThreads)
    begin_totals_kernel(const Part* parts, std::int64_t slices, std::int64_t rows,
                        std::int64_t channels, double* totals) {
  const std::int64_t channel = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (channel >= channels) return;
  const Part part = sum_of_slices(parts, slices, channels, channel);
  // As f32, so that the mean of a channel that never moves is its value.
  total(totals, ChannelTotal::shift, channels, channel) =
      static_cast<double>(static_cast<float>(part.sum / static_cast<double>(rows)));
  total(totals, ChannelTotal::sum, channels, channel) = 0;
  total(totals, ChannelTotal::square, channels, channel) = 0;
  total(totals, ChannelTotal::minimum, channels, channel) = kInfinity;
  total(totals, ChannelTotal::maximum, channels, channel) = -kInfinity;
}

__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const Part* parts, std::int64_t slices, std::int64_t channels,
                     double* totals) {
  const std::int64_t channel = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (channel >= channels) return;
  const Part part = sum_of_slices(parts, slices, channels, channel);
  const double shift = total(totals, ChannelTotal::shift, channels, channel);
  total(totals, ChannelTotal::sum, channels, channel) += part.sum;
  total(totals, ChannelTotal::square, channels, channel) += part.square;
  double& minimum = total(totals, ChannelTotal::minimum, channels, channel);
  double& maximum = total(totals, ChannelTotal::maximum, channels, channel);
  if (part.minimum < minimum) minimum = part.minimum;
  if (part.maximum > maximum) maximum = part.maximum;
  const double largest = fmax(fabs(part.minimum - shift), fabs(part.maximum - shift));
  const bool is_number = largest > 0 && largest < kInfinity;
  total(totals, ChannelTotal::unit, channels, channel) =
      is_number ? ldexp(1.0, ilogb(largest)) : 1.0;
}

__global__ void __launch_bounds__(kThreads)
    centred_rows_kernel(ChannelRows args, const double* totals, float* out, std::int64_t out_row) {
  const std::int64_t row = blockIdx.x;
  const double* shift = totals + static_cast<int>(ChannelTotal::shift) * args.channels;
  const double* unit = totals + static_cast<int>(ChannelTotal::unit) * args.channels;
  for (std::int64_t c = threadIdx.x; c < out_row; c += kThreads) {
    float value = 0;
    if (c < args.channels) {
      value = static_cast<float>((static_cast<double>(args.at(row, c)) - shift[c]) / unit[c]);
    }
    out[row * out_row + c] = value;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_products_kernel(const float* gram, std::int64_t gram_row, const double* unit,
                        std::int64_t channels, double* products) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) {
    products[row * channels + c] +=
        static_cast<double>(gram[row * gram_row + c]) * (unit[row] * unit[c]);
  }
}

__global__ void __launch_bounds__(kThreads) step_decays_kernel(StepDecays args) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t c = threadIdx.x; c < args.channels; c += kThreads) {
    const float dt = softplus(args.x[row * args.x_row + c] + args.bias[c]);
    args.y[row * args.channels + c] = fminf(fmaxf(dt, args.least), args.most) * args.rates[c];
  }
}

}  // namespace

std::int64_t channel_sums_workspace(std::int64_t rows, std::int64_t channels) {
  constexpr auto kDoubles = static_cast<std::int64_t>(sizeof(Part) / sizeof(double));
  return quotient_up(rows, kSliceRows) * channels * kDoubles;
}

cudaError_t channel_sums(const ChannelRows& args, double* totals, double* workspace, bool is_first,
                         cudaStream_t stream) {
  if (args.rows < 0 || args.channels < 0 || args.block < 1) return cudaErrorInvalidValue;
  if (args.rows == 0 || args.channels == 0) return cudaSuccess;
  const std::int64_t slices = quotient_up(args.rows, kSliceRows);
  const std::int64_t tiles = quotient_up(args.channels, kColumns);
  if (slices > kMaxGrid / tiles) return cudaErrorInvalidValue;
  auto* parts = reinterpret_cast<Part*>(workspace);
  const auto blocks = static_cast<unsigned int>(slices * tiles);
  const unsigned int channel_blocks = grid_for(quotient_up(args.channels, kThreads));
  if (is_first) {
    channel_parts_kernel<<<blocks, kThreads, 0, stream>>>(args, nullptr, parts, tiles);
    begin_totals_kernel<<<channel_blocks, kThreads, 0, stream>>>(parts, slices, args.rows,
                                                                 args.channels, totals);
  }
  channel_parts_kernel<<<blocks, kThreads, 0, stream>>>(args, totals, parts, tiles);
  add_parts_kernel<<<channel_blocks, kThreads, 0, stream>>>(parts, slices, args.channels, totals);
  return cudaGetLastError();
}

cudaError_t centred_rows(const ChannelRows& args, const double* totals, float* out,
                         std::int64_t out_row, cudaStream_t stream) {
  if (args.rows < 0 || args.rows > kMaxGrid || args.block < 1) return cudaErrorInvalidValue;
  if (args.rows == 0 || out_row == 0) return cudaSuccess;
  centred_rows_kernel<<<grid_for(args.rows), kThreads, 0, stream>>>(args, totals, out, out_row);
  return cudaGetLastError();
}

cudaError_t add_products(const float* gram, std::int64_t gram_row, const double* totals,
                         std::int64_t channels, double* products, cudaStream_t stream) {
  if (channels < 0 || channels > kMaxGrid) return cudaErrorInvalidValue;
  if (channels == 0) return cudaSuccess;
  add_products_kernel<<<grid_for(channels), kThreads, 0, stream>>>(
      gram, gram_row, totals + static_cast<int>(ChannelTotal::unit) * channels, channels, products);
  return cudaGetLastError();
}

cudaError_t step_decays(const StepDecays& args, cudaStream_t stream) {
  if (args.rows < 0 || args.rows > kMaxGrid || args.channels < 0) return cudaErrorInvalidValue;
  if (args.rows == 0 || args.channels == 0) return cudaSuccess;
  step_decays_kernel<<<grid_for(args.rows), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace icd
