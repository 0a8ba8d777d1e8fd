#include <algorithm>

#include "kernels/launch.h"
#include "kernels/rms_norm.cuh"
#include "kernels/rms_norm.h"

namespace icd {
namespace {

// A block may have 48 KiB of shared memory on every device without asking; the sums of its warps
// take some of it.
constexpr std::int64_t kSharedBytes = 47 << 10;
constexpr int kThreads = 128;  // of a block that several segments share

// How rms_norm_kernel is started. No lanes: it cannot serve the call.
struct NormPlan {
  int lanes = 0;
  int teams = 0;
};

NormPlan plan_of(const RmsNorm& args, std::int64_t group) {
  const std::int64_t elements = 16 / element_bytes(args.type);
  for (const void* pointer :
       {args.x, args.z, args.residual, static_cast<const void*>(args.y),
        static_cast<const void*>(args.residual_out), static_cast<const void*>(args.weight),
        static_cast<const void*>(args.order)}) {
    if (!is_aligned(pointer)) return {};
  }
  const std::int64_t z_row = args.z == nullptr ? 0 : args.z_row;
  if (group % elements != 0 || args.x_row % elements != 0 || args.y_row % elements != 0 ||
      z_row % elements != 0 || group > std::int64_t{kNormValues} * kNormMaxThreads) {
    return {};
  }
  std::int64_t lanes = quotient_up(group, kNormValues);
  if (lanes > 32) {
    lanes = quotient_up(lanes, 32) * 32;
  } else {
    // Two lanes read a sector of 32 bytes.
    lanes = power_of_two_from(std::max<std::int64_t>(lanes, group / elements > 1 ? 2 : 1));
  }
  std::int64_t teams = std::max<std::int64_t>(1, kThreads / lanes);
  if (args.order != nullptr) {
    const std::int64_t groups = args.columns / group;
    teams = std::max<std::int64_t>(1, teams / groups) * groups;
    if (teams * lanes > kNormMaxThreads ||
        teams * group * element_bytes(args.type) > kSharedBytes) {
      return {};
    }
  }
  return {static_cast<int>(lanes), static_cast<int>(teams)};
}

}  // namespace

cudaError_t rms_norm(const RmsNorm& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;

  const std::int64_t group = args.group == 0 ? args.columns : args.group;
  return with_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const NormPlan plan = plan_of(args, group);
    if (plan.lanes > 0) {
      const std::int64_t blocks = quotient_up(args.rows * (args.columns / group), plan.teams);
      const int threads = (plan.lanes * plan.teams + 31) / 32 * 32;
      const std::int64_t shared =
          args.order == nullptr ? 0 : plan.teams * group * static_cast<std::int64_t>(sizeof(T));
      const bool adds = args.residual != nullptr || args.residual_out != nullptr;
      const auto kernel =
          args.z != nullptr
              ? (adds ? rms_norm_kernel<T, true, true> : rms_norm_kernel<T, true, false>)
              : (adds ? rms_norm_kernel<T, false, true> : rms_norm_kernel<T, false, false>);
      kernel<<<static_cast<unsigned int>(blocks), threads, static_cast<std::size_t>(shared),
               stream>>>(args, static_cast<int>(group), plan.lanes, plan.teams);
    } else {
      rms_norm_any_kernel<T><<<grid_for(args.rows), kNormThreads, 0, stream>>>(args, group);
    }
    return cudaGetLastError();
  });
}

}  // namespace icd
