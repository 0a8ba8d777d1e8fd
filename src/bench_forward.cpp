#include "icd/bench_forward.h"

#include <fmt/format.h>

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "aligned.h"
#include "cpu_kernels.h"
#include "gemm.h"
#include "icd/error.h"
#include "icd/random.h"

namespace icd {
namespace {

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

FloatBuffer random_floats(std::int64_t count, Random& random) {
  FloatBuffer values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
  return values;
}

/// The matrix products of a forward pass, without what stands between them.
class Products {
 public:
  Products(GemmEngine engine, const ModelSpec& spec, std::int64_t rows)
      : engine_(engine), rows_(rows) {
    const std::int64_t x_proj = spec.dt_rank + 2 * std::int64_t{spec.d_state};
    add(2 * std::int64_t{spec.d_inner}, spec.d_model, spec.n_layer);
    add(x_proj, spec.d_inner, spec.n_layer);
    add(spec.d_inner, spec.dt_rank, spec.n_layer);
    add(spec.d_model, spec.d_inner, spec.n_layer);
    add(spec.vocab, spec.d_model, 1);
  }

  void run() {
    for (Product& product : products_) {
      for (int i = 0; i < product.times; ++i) {
        product.weight->apply(product.in.data(), product.inputs, rows_, product.out.data(),
                              product.outputs);
      }
    }
  }

 private:
  struct Product {
    std::unique_ptr<Linear> weight;
    std::int64_t outputs;
    std::int64_t inputs;
    int times;
    FloatBuffer in;   // (rows, inputs)
    FloatBuffer out;  // (rows, outputs)
  };

  void add(std::int64_t outputs, std::int64_t inputs, int times) {
    const FloatBuffer weight = random_floats(outputs * inputs, random_);
    const auto n = static_cast<Index>(outputs);
    const auto k = static_cast<Index>(inputs);
    products_.push_back(
        {.weight = engine_ == GemmEngine::onednn
                       ? onednn_linear(weight, n, k)
                       : fixed_order_linear(cpu_kernels(best_cpu_path()), weight, n, k),
         .outputs = outputs,
         .inputs = inputs,
         .times = times,
         .in = random_floats(rows_ * inputs, random_),
         .out = FloatBuffer(static_cast<std::size_t>(rows_ * outputs))});
  }

  GemmEngine engine_;
  std::int64_t rows_;
  Random random_{1};
  std::vector<Product> products_;
};

}  // namespace

ForwardBench bench_forward(const Checkpoint& checkpoint, const ModelSpec& spec, BatchShape shape,
                           int threads, int repeats) {
  if (shape.sequences < 1 || shape.length < 1 || repeats < 1) {
    throw Error(ErrorCode::usage,
                fmt::format("benchmark: {} sequences of {} tokens, {} repeats, expected at least "
                            "1 of each",
                            shape.sequences, shape.length, repeats));
  }
  std::vector<TokenId> tokens(static_cast<std::size_t>(shape.rows()));
  Random random(1);
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(random.below(static_cast<std::uint64_t>(spec.vocab)));
  }

  ForwardBench bench;
  bench.tokens = shape.rows();
  struct Contender {
    std::vector<double>& samples;
    std::function<void()> run;
  };
  std::vector<Contender> contenders;
  const auto enter = [&](GemmEngine engine, std::vector<double>& model_samples,
                         std::vector<double>& product_samples) {
    const std::shared_ptr model =
        fast_model(checkpoint, spec, {.gemm = engine, .threads = threads});
    contenders.push_back({model_samples, [&, model] { model->logits(tokens, shape); }});
    const auto products = std::make_shared<Products>(engine, spec, shape.rows());
    contenders.push_back({product_samples, [products, threads] {
                            const ThreadScope scope(threads);
                            products->run();
                          }});
  };
  enter(GemmEngine::fixed_order, bench.fixed_order, bench.gemms_fixed_order);
  if (is_built_with_onednn()) enter(GemmEngine::onednn, bench.onednn, bench.gemms_onednn);

  for (const Contender& contender : contenders) contender.run();
  for (int i = 0; i < repeats; ++i) {
    for (const Contender& contender : contenders) {
      contender.samples.push_back(seconds(contender.run));
    }
  }
  return bench;
}

}  // namespace icd
