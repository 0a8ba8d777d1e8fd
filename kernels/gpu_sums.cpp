#include "kernels/gpu_sums.h"

#include <algorithm>

#include "kernels/channel_sums.h"

namespace icd {
namespace {

// Rows whose products are summed in f32 before they go into the sum in f64. Rounding then stays
// near 1e-6 of the squares of a call, and averages out over the calls.
constexpr std::int64_t kRowsAtOnce = 2048;

constexpr auto kDoubleBytes = static_cast<std::int64_t>(sizeof(double));
constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

/// Rows of cuBLASLt's operands begin at multiples of 16 bytes.
std::int64_t padded(std::int64_t n) { return (n + 3) / 4 * 4; }

class GpuSums : public SiteSums {
 public:
  GpuSums(GpuWork& work, std::mutex& mutex, int device, Index n, bool has_products)
      : work_(work), mutex_(mutex), device_(device), n_(n), has_products_(has_products) {}
  ~GpuSums() override {
    cudaSetDevice(device_);  // whose memory is given back, once nobody uses it
    cudaStreamSynchronize(work_.stream());
  }

  void add(const float* data, std::int64_t rows, std::int64_t stride,
           const SiteColumns& columns) override {
    for (const AxisSegment& stretch : columns.stretches) {
      ChannelRows part = {.x = data + stretch.offset,
                          .block = stretch.block,
                          .x_row = stride,
                          .x_channel = stretch.stride,
                          .channels = n_};
      const std::int64_t all = rows * stretch.block;
      for (part.first = 0; part.first < all; part.first += kRowsAtOnce) {
        part.rows = std::min(kRowsAtOnce, all - part.first);
        add(part);
      }
    }
  }

  ChannelSums finish() override {
    ChannelSums result = {.rows = rows_};
    if (rows_ == 0) return result;
    const std::lock_guard lock(mutex_);
    const OnDevice current(device_);
    const auto n = static_cast<std::size_t>(n_);
    std::vector<double> totals(n * kChannelTotals);
    work_.to_host(totals.data(), totals_->data(), std::ssize(totals) * kDoubleBytes);
    const auto of = [&](ChannelTotal which) {
      return std::span(totals).subspan(static_cast<std::size_t>(which) * n, n);
    };
    const auto doubles = [&](ChannelTotal which) {
      return std::vector<double>(of(which).begin(), of(which).end());
    };
    const auto floats = [&](ChannelTotal which) {
      std::vector<float> values(n);
      std::ranges::transform(of(which), values.begin(),
                             [](double value) { return static_cast<float>(value); });
      return values;
    };
    result.shift = doubles(ChannelTotal::shift);
    result.sums = doubles(ChannelTotal::sum);
    result.squares = doubles(ChannelTotal::square);
    result.minimum = floats(ChannelTotal::minimum);
    result.maximum = floats(ChannelTotal::maximum);
    if (!has_products_) return result;
    result.products.resize(n * n);
    work_.to_host(result.products.data(), products_->data(),
                  std::ssize(result.products) * kDoubleBytes);
    return result;
  }

 private:
  void add(const ChannelRows& part) {
    const bool is_first = rows_ == 0;
    if (is_first) begin();
    rows_ += part.rows;
    auto* totals = reinterpret_cast<double*>(totals_->data());
    const std::int64_t workspace = channel_sums_workspace(part.rows, n_);
    check(channel_sums(part, totals,
                       static_cast<double*>(work_.bytes(Slot::sums, workspace * kDoubleBytes)),
                       is_first, work_.stream()),
          "channel_sums");
    if (!has_products_) return;
    const std::int64_t width = padded(n_);
    float* centred = work_.floats(Slot::centred, part.rows * width);
    check(centred_rows(part, totals, centred, width, work_.stream()), "centred_rows");
    float* gram = work_.floats(Slot::gram, width * width);
    work_.multiply({.tokens = width, .inputs = part.rows, .outputs = width, .is_transposed = true},
                   centred, centred, nullptr, gram);
    check(add_products(gram, width, totals, n_, reinterpret_cast<double*>(products_->data()),
                       work_.stream()),
          "add_products");
  }

  void begin() {
    totals_ = std::make_unique<DeviceBuffer>(std::int64_t{n_} * kChannelTotals * kDoubleBytes);
    if (!has_products_) return;
    products_ = std::make_unique<DeviceBuffer>(std::int64_t{n_} * n_ * kDoubleBytes);
    work_.clear(products_->data(), products_->bytes());
  }

  GpuWork& work_;
  std::mutex& mutex_;
  int device_;
  std::int64_t n_;
  bool has_products_;
  std::int64_t rows_ = 0;
  std::unique_ptr<DeviceBuffer> totals_;    // (kChannelTotals, n)
  std::unique_ptr<DeviceBuffer> products_;  // (n, n)
};

}  // namespace

std::unique_ptr<SiteSums> gpu_sums(GpuWork& work, std::mutex& mutex, int device, Index n,
                                   bool has_products) {
  return std::make_unique<GpuSums>(work, mutex, device, n, has_products);
}

std::int64_t gpu_sums_bytes(std::span<const Index> sizes) {
  std::int64_t bytes = 0;
  std::int64_t largest = 0;
  for (const std::int64_t n : sizes) {
    bytes += (n + 2 * kChannelTotals) * n * kDoubleBytes;  // the second totals are of the decay
    largest = std::max(largest, padded(n));
  }
  return bytes + largest * (largest + kRowsAtOnce) * kFloatBytes +
         channel_sums_workspace(kRowsAtOnce, largest) * kDoubleBytes;
}

}  // namespace icd
