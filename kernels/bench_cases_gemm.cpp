#include <dlfcn.h>

#include <array>
#include <type_traits>

#include "icd/error.h"
#include "kernels/bench_cases.h"

#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>

namespace icd {
namespace {

// cuBLAS, opened where a dense product is timed: nothing else of the runner needs it.
class Cublas {
 public:
  explicit Cublas(cudaStream_t stream) : workspace_(std::int64_t{32} << 20) {
    for (const char* name : {"libcublas.so.13", "libcublas.so.12",
                             "/usr/local/cuda/lib64/libcublas.so", "libcublas.so"}) {
      library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) break;
    }
    if (library_ == nullptr) throw Error(ErrorCode::unavailable, "gemm: there is no libcublas.so");
    find(create_, "cublasCreate_v2");
    find(destroy_, "cublasDestroy_v2");
    find(set_stream_, "cublasSetStream_v2");
    find(set_workspace_, "cublasSetWorkspace_v2");
    find(gemm_, "cublasGemmEx");
    check_status(create_(&handle_), "cublasCreate");
    check_status(set_stream_(handle_, stream), "cublasSetStream");
    // its own workspace would be an allocation during capture
    check_status(
        set_workspace_(handle_, workspace_.data(), static_cast<std::size_t>(workspace_.bytes())),
        "cublasSetWorkspace");
  }
  ~Cublas() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  // y (rows, outputs) = x (rows, inputs) W^T, all bf16 and row-major.
  cudaError_t multiply(const void* weight, const void* x, void* y, std::int64_t rows,
                       std::int64_t outputs, std::int64_t inputs) {
    const float one = 1;
    const float zero = 0;
    const auto m = static_cast<int>(outputs);
    const auto n = static_cast<int>(rows);
    const auto k = static_cast<int>(inputs);
    const cublasStatus_t status =
        gemm_(handle_, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, weight, CUDA_R_16BF, k, x,
              CUDA_R_16BF, k, &zero, y, CUDA_R_16BF, m, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown;
  }

 private:
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (function == nullptr) {
      throw Error(ErrorCode::unavailable, std::string("gemm: libcublas.so has no ") + name);
    }
  }
  static void check_status(cublasStatus_t status, const char* call) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw Error(ErrorCode::unavailable,
                std::string("gemm: ") + call + ": status " + std::to_string(status));
  }

  void* library_ = nullptr;
  DeviceBuffer workspace_;
  cublasHandle_t handle_ = nullptr;
  decltype(&cublasCreate_v2) create_ = nullptr;
  decltype(&cublasDestroy_v2) destroy_ = nullptr;
  decltype(&cublasSetStream_v2) set_stream_ = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace_ = nullptr;
  cublasStatus_t (*gemm_)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                          const void*, const void*, cudaDataType, int, const void*, cudaDataType,
                          int, const void*, void*, cudaDataType, int, cublasComputeType_t,
                          cublasGemmAlgo_t) = nullptr;
};

// out_proj of all tokens.
class GemmCase final : public ChannelCase {
 public:
  GemmCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed)
      : ChannelCase(shape, inputs, seed) {
    weight_ = input(Follow::columns, 1, inputs.d_model, channels(), kBytes);
    x_ = input(Follow::columns, 1, tokens(), channels(), kBytes);
    y_ = output(Follow::nothing, 1, tokens(), inputs.d_model, kBytes);
  }

  cudaError_t launch(int set, cudaStream_t stream) override {
    if (cublas_ == nullptr) cublas_ = std::make_unique<Cublas>(stream);
    return cublas_->multiply(placed(weight_, set), placed(x_, set), placed(y_, set), tokens(),
                             inputs_.d_model, channels());
  }

 protected:
  void fill(cudaStream_t stream) override {
    fill_bell_of(weight_, kType, 0, 0.02F, stream);
    fill_rows(x_, inputs_.u, tokens(), channels(), 0, 1, stream);
  }

 private:
  Id weight_, x_, y_;
  std::unique_ptr<Cublas> cublas_;
};

}  // namespace

std::unique_ptr<BenchCase> make_gemm(const BenchShape& shape, const BenchInputs& inputs,
                                     std::uint64_t seed) {
  return std::make_unique<GemmCase>(shape, inputs, seed);
}

}  // namespace icd

#else

namespace icd {

std::unique_ptr<BenchCase> make_gemm(const BenchShape&, const BenchInputs&, std::uint64_t) {
  throw Error(ErrorCode::unavailable, "gemm: this program was built without cuBLAS's header");
}

}  // namespace icd

#endif
