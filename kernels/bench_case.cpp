#include <cmath>

#include "kernels/args.h"
#include "kernels/bench_device.h"
#include "kernels/bench_matrix.h"
#include "kernels/gather.h"

namespace icd {

BenchCase::BenchCase(std::vector<BenchOrder> orders) : orders_(std::move(orders)) {}
BenchCase::~BenchCase() = default;

std::int64_t BenchCase::set_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const Field& field : fields_) bytes += field.bytes();
  return bytes;
}

BenchCase::Id BenchCase::input(Follow follow, std::int64_t outer, std::int64_t rows,
                               std::int64_t columns, std::int32_t element_bytes,
                               std::int64_t block) {
  fields_.push_back({follow, outer, rows, columns, element_bytes, block, true});
  return fields_.size() - 1;
}

BenchCase::Id BenchCase::output(Follow follow, std::int64_t outer, std::int64_t rows,
                                std::int64_t columns, std::int32_t element_bytes,
                                std::int64_t block) {
  fields_.push_back({follow, outer, rows, columns, element_bytes, block, false});
  output_ = fields_.size() - 1;
  return output_;
}

void BenchCase::allocate(int sets, cudaStream_t stream) {
  sets_ = sets;
  for (Field& field : fields_) {
    field.placed = std::make_unique<DeviceBuffer>(field.stride() * sets);
    check(cudaMemsetAsync(field.placed->data(), 0, static_cast<std::size_t>(field.placed->bytes()),
                          stream),
          "cudaMemsetAsync");
    if (field.is_input) field.base = std::make_unique<DeviceBuffer>(field.stride());
  }
  first_output_ = std::make_unique<DeviceBuffer>(fields_[output_].stride());
  expected_ = std::make_unique<DeviceBuffer>(fields_[output_].stride());
  fill(stream);
  for (const Field& field : fields_) {
    if (!field.is_input || field.follow != Follow::nothing) continue;
    for (int set = 0; set < sets_; ++set) {
      check(cudaMemcpyAsync(field.placed->data() + set * field.stride(), field.base->data(),
                            static_cast<std::size_t>(field.bytes()), cudaMemcpyDeviceToDevice,
                            stream),
            "cudaMemcpyAsync");
    }
  }
  check(cudaStreamSynchronize(stream), "inputs");
}

void BenchCase::prepare(std::size_t order, cudaStream_t stream) {
  for (const Field& field : fields_) {
    if (!field.is_input || field.follow == Follow::nothing) continue;
    for (int set = 0; set < sets_; ++set) {
      gather(field, field.base->data(), field.placed->data() + set * field.stride(), order, stream);
    }
  }
  arrange(order, stream);
}

void BenchCase::arrange(std::size_t, cudaStream_t) {}

BenchLibrary BenchCase::library() const { return {}; }

BenchPrediction BenchCase::predict(std::size_t) const { return {}; }

double BenchCase::difference(std::size_t order, cudaStream_t stream) {
  const Field& out = fields_[output_];
  const auto bytes = static_cast<std::size_t>(out.bytes());
  const auto run = [&](std::size_t which) {
    prepare(which, stream);
    check(cudaMemsetAsync(out.placed->data(), 0, bytes, stream), "cudaMemsetAsync");
    check(launch(0, stream), orders_[which].name.c_str());
  };
  if (order == 0) {
    run(0);
    check(cudaMemcpyAsync(first_output_->data(), out.placed->data(), bytes,
                          cudaMemcpyDeviceToDevice, stream),
          "cudaMemcpyAsync");
  }
  run(order);
  if (out.follow == Follow::nothing) {
    check(cudaMemcpyAsync(expected_->data(), first_output_->data(), bytes, cudaMemcpyDeviceToDevice,
                          stream),
          "cudaMemcpyAsync");
  } else {
    gather(out, first_output_->data(), expected_->data(), order, stream);
  }
  DeviceBuffer sums(2 * static_cast<std::int64_t>(sizeof(double)));
  check(cudaMemsetAsync(sums.data(), 0, 2 * sizeof(double), stream), "cudaMemsetAsync");
  check(add_differences(out.element_bytes == 4 ? ICD_F32 : ICD_BF16, out.placed->data(),
                        expected_->data(), out.bytes() / out.element_bytes,
                        reinterpret_cast<double*>(sums.data()), stream),
        "add_differences");
  double found[2] = {};
  check(cudaMemcpyAsync(found, sums.data(), sizeof found, cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), orders_[order].name.c_str());
  return std::sqrt(found[0] / found[1]);  // an output of nothing but zeros or NaN is NaN
}

void* BenchCase::base(Id id) { return fields_[id].base->data(); }

void* BenchCase::placed(Id id, int set) const {
  return fields_[id].placed->data() + set * fields_[id].stride();
}

void BenchCase::upload(Id id, const void* values, std::int64_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(base(id), values, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice,
                        stream),
        "cudaMemcpyAsync");
}

const std::int32_t* BenchCase::table(std::size_t order, std::int64_t block) {
  auto& tables = tables_[block];
  if (tables.empty()) tables.resize(orders_.size());
  std::unique_ptr<DeviceBuffer>& found = tables[order];
  if (found == nullptr) {
    const Permutation& channels = orders_[order].order;
    const Permutation places = block == 1 ? channels : inflate(channels, static_cast<Index>(block));
    const std::span<const Index> gather = places.gather();
    found = std::make_unique<DeviceBuffer>(static_cast<std::int64_t>(gather.size_bytes()));
    check(cudaMemcpy(found->data(), gather.data(), gather.size_bytes(), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    // the last bytes may still be under way, and no stream of ours waits for that
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  return reinterpret_cast<const std::int32_t*>(found->data());
}

void BenchCase::gather(const Field& field, const void* from, void* to, std::size_t order,
                       cudaStream_t stream) {
  if (field.follow == Follow::columns) {
    check(gather_columns(from, table(order, field.block), to, field.outer * field.rows,
                         static_cast<std::int32_t>(field.columns), field.element_bytes, stream),
          "gather_columns");
    return;
  }
  const std::int64_t row_bytes = field.columns * field.element_bytes;
  for (std::int64_t i = 0; i < field.outer; ++i) {
    const std::int64_t offset = i * field.rows * row_bytes;
    check(gather_rows(static_cast<const std::uint8_t*>(from) + offset, table(order, field.block),
                      static_cast<std::uint8_t*>(to) + offset, field.rows, row_bytes, stream),
          "gather_rows");
  }
}

}  // namespace icd
