#pragma once

// attention_rows.cuh -- what the attention kernels have in common: which keys a strip sees, what dropout keeps of it,
// softmax over its rows.

#include <blinkbert/cuda/strip_product.cuh>
#include <blinkbert/ops/masked_attention.hpp>

namespace blinkbert::kernels {

/// A head of a sequence: where the op keeps its operands, how many rows they have. Masked attention has packed q, k and v of
/// all rows, gathered attention compact queries beside the keys and values of all rows. `dout` is the gradient of o.
template <class Op>
struct Problem {
  static constexpr bool is_packed = requires(const Op& any) { any.qkv; };

  const Op& op;
  int b = 0, h = 0;
  int length = 0;   // real rows of the sequence
  int queries = 0;  // packed: the same; else rows offsets_b .. + queries of q
  int first_query = 0;
  int written_queries = 0, written_keys = 0;  // rows of the results; none beyond the last problem

  BB_DEVICE static int L(const Op& op) {
    if constexpr (is_packed)
      return op.qkv.extent(1);
    else
      return op.kv.extent(1);
  }
  BB_DEVICE static int H(const Op& op) {
    if constexpr (is_packed)
      return op.qkv.extent(3);
    else
      return op.kv.extent(3);
  }
  BB_DEVICE static int D(const Op& op) {
    if constexpr (is_packed)
      return op.qkv.extent(4);
    else
      return op.kv.extent(4);
  }

  BB_DEVICE Problem(const Op& any, int number) : op(any) {
    if (number >= op.lengths.extent(0) * H(op)) return;
    b = number / H(op);
    h = number % H(op);
    length = load(at(op.lengths, b));
    written_keys = L(op);
    if constexpr (is_packed) {
      queries = length;
      written_queries = L(op);
    } else {
      first_query = load(at(op.offsets, b));
      queries = written_queries = load(at(op.offsets, b + 1)) - first_query;
    }
  }

  /// Whether key s may be attended to. Bits beyond the length are 0. The word is read, not kept: indexed by s, it could not
  /// be in a register.
  BB_DEVICE bool is_visible(int s) const { return s < length && (load(at(op.visible, b, s / 32)) >> s % 32 & 1) != 0; }
  /// Whether query r is a row, and which row of its sequence it is.
  BB_DEVICE bool is_query(int r) const {
    if constexpr (is_packed)
      return r < queries;
    else
      return r < queries && load(at(op.rows, first_query + r)) >= 0;
  }
  BB_DEVICE int row(int r) const {
    if constexpr (is_packed)
      return r;
    else
      return is_query(r) ? load(at(op.rows, first_query + r)) - b * L(op) : 0;
  }

