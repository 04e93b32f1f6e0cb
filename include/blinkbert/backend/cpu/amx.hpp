#pragma once

// Products of float matrices on the matrix units of x86 processors (AMX, which multiply bf16 and add up in float): from
// factors rounded to bf16, and in float.
//
// A float is the sum of three bf16: x0 = bf16(x), x1 = bf16(x - x0), x2 = bf16(x - x0 - x1), with |x1| <= 2^-8 |x| and
// |x2| <= 2^-16 |x|, and nothing is left. Of the nine products of x and y,
//
//   x y ~ x0 y0 + x0 y1 + x1 y0 + x0 y2 + x1 y1 + x2 y0
//
// leaves out three of at most 2^-23 |x y| together, which is what a product rounded to float may be off by. The units take
// numbers below 2^-126 for zero, so the sum holds for |x| >= 2^-110; what is off below that is off by less than 2^-126.
// An infinite factor gives NaN. Source: Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence
// Datatype For Higher-Precision Computations", arXiv 1904.06376, section II.
//
// Intrinsics, because no compiler's vector extension reaches these units; only where the compiler may use them
// (-march=native, sapphirerapids). Both factors are packed in tiles of 16 rows of 64 bytes: A [rows of tiles][32 of depth]
// [piece][16 rows][32 of depth], B [panel of 32 columns][32 of depth][piece][2 tiles][16 pairs of depth][16 columns][2].

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)
#define BLINKBERT_HAS_AMX

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <type_traits>

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
#include <blinkbert/backend/cpu/pack.hpp>
#include <blinkbert/backend/cpu/small_product.hpp>
#include <blinkbert/backend/cpu/transpose.hpp>

