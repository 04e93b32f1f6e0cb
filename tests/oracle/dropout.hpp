#pragma once

// Which elements dropout keeps, written from the contract of the random numbers with indices of its own: 16-bit halves of
// Philox4x32-10, key = {low, high half of the seed}, counter = {index, sequence, step, purpose << 8 | layer}.

#include <array>
#include <cmath>
#include <cstdint>

#include <Random123/philox.h>

namespace blinkbert::oracle {

using Words = std::array<std::uint32_t, 4>;

inline Words philox(std::uint64_t seed, std::uint32_t index, std::uint32_t sequence, std::uint32_t step,
                    std::uint32_t purpose, std::uint32_t layer) {
  r123::Philox4x32::ctr_type counter = {{index, sequence, step, purpose * 256 + layer}};
  r123::Philox4x32::key_type key = {{static_cast<std::uint32_t>(seed % (std::uint64_t{1} << 32)),
                                     static_cast<std::uint32_t>(seed / (std::uint64_t{1} << 32))}};
  const r123::Philox4x32::ctr_type out = r123::Philox4x32()(counter, key);
  return {out[0], out[1], out[2], out[3]};
}

/// The eight halves of four words, low half of each word first.
inline std::array<std::uint32_t, 8> halves(const Words& words) {
  std::array<std::uint32_t, 8> result{};
  for (std::size_t word = 0; word < 4; ++word) {
    result[2 * word] = words[word] % 65536;
    result[2 * word + 1] = words[word] / 65536;
  }
  return result;
}

/// A dropout as a test describes it; `drop_probability` 0 keeps everything.
struct DropoutCase {
  double drop_probability = 0;
  std::uint64_t seed = 0x123456789abcdefull;
  std::uint32_t purpose = 7;
  std::uint32_t layer = 3;
  std::uint32_t step = 41;
  std::uint32_t first_sequence = 5;

  std::uint32_t threshold() const { return static_cast<std::uint32_t>(std::floor(65536 * drop_probability + 0.5)); }

  /// 0 where dropped, else the inverse of the keep probability, one float on every backend.
  float factor(std::uint32_t half) const {
    return half < threshold() ? 0.0f : 65536.0f / static_cast<float>(65536 - threshold());
  }

  /// Element (row, column) of sequence b, rows `width` wide.
  float element(int b, int row, int width, int column) const {
    if (threshold() == 0) return 1;
    const auto flat = static_cast<std::uint32_t>(row * width + column);
    const Words words = philox(seed, flat / 8, first_sequence + static_cast<std::uint32_t>(b), step, purpose, layer);
    return factor(halves(words)[flat % 8]);
  }

  /// The weight of query i on key j in head h: tiles of 16 x 16; in a tile, four 8 x 8 quarters share a counter, and so do
  /// two neighbouring keys.
  float attention(int b, int h, int heads, int i, int j) const {
    if (threshold() == 0) return 1;
    const int tile = 32 * (i / 16) + j / 16, i_in_tile = i % 16, j_in_tile = j % 16;
    const int lane = 4 * (i_in_tile % 8) + (j_in_tile % 8) / 2;
    const int lower = i_in_tile >= 8 ? 1 : 0, right = j_in_tile >= 8 ? 1 : 0, odd = j_in_tile % 2;
    const std::uint32_t sequence =
        (first_sequence + static_cast<std::uint32_t>(b)) * static_cast<std::uint32_t>(heads) +
        static_cast<std::uint32_t>(h);
    const Words words = philox(seed, static_cast<std::uint32_t>(32 * tile + lane), sequence, step, purpose, layer);
    return factor(halves(words)[static_cast<std::size_t>(4 * lower + 2 * right + odd)]);
  }
};

}  // namespace blinkbert::oracle
