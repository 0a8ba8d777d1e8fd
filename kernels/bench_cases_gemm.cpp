#include "kernels/bench_cases.h"
#include "kernels/dense_gemm.h"

namespace icd {
namespace {

// out_proj of all tokens.
class GemmCase final : public ChannelCase {
 public:
  GemmCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed)
      : ChannelCase(shape, inputs, seed),
        library_(open_cublas_lt()),
        product_(library_, product_shape(shape, inputs)),
        workspace_(product_shape(shape, inputs).workspace_bytes) {
    weight_ = input(Follow::columns, 1, inputs.d_model, channels(), kBytes);
    x_ = input(Follow::columns, 1, tokens(), channels(), kBytes);
    y_ = output(Follow::nothing, 1, tokens(), inputs.d_model, kBytes);
  }

  BenchLibrary library() const override { return {"cuBLASLt", version_of(*library_)}; }

  cudaError_t launch(int set, cudaStream_t stream) override {
    return product_.run(placed(x_, set), placed(weight_, set), nullptr, placed(y_, set),
                        workspace_.data(), stream);
  }

 protected:
  void fill(cudaStream_t stream) override {
    fill_bell_of(weight_, kType, 0, 0.02F, stream);
    fill_rows(x_, inputs_.u, tokens(), channels(), 0, 1, stream);
  }

 private:
  static DenseGemmShape product_shape(const BenchShape& shape, const BenchInputs& inputs) {
    DenseGemmShape product;
    product.tokens = shape.batch * shape.length;
    product.inputs = inputs.d_inner;
    product.outputs = inputs.d_model;
    product.type = kType;
    return product;
  }

  std::shared_ptr<const CublasLt> library_;
  DenseGemm product_;
  DeviceBuffer workspace_;
  Id weight_, x_, y_;
};

}  // namespace

std::unique_ptr<BenchCase> make_gemm(const BenchShape& shape, const BenchInputs& inputs,
                                     std::uint64_t seed) {
  return std::make_unique<GemmCase>(shape, inputs, seed);
}

}  // namespace icd