namespace blinkbert::cpu_detail {

/// Whether the system lets this process use the matrix units; asks it once.
inline bool may_use_amx() {
  static const bool may = [] {
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return may;
}

/// The shape of all eight tiles while it lives: 16 rows of 64 bytes, but for those of A and C: `upper` rows where they are in
/// the first row of tiles (0, 1 and 4), `lower` where in the second (2, 3 and 5).
class AmxTiles {
 public:
  AmxTiles(int upper, int lower) {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    for (const int tile : {0, 1, 4}) shape.rows[tile] = static_cast<std::uint8_t>(upper);
    for (const int tile : {2, 3, 5}) shape.rows[tile] = static_cast<std::uint8_t>(lower);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    _tile_loadconfig(&shape);
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

/// What a multiplier has (gemm.hpp). It holds no state. `pieces`: 1 rounds factors to bf16, 3 keeps all of a float.
template <int pieces>
struct AmxProducts {
  static_assert(pieces == 1 || pieces == 3);
  using Packed = std::uint32_t;  // two neighbours in depth
  static constexpr int panel_columns = 32;
  static constexpr int format = pieces == 1 ? 4 : 3;

  static std::int64_t packed_size(int columns, int depth) {
    return std::int64_t{multiple_of(panel_columns, columns) / panel_columns} * panel_size(depth);
  }
  /// Of the workspace of one thread: a block of A and an edge of C.
  static std::int64_t room_size(int, int depth) {
    return std::int64_t{block_rows / tile_rows} * std::min(steps_of(depth), block_steps) * pieces * tile_words +
           edge_words;
  }

  template <class Number>
  static Number* panel(Number* packed, int index, int depth) {
    return packed + index * panel_size(depth);
  }

  /// Packs the panels [first, last) of B.
  static void pack(Packed* packed, const Operand<float>& b, int columns, int depth, int first, int last) {
    alignas(64) float rows[tile_depth * panel_columns];
    const int steps = steps_of(depth), panels = last - first;
    const bool is_by_rows = b.column_stride == 1;
    // In the order in which B lies in memory.
    for (int outer = 0; outer < (is_by_rows ? steps : panels); ++outer) {
      for (int inner = 0; inner < (is_by_rows ? panels : steps); ++inner) {
        const int step = is_by_rows ? outer : inner, index = first + (is_by_rows ? inner : outer);
        const int k = step * tile_depth, n = index * panel_columns;
        const int count = std::min(tile_depth, depth - k), some_columns = std::min(panel_columns, columns - n);
        Packed* to = panel(packed, index, depth) + std::int64_t{step} * step_words;
        const Operand<float> from = b.at(k, n);
        if (is_by_rows && some_columns == panel_columns) {
          split_step(to, from.data, from.row_stride, count);
        } else {
          OwnProducts<float>::pack(rows, from, some_columns, count, 0, 1);
          split_step(to, rows, panel_columns, count);
        }
      }
    }
  }

  template <class Finish>
  static void multiply(float* c, std::int64_t c_stride, const Operand<float>& a, const Packed* packed, int rows,
                       int columns, int depth, Result result, const float* bias, Packed* room, const Finish& finish) {
    // Few rows make tiles of their height; the last rows of many are computed as whole tiles.
    const int upper = std::clamp(rows, 1, tile_rows);
    const int lower = rows > tile_rows ? std::min(rows - tile_rows, tile_rows) : tile_rows;
    const AmxTiles tiles(upper, lower);
    const int all_steps = steps_of(depth);
    // While one panel is multiplied, the next is fetched, a part with each pair of rows of tiles; unless all are near, or a
    // panel is as large as the first caches and is read but once.
    const bool is_near = packed_size(columns, depth) * static_cast<std::int64_t>(sizeof(Packed)) <= near_bytes;
    float* edge = reinterpret_cast<float*>(room + room_size(columns, depth) - edge_words);
    // A C that no cache holds until it is read goes past them, where its sums are complete at once: a line of memory that is
    // written as a whole need not be read before.
    const bool is_far = all_steps <= block_steps && result == Result::overwrite &&
                        std::int64_t{rows} * columns * static_cast<std::int64_t>(sizeof(float)) >= far_bytes;
    for (int i = 0; i < rows; i += block_rows) {
      const int count = std::min(block_rows, rows - i), pairs = (count + 2 * tile_rows - 1) / (2 * tile_rows);
      const int lines = is_near || (pieces == 3 && pairs == 1) ? 0 : (step_words / line_words + pairs - 1) / pairs;
      for (int first = 0; first < all_steps; first += block_steps) {
        const int steps = std::min(block_steps, all_steps - first);
        const Result part = first > 0 ? Result::add : result;
        const float* added = first == 0 ? bias : nullptr;
        const std::int64_t tile_row = std::int64_t{steps} * pieces * tile_words;
        pack_block(room, a.at(i, first * tile_depth), count, depth - first * tile_depth, steps);
        for (int j = 0; j < columns; j += panel_columns) {
          const Packed* b = panel(packed, j / panel_columns, depth) + std::int64_t{first} * step_words;
          const Packed* next = j + panel_columns < columns ? b + panel_size(depth) : b;
          const int some_columns = std::min(panel_columns, columns - j);
          const float* row = added ? added + j : nullptr;
          alignas(64) float filled_row[panel_columns] = {};
          if (row && some_columns < panel_columns) {
            std::copy_n(row, some_columns, filled_row);
            row = filled_row;
          }
          for (int ii = 0; ii < count; ii += 2 * tile_rows) {
            const Packed* left = room + ii / tile_rows * tile_row;
            float* to = c + (i + ii) * c_stride + j;
            const int some_rows = count - ii;
            const Packed* ahead = next + std::int64_t{ii / (2 * tile_rows)} * lines * steps * line_words;
            const auto compute = [&]<int height>(std::integral_constant<int, height>) {
              const int these_rows = std::min(some_rows, height * tile_rows);
              const bool is_whole =
                  these_rows == (height == 2 ? upper + lower : upper) && some_columns == panel_columns;
              if (is_far) {
                if (is_whole && finish.reads) prefetch<height, 0>(finish.reads + (to - c), c_stride);
                block<height>(edge, panel_columns, left, tile_row, b, steps, Result::overwrite, row, ahead, lines);
                for (int l = 0; l < these_rows; ++l) {
                  finish.write(i + ii + l, j, edge + l * panel_columns, some_columns, FarWriter{});
                }
              } else if (is_whole) {
                if (part == Result::overwrite) prefetch<height, 1>(to, c_stride);
                block<height>(to, c_stride, left, tile_row, b, steps, part, row, ahead, lines);
              } else {
                block<height>(edge, panel_columns, left, tile_row, b, steps, Result::overwrite, row, ahead, lines);
                write_rows(to, c_stride, edge, panel_columns, these_rows, some_columns, part);
              }
            };
            if (some_rows > tile_rows) {
              compute(std::integral_constant<int, 2>{});
            } else {
              compute(std::integral_constant<int, 1>{});
            }
          }
        }
      }
      if (!is_far) finish_rows(finish, c, c_stride, i, i + count, columns);
    }
    if (is_far) _mm_sfence();
  }

 private:
  static constexpr int tile_rows = 16, tile_words = 256, tile_depth = 32, line_words = 16;
  static constexpr int step_words = pieces * 2 * tile_words;  // of a panel of B
  static constexpr int block_rows = 256;                      // of A and C
  static constexpr int block_steps = 16;                      // of depth, in tiles
  static constexpr std::int64_t near_bytes = 1 << 19;         // what stays in the second cache by itself
  static constexpr std::int64_t far_bytes = 1 << 22;          // what does not stay in a cache until it is read
  static constexpr int edge_words = 2 * tile_rows * panel_columns;

  /// Writes whole lines past the caches.
  struct FarWriter {
    static bool is_whole(const float* to, int count) {
      return reinterpret_cast<std::uintptr_t>(to) % sizeof(Pack<float>) == 0 && count % pack_size<float> == 0;
    }
    static void copy(float* to, const float* from, int count) {
      map(
          to, count, [](Pack<float> value) { return value; }, from);
    }
    template <class Function, class... From>
    static void map(float* to, int count, const Function& function, const From*... from) {
      if (!is_whole(to, count)) return map_packs<float>(to, count, function, from...);
      for (int i = 0; i < count; i += pack_size<float>) {
        _mm512_stream_ps(to + i, std::bit_cast<__m512>(function(load<float>(from + i)...)));
      }
    }
  };

  /// Lines at the place of a block of sums, needed when these are done.
  template <int height, int writes>
  static void prefetch(const float* rows, std::int64_t stride) {
    for (int i = 0; i < height * tile_rows; ++i) {
      __builtin_prefetch(rows + i * stride, writes);
      __builtin_prefetch(rows + i * stride + tile_rows, writes);
    }
  }

  static int steps_of(int depth) { return (depth + tile_depth - 1) / tile_depth; }
  static std::int64_t panel_size(int depth) { return std::int64_t{steps_of(depth)} * step_words; }

  /// The pieces of two packs of numbers.
  struct Pieces {
    Pack<std::uint32_t> in_order[pieces];     // the first pack, then the second
    Pack<std::uint32_t> interleaved[pieces];  // pairs of a number of the first and one of the second

    Pieces(Pack<float> first, Pack<float> second) {
      using Halves = Pack<std::uint16_t>;
#pragma GCC unroll 3
      for (int piece = 0; piece < pieces; ++piece) {
        const auto both =
            std::bit_cast<Halves>(_mm512_cvtne2ps_pbh(std::bit_cast<__m512>(second), std::bit_cast<__m512>(first)));
        in_order[piece] = std::bit_cast<Pack<std::uint32_t>>(both);
        interleaved[piece] = std::bit_cast<Pack<std::uint32_t>>(
            __builtin_shufflevector(both, both, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25,
                                    10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
        first -= std::bit_cast<Pack<float>>(interleaved[piece] << 16);
        second -= std::bit_cast<Pack<float>>(interleaved[piece] & 0xffff0000);
      }
    }
  };

  /// The tiles of B for one step: `count` rows of depth are there.
  static void split_step(Packed* to, const float* rows, std::int64_t stride, int count) {
    for (int pair = 0; pair < tile_rows; ++pair) {
      const auto row = [&](int k, int tile) {
        return k < count ? load(rows + k * stride + tile * tile_rows) : Pack<float>{};
      };
      for (int tile = 0; tile < 2; ++tile) {
        const Pieces split(row(2 * pair, tile), row(2 * pair + 1, tile));
        for (int piece = 0; piece < pieces; ++piece) {
          store(to + (piece * 2 + tile) * tile_words + pair * tile_rows, split.interleaved[piece]);
        }
      }
    }
  }

  /// A block of A: `count` rows, `steps` tiles of depth, of which `depth` is there. Tiles are packed in the order in which
  /// they lie in memory.
  static void pack_block(Packed* to, const Operand<float>& a, int count, int depth, int steps) {
    const int height = (count + tile_rows - 1) / tile_rows;
    const bool is_by_rows = a.column_stride == 1;
    for (int outer = 0; outer < (is_by_rows ? height : steps); ++outer) {
      for (int inner = 0; inner < (is_by_rows ? steps : height); ++inner) {
        const int row = is_by_rows ? outer : inner, step = is_by_rows ? inner : outer;
        pack_tile(to + (std::int64_t{row} * steps + step) * pieces * tile_words,
                  a.at(row * tile_rows, step * tile_depth), count - row * tile_rows, depth - step * tile_depth);
      }
    }
  }

  static void pack_tile(Packed* to, const Operand<float>& a, int count, int depth) {
    alignas(64) float room[tile_rows * tile_depth];
    Operand<float> from = a;
    if (a.column_stride != 1 || count < tile_rows || depth < tile_depth) {  // transposed, or filled up with zeros
      count = std::min(count, tile_rows), depth = std::min(depth, tile_depth);
      if (count < tile_rows || depth < tile_depth) std::fill_n(room, tile_rows * tile_depth, 0.0f);
      if (a.column_stride == 1) {
        for (int i = 0; i < count; ++i) std::copy_n(a.at(i, 0).data, depth, room + i * tile_depth);
      } else {
        transpose(room, tile_depth, a.data, a.column_stride, depth, count);
      }
      from = as_is<float>(room, tile_depth);
    }
    for (int i = 0; i < tile_rows; ++i) {
      const float* row = from.at(i, 0).data;
      const Pieces split(load(row), load(row + tile_depth / 2));
      for (int piece = 0; piece < pieces; ++piece) {
        store(to + piece * tile_words + i * tile_rows, split.in_order[piece]);
      }
    }
  }

  /// C = A B + row or C += A B for `height` x 2 tiles of sums; `row` may be null; `a_tile_row`: words from one row of tiles
  /// to the next.
  template <int height>
  static void block(float* c, std::int64_t c_stride, const Packed* a, std::int64_t a_tile_row, const Packed* b,
                    int steps, Result result, const float* row, const Packed* ahead, int lines) {
    constexpr int bytes = 64;  // of a row of a tile
    const auto stride = c_stride * static_cast<std::int64_t>(sizeof(float));
    // The intrinsics do not tell the compiler that they read and write memory.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (result == Result::add) {
      _tile_loadd(0, c, stride);
      _tile_loadd(1, c + tile_rows, stride);
      if constexpr (height == 2) {
        _tile_loadd(2, c + tile_rows * c_stride, stride);
        _tile_loadd(3, c + tile_rows * c_stride + tile_rows, stride);
      }
    } else {
      if (row) {  // all rows of a tile from the same place
        _tile_loadd(0, row, 0);
        _tile_loadd(1, row + tile_rows, 0);
        _tile_loadd(2, row, 0);
        _tile_loadd(3, row + tile_rows, 0);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
    }
    const auto load_a = [&](int piece) {
      if constexpr (pieces == 1) {  // read once for each panel of B, which is to stay in the first cache
        _tile_stream_loadd(4, a, bytes);
        if constexpr (height == 2) _tile_stream_loadd(5, a + a_tile_row, bytes);
      } else {
        _tile_loadd(4, a + piece * tile_words, bytes);
        if constexpr (height == 2) _tile_loadd(5, a + a_tile_row + piece * tile_words, bytes);
      }
    };
    const auto load_b = [&](int piece) {
      _tile_loadd(6, b + piece * 2 * tile_words, bytes);
      _tile_loadd(7, b + (piece * 2 + 1) * tile_words, bytes);
    };
    const auto multiply_add = [] {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (height == 2) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    };
    for (int s = 0; s < steps; ++s, a += pieces * tile_words, b += pieces * 2 * tile_words) {
      for (int line = 0; line < lines; ++line, ahead += line_words) __builtin_prefetch(ahead, 0, 2);
      if constexpr (pieces == 1) {
        load_a(0), load_b(0), multiply_add();
      } else {  // each time only one factor changes, but for the last
        load_a(2), load_b(0), multiply_add();
        load_a(1), multiply_add();
        load_b(1), multiply_add();
        load_a(0), multiply_add();
        load_b(2), multiply_add();
        load_b(0), multiply_add();
      }
    }
    _tile_stored(0, c, stride);
    _tile_stored(1, c + tile_rows, stride);
    if constexpr (height == 2) {
      _tile_stored(2, c + tile_rows * c_stride, stride);
      _tile_stored(3, c + tile_rows * c_stride + tile_rows, stride);
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
};

}  // namespace blinkbert::cpu_detail

#endif
