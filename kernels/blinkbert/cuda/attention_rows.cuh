#pragma once

// attention_rows.cuh -- what the attention kernels have in common: which keys a strip sees, what dropout keeps of it,
// softmax over its rows.

#include <blinkbert/cuda/strip_product.cuh>
#include <blinkbert/ops/masked_attention.hpp>

namespace blinkbert::kernels {

/// The sequence and head of a problem; no rows beyond the last problem.
template <class Op>
struct Problem {
  int b = 0, h = 0, length = 0;

  BB_DEVICE Problem(const Op& op, int number) {
    const int H = op.qkv.extent(3);
    if (number >= op.qkv.extent(0) * H) return;
    b = number / H;
    h = number % H;
    length = load(at(op.lengths, b));
  }
};

/// Bits of the visible keys 32 first_word .. + LT, in registers.
template <int LT>
struct VisibleKeys {
  std::uint32_t word[(LT + 31) / 32];

  BB_DEVICE VisibleKeys(const View<const std::uint32_t, 2>& visible, int b, int first_word = 0) {
    BB_UNROLL
    for (int w = 0; w < (LT + 31) / 32; ++w) {
      word[w] = first_word + w < visible.extent(1) ? load(at(visible, b, first_word + w)) : 0;
    }
  }
};

/// Whether the two keys of a lane are visible where the rows of strip `strip` are keys.
struct VisibleRows {
  bool is_visible[2];

  BB_DEVICE VisibleRows(const View<const std::uint32_t, 2>& visible, int b, int strip) {
    const std::uint32_t word = strip / 2 < visible.extent(1) ? load(at(visible, b, strip / 2)) : 0;
    const std::uint32_t mine = word >> (strip % 2 * 16 + strip_row(0));
    is_visible[0] = (mine & 1) != 0;
    is_visible[1] = (mine >> 8 & 1) != 0;
  }
};

enum class Rows { queries, keys };

/// What dropout keeps of the 16 x 16 weights of query tile i and key tile j that a lane holds: bit 4 e + r for element r of
/// part e. Where the rows of the strip are queries, one call of the generator serves all eight; where they are keys, two do.
template <Rows rows>
BB_DEVICE std::uint32_t kept_bits(const Dropout& dropout, std::uint32_t sequence, int i, int j) {
  const int first = (i * 32 + j) * 32;
  std::uint32_t bits = 0;
  if constexpr (rows == Rows::queries) {
    const RandomWords words = dropout.stream.words(static_cast<std::uint32_t>(first + lane()), sequence);
    BB_UNROLL
    for (int bit = 0; bit < 8; ++bit) {
      const int e = bit / 4, r = bit % 4;
      bits |= (half_word(words, r / 2 * 4 + e * 2 + r % 2) >= dropout.threshold ? 1u : 0u) << bit;
    }
  } else {
    const int key = lane() / 4, query = 2 * (lane() % 4);
    BB_UNROLL
    for (int c = 0; c < 2; ++c) {
      const RandomWords words =
          dropout.stream.words(static_cast<std::uint32_t>(first + (query + c) * 4 + key / 2), sequence);
      BB_UNROLL
      for (int part = 0; part < 4; ++part) {
        const int e = part / 2, lower = part % 2;  // element r = 2 lower + c
        const std::uint32_t half = words[static_cast<std::size_t>(2 * e + lower)] >> 16 * (key % 2) & 0xffffu;
        bits |= (half >= dropout.threshold ? 1u : 0u) << (4 * e + 2 * lower + c);
      }
    }
  }
  return bits;
}

/// The same for a strip against the columns of C / 16 tiles from `first_tile` on, 8 bits each; all ones where nothing is
/// dropped, and where a column is at or beyond `limit`.
template <int C>
struct KeptBits {
  std::uint32_t word[(C + 63) / 64];

  template <Rows rows>
  BB_DEVICE static KeptBits draw(const Dropout& dropout, std::uint32_t sequence, int strip, int first_tile, int limit) {
    KeptBits kept;
    BB_UNROLL
    for (int w = 0; w < (C + 63) / 64; ++w) kept.word[w] = ~0u;
    if (!dropout.is_active()) return kept;
    BB_UNROLL
    for (int k = 0; k < C / 16; ++k) {
      const int tile = first_tile + k;
      if (16 * tile >= limit) continue;
      const std::uint32_t bits = rows == Rows::queries ? kept_bits<rows>(dropout, sequence, strip, tile)
                                                       : kept_bits<rows>(dropout, sequence, tile, strip);
      kept.word[k / 4] &= ~((bits ^ 255u) << k % 4 * 8);
    }
    return kept;
  }

  /// Whether element r of part n is kept.
  BB_DEVICE bool operator()(int n, int r) const { return (word[n / 8] >> (n % 8 * 4 + r) & 1) != 0; }
};

/// What softmax needs of the two rows of a lane: P = exp2(scale (S - largest)) inverse, where `scale` turns scores into log2
/// units. The difference comes first: scores of thousands keep their last bits.
struct RowSums {
  float largest[2];  // of S over the visible keys; 0 without one
  float inverse[2];  // 1 / sum of the exponentials; 0 without a visible key
};

inline constexpr float log2_e = 1.4426950408889634f;

BB_DEVICE float score_scale(int D) { return 1 / sqrtf(static_cast<float>(D)); }

/// Largest visible score of each row, also over the four lanes that share it; minus infinity without one. Scores of keys
/// that are not visible become minus infinity.
template <int LT>
BB_DEVICE void mask_scores(Strip<LT>& S, float (&largest)[2], const VisibleKeys<LT>& visible) {
  largest[0] = largest[1] = -INFINITY;
  BB_UNROLL
  for (int n = 0; n < LT / 8; ++n) {
    const std::uint32_t bits = visible.word[n / 4] >> strip_column(n % 4, 0);
    BB_UNROLL
    for (int r = 0; r < 4; ++r) {
      if ((bits >> r % 2 & 1) == 0) S.part[n][r] = -INFINITY;
      largest[r / 2] = fmaxf(largest[r / 2], S.part[n][r]);
    }
  }
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    largest[half] = fmaxf(largest[half], shuffle_xor(largest[half], 1));
    largest[half] = fmaxf(largest[half], shuffle_xor(largest[half], 2));
  }
}

/// Over the four lanes that share a row.
BB_DEVICE float row_sum(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}

/// S to exp2(scale (S - largest)), zeros at keys that are not visible.
template <int LT>
BB_DEVICE RowSums masked_softmax(Strip<LT>& S, const VisibleKeys<LT>& visible, float scale) {
  RowSums sums{};
  mask_scores(S, sums.largest, visible);
  float sum[2] = {0, 0};
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (sums.largest[half] == -INFINITY) sums.largest[half] = 0;
  }
  BB_UNROLL
  for (int n = 0; n < LT / 8; ++n) {
    BB_UNROLL
    for (int r = 0; r < 4; ++r) {
      S.part[n][r] = exp2((S.part[n][r] - sums.largest[r / 2]) * scale);
      sum[r / 2] += S.part[n][r];
    }
  }
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    sum[half] = row_sum(sum[half]);
    sums.inverse[half] = sum[half] > 0 ? 1 / sum[half] : 0;
  }
  return sums;
}

}  // namespace blinkbert::kernels
