#include "kernels/gpu_mixer.h"

#include <algorithm>
#include <limits>

#include "block_math.h"
#include "kernels/channel_sums.h"

namespace icd {

void GpuShow::rows(Site site, const float* data, std::int64_t rows, std::int64_t stride,
                   std::int64_t channels) const {
  measure(site, data, rows, stride, channels);
  if (!observer_.wants(site)) return;
  observer_.observer->see(observer_.layer, site, copied(data, rows, stride, channels),
                          static_cast<Index>(channels));
}

void GpuShow::measure(Site site, const float* data, std::int64_t rows, std::int64_t stride,
                      std::int64_t channels) const {
  if (sums_ == nullptr) return;
  for (const auto& each : sums_->measured(site, static_cast<Index>(channels))) {
    each.sums->add(data, rows, stride, *each.columns);
  }
}

void GpuShow::steps(const StepSizes& sizes, const GpuTensor& bias, const float* data,
                    std::int64_t rows, std::int64_t stride) const {
  const std::int64_t channels = std::ssize(sizes.bias);
  const float most = sizes.most == 0 ? std::numeric_limits<float>::infinity() : sizes.most;
  if (sums_ != nullptr && !sums_->measured(Site::decay, static_cast<Index>(channels)).empty()) {
    float* decays = work_.floats(Slot::decay, rows * channels);
    check(step_decays({.x = data,
                       .x_row = stride,
                       .rows = rows,
                       .channels = channels,
                       .bias = bias.data(),
                       .rates = sizes.device_rates.data(),
                       .least = sizes.least,
                       .most = most,
                       .y = decays},
                      work_.stream()),
          "step_decays");
    measure(Site::decay, decays, rows, channels, channels);
  }
  if (!observer_.wants(Site::dt) && !observer_.wants(Site::decay)) return;
  const std::span<float> values = copied(data, rows, stride, channels);
  const auto math = fast_math({});
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
