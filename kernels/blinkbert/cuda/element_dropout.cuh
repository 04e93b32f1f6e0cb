#pragma once

// element_dropout.cuh -- which elements of a chunk an elementwise dropout keeps.

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/dev/dev.hpp>

namespace blinkbert::kernels {
using namespace dev;

/// Bit j: element (row, column + j) of sequence b is kept, j = 0 .. Chunk. Chunks of 8 begin at a multiple of 8 in rows
/// whose width is one, so that one call of the generator decides them all.
template <int Chunk>
BB_DEVICE std::uint32_t kept_of_chunk(const Dropout& dropout, int b, int row, int width, int column) {
  static_assert(Chunk == 1 || Chunk == 8);
  const std::uint32_t flat =
      static_cast<std::uint32_t>(row) * static_cast<std::uint32_t>(width) + static_cast<std::uint32_t>(column);
  const RandomWords words = dropout.element_words(b, flat / 8);
  std::uint32_t kept = 0;
  BB_UNROLL
  for (int j = 0; j < Chunk; ++j) {
    const int half = Chunk == 8 ? j : static_cast<int>(flat % 8);
    kept |= (half_word(words, half) >= dropout.threshold ? 1u : 0u) << j;
  }
  return kept;
}

}  // namespace blinkbert::kernels
