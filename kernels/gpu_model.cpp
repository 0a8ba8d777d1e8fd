#include "kernels/gpu_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "icd/error.h"
#include "kernels/cuda_graph.h"
#include "kernels/gather.h"
#include "kernels/gpu_mixer.h"
#include "kernels/gpu_plan.h"
#include "kernels/gpu_sums.h"
#include "kernels/rms_norm.h"
#include "layer_call.h"
#include "layer_weights.h"

namespace icd {
namespace {

// Left for the context's own needs, products' workspaces and a few rows.
constexpr std::int64_t kHeadroomBytes = std::int64_t{256} << 20;

// Logits that are held at a time: 128 MiB.
constexpr std::int64_t kLogitsAtOnce = std::int64_t{1} << 25;

constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

std::string gib_text(std::int64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 0x1p30);
}

struct Memory {
  std::int64_t free = 0;
  std::int64_t total = 0;
};

/// Of the current device.
Memory memory() {
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {.free = static_cast<std::int64_t>(free), .total = static_cast<std::int64_t>(total)};
}

/// Throws Error{unavailable} if the current device has no room for so much.
void check_room(std::int64_t bytes, int device, int models) {
  const Memory has = memory();
  if (bytes + kHeadroomBytes <= has.free) return;
  throw Error(ErrorCode::unavailable,
              fmt::format("CUDA: device {} has {} of its {} free, in f32 {}", device,
                          gib_text(has.free), gib_text(has.total),
                          models == 1 ? "the model takes " + gib_text(bytes + kHeadroomBytes)
                                      : fmt::format("{} models take {}", models,
                                                    gib_text(bytes + kHeadroomBytes))),
              "--device cpu needs no such memory");
}

struct LayerPart {
  GpuTensor norm;
  std::unique_ptr<GpuMixer> mixer;
};

class Model : public GpuModel, public SumsMaker {
 public:
  Model(const Checkpoint& checkpoint, GpuPlan plan, const GpuModelOptions& options)
      : checkpoint_(checkpoint),
        plan_(std::move(plan)),
        device_(options.device),
        d_model_(plan_.spec.d_model),
        vocab_(plan_.spec.vocab),
        embedding_(tensor(plan_.embedding, {vocab_, d_model_})),
        norm_(tensor(plan_.final_norm, {d_model_})),
        rows_at_once_(options.rows_at_once),
        library_(open_cublas_lt()) {
    if (plan_.head != plan_.embedding) head_ = tensor(plan_.head, {vocab_, d_model_});
    std::int64_t row_floats = 0;
    for (const GpuPlan::Layer& layer : plan_.layers) {
      layers_.push_back({tensor(layer.norm, {d_model_}),
                         layer.mixer.type == "mamba1" ? gpu_mamba1(checkpoint, layer.mixer)
                                                      : gpu_mamba2(checkpoint, layer.mixer)});
      row_floats = std::max(row_floats, layers_.back().mixer->row_floats());
    }
    // Copies from pageable memory return before they are done, and streams do not wait for them.
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    const std::int64_t row_bytes = (row_floats + 2 * d_model_) * kFloatBytes;
    // Half of what is left: the rest is for sums over the rows.
    rows_at_once_ = std::clamp<std::int64_t>(memory().free / 2 / row_bytes, 1,
                                             std::max<std::int64_t>(1, rows_at_once_));
    // With the decays of the step sizes, no wider than what is projected.
    activation_bytes_ = rows_at_once_ * (row_bytes + row_floats * kFloatBytes);
    work_ = std::make_unique<GpuWork>(library_);
  }
  ~Model() override {
    cudaSetDevice(device_);  // whose stream and memory are given back
  }

  const ModelSpec& spec() const noexcept override { return plan_.spec; }
  int device() const noexcept { return device_; }
  const std::vector<LayerPart>& layers() const noexcept { return layers_; }
  const std::shared_ptr<const CublasLt>& library() const noexcept { return library_; }

  void embed(std::span<const TokenId> tokens, std::span<float> hidden) const override {
    read_embedding(checkpoint_, plan_.embedding, plan_.spec.vocab, plan_.spec.d_model, tokens,
                   hidden);
  }

