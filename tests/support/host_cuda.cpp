// A CUDA device in host memory, as far as whole models need one: the runtime's memory, streams and
// graphs, launchers that run the reference, dense products in double. A test program of kernels/
// that is linked with it runs the host code of models on any machine; the linker takes what is
// here before what is in the libraries.
//
// It is stricter than a device where it can be: memory begins as NaN, arguments pass why_not(),
// dense products want pointers of 16 bytes, and a capture allows neither memory nor waiting.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/causal_conv1d.h"
#include "kernels/channel_sums.h"
#include "kernels/dense_gemm.h"
#include "kernels/device.h"
#include "kernels/gather.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "kernels/ssd.h"
#include "kernels/state_update.h"

namespace {

using Work = std::vector<std::function<void()>>;

Work* captured = nullptr;  // where work goes that is launched now; nullptr: it runs at once
cudaError_t last_error = cudaSuccess;

cudaError_t failed(cudaError_t status) {
  last_error = status;
  return status;
}

cudaError_t unless_capturing() {
  return captured == nullptr ? cudaSuccess : failed(cudaErrorStreamCaptureUnsupported);
}

cudaError_t launch(std::function<void()> work) {
  if (captured != nullptr) {
    captured->push_back(std::move(work));
  } else {
    work();
  }
  return cudaSuccess;
}

template <typename Args>
cudaError_t launch(const Args& args, void (*run)(const Args&)) {
  if (const std::string why = icd::why_not(args); !why.empty()) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return failed(cudaErrorInvalidValue);
  }
  return launch([args, run] { run(args); });
}

/// ChannelTotal::unit of what is at most so large.
double unit_of(double largest) {
  return largest > 0 && std::isfinite(largest) ? std::ldexp(1.0, std::ilogb(largest)) : 1.0;
}

template <typename To, typename From>
To as(From handle) {
  return reinterpret_cast<To>(handle);
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t /*status*/) { return "cudaError"; }
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidDevice ? "invalid device ordinal" : "an error of host_cuda.cpp";
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceSynchronize() { return unless_capturing(); }
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = *total = std::size_t{4} << 30;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = nullptr;
  if (captured != nullptr || bytes == 0) return unless_capturing();
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*data, 0xff, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) { return cudaMalloc(data, bytes); }
cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t /*stream*/) {
  return launch([=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_row, const void* from, std::size_t from_row,
                              std::size_t width, std::size_t rows, cudaMemcpyKind /*kind*/,
                              cudaStream_t /*stream*/) {
  if (width > to_row || width > from_row) return failed(cudaErrorInvalidPitchValue);
  return launch([=] {
    for (std::size_t row = 0; row < rows; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_row,
                  static_cast<const char*>(from) + row * from_row, width);
    }
  });
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t /*stream*/) {
  return launch([=] { std::memset(data, value, bytes); });
}
cudaError_t cudaMemset(void* data, int value, std::size_t bytes) {
  return cudaMemsetAsync(data, value, bytes, nullptr);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int /*flags*/) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t /*stream*/) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) { return unless_capturing(); }

