#include "gemm.h"

#ifdef ICD_WITH_ONEDNN
#include <cassert>
#include <dnnl.hpp>
#include <memory>
#include <mutex>
#include <vector>
#endif

#include "icd/error.h"

namespace icd {

#ifdef ICD_WITH_ONEDNN
namespace {

using dnnl::memory;

memory::desc matrix(std::int64_t rows, std::int64_t columns, memory::dims strides) {
  return {{rows, columns}, memory::data_type::f32, std::move(strides)};
}

class OneDnnLinear : public Linear {
 public:
  OneDnnLinear(std::span<const float> weight, Index outputs, Index inputs)
      : outputs_(outputs), inputs_(inputs), plain_(weight.begin(), weight.end()) {
    assert(std::ssize(weight) == std::int64_t{outputs} * inputs);
  }

  std::int64_t bytes() const noexcept override {
    // The plain copy, and one arranged copy, which is what a steady number of rows needs.
    return 2 * std::ssize(plain_) * static_cast<std::int64_t>(sizeof(float));
  }

  void apply(const float* in, std::int64_t ld_in, std::int64_t rows, float* out,
             std::int64_t ld_out) const override {
    if (rows == 0 || outputs_ == 0) return;
    const memory::desc source = matrix(rows, inputs_, {ld_in, 1});
    const memory::desc destination = matrix(rows, outputs_, {ld_out, 1});
    const memory::desc any({inputs_, outputs_}, memory::data_type::f32, memory::format_tag::any);
    // oneDNN keeps primitives in a cache of its own, so making one again is cheap.
    const dnnl::matmul::primitive_desc product(dnnl::matmul::desc(source, any, destination),
                                               engine_);
    dnnl::stream stream(engine_);
    const memory weights = arranged(product.weights_desc(), stream);
    // oneDNN does not write through the source handle.
    memory from(source, engine_, const_cast<float*>(in));
    memory to(destination, engine_, out);
    dnnl::matmul(product).execute(
        stream, {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, to}});
    stream.wait();
  }

 private:
  // The layout that oneDNN wants depends on the number of rows; the last one is kept.
  memory arranged(const memory::desc& layout, dnnl::stream& stream) const {
    const std::lock_guard lock(mutex_);
    if (!arranged_ || arranged_.get_desc() != layout) {
      memory plain(matrix(inputs_, outputs_, {1, inputs_}), engine_,
                   const_cast<float*>(plain_.data()));
      memory next(layout, engine_);
      dnnl::reorder(plain, next).execute(stream, plain, next);
      stream.wait();
      arranged_ = next;
    }
    return arranged_;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::int64_t outputs_;
  std::int64_t inputs_;
  std::vector<float> plain_;
  mutable std::mutex mutex_;
  mutable memory arranged_;
};

}  // namespace

bool is_built_with_onednn() noexcept { return true; }

std::unique_ptr<Linear> onednn_linear(std::span<const float> weight, Index outputs, Index inputs) {
  return std::make_unique<OneDnnLinear>(weight, outputs, inputs);
}

#else

bool is_built_with_onednn() noexcept { return false; }

std::unique_ptr<Linear> onednn_linear(std::span<const float> /*weight*/, Index /*outputs*/,
                                      Index /*inputs*/) {
  throw Error(ErrorCode::unavailable,
              "gemm engine 'onednn': not built in, expected a build with oneDNN",
              "install libdnnl-dev and ocl-icd-opencl-dev and configure again, or use fixed_order");
}

#endif

}  // namespace icd
