#include "kernels/sparse_gemm.h"

#include <library_types.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <utility>

#include "icd/error.h"
#include "kernels/cuda_error.h"
#include "kernels/device_buffer.h"
#include "kernels/dynamic_library.h"

namespace icd {
namespace {

// What is used of cusparseLt.h, which CUDA toolkits do not bring. Source: NVIDIA, cuSPARSELt
// documentation, "cuSPARSELt Data Types" and "Functions"; the header of 0.8.0. Objects are opaque
// and passed by address: of 512 bytes since 0.6, and here of more, should they grow.
struct alignas(16) Opaque {
  std::array<std::byte, 16384> bytes;
};
using Status = int;  // cusparseStatus_t
constexpr Status kSuccess = 0;
constexpr int kOrderColumns = 1;  // cusparseOrder_t
constexpr int kOrderRows = 2;
constexpr int kNotTransposed = 0;  // cusparseOperation_t
constexpr int kTransposed = 1;
constexpr int kHalfOfFour = 0;  // cusparseLtSparsity_t
constexpr int kSumsInF32 = 2;   // cusparseComputeType
constexpr int kDefaultAlgorithm = 0;
constexpr std::uint32_t kAlignment = 16;
constexpr int kLeastVersion = 600;  // when these numbers and functions came to be as they are

void check_status(const char* call, Status status) {
  if (status == kSuccess) return;
  throw Error(ErrorCode::unavailable,
              std::string("cuSPARSELt: ") + call + " returned status " + std::to_string(status));
}

}  // namespace

class CusparseLt {
 public:
  CusparseLt()
      : library_({"libcusparseLt.so.0"},
                 "install cuSPARSELt or the package nvidia-cusparselt, and put the folder of its "
                 "library into LD_LIBRARY_PATH") {
    library_.find(init_, "cusparseLtInit");
    library_.find(destroy_, "cusparseLtDestroy");
    library_.find(get_version_, "cusparseLtGetVersion");
    library_.find(init_dense, "cusparseLtDenseDescriptorInit");
    library_.find(init_sparse, "cusparseLtStructuredDescriptorInit");
    library_.find(destroy_matrix, "cusparseLtMatDescriptorDestroy");
    library_.find(init_product, "cusparseLtMatmulDescriptorInit");
    library_.find(init_choice, "cusparseLtMatmulAlgSelectionInit");
    library_.find(init_plan, "cusparseLtMatmulPlanInit");
    library_.find(destroy_plan, "cusparseLtMatmulPlanDestroy");
    library_.find(get_workspace, "cusparseLtMatmulGetWorkspace");
    library_.find(check_pruned, "cusparseLtSpMMAPruneCheck");
    library_.find(get_compressed_size, "cusparseLtSpMMACompressedSize");
    library_.find(compress, "cusparseLtSpMMACompress");
    library_.find(multiply, "cusparseLtMatmul");
    check_status("cusparseLtInit", init_(&handle));
    int version = 0;
    const Status status = get_version_(&handle, &version);
    if (status != kSuccess || version < kLeastVersion) {
      destroy_(&handle);
      throw Error(ErrorCode::unavailable,
                  "cuSPARSELt: the version is " + std::to_string(version) + ", expected at least " +
                      std::to_string(kLeastVersion) + " (0.6.0)",
                  "install a newer cuSPARSELt or package nvidia-cusparselt");
    }
  }
  ~CusparseLt() { destroy_(&handle); }
  CusparseLt(const CusparseLt&) = delete;
  CusparseLt& operator=(const CusparseLt&) = delete;

 private:
  DynamicLibrary library_;
  Status (*init_)(Opaque* handle);
  Status (*destroy_)(const Opaque* handle);
  Status (*get_version_)(const Opaque* handle, int* version);

