#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/bench_inputs.h"
#include "kernels/bench_run.h"
#include "kernels/device_buffer.h"

namespace icd {

/// One kernel in one layout on one shape: its arrays on the device, in as many sets as it takes to
/// get past the L2 cache, and the same arrays once more as the first order has them. Whatever the
/// order, the kernel runs on the same addresses: only what lies there changes, as in a checkpoint
/// that was permuted.
class BenchCase {
 public:
  /// Of channels, or of what moves as one; the first is the identity.
  explicit BenchCase(std::vector<BenchOrder> orders);
  virtual ~BenchCase();
  BenchCase(const BenchCase&) = delete;
  BenchCase& operator=(const BenchCase&) = delete;

  const std::vector<BenchOrder>& orders() const noexcept { return orders_; }

  /// Bytes of a set.
  std::int64_t set_bytes() const noexcept;

  /// Takes memory and makes the values. Throws Error{unavailable} if the device has too little.
  void allocate(int sets, cudaStream_t stream);
  int sets() const noexcept { return sets_; }

  /// Puts the inputs of every set in an order: undoes what launches changed, too.
  void prepare(std::size_t order, cudaStream_t stream);

  /// What does the work, where it is not ours; else no name.
  virtual BenchLibrary library() const;

  virtual cudaError_t launch(int set, cudaStream_t stream) = 0;

  /// What a model of the memory expects of a launch: the amount of something, and the counter that
  /// should show it. Without a counter: that order changes nothing.
  virtual BenchPrediction predict(std::size_t order) const;

  /// ||y - y0|| / ||y0||, y0 the output of the first order, put in this one; NaN and infinity if
  /// there is one. Waits.
  double difference(std::size_t order, cudaStream_t stream);

 protected:
  enum class Follow {
    nothing,  ///< the same in every order
    rows,     ///< (outer, rows, columns), rows in the order
    columns,  ///< (outer, rows, columns), columns in the order
  };

  struct Field {
    Follow follow;
    std::int64_t outer;
    std::int64_t rows;
    std::int64_t columns;
    std::int32_t element_bytes;
    std::int64_t block;  ///< columns that move as one
    bool is_input;
    std::unique_ptr<DeviceBuffer> base{};  ///< of inputs, in the first order
    std::unique_ptr<DeviceBuffer> placed{};

    std::int64_t bytes() const noexcept { return outer * rows * columns * element_bytes; }
    std::int64_t stride() const noexcept { return (bytes() + 255) / 256 * 256; }
  };

  using Id = std::size_t;
  Id input(Follow follow, std::int64_t outer, std::int64_t rows, std::int64_t columns,
           std::int32_t element_bytes, std::int64_t block = 1);
  Id output(Follow follow, std::int64_t outer, std::int64_t rows, std::int64_t columns,
            std::int32_t element_bytes, std::int64_t block = 1);

  /// Fills the bases of inputs.
  virtual void fill(cudaStream_t stream) = 0;

  /// What prepare() cannot do with gathers; called after them.
  virtual void arrange(std::size_t order, cudaStream_t stream);

  void* base(Id id);
  void* placed(Id id, int set) const;
  const Field& field(Id id) const { return fields_[id]; }

  /// Into a base, and on into a placed array: from host memory.
  void upload(Id id, const void* values, std::int64_t bytes, cudaStream_t stream);

  /// The places of an order on the device, each `block` long.
  const std::int32_t* table(std::size_t order, std::int64_t block);

 private:
  void gather(const Field& field, const void* from, void* to, std::size_t order,
              cudaStream_t stream);

  std::vector<BenchOrder> orders_;
  std::vector<Field> fields_;
  std::map<std::int64_t, std::vector<std::unique_ptr<DeviceBuffer>>> tables_;
  std::unique_ptr<DeviceBuffer> first_output_;
  std::unique_ptr<DeviceBuffer> expected_;
  std::size_t output_ = 0;
  int sets_ = 0;
};

/// The case of a kernel of bench_kernels(). `inputs` has to outlive it. Throws Error{unavailable}
/// where something that it needs is missing.
std::unique_ptr<BenchCase> make_case(const BenchKernel& kernel, const BenchShape& shape,
                                     const BenchInputs& inputs, std::uint64_t seed);

}  // namespace icd
