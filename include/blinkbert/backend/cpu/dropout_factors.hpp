#pragma once

// Dropout's decisions as factors (keep_scale or 0), drawn many counters at a time.

#include <algorithm>
#include <array>
#include <cstdint>

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert::cpu_detail {

/// 0 where the factor is 0, whatever the value.
template <class Real>
Real dropped(Real value, Real factor) {
  return factor != 0 ? value * factor : Real(0);
}

/// Calls of the generator that are made side by side.
inline constexpr int drawn_together = 32;
/// words[w][c] = word w of the call with index first + c.
using DrawnWords = std::array<std::array<std::uint32_t, drawn_together>, 4>;

/// RandomStream::words(first + c, sequence) for all c, one loop over c that a compiler turns into vectors. The constants
/// and the ten rounds are those of Philox4x32-10 (Salmon et al. 2011, table 2), as in core/random.hpp.
inline void draw_words(DrawnWords& words, const RandomStream& stream, std::uint32_t first, std::uint32_t sequence) {
  const std::uint32_t domain = static_cast<std::uint32_t>(stream.purpose) << 8 | stream.layer;
  const std::uint32_t low = static_cast<std::uint32_t>(stream.seed),
                      high = static_cast<std::uint32_t>(stream.seed >> 32), step = stream.current_step();
#pragma omp simd
  for (std::uint32_t c = 0; c < drawn_together; ++c) {
    std::uint32_t w0 = first + c, w1 = sequence, w2 = step, w3 = domain;
    std::uint32_t key0 = low, key1 = high;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * w0, product1 = std::uint64_t{0xCD9E8D57u} * w2;
      const std::uint32_t next0 = static_cast<std::uint32_t>(product1 >> 32) ^ w1 ^ key0;
      const std::uint32_t next2 = static_cast<std::uint32_t>(product0 >> 32) ^ w3 ^ key1;
      w1 = static_cast<std::uint32_t>(product1);
      w3 = static_cast<std::uint32_t>(product0);
      w0 = next0;
      w2 = next2;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    words[0][c] = w0;
    words[1][c] = w1;
    words[2][c] = w2;
    words[3][c] = w3;
  }
}

/// Factors of elementwise dropout, row by row. Some rows of a sequence are drawn together where a row is short, and kept
/// until a row outside of them is asked for.
template <class Real>
class RowFactors {
 public:
  /// Elements of room it needs for rows of `width`.
  static std::int64_t room_size(int width) { return (rows_together(width) * width + 7 + drawn - 1) / drawn * drawn; }

  RowFactors(Real* room, const Dropout& dropout, int width)
      : room_(room), dropout_(dropout), width_(width), rows_(static_cast<int>(rows_together(width))) {}

  /// The factors of row r: row rows(r) of the batch (any row's where that is -1), or row r itself without `rows`; L rows
  /// per sequence. Valid until the next call.
  const Real* row_of_batch(const View<const int, 1>& rows, int r, int L) {
    const int t = rows ? std::max(rows(r), 0) : r;
    return row(t / L, t % L);
  }

  /// The `width` factors of a row of sequence b; valid until the next call.
  const Real* row(int b, int row) {
    if (b != b_ || row / rows_ != group_) draw(b, row / rows_);
    const std::int64_t first = std::int64_t{group_} * rows_ * width_;
    return room_ + first % 8 + std::int64_t{row % rows_} * width_;
  }

 private:
  static constexpr std::int64_t drawn = 8 * drawn_together;  // factors of one draw

  /// As many rows as one draw serves wherever the first of them starts inside a group of eight.
  static std::int64_t rows_together(int width) {
    return std::max<std::int64_t>((width % 8 == 0 ? drawn : drawn - 7) / std::max(width, 1), 1);
  }

  void draw(int b, int group) {
    b_ = b;
    group_ = group;
    const std::uint32_t elements = static_cast<std::uint32_t>(rows_) * static_cast<std::uint32_t>(width_);
    const std::uint32_t begin = static_cast<std::uint32_t>(group) * elements, end = begin + elements;
    const std::uint32_t sequence = dropout_.first_sequence + static_cast<std::uint32_t>(b);
    const std::uint32_t threshold = dropout_.threshold;
    const Real scale = static_cast<Real>(dropout_.keep_scale());
    DrawnWords words;
    Real* to = room_;
    for (std::uint32_t index = begin / 8; index * 8 < end; index += drawn_together) {
      draw_words(words, dropout_.stream, index, sequence);
      for (std::size_t c = 0; c < drawn_together; ++c, to += 8) {
        for (std::size_t w = 0; w < 4; ++w) {
          to[2 * w] = (words[w][c] & 0xffffu) >= threshold ? scale : Real(0);
          to[2 * w + 1] = words[w][c] >> 16 >= threshold ? scale : Real(0);
        }
      }
    }
  }

  Real* room_;
  Dropout dropout_;
  int width_, rows_;
  int b_ = -1, group_ = -1;
};

/// Factors of the weights of queries [16 query_tile, + 16) on keys [16 key_tile, + 16) of head h of H, as [key, query]:
/// one draw. Which word decides what is said by Dropout::keeps_attention.
template <class Real>
void attention_tile_factors(Real* to, const Dropout& dropout, int b, int h, int H, int query_tile, int key_tile) {
  static_assert(drawn_together == 32);
  const std::uint32_t sequence =
      (dropout.first_sequence + static_cast<std::uint32_t>(b)) * static_cast<std::uint32_t>(H) +
      static_cast<std::uint32_t>(h);
  const std::uint32_t threshold = dropout.threshold;
  const Real scale = static_cast<Real>(dropout.keep_scale());
  DrawnWords words;
  draw_words(words, dropout.stream, static_cast<std::uint32_t>((query_tile * 32 + key_tile) * 32), sequence);
  for (std::size_t w = 0; w < 4; ++w) {
    for (std::size_t pair = 0; pair < 4; ++pair) {
      Real* even = to + (8 * (w % 2) + 2 * pair) * 16 + 8 * (w / 2);  // key 8 (w % 2) + 2 pair, queries 8 (w / 2) + i
      Real* odd = even + 16;
#pragma omp simd
      for (std::size_t i = 0; i < 8; ++i) {
        const std::uint32_t word = words[w][4 * i + pair];
        even[i] = (word & 0xffffu) >= threshold ? scale : Real(0);
        odd[i] = word >> 16 >= threshold ? scale : Real(0);
      }
    }
  }
}

}  // namespace blinkbert::cpu_detail
