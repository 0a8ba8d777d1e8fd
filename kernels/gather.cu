#include <algorithm>
#include <limits>

#include "kernels/gather.cuh"
#include "kernels/gather.h"

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

std::int64_t quotient_up(std::int64_t n, std::int64_t by) { return n / by + (n % by != 0); }

// Kernels stride over what a grid of the largest size leaves.
unsigned int grid_for(std::int64_t blocks) {
  return static_cast<unsigned int>(
      std::min<std::int64_t>(blocks, std::numeric_limits<std::int32_t>::max()));
}

// The low bits set in an address: what they have in common says how wide a word may be.
std::uintptr_t bits(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

template <typename Word>
cudaError_t launch_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes, cudaStream_t stream) {
  const auto words = row_bytes / static_cast<std::int64_t>(sizeof(Word));
  int lanes = 1;
  while (lanes < kMaxLanes && lanes < words) lanes *= 2;
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
  if ((bits(in) | bits(out)) % sizeof(Element) != 0) return cudaErrorMisalignedAddress;
  const bool is_wide = (bits(in) | bits(out) | bits(source) | row_bytes) % sizeof(uint4) == 0;
  return is_wide ? launch_columns<Element, uint4>(in, source, out, rows, columns, stream)
                 : launch_columns<Element, Element>(in, source, out, rows, columns, stream);
}

}  // namespace

cudaError_t gather_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes, cudaStream_t stream) {
  if (rows < 0 || row_bytes < 0) return cudaErrorInvalidValue;
  if (rows == 0 || row_bytes == 0) return cudaSuccess;  // an empty grid would be a launch error

  const auto shared_bits = bits(in) | bits(out) | static_cast<std::uintptr_t>(row_bytes);
  const auto launch = shared_bits % 16 == 0  ? launch_rows<uint4>
                      : shared_bits % 8 == 0 ? launch_rows<uint2>
                      : shared_bits % 4 == 0 ? launch_rows<std::uint32_t>
                      : shared_bits % 2 == 0 ? launch_rows<std::uint16_t>
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
