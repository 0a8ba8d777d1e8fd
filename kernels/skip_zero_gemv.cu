#include "kernels/launch.h"
#include "kernels/skip_zero_gemv.cuh"
#include "kernels/skip_zero_gemv.h"

namespace icd {
namespace {

constexpr std::int64_t kAlignment = 256;
constexpr std::int64_t kMostColumns = 1 << 30;  // threads step beyond the last in 32 bits

std::int64_t aligned(std::int64_t bytes) { return quotient_up(bytes, kAlignment) * kAlignment; }

template <typename T, int V>
ActiveItems<T> compact(const SkipZeroGemv& args, cudaStream_t stream) {
  auto* bytes = static_cast<char*>(args.workspace);
  const std::int64_t items = args.columns / V;
  ActiveItems<T> active = {};
  active.count = reinterpret_cast<std::int32_t*>(bytes);
  active.item = reinterpret_cast<std::int32_t*>(bytes + kAlignment);
  active.x = reinterpret_cast<T*>(bytes + kAlignment + aligned(items * 4));
  compact_kernel<T, V><<<1, kCompactThreads, 0, stream>>>(static_cast<const T*>(args.x),
                                                          static_cast<int>(items), active);
  return active;
}

template <typename T, int V>
cudaError_t launch_row_major(const SkipZeroGemv& args, cudaStream_t stream) {
  const ActiveItems<T> active = compact<T, V>(args, stream);
  const std::int64_t blocks = quotient_up(args.rows, kGemvRows);
  if (blocks > kMaxGrid) return cudaErrorInvalidValue;
  row_major_gemv_kernel<T, V><<<static_cast<unsigned int>(blocks), kGemvThreads, 0, stream>>>(
      static_cast<const T*>(args.W), active, static_cast<T*>(args.y), args.rows, args.columns);
  return cudaGetLastError();
}

template <typename T, int V>
cudaError_t launch_input_major(const SkipZeroGemv& args, cudaStream_t stream) {
  const ActiveItems<T> active = compact<T, 1>(args, stream);
  const std::int64_t blocks =
      quotient_up(args.rows, kTileBytes / static_cast<std::int64_t>(sizeof(T)));
  if (blocks > kMaxGrid) return cudaErrorInvalidValue;
  input_major_gemv_kernel<T, V><<<static_cast<unsigned int>(blocks), kTileThreads, 0, stream>>>(
      static_cast<const T*>(args.W), active, static_cast<T*>(args.y), args.rows);
  return cudaGetLastError();
}

}  // namespace

cudaError_t skip_zero_gemv(const SkipZeroGemv& args, cudaStream_t stream) {
  if (!why_not(args).empty() || args.columns > kMostColumns) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;  // an empty grid would be a launch error
  return with_type(args.type, [&](auto element) {
    using T = decltype(element);
    constexpr int kWide = 16 / static_cast<int>(sizeof(T));
    const bool is_wide = is_aligned(args.W);
    if (args.input_major != 0) {
      return is_wide && args.rows % kWide == 0 ? launch_input_major<T, kWide>(args, stream)
                                               : launch_input_major<T, 1>(args, stream);
    }
    return is_wide && args.columns % kWide == 0 ? launch_row_major<T, kWide>(args, stream)
                                                : launch_row_major<T, 1>(args, stream);
  });
}

std::int64_t skip_zero_gemv_workspace(const SkipZeroGemv& args) {
  // Enough for items of one column in the widest type.
  return kAlignment + aligned(args.columns * 4) + aligned(args.columns * 4);
}

}  // namespace icd
