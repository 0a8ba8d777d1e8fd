#include "kernels/dense_gemm.h"

#include <string>
#include <utility>

#include "icd/error.h"
#include "kernels/dynamic_library.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

namespace icd {
namespace {

Error failed(const char* call, cublasStatus_t status) {
  return Error(ErrorCode::unavailable,
               std::string("cuBLASLt: ") + call + " returned status " + std::to_string(status));
}
void check_status(const char* call, cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) throw failed(call, status);
}

cudaError_t as_cuda_error(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return cudaSuccess;
    case CUBLAS_STATUS_INVALID_VALUE:
      return cudaErrorInvalidValue;
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return cudaErrorNotSupported;
    default:
      return cudaErrorUnknown;
  }
}

}  // namespace

// The header declares the functions, whose types are taken from there; none is linked.
class CublasLt {
 public:
  CublasLt()
      : library_({"libcublasLt.so.13", "libcublasLt.so.12"},
                 "install the CUDA toolkit or the package nvidia-cublas, and put the folder of its "
                 "libraries into LD_LIBRARY_PATH") {
    library_.find(create_, "cublasLtCreate");
    library_.find(destroy_, "cublasLtDestroy");
    library_.find(version, "cublasLtGetVersion");
    library_.find(matmul, "cublasLtMatmul");
    library_.find(choose, "cublasLtMatmulAlgoGetHeuristic");
    library_.find(create_product, "cublasLtMatmulDescCreate");
    library_.find(destroy_product, "cublasLtMatmulDescDestroy");
    library_.find(set_product, "cublasLtMatmulDescSetAttribute");
    library_.find(create_layout, "cublasLtMatrixLayoutCreate");
    library_.find(destroy_layout, "cublasLtMatrixLayoutDestroy");
    library_.find(create_preference, "cublasLtMatmulPreferenceCreate");
    library_.find(destroy_preference, "cublasLtMatmulPreferenceDestroy");
    library_.find(set_preference, "cublasLtMatmulPreferenceSetAttribute");
    check_status("cublasLtCreate", create_(&handle));
  }
  ~CublasLt() { destroy_(handle); }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

 private:
  DynamicLibrary library_;
  decltype(&cublasLtCreate) create_;
  decltype(&cublasLtDestroy) destroy_;

 public:
  cublasLtHandle_t handle = nullptr;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose;
  decltype(&cublasLtMatmulDescCreate) create_product;
  decltype(&cublasLtMatmulDescDestroy) destroy_product;
  decltype(&cublasLtMatmulDescSetAttribute) set_product;
  decltype(&cublasLtMatrixLayoutCreate) create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
};

std::shared_ptr<const CublasLt> open_cublas_lt() { return std::make_shared<const CublasLt>(); }