 public:
  Opaque handle;
  Status (*init_dense)(const Opaque* handle, Opaque* matrix, std::int64_t rows,
                       std::int64_t columns, std::int64_t stride, std::uint32_t alignment,
                       cudaDataType type, int order);
  Status (*init_sparse)(const Opaque* handle, Opaque* matrix, std::int64_t rows,
                        std::int64_t columns, std::int64_t stride, std::uint32_t alignment,
                        cudaDataType type, int order, int sparsity);
  Status (*destroy_matrix)(const Opaque* matrix);
  Status (*init_product)(const Opaque* handle, Opaque* product, int op_a, int op_b, const Opaque* a,
                         const Opaque* b, const Opaque* c, const Opaque* d, int sums);
  Status (*init_choice)(const Opaque* handle, Opaque* choice, const Opaque* product, int algorithm);
  Status (*init_plan)(const Opaque* handle, Opaque* plan, const Opaque* product,
                      const Opaque* choice);
  Status (*destroy_plan)(const Opaque* plan);
  Status (*get_workspace)(const Opaque* handle, const Opaque* plan, std::size_t* bytes);
  Status (*check_pruned)(const Opaque* handle, const Opaque* product, const void* dense,
                         int* is_not, cudaStream_t stream);
  Status (*get_compressed_size)(const Opaque* handle, const Opaque* plan, std::size_t* bytes,
                                std::size_t* buffer_bytes);
  Status (*compress)(const Opaque* handle, const Opaque* plan, const void* dense, void* compressed,
                     void* buffer, cudaStream_t stream);
  Status (*multiply)(const Opaque* handle, const Opaque* plan, const void* alpha, const void* a,
                     const void* b, const void* beta, const void* c, void* d, void* workspace,
                     cudaStream_t* streams, std::int32_t streams_count);
};

std::shared_ptr<const CusparseLt> open_cusparse_lt() {
  return std::make_shared<const CusparseLt>();
}

// y^T (outputs, tokens), by columns, = W (outputs, inputs) times x^T, x given by rows.
struct SparseGemm::Plan {
  Plan(std::shared_ptr<const CusparseLt> with, const SparseGemmShape& of, const void* dense,
       cudaStream_t stream)
      : lt(std::move(with)), shape(of) {
    const auto refuse = [](const char* name, std::int64_t value, const char* expected) {
      throw Error(ErrorCode::usage, std::string("sparse_gemm: ") + name + " is " +
                                        std::to_string(value) + ", expected " + expected);
    };
    if (shape.type != ICD_F16 && shape.type != ICD_BF16) {
      refuse("type", shape.type, "1 (f16) or 2 (bf16)");
    }
    if (shape.tokens < 8 || shape.tokens % 8 != 0) {
      refuse("tokens", shape.tokens, "a multiple of 8");
    }
    if (shape.inputs < 16 || shape.inputs % 16 != 0) {
      refuse("inputs", shape.inputs, "a multiple of 16");
    }
    if (shape.outputs < 16 || shape.outputs % 16 != 0) {
      refuse("outputs", shape.outputs, "a multiple of 16");
    }
    try {
      prepare();
      take(dense, stream);
    } catch (...) {
      release();
      throw;
    }
  }
  ~Plan() { release(); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void prepare() {
    const Opaque* h = &lt->handle;
    const cudaDataType type = shape.type == ICD_F16 ? CUDA_R_16F : CUDA_R_16BF;
    check_status("cusparseLtStructuredDescriptorInit",
                 lt->init_sparse(h, &W, shape.outputs, shape.inputs, shape.inputs, kAlignment, type,
                                 kOrderRows, kHalfOfFour));
    ++matrices;
    check_status("cusparseLtDenseDescriptorInit",
                 lt->init_dense(h, &x, shape.tokens, shape.inputs, shape.inputs, kAlignment, type,
                                kOrderRows));
    ++matrices;
    check_status("cusparseLtDenseDescriptorInit",
                 lt->init_dense(h, &y, shape.outputs, shape.tokens, shape.outputs, kAlignment, type,
                                kOrderColumns));
    ++matrices;
    check_status(
        "cusparseLtMatmulDescriptorInit",
        lt->init_product(h, &product, kNotTransposed, kTransposed, &W, &x, &y, &y, kSumsInF32));
    check_status("cusparseLtMatmulAlgSelectionInit",
                 lt->init_choice(h, &choice, &product, kDefaultAlgorithm));
    check_status("cusparseLtMatmulPlanInit", lt->init_plan(h, &plan, &product, &choice));
    has_plan = true;
    check_status("cusparseLtMatmulGetWorkspace", lt->get_workspace(h, &plan, &workspace_bytes));
  }

  void take(const void* dense, cudaStream_t stream) {
    const Opaque* h = &lt->handle;
    DeviceBuffer is_not(sizeof(int));
    check_status(
        "cusparseLtSpMMAPruneCheck",
        lt->check_pruned(h, &product, dense, reinterpret_cast<int*>(is_not.data()), stream));
    int found = 0;
    check(cudaMemcpyAsync(&found, is_not.data(), sizeof found, cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    if (found != 0) {
      throw Error(ErrorCode::input,
                  "sparse_gemm: more than 2 of 4 neighbouring weights are not 0 somewhere in W");
    }
    std::size_t bytes = 0;
    std::size_t buffer_bytes = 0;
    check_status("cusparseLtSpMMACompressedSize",
                 lt->get_compressed_size(h, &plan, &bytes, &buffer_bytes));
    compressed = std::make_unique<DeviceBuffer>(static_cast<std::int64_t>(bytes));
    DeviceBuffer buffer(std::max<std::int64_t>(static_cast<std::int64_t>(buffer_bytes), 1));
    check_status("cusparseLtSpMMACompress",
                 lt->compress(h, &plan, dense, compressed->data(), buffer.data(), stream));
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");  // ahead of the buffer's end
  }

  void release() {
    if (has_plan) lt->destroy_plan(&plan);
    const std::array<const Opaque*, 3> all = {&W, &x, &y};
    for (std::size_t i = 0; i < matrices; ++i) lt->destroy_matrix(all[i]);
  }

  std::shared_ptr<const CusparseLt> lt;
  SparseGemmShape shape;
  Opaque W = {};
  Opaque x = {};
  Opaque y = {};
  Opaque product = {};
  Opaque choice = {};
  Opaque plan = {};
  std::size_t matrices = 0;  // of the three, made so far
  bool has_plan = false;
  std::size_t workspace_bytes = 0;
  std::unique_ptr<DeviceBuffer> compressed;
};

SparseGemm::SparseGemm(std::shared_ptr<const CusparseLt> library, const SparseGemmShape& shape,
                       const void* W, cudaStream_t stream)
    : plan_(std::make_unique<Plan>(std::move(library), shape, W, stream)) {}
SparseGemm::~SparseGemm() = default;
SparseGemm::SparseGemm(SparseGemm&&) noexcept = default;
SparseGemm& SparseGemm::operator=(SparseGemm&&) noexcept = default;

std::int64_t SparseGemm::workspace_bytes() const noexcept {
  return static_cast<std::int64_t>(plan_->workspace_bytes);
}

cudaError_t SparseGemm::run(const void* x, void* y, void* workspace, cudaStream_t stream) const {
  const float one = 1;
  const float zero = 0;
  const Status status =
      plan_->lt->multiply(&plan_->lt->handle, &plan_->plan, &one, plan_->compressed->data(), x,
                          &zero, y, y, workspace, &stream, 1);
  return status == kSuccess ? cudaSuccess : cudaErrorUnknown;
}

}  // namespace icd
