#include "kernels/gpu_mixer.h"

#include <algorithm>
#include <limits>

#include "block_math.h"

namespace icd {

void GpuShow::rows(Site site, const float* data, std::int64_t rows, std::int64_t stride,
                   std::int64_t channels) const {
  if (!observer_.wants(site)) return;
  observer_.observer->see(observer_.layer, site, copied(data, rows, stride, channels),
                          static_cast<Index>(channels));
}

void GpuShow::steps(const StepSizes& sizes, const float* data, std::int64_t rows,
                    std::int64_t stride) const {
  if (!observer_.wants(Site::dt) && !observer_.wants(Site::decay)) return;
  const std::int64_t channels = std::ssize(sizes.bias);
  const std::span<float> values = copied(data, rows, stride, channels);
  const auto math = fast_math({});
  const float most = sizes.most == 0 ? std::numeric_limits<float>::infinity() : sizes.most;
  math->each(rows, [&](std::int64_t row) {
    float* dt = values.data() + row * channels;
    for (std::int64_t c = 0; c < channels; ++c) dt[c] += sizes.bias[static_cast<std::size_t>(c)];
    math->softplus(dt, channels);
    for (std::int64_t c = 0; c < channels; ++c) {
      dt[c] = std::min(std::max(dt[c], sizes.least), most);
    }
  });
  const auto show = [&](Site site) {
    if (!observer_.wants(site)) return;
    observer_.observer->see(observer_.layer, site, values, static_cast<Index>(channels));
  };
  show(Site::dt);
  if (!observer_.wants(Site::decay)) return;
  math->each(rows, [&](std::int64_t row) {
    float* dt = values.data() + row * channels;
    for (std::int64_t c = 0; c < channels; ++c) dt[c] *= sizes.rates[static_cast<std::size_t>(c)];
  });
  show(Site::decay);
}

std::span<float> GpuShow::copied(const float* data, std::int64_t rows, std::int64_t stride,
                                 std::int64_t channels) const {
  const std::span<float> values = work_.pinned(rows * channels);
  const auto width = static_cast<std::size_t>(channels) * sizeof(float);
  check(cudaMemcpy2DAsync(values.data(), width, data,
                          static_cast<std::size_t>(stride) * sizeof(float), width,
                          static_cast<std::size_t>(rows), cudaMemcpyDeviceToHost, work_.stream()),
        "cudaMemcpy2DAsync");
  work_.wait();
  return values;
}

}  // namespace icd
