#include <algorithm>

#include "kernels/bench_cases.h"
#include "kernels/state_update.h"

namespace icd {
namespace {

struct UpdateKind {
  std::int32_t layout;
  std::int32_t state_type;
  bool is_subset;  ///< of the channels, else all
};

class UpdateCase final : public ChannelCase {
 public:
  UpdateCase(const BenchShape& shape, const BenchInputs& inputs, std::uint64_t seed,
             UpdateKind kind)
      : ChannelCase(shape, inputs, seed), kind_(kind) {
    u_ = input(Follow::columns, 1, shape.batch, channels(), kBytes);
    dt_ = input(Follow::columns, 1, shape.batch, channels(), kBytes);
    z_ = input(Follow::columns, 1, shape.batch, channels(), kBytes);
    b_ = input(Follow::nothing, 1, shape.batch, states(), kBytes);
    c_ = input(Follow::nothing, 1, shape.batch, states(), kBytes);
    a_ = input(Follow::rows, 1, channels(), states(), 4);
    d_ = input(Follow::rows, 1, channels(), 1, 4);
    bias_ = input(Follow::rows, 1, channels(), 1, 4);
    const auto bytes = static_cast<std::int32_t>(element_bytes(kind.state_type));
    state_ = kind.layout == ICD_STATE_DN
                 ? input(Follow::rows, shape.batch, channels(), states(), bytes)
                 : input(Follow::columns, shape.batch, states(), channels(), bytes);
    active_ = input(Follow::nothing, 1, 1, channels(), 4);
    y_ = output(Follow::columns, 1, shape.batch, channels(), kBytes);
    for (const BenchOrder& order : this->orders()) {
      std::vector<std::int32_t>& places = active_places_.emplace_back();
      for (Index i = 0; i < order.order.size(); ++i) {
        if (inputs.is_active[static_cast<std::size_t>(order.order[i])]) places.push_back(i);
      }
    }
  }

  cudaError_t launch(int set, cudaStream_t stream) override {
    return state_update(arguments(set), stream);
  }

  StateUpdate arguments(int set) const {
    const auto tensor = [&](Id id) { return channel_last(placed(id, set), 1, channels()); };
    StateUpdate args{};
    args.batch = shape_.batch;
    args.channels = channels();
    args.states = states();
    args.type = kType;
    args.softplus = 1;
    args.state_type = kind_.state_type;
    args.state_layout = kind_.layout;
    args.u = tensor(u_);
    args.dt = tensor(dt_);
    args.z = tensor(z_);
    args.y = tensor(y_);
    args.B = channel_last(placed(b_, set), 1, states());
    args.C = channel_last(placed(c_, set), 1, states());
    args.A = static_cast<const float*>(placed(a_, set));
    args.D = static_cast<const float*>(placed(d_, set));
    args.dt_bias = static_cast<const float*>(placed(bias_, set));
    args.state = placed(state_, set);
    if (kind_.is_subset) {
      args.active = static_cast<const std::int32_t*>(placed(active_, set));
      args.active_count = std::ssize(active_places_.front());
    }
    return args;
  }

  // With [D][N] a channel's state fills sectors of its own, but its u, dt, z and y do not.
  BenchPrediction predict(std::size_t order) const override {
    if (!kind_.is_subset) return {};
    UpdateSectors update;
    update.batch = shape_.batch;
    update.states = states();
    update.state_bytes = element_bytes(kind_.state_type);
    update.row_bytes = kBytes;
    update.is_channel_major = kind_.layout == ICD_STATE_ND;
    update.pieces = state_update_pieces(arguments(0));
    return {"l2_from_l1",
            static_cast<double>(update_sectors(orders()[order].order, inputs_.is_active, update))};
  }

 protected:
  void fill(cudaStream_t stream) override {
    fill_rows(u_, inputs_.u, shape_.batch, channels(), 0, 1, stream);
    fill_rows(dt_, inputs_.dt, shape_.batch, channels(), 0, 0.5F, stream);
    fill_rows(z_, inputs_.z, shape_.batch, channels(), 0, 1, stream);
    fill_rows(b_, inputs_.B, shape_.batch, states(), 0, 1, stream);
    fill_rows(c_, inputs_.C, shape_.batch, states(), 0, 1, stream);
    upload_all(a_, inputs_.A, stream);
    upload_all(d_, inputs_.D, stream);
    upload_all(bias_, inputs_.dt_bias, stream);
    fill_bell_of(state_, kind_.state_type, 0, 1, stream);
  }

  void arrange(std::size_t order, cudaStream_t stream) override {
    if (!kind_.is_subset) return;
    const std::vector<std::int32_t>& places = active_places_[order];
    for (int set = 0; set < sets(); ++set) {
      check(cudaMemcpyAsync(placed(active_, set), places.data(),
                            places.size() * sizeof(std::int32_t), cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
    }
  }

 private:
  UpdateKind kind_;
  Id u_, dt_, z_, b_, c_, a_, d_, bias_, state_, active_, y_;
  std::vector<std::vector<std::int32_t>> active_places_;  // (orders), ascending
};

template <std::int32_t kLayout, std::int32_t kStateType, bool kIsSubset>
std::unique_ptr<BenchCase> make_update(const BenchShape& shape, const BenchInputs& inputs,
                                       std::uint64_t seed) {
  return std::make_unique<UpdateCase>(shape, inputs, seed,
                                      UpdateKind{kLayout, kStateType, kIsSubset});
}

}  // namespace

std::unique_ptr<BenchCase> make_update_dn_f32(const BenchShape& shape, const BenchInputs& inputs,
                                              std::uint64_t seed) {
  return make_update<ICD_STATE_DN, ICD_F32, false>(shape, inputs, seed);
}
std::unique_ptr<BenchCase> make_update_dn_bf16(const BenchShape& shape, const BenchInputs& inputs,
                                               std::uint64_t seed) {
  return make_update<ICD_STATE_DN, ICD_BF16, false>(shape, inputs, seed);
}
std::unique_ptr<BenchCase> make_update_nd_f32(const BenchShape& shape, const BenchInputs& inputs,
                                              std::uint64_t seed) {
  return make_update<ICD_STATE_ND, ICD_F32, false>(shape, inputs, seed);
}
std::unique_ptr<BenchCase> make_active_dn_f32(const BenchShape& shape, const BenchInputs& inputs,
                                              std::uint64_t seed) {
  return make_update<ICD_STATE_DN, ICD_F32, true>(shape, inputs, seed);
}
std::unique_ptr<BenchCase> make_active_nd_f32(const BenchShape& shape, const BenchInputs& inputs,
                                              std::uint64_t seed) {
  return make_update<ICD_STATE_ND, ICD_F32, true>(shape, inputs, seed);
}
std::unique_ptr<BenchCase> make_active_nd_bf16(const BenchShape& shape, const BenchInputs& inputs,
                                               std::uint64_t seed) {
  return make_update<ICD_STATE_ND, ICD_BF16, true>(shape, inputs, seed);
}

}  // namespace icd