  BB_DEVICE auto q(int r, int column) const {
    if constexpr (is_packed)
      return at(op.qkv, b, r, 0, h, column);
    else
      return at(op.q, first_query + r, h, column);
  }
  BB_DEVICE auto k(int s, int column) const {
    if constexpr (is_packed)
      return at(op.qkv, b, s, 1, h, column);
    else
      return at(op.kv, b, s, 0, h, column);
  }
  BB_DEVICE auto v(int s, int column) const {
    if constexpr (is_packed)
      return at(op.qkv, b, s, 2, h, column);
    else
      return at(op.kv, b, s, 1, h, column);
  }
  BB_DEVICE auto o(int r, int column) const {
    if constexpr (is_packed)
      return at(op.o, b, r, h, column);
    else
      return at(op.o, first_query + r, h, column);
  }
  BB_DEVICE auto dout(int r, int column) const {
    if constexpr (is_packed)
      return at(op.output_gradient, b, r, h, column);
    else
      return at(op.output_gradient, first_query + r, h, column);
  }
  BB_DEVICE auto dq(int r, int column) const {
    if constexpr (is_packed)
      return at(op.dqkv, b, r, 0, h, column);
    else
      return at(op.dq, first_query + r, h, column);
  }
  BB_DEVICE auto dk(int s, int column) const {
    if constexpr (is_packed)
      return at(op.dqkv, b, s, 1, h, column);
    else
      return at(op.dkv, b, s, 0, h, column);
  }
  BB_DEVICE auto dv(int s, int column) const {
    if constexpr (is_packed)
      return at(op.dqkv, b, s, 2, h, column);
    else
      return at(op.dkv, b, s, 1, h, column);
  }
};

/// Bits of the visible keys 32 first_word .. + LT of a sequence, in registers. Bits beyond its length are 0.
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

enum class Rows { queries, keys };

/// What dropout keeps of the 16 x 16 weights of query tile i and key tile j that a lane holds: bit 4 e + r for element r of
/// part e. Dropout counts rows of the sequence: where queries are all rows, one call of the generator serves eight elements
/// of a strip of queries, and four of a strip of keys.
template <Rows rows, class Op>
BB_DEVICE std::uint32_t kept_bits(const Problem<Op>& problem, int i, int j) {
  const Dropout& dropout = problem.op.dropout;
  const std::uint32_t sequence = dropout.attention_sequence(problem.b, problem.h, problem.H(problem.op));
  const auto words_of = [&](int row, int pair) {  // of row and key pair `pair` of tile j
    return dropout.stream.words(static_cast<std::uint32_t>(((row / 16) * 32 + j) * 32 + row % 8 * 4 + pair), sequence);
  };
  const auto keeps = [&](std::uint32_t word, int half) {
    return (word >> 16 * half & 0xffffu) >= dropout.threshold ? 1u : 0u;
  };
  std::uint32_t bits = 0;
  if constexpr (rows == Rows::queries && Problem<Op>::is_packed) {
    const RandomWords words = words_of(16 * i + lane() / 4, lane() % 4);
    BB_UNROLL
    for (int bit = 0; bit < 8; ++bit) {
      const int e = bit / 4, r = bit % 4;
      bits |= keeps(words[static_cast<std::size_t>(r / 2 * 2 + e)], r % 2) << bit;
    }
  } else if constexpr (rows == Rows::queries) {
    BB_UNROLL
    for (int lower = 0; lower < 2; ++lower) {
      const int row = problem.row(16 * i + strip_row(2 * lower));
      const RandomWords words = words_of(row, lane() % 4);
      BB_UNROLL
      for (int part = 0; part < 4; ++part) {
        const int e = part / 2, c = part % 2;
        const std::uint32_t word =
            row % 16 < 8 ? words[static_cast<std::size_t>(e)] : words[static_cast<std::size_t>(2 + e)];
        bits |= keeps(word, c) << (4 * e + 2 * lower + c);
      }
    }
  } else {
    const int key = lane() / 4;
    BB_UNROLL
    for (int c = 0; c < 2; ++c) {
      RandomWords words{};
      BB_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int row = problem.row(16 * i + strip_column(e, c));
        if (e == 0 || !Problem<Op>::is_packed) words = words_of(row, key / 2);
        BB_UNROLL
        for (int lower = 0; lower < 2; ++lower) {
          const bool is_upper_row = Problem<Op>::is_packed ? e == 0 : row % 16 < 8;
          const std::uint32_t word =
              is_upper_row ? words[static_cast<std::size_t>(lower)] : words[static_cast<std::size_t>(2 + lower)];
          bits |= keeps(word, key % 2) << (4 * e + 2 * lower + c);
        }
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

  template <Rows rows, class Op>
  BB_DEVICE static KeptBits draw(const Problem<Op>& problem, int strip, int first_tile, int limit) {
    KeptBits kept;
    BB_UNROLL
    for (int w = 0; w < (C + 63) / 64; ++w) kept.word[w] = ~0u;
    if (!problem.op.dropout.is_active()) return kept;
    BB_UNROLL
    for (int k = 0; k < C / 16; ++k) {
      const int tile = first_tile + k;
      if (16 * tile >= limit) continue;
      const std::uint32_t bits =
          rows == Rows::queries ? kept_bits<rows>(problem, strip, tile) : kept_bits<rows>(problem, tile, strip);
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
