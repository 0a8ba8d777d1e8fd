#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <utility>

#include "kernels/cuda_error.h"
#include "kernels/dense_gemm.h"
#include "kernels/device_buffer.h"

namespace icd {

/// Makes a device the calling thread's current one, and puts back the one before it.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

/// f32 values that stay on the device.
class GpuTensor {
 public:
  GpuTensor() = default;
  explicit GpuTensor(std::span<const float> values) {
    if (values.empty()) return;
    buffer_ = std::make_unique<DeviceBuffer>(static_cast<std::int64_t>(values.size_bytes()));
    check(cudaMemcpy(buffer_->data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }

  /// nullptr if there are none.
  const float* data() const noexcept {
    return buffer_ == nullptr ? nullptr : reinterpret_cast<const float*>(buffer_->data());
  }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
};

/// What a place in a GpuWork is for.
enum class Slot {
  ids,
  hidden,
  last,
  normed,
  in_proj,
  conv,
  x_proj,
  inner_norm,
  dt,
  scan,
  gated,
  conv_state,
  scan_state,
  logits,
  decay,
  sums,
  centred,
  gram,
  scan_workspace,
  gemm_workspace,
};

/// A stream of the current device and the memory that work on it needs. Used by one thread at a
/// time.
class GpuWork {
 public:
  explicit GpuWork(std::shared_ptr<const CublasLt> library) : library_(std::move(library)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~GpuWork() {
    cudaFreeHost(pinned_);
    cudaStreamDestroy(stream_);
  }
  GpuWork(const GpuWork&) = delete;
  GpuWork& operator=(const GpuWork&) = delete;

  cudaStream_t stream() const noexcept { return stream_; }

  /// Memory on the device that keeps its address until more of it is asked for; then it is another
  /// place, with other contents.
  void* bytes(Slot slot, std::int64_t count) {
    std::unique_ptr<DeviceBuffer>& buffer = slots_[static_cast<std::size_t>(slot)];
    if (buffer == nullptr || buffer->bytes() < count) {
      wait();          // for work that still uses it
      buffer.reset();  // first, so that both need not fit
      buffer = std::make_unique<DeviceBuffer>(count);
    }
    return buffer->data();
  }
  float* floats(Slot slot, std::int64_t count) {
    return static_cast<float*>(bytes(slot, count * static_cast<std::int64_t>(sizeof(float))));
  }

  /// Page-locked host memory, valid until the next call.
  std::span<float> pinned(std::int64_t count) {
    if (pinned_count_ < count) {
      check(cudaFreeHost(pinned_), "cudaFreeHost");
      pinned_ = nullptr;
      pinned_count_ = 0;
      check(cudaMallocHost(reinterpret_cast<void**>(&pinned_),
                           static_cast<std::size_t>(count) * sizeof(float)),
            "cudaMallocHost");
      pinned_count_ = count;
    }
    return {pinned_, static_cast<std::size_t>(count)};
  }

  void to_device(void* to, const void* from, std::int64_t bytes) {
    check(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  }

  /// Waits for all work before it.
  void to_host(void* to, const void* from, std::int64_t bytes) {
    check(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
    wait();
  }

  void clear(void* at, std::int64_t bytes) {
    check(cudaMemsetAsync(at, 0, static_cast<std::size_t>(bytes), stream_), "cudaMemsetAsync");
  }

  /// As DenseGemm::run(). The algorithm is chosen when a shape comes for the first time.
  void multiply(const DenseGemmShape& shape, const float* x, const float* W, const float* bias,
                float* y) {
    constexpr std::size_t kMostProducts = 512;  // texts of every length leave one each
    const Product key = {shape.tokens, shape.inputs,   shape.outputs,   shape.x_row,
                         shape.y_row,  shape.has_bias, shape.adds_to_y, shape.is_transposed};
    auto product = products_.find(key);
    if (product == products_.end()) {
      if (products_.size() >= kMostProducts) products_.clear();
      product = products_.emplace(key, DenseGemm(library_, shape)).first;
    }
    check(product->second.run(x, W, bias, y, bytes(Slot::gemm_workspace, shape.workspace_bytes),
                              stream_),
          "dense_gemm");
  }

  void wait() { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  using Product = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                             bool, bool, bool>;
  static constexpr std::size_t kSlots = static_cast<std::size_t>(Slot::gemm_workspace) + 1;

  cudaStream_t stream_ = nullptr;
  std::shared_ptr<const CublasLt> library_;
  std::map<Product, DenseGemm> products_;
  std::array<std::unique_ptr<DeviceBuffer>, kSlots> slots_;
  float* pinned_ = nullptr;
  std::int64_t pinned_count_ = 0;
};

}  // namespace icd