std::string version_of(const CublasLt& library) {
  const std::size_t version = library.version();  // as CUBLAS_VERSION
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// Column-major, as the library sees it: y^T (outputs, tokens) = (W^T)^T (outputs, inputs) x^T.
// Where x and W come transposed, what it sees of W is as wanted, and of x transposed.
struct DenseGemm::Plan {
  Plan(std::shared_ptr<const CublasLt> with, const DenseGemmShape& of)
      : lt(std::move(with)), shape(of) {
    if (shape.tokens < 0 || shape.inputs < 1 || shape.outputs < 0 ||
        element_bytes(shape.type) == 0 || shape.workspace_bytes < 0) {
      throw Error(ErrorCode::usage,
                  "dense_gemm: tokens " + std::to_string(shape.tokens) + ", inputs " +
                      std::to_string(shape.inputs) + ", outputs " + std::to_string(shape.outputs) +
                      ", type " + std::to_string(shape.type) +
                      ", expected at least 0, 1 and 0, and 0 (f32), 1 (f16) or 2 (bf16)");
    }
    if (shape.x_row == 0) shape.x_row = shape.is_transposed ? shape.tokens : shape.inputs;
    if (shape.y_row == 0) shape.y_row = shape.outputs;
    if (is_empty()) return;
    try {
      prepare();
    } catch (...) {
      release();
      throw;
    }
  }
  ~Plan() { release(); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  bool is_empty() const { return shape.tokens == 0 || shape.outputs == 0; }

  void prepare() {
    const cudaDataType_t type = shape.type == ICD_F32   ? CUDA_R_32F
                                : shape.type == ICD_F16 ? CUDA_R_16F
                                                        : CUDA_R_16BF;
    const cublasComputeType_t sums = shape.type == ICD_F32 && shape.may_use_tf32
                                         ? CUBLAS_COMPUTE_32F_FAST_TF32
                                         : CUBLAS_COMPUTE_32F;
    check_status("cublasLtMatmulDescCreate", lt->create_product(&product, sums, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(shape.is_transposed ? CUBLASLT_MATMUL_DESC_TRANSB : CUBLASLT_MATMUL_DESC_TRANSA,
        transposed);
    if (shape.has_bias) {
      const cublasLtEpilogue_t with_bias = CUBLASLT_EPILOGUE_BIAS;
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, with_bias);
    }
    if (shape.is_transposed) {
      layout(W, type, shape.outputs, shape.inputs, shape.outputs);
      layout(x, type, shape.tokens, shape.inputs, shape.x_row);
    } else {
      layout(W, type, shape.inputs, shape.outputs, shape.inputs);
      layout(x, type, shape.inputs, shape.tokens, shape.x_row);
    }
    layout(y, type, shape.outputs, shape.tokens, shape.y_row);

    check_status("cublasLtMatmulPreferenceCreate", lt->create_preference(&preference));
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
           static_cast<std::uint64_t>(shape.workspace_bytes));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      prefer(attribute, std::uint32_t{16});
    }
    int found = 0;
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t status =
        lt->choose(lt->handle, product, W, x, y, y, preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
      throw failed("cublasLtMatmulAlgoGetHeuristic", status);
    }
    algorithm = result.algo;
  }

  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_status("cublasLtMatmulDescSetAttribute",
                 lt->set_product(product, attribute, &value, sizeof value));
  }
  template <typename Value>
  void prefer(cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
    check_status("cublasLtMatmulPreferenceSetAttribute",
                 lt->set_preference(preference, attribute, &value, sizeof value));
  }
  void layout(cublasLtMatrixLayout_t& matrix, cudaDataType_t type, std::int64_t rows,
              std::int64_t columns, std::int64_t stride) {
    check_status("cublasLtMatrixLayoutCreate",
                 lt->create_layout(&matrix, type, static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(columns), stride));
  }

  void release() {
    if (preference != nullptr) lt->destroy_preference(preference);
    for (cublasLtMatrixLayout_t matrix : {W, x, y}) {
      if (matrix != nullptr) lt->destroy_layout(matrix);
    }
    if (product != nullptr) lt->destroy_product(product);
  }

  std::shared_ptr<const CublasLt> lt;
  DenseGemmShape shape;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t W = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

cudaError_t DenseGemm::run(const void* x, const void* W, const void* bias, void* y, void* workspace,
                           cudaStream_t stream) {
  Plan& plan = *plan_;
  if (plan.is_empty()) return cudaSuccess;
  if (plan.shape.has_bias) {
    const cublasStatus_t status =
        plan.lt->set_product(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias));
    if (status != CUBLAS_STATUS_SUCCESS) return as_cuda_error(status);
  }
  const float one = 1;
  const float kept = plan.shape.adds_to_y ? 1 : 0;  // of what y holds
  return as_cuda_error(plan.lt->matmul(
      plan.lt->handle, plan.product, &one, W, plan.W, x, plan.x, &kept, y, plan.y, y, plan.y,
      &plan.algorithm, workspace, static_cast<std::size_t>(plan.shape.workspace_bytes), stream));
}

}  // namespace icd

#else

namespace icd {

class CublasLt {};
struct DenseGemm::Plan {
  Plan(const std::shared_ptr<const CublasLt>& /*with*/, const DenseGemmShape& /*of*/) {
    open_cublas_lt();
  }
};

std::shared_ptr<const CublasLt> open_cublas_lt() {
  throw Error(ErrorCode::unavailable, "cuBLASLt: this program was built without cublasLt.h",
              "build it where the CUDA toolkit has its cuBLAS headers");
}

std::string version_of(const CublasLt& /*library*/) { return {}; }

cudaError_t DenseGemm::run(const void* /*x*/, const void* /*W*/, const void* /*bias*/, void* /*y*/,
                           void* /*workspace*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace icd

#endif

namespace icd {

DenseGemm::DenseGemm(std::shared_ptr<const CublasLt> library, const DenseGemmShape& shape)
    : plan_(std::make_unique<Plan>(std::move(library), shape)) {}
DenseGemm::~DenseGemm() = default;
DenseGemm::DenseGemm(DenseGemm&&) noexcept = default;
DenseGemm& DenseGemm::operator=(DenseGemm&&) noexcept = default;

}  // namespace icd
