#pragma once

#include <cstdint>
#include <cstring>

namespace icd {

// R rows, C columns, W words in a row. A word is what one thread moves at a time.

// Grid: any 1-D. Block: any 1-D of a multiple of `lanes` threads, a power of two.
// A team of `lanes` threads moves a piece of a row, kWordsInFlight words a thread, all loaded
// before the first is stored. Long rows have `pieces` > 1, so that few of them still fill the
// device; of short rows several share a warp. Reads within a row coalesce whatever the
// order; only the jump from row to row is scattered.
template <typename Word, int kWordsInFlight>
__global__ void gather_rows_kernel(const Word* __restrict__ in,              // (R, W)
                                   const std::int32_t* __restrict__ source,  // (R)
                                   Word* __restrict__ out,                   // (R, W)
                                   std::int64_t rows, std::int64_t words, std::int64_t pieces,
                                   int lanes) {
  const int lane = threadIdx.x & (lanes - 1);
  const int teams = blockDim.x / lanes;
  const std::int64_t all = rows * pieces;
  for (std::int64_t item = std::int64_t{blockIdx.x} * teams + threadIdx.x / lanes; item < all;
       item += std::int64_t{gridDim.x} * teams) {
    const std::int64_t r = pieces == 1 ? item : item / pieces;  // spares short rows a division
    const std::int64_t first = (item - r * pieces) * lanes * kWordsInFlight + lane;
    const Word* from = in + source[r] * words;
    Word* to = out + r * words;
    Word held[kWordsInFlight];
#pragma unroll
    for (int k = 0; k < kWordsInFlight; ++k) {
      const std::int64_t w = first + k * lanes;
      if (w < words) held[k] = from[w];
    }
#pragma unroll
    for (int k = 0; k < kWordsInFlight; ++k) {
      const std::int64_t w = first + k * lanes;
      if (w < words) to[w] = held[k];
    }
  }
}

// The sources of the elements of one word, read in as few loads as their number allows.
template <int kElements>
struct alignas(kElements < 4 ? kElements * 4 : 16) Sources {
  std::int32_t at[kElements];
};

// Grid: any 1-D; blocks stride over tiles of `tile_rows` rows. Block: any 1-D.
// Shared: tile_rows * C elements.
//
// A tile is read as it lies, in whole words, and picked apart in shared memory, where a
// scattered read costs a bank conflict and not a sector of 32 bytes. The sources of a word's
// elements are read once for all rows of the tile. Writes coalesce.
template <typename Element, typename Word>
__global__ void gather_columns_kernel(const Word* __restrict__ in,              // (R, W)
                                      const std::int32_t* __restrict__ source,  // (C)
                                      Word* __restrict__ out,                   // (R, W)
                                      std::int64_t rows, int words, int tile_rows) {
  constexpr int kElements = sizeof(Word) / sizeof(Element);
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto* staged_words = reinterpret_cast<Word*>(shared_bytes);           // (tile_rows, W)
  const auto* staged = reinterpret_cast<const Element*>(shared_bytes);  // (tile_rows, C)
  const auto* sources = reinterpret_cast<const Sources<kElements>*>(source);
  const int columns = words * kElements;

  for (std::int64_t first = std::int64_t{blockIdx.x} * tile_rows; first < rows;
       first += std::int64_t{gridDim.x} * tile_rows) {
    const int here = static_cast<int>(rows - first < tile_rows ? rows - first : tile_rows);
    const Word* from = in + first * words;
    Word* to = out + first * words;
#pragma unroll 4
    for (int w = threadIdx.x; w < here * words; w += blockDim.x) staged_words[w] = from[w];
    __syncthreads();
    for (int w = threadIdx.x; w < words; w += blockDim.x) {
      const Sources<kElements> sources_of_word = sources[w];
      for (int r = 0; r < here; ++r) {
        Element picked[kElements];
#pragma unroll
        for (int k = 0; k < kElements; ++k) {
          picked[k] = staged[r * columns + sources_of_word.at[k]];
        }
        Word word;
        memcpy(&word, picked, sizeof(Word));
        to[std::int64_t{r} * words + w] = word;
      }
    }
    __syncthreads();  // the next tile overwrites what a slower warp still reads
  }
}

// Rows too long for shared memory. Grid and block: any 1-D; threads stride over the output's
// words. Writes coalesce, reads are scattered and rely on the caches.
template <typename Element, typename Word>
__global__ void gather_long_columns_kernel(const Element* __restrict__ in,           // (R, C)
                                           const std::int32_t* __restrict__ source,  // (C)
                                           Word* __restrict__ out,                   // (R, W)
                                           std::int64_t rows, std::int64_t words) {
  constexpr int kElements = sizeof(Word) / sizeof(Element);
  const auto* sources = reinterpret_cast<const Sources<kElements>*>(source);
  const std::int64_t columns = words * kElements;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * words;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t r = i / words;
    const Sources<kElements> sources_of_word = sources[i - r * words];
    Element picked[kElements];
#pragma unroll
    for (int k = 0; k < kElements; ++k) picked[k] = in[r * columns + sources_of_word.at[k]];
    Word word;
    memcpy(&word, picked, sizeof(Word));
    out[i] = word;
  }
}

}  // namespace icd