cudaError_t cudaStreamBeginCapture(cudaStream_t /*stream*/, cudaStreamCaptureMode /*mode*/) {
  captured = new Work;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t /*stream*/, cudaGraph_t* graph) {
  *graph = as<cudaGraph_t>(std::exchange(captured, nullptr));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete as<Work*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph,
                                          unsigned long long /*flags*/) {
  *made = as<cudaGraphExec_t>(new Work(*as<Work*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete as<Work*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t /*stream*/) {
  for (const auto& work : *as<Work*>(graph)) work();
  return cudaSuccess;
}

}  // extern "C"

namespace icd {

std::string why_no_device() { return {}; }

cudaError_t gather_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes, cudaStream_t /*stream*/) {
  return launch([=] { reference::gather_rows(in, source, out, rows, row_bytes); });
}
cudaError_t causal_conv1d(const CausalConv1d& args, cudaStream_t /*stream*/) {
  return launch(args, &reference::causal_conv1d);
}
cudaError_t causal_conv1d_update(const CausalConv1dUpdate& args, cudaStream_t /*stream*/) {
  return launch(args, &reference::causal_conv1d_update);
}
cudaError_t rms_norm(const RmsNorm& args, cudaStream_t /*stream*/) {
  return launch(args, &reference::rms_norm);
}
cudaError_t selective_scan(const SelectiveScan& args, cudaStream_t /*stream*/) {
  return launch(args, &reference::selective_scan);
}
std::int64_t selective_scan_workspace(const SelectiveScan& args) { return args.batch * 1000; }
cudaError_t ssd(const Ssd& args, cudaStream_t /*stream*/) { return launch(args, &reference::ssd); }
std::int64_t ssd_workspace(const Ssd& args) { return args.batch * 1000; }
cudaError_t state_update(const StateUpdate& args, cudaStream_t /*stream*/) {
  return launch(args, &reference::state_update);
}
cudaError_t head_state_update(const HeadStateUpdate& args, cudaStream_t /*stream*/) {
  return launch(args, &reference::head_state_update);
}

std::int64_t channel_sums_workspace(std::int64_t rows, std::int64_t channels) {
  return rows * channels;
}
cudaError_t channel_sums(const ChannelRows& args, double* totals, double* /*workspace*/,
                         bool is_first, cudaStream_t /*stream*/) {
  return launch([=] {
    for (std::int64_t k = 0; k < args.channels; ++k) {
      const auto of = [&](ChannelTotal which) -> double& {
        return totals[static_cast<int>(which) * args.channels + k];
      };
      if (is_first) {
        double sum = 0;
        for (std::int64_t r = 0; r < args.rows; ++r) sum += static_cast<double>(args.at(r, k));
        of(ChannelTotal::shift) = static_cast<float>(sum / static_cast<double>(args.rows));
        of(ChannelTotal::sum) = of(ChannelTotal::square) = 0;
        of(ChannelTotal::minimum) = std::numeric_limits<double>::infinity();
        of(ChannelTotal::maximum) = -std::numeric_limits<double>::infinity();
      }
      double largest = 0;
      for (std::int64_t r = 0; r < args.rows; ++r) {
        const auto value = static_cast<double>(args.at(r, k));
        const double centred = value - of(ChannelTotal::shift);
        largest = std::max(largest, std::abs(centred));
        of(ChannelTotal::sum) += centred;
        of(ChannelTotal::square) += centred * centred;
        of(ChannelTotal::minimum) = std::min(of(ChannelTotal::minimum), value);
        of(ChannelTotal::maximum) = std::max(of(ChannelTotal::maximum), value);
      }
      of(ChannelTotal::unit) = unit_of(largest);
    }
  });
}
cudaError_t centred_rows(const ChannelRows& args, const double* totals, float* out,
                         std::int64_t out_row, cudaStream_t /*stream*/) {
  return launch([=] {
    for (std::int64_t r = 0; r < args.rows; ++r) {
      for (std::int64_t k = 0; k < out_row; ++k) {
        out[r * out_row + k] =
            k < args.channels
                ? static_cast<float>(
                      (static_cast<double>(args.at(r, k)) -
                       totals[static_cast<int>(ChannelTotal::shift) * args.channels + k]) /
                      totals[static_cast<int>(ChannelTotal::unit) * args.channels + k])
                : 0.0F;
      }
    }
  });
}
cudaError_t add_products(const float* gram, std::int64_t gram_row, const double* totals,
                         std::int64_t channels, double* products, cudaStream_t /*stream*/) {
  return launch([=] {
    const double* unit = totals + static_cast<int>(ChannelTotal::unit) * channels;
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t j = 0; j < channels; ++j) {
        products[i * channels + j] +=
            static_cast<double>(gram[i * gram_row + j]) * (unit[i] * unit[j]);
      }
    }
  });
}
cudaError_t step_decays(const StepDecays& args, cudaStream_t /*stream*/) {
  return launch([=] {
    for (std::int64_t r = 0; r < args.rows; ++r) {
      for (std::int64_t c = 0; c < args.channels; ++c) {
        const double before =
            static_cast<double>(args.x[r * args.x_row + c]) + static_cast<double>(args.bias[c]);
        const double dt =
            std::min(std::max(reference::softplus(before), double{args.least}), double{args.most});
        args.y[r * args.channels + c] = static_cast<float>(dt * double{args.rates[c]});
      }
    }
  });
}

class CublasLt {};
std::shared_ptr<const CublasLt> open_cublas_lt() { return std::make_shared<const CublasLt>(); }

struct DenseGemm::Plan {
  DenseGemmShape shape;
};
DenseGemm::DenseGemm(std::shared_ptr<const CublasLt> /*library*/, const DenseGemmShape& shape)
    : plan_(std::make_unique<Plan>(Plan{shape})) {}
DenseGemm::~DenseGemm() = default;
DenseGemm::DenseGemm(DenseGemm&&) noexcept = default;
DenseGemm& DenseGemm::operator=(DenseGemm&&) noexcept = default;

cudaError_t DenseGemm::run(const void* x, const void* W, const void* bias, void* y, void* workspace,
                           cudaStream_t /*stream*/) {
  const DenseGemmShape shape = plan_->shape;
  for (const void* pointer :
       {x, W, static_cast<const void*>(y), static_cast<const void*>(workspace)}) {
    if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0) {
      return failed(cudaErrorMisalignedAddress);
    }
  }
  if (shape.has_bias != (bias != nullptr)) return failed(cudaErrorInvalidValue);
  return launch([=] {
    const bool turned = shape.is_transposed;
    const std::int64_t packed = turned ? shape.tokens : shape.inputs;
    const std::int64_t x_row = shape.x_row == 0 ? packed : shape.x_row;
    const std::int64_t y_row = shape.y_row == 0 ? shape.outputs : shape.y_row;
    const std::int64_t x_step = turned ? x_row : 1;  // from input to input
    const std::int64_t w_step = turned ? shape.outputs : 1;
    for (std::int64_t t = 0; t < shape.tokens; ++t) {
      for (std::int64_t o = 0; o < shape.outputs; ++o) {
        const auto* from = static_cast<const float*>(x) + t * (turned ? 1 : x_row);
        const auto* weight = static_cast<const float*>(W) + o * (turned ? 1 : shape.inputs);
        float& to = static_cast<float*>(y)[t * y_row + o];
        double sum = shape.adds_to_y ? to : 0;
        if (shape.has_bias) sum += static_cast<const float*>(bias)[o];
        for (std::int64_t i = 0; i < shape.inputs; ++i) {
          sum += static_cast<double>(from[i * x_step]) * static_cast<double>(weight[i * w_step]);
        }
        to = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace icd
