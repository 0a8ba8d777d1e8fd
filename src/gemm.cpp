#include "gemm.h"

#include <omp.h>

#include <algorithm>
#include <cassert>

#include "aligned.h"

namespace icd {
namespace {

// A block of packed rows (168 x 512 floats, 336 KiB) stays in the second-level cache, and a tile
// of it (14 x 512, 28 KiB) in the first while the weights stream by. Against a depth of 256, in
// which c is loaded and stored twice as often: experiments/forward.
constexpr std::int64_t kBlockDepth = 512;
constexpr std::int64_t kBlockRows = 168;  // a multiple of every path's tile_rows

class FixedOrderLinear : public Linear {
 public:
  FixedOrderLinear(const CpuKernels& kernels, std::span<const float> weight, Index outputs,
                   Index inputs)
      : kernels_(kernels),
        outputs_(outputs),
        inputs_(inputs),
        panels_(round_up(outputs, kernels.tile_columns) / kernels.tile_columns),
        packed_(static_cast<std::size_t>(panels_ * kernels.tile_columns * inputs)) {
    assert(std::ssize(weight) == std::int64_t{outputs} * inputs);
    const std::int64_t width = kernels_.tile_columns;
#pragma omp parallel for schedule(static)
    for (std::int64_t panel = 0; panel < panels_; ++panel) {
      float* to = packed_.data() + panel * width * inputs_;
      const std::int64_t columns = std::min(width, outputs_ - panel * width);
      for (std::int64_t j = 0; j < columns; ++j) {
        const float* row = weight.data() + (panel * width + j) * inputs_;
        for (std::int64_t k = 0; k < inputs_; ++k) to[k * width + j] = row[k];
      }
    }
  }

  std::int64_t bytes() const noexcept override {
    return std::ssize(packed_) * static_cast<std::int64_t>(sizeof(float));
  }

  void apply(const float* in, std::int64_t ld_in, std::int64_t rows, float* out,
             std::int64_t ld_out) const override {
    if (rows == 0 || outputs_ == 0) return;
    // Blocks of rows first; where they are fewer than the threads, stretches of columns too.
    const std::int64_t threads = omp_get_max_threads();
    const std::int64_t row_blocks = round_up((rows + kBlockRows - 1) / kBlockRows, threads);
    const std::int64_t block_rows =
        round_up((rows + row_blocks - 1) / row_blocks, kernels_.tile_rows);
    const std::int64_t row_tasks = (rows + block_rows - 1) / block_rows;
    const std::int64_t column_tasks = std::min((threads + row_tasks - 1) / row_tasks, panels_);
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (std::int64_t row_task = 0; row_task < row_tasks; ++row_task) {
      for (std::int64_t column_task = 0; column_task < column_tasks; ++column_task) {
        const std::int64_t first_row = row_task * block_rows;
        multiply(in + first_row * ld_in, ld_in, std::min(block_rows, rows - first_row),
                 out + first_row * ld_out, ld_out, panels_ * column_task / column_tasks,
                 panels_ * (column_task + 1) / column_tasks);
      }
    }
  }

 private:
  int tile_rows(std::int64_t left) const {
    return static_cast<int>(std::min<std::int64_t>(kernels_.tile_rows, left));
  }

  void multiply(const float* in, std::int64_t ld_in, std::int64_t rows, float* out,
                std::int64_t ld_out, std::int64_t first_panel, std::int64_t last_panel) const {
    const std::int64_t width = kernels_.tile_columns;
    FloatBuffer packed(static_cast<std::size_t>(rows * std::min(kBlockDepth, inputs_)));
    FloatBuffer edge(static_cast<std::size_t>(kernels_.tile_rows * width));
    // do: without inputs the product is 0, and the first pass writes that.
    std::int64_t k = 0;
    do {
      const std::int64_t depth = std::min(kBlockDepth, inputs_ - k);
      for (std::int64_t row = 0; row < rows; row += kernels_.tile_rows) {
        kernels_.pack(in + row * ld_in + k, ld_in, tile_rows(rows - row), depth,
                      packed.data() + row * depth);
      }
      for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
        const std::int64_t column = panel * width;
        const std::int64_t columns = std::min(width, outputs_ - column);
        TileArguments tile = {.depth = depth,
                              .b = packed_.data() + (panel * inputs_ + k) * width,
                              .is_first = k == 0};
        for (std::int64_t row = 0; row < rows; row += kernels_.tile_rows) {
          const int height = tile_rows(rows - row);
          tile.a = packed.data() + row * depth;
          tile.c = out + row * ld_out + column;
          tile.ldc = ld_out;
          if (columns == width) {
            kernels_.tile(tile, height);
          } else {
            multiply_edge(tile, height, columns, edge);
          }
        }
      }
      k += depth;
    } while (k < inputs_);
  }

  // A tile that stands out over the last column, computed in memory of its own.
  void multiply_edge(TileArguments tile, int rows, std::int64_t columns, FloatBuffer& edge) const {
    float* const c = tile.c;
    const std::int64_t ldc = tile.ldc;
    tile.c = edge.data();
    tile.ldc = kernels_.tile_columns;
    if (!tile.is_first) {
      for (int r = 0; r < rows; ++r) std::copy_n(c + r * ldc, columns, tile.c + r * tile.ldc);
    }
    kernels_.tile(tile, rows);
    for (int r = 0; r < rows; ++r) std::copy_n(tile.c + r * tile.ldc, columns, c + r * ldc);
  }

  const CpuKernels& kernels_;
  std::int64_t outputs_;
  std::int64_t inputs_;
  std::int64_t panels_;
  FloatBuffer packed_;  // (panels, inputs, tile_columns); zeros beyond the last column
};

}  // namespace

std::unique_ptr<Linear> fixed_order_linear(const CpuKernels& kernels, std::span<const float> weight,
                                           Index outputs, Index inputs) {
  return std::make_unique<FixedOrderLinear>(kernels, weight, outputs, inputs);
}

ThreadScope::ThreadScope(int threads) : before_(omp_get_max_threads()) {
  if (threads > 0) omp_set_num_threads(threads);
}

ThreadScope::~ThreadScope() { omp_set_num_threads(before_); }

}  // namespace icd