  void layer(Index layer, BatchShape shape, std::span<float> hidden, LayerState<float>* state,
             Observer<float>* observer) const override {
    prepare_layer_call<float>(plan_.spec, layer, shape, hidden.size(), nullptr);
    if (state != nullptr) {
      throw Error(ErrorCode::unsupported,
                  "model: on a GPU, sequences go on in a session, not in LayerState");
    }
    if (shape.rows() == 0) return;
    const std::lock_guard lock(mutex_);
    const OnDevice current(device_);
    const auto together =
        static_cast<Index>(std::max<std::int64_t>(1, rows_at_once_ / shape.length));
    for (Index s = 0; s < shape.sequences; s += together) {
      const BatchShape part = {.sequences = std::min(together, shape.sequences - s),
                               .length = shape.length};
      float* host = hidden.data() + std::int64_t{s} * shape.length * d_model_;
      const std::int64_t count = part.rows() * d_model_;
      float* device = work_->floats(Slot::hidden, count);
      work_->to_device(device, host, count * kFloatBytes);
      run_layer(*work_, layer, part, device, {}, {observer, layer});
      work_->to_host(host, device, count * kFloatBytes);
    }
  }

  void head(std::span<const float> hidden, std::span<float> logits) const override {
    const std::int64_t rows = prepare_head_call(plan_.spec, hidden.size(), logits.size());
    const std::lock_guard lock(mutex_);
    const OnDevice current(device_);
    const std::int64_t together =
        std::clamp<std::int64_t>(kLogitsAtOnce / std::max<std::int64_t>(1, vocab_), 1, 4096);
    for (std::int64_t row = 0; row < rows; row += together) {
      const std::int64_t count = std::min(together, rows - row);
      float* device = work_->floats(Slot::hidden, count * d_model_);
      work_->to_device(device, hidden.data() + row * d_model_, count * d_model_ * kFloatBytes);
      const float* out = run_head(*work_, count, device);
      work_->to_host(logits.data() + row * vocab_, out, count * vocab_ * kFloatBytes);
    }
  }

  std::unique_ptr<GpuSession> start(Index sequences) const override;

  bool has_room_for_sums(std::span<const Index> sizes) const override {
    const std::lock_guard lock(mutex_);
    const OnDevice current(device_);
    return gpu_sums_bytes(sizes) + activation_bytes_ + kHeadroomBytes <= memory().free;
  }
  std::unique_ptr<SiteSums> sums(Index n, bool has_products) const override {
    return gpu_sums(*work_, mutex_, device_, n, has_products);
  }

