#include <algorithm>

#include "kernels/gather.cuh"
#include "kernels/gather.h"
#include "kernels/launch.h"

namespace icd {
namespace {

// Chosen ahead of experiments/gather, which measures them as they stand.
constexpr int kThreads = 256;
constexpr int kMaxLanes = 32;
constexpr int kWordsInFlight = 4;  // 64 KiB a multiprocessor under way, at 16 bytes a word
// A block may have 48 KiB of shared memory on every device without asking. Tiles stay under
// that, so that several blocks share a multiprocessor and one reads while another writes ...
constexpr std::int64_t kSharedBytes = 48 << 10;
constexpr std::int64_t kTileBytes = 32 << 10;
// ... and small matrices are cut into at least this many, several for every multiprocessor.
constexpr std::int64_t kEnoughTiles = 1024;

template <typename Word>
cudaError_t launch_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes, cudaStream_t stream) {
  const auto words = row_bytes / static_cast<std::int64_t>(sizeof(Word));
  const int lanes = power_of_two_from(std::min<std::int64_t>(words, kMaxLanes));
  const std::int64_t pieces = quotient_up(words, lanes * kWordsInFlight);
  const std::int64_t blocks = quotient_up(rows * pieces, kThreads / lanes);
  gather_rows_kernel<Word, kWordsInFlight><<<grid_for(blocks), kThreads, 0, stream>>>(
      static_cast<const Word*>(in), source, static_cast<Word*>(out), rows, words, pieces, lanes);
  return cudaGetLastError();
}

template <typename Element, typename Word>
cudaError_t launch_columns(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                           std::int32_t columns, cudaStream_t stream) {
  const std::int64_t row_bytes = columns * static_cast<std::int64_t>(sizeof(Element));
  const std::int64_t words = row_bytes / static_cast<std::int64_t>(sizeof(Word));
  if (row_bytes > kSharedBytes) {
    gather_long_columns_kernel<Element, Word>
        <<<grid_for(quotient_up(rows * words, kThreads)), kThreads, 0, stream>>>(
            static_cast<const Element*>(in), source, static_cast<Word*>(out), rows, words);
    return cudaGetLastError();
  }
  const auto tile_rows =
      std::max<std::int64_t>(1, std::min(kTileBytes / row_bytes, rows / kEnoughTiles));
  gather_columns_kernel<Element, Word><<<grid_for(quotient_up(rows, tile_rows)), kThreads,
                                         static_cast<std::size_t>(tile_rows * row_bytes), stream>>>(
      static_cast<const Word*>(in), source, static_cast<Word*>(out), rows, static_cast<int>(words),
      static_cast<int>(tile_rows));
  return cudaGetLastError();
}

template <typename Element>
cudaError_t columns_of(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                       std::int32_t columns, cudaStream_t stream) {
  const auto row_bytes = static_cast<std::uintptr_t>(columns) * sizeof(Element);
  const auto bits = address_bits(in) | address_bits(out);
  if (bits % sizeof(Element) != 0) return cudaErrorMisalignedAddress;
  const bool is_wide = (bits | address_bits(source) | row_bytes) % sizeof(uint4) == 0;
  return is_wide ? launch_columns<Element, uint4>(in, source, out, rows, columns, stream)
                 : launch_columns<Element, Element>(in, source, out, rows, columns, stream);
}

}  // namespace

cudaError_t gather_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes, cudaStream_t stream) {
  if (rows < 0 || row_bytes < 0) return cudaErrorInvalidValue;
  if (rows == 0 || row_bytes == 0) return cudaSuccess;  // an empty grid would be a launch error

  // What the addresses have in common says how wide a word may be.
  const auto bits = address_bits(in) | address_bits(out) | static_cast<std::uintptr_t>(row_bytes);
  const auto launch = bits % 16 == 0  ? launch_rows<uint4>
                      : bits % 8 == 0 ? launch_rows<uint2>
                      : bits % 4 == 0 ? launch_rows<std::uint32_t>
                      : bits % 2 == 0 ? launch_rows<std::uint16_t>
                                      : launch_rows<std::uint8_t>;
  return launch(in, source, out, rows, row_bytes, stream);
}

cudaError_t gather_columns(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                           std::int32_t columns, int element_bytes, cudaStream_t stream) {
  if (rows < 0 || columns < 0) return cudaErrorInvalidValue;
  const auto launch = element_bytes == 1    ? columns_of<std::uint8_t>
                      : element_bytes == 2  ? columns_of<std::uint16_t>
                      : element_bytes == 4  ? columns_of<std::uint32_t>
                      : element_bytes == 8  ? columns_of<uint2>
                      : element_bytes == 16 ? columns_of<uint4>
                                            : nullptr;
  if (launch == nullptr) return cudaErrorInvalidValue;
  if (rows == 0 || columns == 0) return cudaSuccess;
  return launch(in, source, out, rows, columns, stream);
}

}  // namespace icd
