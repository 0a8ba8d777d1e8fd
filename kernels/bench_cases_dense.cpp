#include <cmath>
#include <numeric>

#include "icd/random.h"
#include "kernels/bench_cases.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gather.h"
#include "kernels/selective_scan.h"
#include "kernels/ssd.h"

namespace icd {

void ChannelCase::fill_bell_of(Id id, std::int32_t type, float mean, float deviation,
                               cudaStream_t stream) {
  const Field& at = field(id);
  check(fill_bell(base(id), type, at.bytes() / at.element_bytes, seed_ * 1000 + id, mean, deviation,
                  stream),
        "fill_bell");
}

void ChannelCase::fill_rows(Id id, std::span<const float> real, std::int64_t rows,
                            std::int64_t columns, float mean, float deviation,
                            cudaStream_t stream) {
  if (real.empty()) {
    fill_bell_of(id, kType, mean, deviation, stream);
    return;
  }
  const std::vector<std::uint16_t> values = bfloats(real);
  std::vector<std::int32_t> source(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < source.size(); ++i) {
    source[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(inputs_.tokens));
  }
  DeviceBuffer from(static_cast<std::int64_t>(values.size() * sizeof(std::uint16_t)));
  DeviceBuffer places(static_cast<std::int64_t>(source.size() * sizeof(std::int32_t)));
  check(cudaMemcpyAsync(from.data(), values.data(), static_cast<std::size_t>(from.bytes()),
                        cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  check(cudaMemcpyAsync(places.data(), source.data(), static_cast<std::size_t>(places.bytes()),
                        cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  check(gather_rows(from.data(), reinterpret_cast<const std::int32_t*>(places.data()), base(id),
                    rows, columns * kBytes, stream),
        "gather_rows");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");  // before the buffers go
}

namespace {

class ScanCase final : public ChannelCase {
 public:
  ScanCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed, bool is_last)
      : ChannelCase(shape, inputs, seed), is_last_(is_last) {
    const Follow follow = is_last ? Follow::columns : Follow::rows;
    const std::int64_t rows = is_last ? shape.length : channels();
    const std::int64_t columns = is_last ? channels() : shape.length;
    u_ = input(follow, shape.batch, rows, columns, kBytes);
    dt_ = input(follow, shape.batch, rows, columns, kBytes);
    z_ = input(follow, shape.batch, rows, columns, kBytes);
    b_ = input(Follow::nothing, shape.batch, shape.length, states(), kBytes);
    c_ = input(Follow::nothing, shape.batch, shape.length, states(), kBytes);
    a_ = input(Follow::rows, 1, channels(), states(), 4);
    d_ = input(Follow::rows, 1, channels(), 1, 4);
    bias_ = input(Follow::rows, 1, channels(), 1, 4);
    y_ = output(follow, shape.batch, rows, columns, kBytes);
  }

  cudaError_t launch(int set, cudaStream_t stream) override {
    const auto tensor = [&](Id id) {
      return is_last_ ? channel_last(placed(id, set), shape_.length, channels())
                      : channel_first(placed(id, set), shape_.length, channels());
    };
    SelectiveScan args{};
    args.batch = shape_.batch;
    args.length = shape_.length;
    args.channels = channels();
    args.states = states();
    args.type = kType;
    args.softplus = 1;
    args.u = tensor(u_);
    args.dt = tensor(dt_);
    args.z = tensor(z_);
    args.y = tensor(y_);
    args.B = channel_last(placed(b_, set), shape_.length, states());
    args.C = channel_last(placed(c_, set), shape_.length, states());
    args.A = static_cast<const float*>(placed(a_, set));
    args.D = static_cast<const float*>(placed(d_, set));
    args.dt_bias = static_cast<const float*>(placed(bias_, set));
    if (workspace_ == nullptr) {  // ahead of any capture: difference() launches first
      workspace_ = std::make_unique<DeviceBuffer>(
          std::max<std::int64_t>(selective_scan_workspace(args), 256));
    }
    args.workspace = workspace_->data();
    return selective_scan(args, stream);
  }

 protected:
  void fill(cudaStream_t stream) override {
    // a checkpoint's activations are by token; channels first are random
    const auto real = [&](const std::vector<float>& values) {
      return is_last_ ? std::span<const float>(values) : std::span<const float>{};
    };
    fill_rows(u_, real(inputs_.u), tokens(), channels(), 0, 1, stream);
    fill_rows(dt_, real(inputs_.dt), tokens(), channels(), 0, 0.5F, stream);
    fill_rows(z_, real(inputs_.z), tokens(), channels(), 0, 1, stream);
    fill_rows(b_, inputs_.B, tokens(), states(), 0, 1, stream);
    fill_rows(c_, inputs_.C, tokens(), states(), 0, 1, stream);
    upload_all(a_, inputs_.A, stream);
    upload_all(d_, inputs_.D, stream);
    upload_all(bias_, inputs_.dt_bias, stream);
  }

 private:
  bool is_last_;
  Id u_, dt_, z_, b_, c_, a_, d_, bias_, y_;
  std::unique_ptr<DeviceBuffer> workspace_;
};

class ConvCase final : public ChannelCase {
 public:
  ConvCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed, bool is_last)
      : ChannelCase(shape, inputs, seed), is_last_(is_last) {
    const Follow follow = is_last ? Follow::columns : Follow::rows;
    const std::int64_t rows = is_last ? shape.length : channels();
    const std::int64_t columns = is_last ? channels() : shape.length;
    x_ = input(follow, shape.batch, rows, columns, kBytes);
    weight_ = input(Follow::rows, 1, channels(), inputs.d_conv, kBytes);
    bias_ = input(Follow::rows, 1, channels(), 1, kBytes);
    y_ = output(follow, shape.batch, rows, columns, kBytes);
  }

  cudaError_t launch(int set, cudaStream_t stream) override {
    CausalConv1d args{};
    args.batch = shape_.batch;
    args.length = shape_.length;
    args.channels = channels();
    args.width = inputs_.d_conv;
    args.type = kType;
    args.silu = 1;
    const auto tensor = is_last_ ? channel_last : channel_first;
    args.x = tensor(placed(x_, set), shape_.length, channels());
    args.y = tensor(placed(y_, set), shape_.length, channels());
    args.weight = placed(weight_, set);
    args.bias = placed(bias_, set);
    return causal_conv1d(args, stream);
  }

 protected:
  void fill(cudaStream_t stream) override {
    fill_bell_of(x_, kType, 0, 1, stream);
    const std::vector<std::uint16_t> weight = bfloats(inputs_.conv);
    upload_all(weight_, weight, stream);
    fill_bell_of(bias_, kType, 0, 0.1F, stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

 private:
  bool is_last_;
  Id x_, weight_, bias_, y_;
};

// Orders of heads, by those of the channels that make them up.
std::vector<BenchOrder> orders_of_heads(const BenchInputs& inputs, std::uint64_t seed) {
  const Permutation solved = heads_order(inputs.solved, kHeadDim);
  std::vector<float> timescale;
  for (Index head = 0; head < solved.size(); ++head) {
    timescale.push_back(inputs.timescale[static_cast<std::size_t>(head * kHeadDim)]);
  }
  return bench_orders(solved, timescale, seed);
}

class SsdCase final : public BenchCase {
 public:
  SsdCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed)
      : BenchCase(orders_of_heads(inputs, seed)), shape_(shape), seed_(seed) {
    heads_ = inputs.d_inner / kHeadDim;
    const std::int64_t channels = heads_ * kHeadDim;
    x_ = input(Follow::columns, shape.batch, shape.length, channels, 2, kHeadDim);
    z_ = input(Follow::columns, shape.batch, shape.length, channels, 2, kHeadDim);
    dt_ = input(Follow::columns, shape.batch, shape.length, heads_, 2);
    b_ = input(Follow::nothing, shape.batch, shape.length, kStates, 2);
    c_ = input(Follow::nothing, shape.batch, shape.length, kStates, 2);
    a_ = input(Follow::rows, 1, heads_, 1, 4);
    d_ = input(Follow::rows, 1, heads_, 1, 4);
    bias_ = input(Follow::rows, 1, heads_, 1, 4);
    y_ = output(Follow::columns, shape.batch, shape.length, channels, 2, kHeadDim);
  }

  cudaError_t launch(int set, cudaStream_t stream) override {
    const std::int64_t channels = heads_ * kHeadDim;
    Ssd args{};
    args.batch = shape_.batch;
    args.length = shape_.length;
    args.heads = heads_;
    args.head_dim = kHeadDim;
    args.groups = 1;
    args.states = kStates;
    args.type = ICD_BF16;
    args.softplus = 1;
    args.x = channel_last(placed(x_, set), shape_.length, channels);
    args.z = channel_last(placed(z_, set), shape_.length, channels);
    args.y = channel_last(placed(y_, set), shape_.length, channels);
    args.dt = channel_last(placed(dt_, set), shape_.length, heads_);
    args.B = channel_last(placed(b_, set), shape_.length, kStates);
    args.C = channel_last(placed(c_, set), shape_.length, kStates);
    args.A = static_cast<const float*>(placed(a_, set));
    args.D = static_cast<const float*>(placed(d_, set));
    args.dt_bias = static_cast<const float*>(placed(bias_, set));
    if (workspace_ == nullptr) {
      workspace_ = std::make_unique<DeviceBuffer>(std::max<std::int64_t>(ssd_workspace(args), 256));
    }
    args.workspace = workspace_->data();
    return ssd(args, stream);
  }

 protected:
  void fill(cudaStream_t stream) override {
    const auto bell = [&](Id id, std::int32_t type, float mean, float deviation) {
      const Field& at = field(id);
      check(fill_bell(base(id), type, at.bytes() / at.element_bytes, seed_ * 1000 + id, mean,
                      deviation, stream),
            "fill_bell");
    };
    bell(x_, ICD_BF16, 0, 1);
    bell(z_, ICD_BF16, 0, 1);
    bell(dt_, ICD_BF16, 0, 0.5F);
    bell(b_, ICD_BF16, 0, 1);
    bell(c_, ICD_BF16, 0, 1);
    bell(d_, ICD_F32, 0, 1);
    bell(bias_, ICD_F32, -4.5F, 0.5F);
    std::vector<float> a;  // from -1 to -16, as Mamba-2 initialises it
    Random random(seed_);
    for (std::int64_t head = 0; head < heads_; ++head) {
      a.push_back(static_cast<float>(-1 - 15 * random.uniform()));
    }
    upload(a_, a.data(), heads_ * 4, stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

 private:
  static constexpr std::int64_t kStates = 128;

  const BenchShape shape_;
  const std::uint64_t seed_;
  std::int64_t heads_;
  Id x_, z_, dt_, b_, c_, a_, d_, bias_, y_;
  std::unique_ptr<DeviceBuffer> workspace_;
};

}  // namespace

std::unique_ptr<BenchCase> make_scan(const BenchShape& shape, const BenchInputs& inputs,
                                     std::uint64_t seed) {
  return std::make_unique<ScanCase>(shape, inputs, seed, true);
}
std::unique_ptr<BenchCase> make_scan_channel_first(const BenchShape& shape,
                                                   const BenchInputs& inputs, std::uint64_t seed) {
  return std::make_unique<ScanCase>(shape, inputs, seed, false);
}
std::unique_ptr<BenchCase> make_conv(const BenchShape& shape, const BenchInputs& inputs,
                                     std::uint64_t seed) {
  return std::make_unique<ConvCase>(shape, inputs, seed, true);
}
std::unique_ptr<BenchCase> make_conv_channel_first(const BenchShape& shape,
                                                   const BenchInputs& inputs, std::uint64_t seed) {
  return std::make_unique<ConvCase>(shape, inputs, seed, false);
}
std::unique_ptr<BenchCase> make_ssd(const BenchShape& shape, const BenchInputs& inputs,
                                    std::uint64_t seed) {
  return std::make_unique<SsdCase>(shape, inputs, seed);
}

}  // namespace icd