  /// Throws Error{usage} for an id outside the vocabulary.
  void check_tokens(std::span<const TokenId> tokens, std::int64_t expected) const {
    if (std::ssize(tokens) != expected) {
      throw Error(ErrorCode::usage,
                  fmt::format("tokens: has {} elements, expected {}", tokens.size(), expected));
    }
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= 0 && tokens[i] < vocab_) continue;
      throw Error(ErrorCode::usage,
                  fmt::format("token {} of the input: id is {}, expected one in [0, {})", i,
                              tokens[i], vocab_));
    }
  }

  /// hidden = the embedding of the ids in Slot::ids.
  void run_embedding(GpuWork& work, std::int64_t rows, float* hidden) const {
    const auto* ids = static_cast<const std::int32_t*>(
        work.bytes(Slot::ids, rows * static_cast<std::int64_t>(sizeof(TokenId))));
    check(gather_rows(embedding_.data(), ids, hidden, rows, d_model_ * kFloatBytes, work.stream()),
          "gather_rows");
  }

  /// hidden += mixer(norm(hidden)), some rows at a time. `hidden` and `state` are on the device.
  void run_layer(GpuWork& work, Index index, BatchShape shape, float* hidden, GpuState state,
                 LayerObserver<float> observer) const {
    const LayerPart& layer = layers_[static_cast<std::size_t>(index)];
    const GpuShow show(work, observer);
    const auto together =
        static_cast<Index>(std::max<std::int64_t>(1, rows_at_once_ / shape.length));
    const auto stretch = static_cast<Index>(std::min<std::int64_t>(shape.length, rows_at_once_));
    const bool is_kept = state.conv != nullptr;
    for (Index s = 0; s < shape.sequences; s += together) {
      const Index sequences = std::min(together, shape.sequences - s);
      GpuState own = {};
      if (is_kept) {
        own = {.conv = state.conv + s * layer.mixer->conv_floats(),
               .scan = state.scan + s * layer.mixer->scan_floats()};
      } else if (stretch < shape.length) {
        own = cleared_state(work, *layer.mixer, sequences);
      }
      for (Index t = 0; t < shape.length; t += stretch) {
        const BatchShape pass = {.sequences = sequences,
                                 .length = std::min(stretch, shape.length - t)};
        float* rows = hidden + (std::int64_t{s} * shape.length + t) * d_model_;
        const float* normed = normalised(work, layer.norm, pass.rows(), rows);
        show.rows(Site::normed, normed, pass.rows(), d_model_, d_model_);
        layer.mixer->run(work, pass, normed, rows, own, show);
      }
    }
  }

  void run_step(GpuWork& work, Index index, Index sequences, float* hidden, GpuState state) const {
    const LayerPart& layer = layers_[static_cast<std::size_t>(index)];
    layer.mixer->step(work, sequences, normalised(work, layer.norm, sequences, hidden), hidden,
                      state);
  }

  /// The logits of some rows, (rows, vocab), in Slot::logits.
  float* run_head(GpuWork& work, std::int64_t rows, const float* hidden) const {
    const float* normed = normalised(work, norm_, rows, hidden);
    float* logits = work.floats(Slot::logits, rows * vocab_);
    const float* weight = head_.data() == nullptr ? embedding_.data() : head_.data();
    work.multiply({.tokens = rows, .inputs = d_model_, .outputs = vocab_}, normed, weight, nullptr,
                  logits);
    return logits;
  }

 private:
  GpuTensor tensor(const std::string& name, const Shape& shape) const {
    return GpuTensor(read_tensor<float>(checkpoint_, name, shape));
  }

  GpuState cleared_state(GpuWork& work, const GpuMixer& mixer, Index sequences) const {
    const std::int64_t conv = sequences * mixer.conv_floats();
    const std::int64_t scan = sequences * mixer.scan_floats();
    const GpuState state = {.conv = work.floats(Slot::conv_state, conv),
                            .scan = work.floats(Slot::scan_state, scan)};
    work.clear(state.conv, conv * kFloatBytes);
    work.clear(state.scan, scan * kFloatBytes);
    return state;
  }

  const float* normalised(GpuWork& work, const GpuTensor& weight, std::int64_t rows,
                          const float* hidden) const {
    float* out = work.floats(Slot::normed, rows * d_model_);
    RmsNorm args{};
    args.rows = rows;
    args.columns = d_model_;
    args.type = ICD_F32;
    args.eps = static_cast<float>(plan_.norm_epsilon);
    args.x = hidden;
    args.x_row = d_model_;
    args.y = out;
    args.y_row = d_model_;
    args.weight = weight.data();
    check(rms_norm(args, work.stream()), "rms_norm");
    return out;
  }

  const Checkpoint& checkpoint_;
  GpuPlan plan_;
  int device_;
  std::int64_t d_model_;
  std::int64_t vocab_;
  GpuTensor embedding_;
  GpuTensor norm_;
  GpuTensor head_;  // empty: the embedding
  std::vector<LayerPart> layers_;
  std::int64_t rows_at_once_;
  std::int64_t activation_bytes_ = 0;  // that so many rows may take
  std::shared_ptr<const CublasLt> library_;
  mutable std::mutex mutex_;  // of work_
  std::unique_ptr<GpuWork> work_;
};

class Session : public GpuSession {
 public:
  Session(const Model& model, Index sequences)
      : model_(model), sequences_(sequences), prefill_(model.library()), step_(model.library()) {
    for (const LayerPart& layer : model.layers()) {
      states_.push_back({buffer(layer.mixer->conv_floats()), buffer(layer.mixer->scan_floats())});
    }
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  ~Session() override { cudaSetDevice(model_.device()); }

  std::vector<float> prefill(std::span<const TokenId> tokens, Index length) override {
    const BatchShape shape = {.sequences = sequences_, .length = length};
    model_.check_tokens(tokens, shape.rows());
    if (shape.rows() == 0) throw Error(ErrorCode::usage, "prefill: expected at least one token");
    const OnDevice current(model_.device());
    const std::int64_t d_model = model_.spec().d_model;
    take_ids(prefill_, tokens);
    float* hidden = prefill_.floats(Slot::hidden, shape.rows() * d_model);
    model_.run_embedding(prefill_, shape.rows(), hidden);
    for (Index i = 0; i < model_.spec().n_layer; ++i) {
      model_.run_layer(prefill_, i, shape, hidden, state(i), {});
    }
    const auto row_bytes = static_cast<std::size_t>(d_model * kFloatBytes);
    float* last = prefill_.floats(Slot::last, sequences_ * d_model);
    check(cudaMemcpy2DAsync(last, row_bytes, hidden + (length - 1) * d_model,
                            row_bytes * static_cast<std::size_t>(length), row_bytes,
                            static_cast<std::size_t>(sequences_), cudaMemcpyDeviceToDevice,
                            prefill_.stream()),
          "cudaMemcpy2DAsync");
    return logits(prefill_, model_.run_head(prefill_, sequences_, last));
  }

  std::vector<float> step(std::span<const TokenId> tokens) override {
    model_.check_tokens(tokens, sequences_);
    const OnDevice current(model_.device());
    take_ids(step_, tokens);
    if (!is_warm_) {
      launch_step();  // takes its memory, which a capture may not
      is_warm_ = true;
    } else {
      if (!graph_) graph_.emplace(step_.stream(), "a step", [&] { launch_step(); });
      graph_->replay(step_.stream());
    }
    return logits(step_,
                  step_.floats(Slot::logits, std::int64_t{sequences_} * model_.spec().vocab));
  }

 private:
  struct State {
    std::unique_ptr<DeviceBuffer> conv;
    std::unique_ptr<DeviceBuffer> scan;
  };

  std::unique_ptr<DeviceBuffer> buffer(std::int64_t floats) const {
    // A layer of width 1 convolutions keeps nothing, at an address all the same.
    const std::int64_t bytes = std::max<std::int64_t>(1, sequences_ * floats) * kFloatBytes;
    auto made = std::make_unique<DeviceBuffer>(bytes);
    check(cudaMemset(made->data(), 0, static_cast<std::size_t>(bytes)), "cudaMemset");
    return made;
  }

  GpuState state(Index layer) {
    const State& of = states_[static_cast<std::size_t>(layer)];
    return {.conv = reinterpret_cast<float*>(of.conv->data()),
            .scan = reinterpret_cast<float*>(of.scan->data())};
  }

  void take_ids(GpuWork& work, std::span<const TokenId> tokens) const {
    const auto bytes = static_cast<std::int64_t>(tokens.size_bytes());
    work.to_device(work.bytes(Slot::ids, bytes), tokens.data(), bytes);
  }

  void launch_step() {
    float* hidden = step_.floats(Slot::hidden, std::int64_t{sequences_} * model_.spec().d_model);
    model_.run_embedding(step_, sequences_, hidden);
    for (Index i = 0; i < model_.spec().n_layer; ++i) {
      model_.run_step(step_, i, sequences_, hidden, state(i));
    }
    model_.run_head(step_, sequences_, hidden);
  }

  std::vector<float> logits(GpuWork& work, const float* device) const {
    std::vector<float> out(static_cast<std::size_t>(sequences_) *
                           static_cast<std::size_t>(model_.spec().vocab));
    work.to_host(out.data(), device, std::ssize(out) * kFloatBytes);
    return out;
  }

  const Model& model_;
  Index sequences_;
  std::vector<State> states_;
  GpuWork prefill_;
  GpuWork step_;  // its own: what is captured keeps its addresses
  bool is_warm_ = false;
  std::optional<CudaGraph> graph_;
};

std::unique_ptr<GpuSession> Model::start(Index sequences) const {
  if (sequences < 1) {
    throw Error(ErrorCode::usage,
                fmt::format("session: of {} sequences, expected at least one", sequences));
  }
  for (const LayerPart& layer : layers_) {
    if (const std::string why = layer.mixer->why_no_step(); !why.empty()) {
      throw Error(ErrorCode::unsupported, why);
    }
  }
  const OnDevice current(device_);
  return std::make_unique<Session>(*this, sequences);
}

}  // namespace

void check_gpu_model(const Checkpoint& checkpoint, const Layout& layout, int device, int models) {
  const std::int64_t bytes = weight_bytes(checkpoint, gpu_plan(checkpoint, layout));
  const OnDevice current(device);
  open_cublas_lt();
  check_room(models * bytes, device, models);
}

std::unique_ptr<GpuModel> gpu_model(const Checkpoint& checkpoint, const Layout& layout,
                                    const GpuModelOptions& options) {
  GpuPlan plan = gpu_plan(checkpoint, layout);
  const OnDevice current(options.device);
  check_room(weight_bytes(checkpoint, plan), options.device, 1);
  return std::make_unique<Model>(checkpoint, std::move(plan), options);
}

}  // namespace icd
