#pragma once

// Large products: the one seam where another library may multiply (onednn.hpp, amx.hpp).
//
//   C [rows, columns] = or += A [rows, depth] B [depth, columns]
//
// B is packed first, by all threads together: panels as wide as a tile, each [depth][width], so that the innermost loop reads
// it in order. Each thread then computes its own part of C from its rows of A, which it packs a block at a time; a block of
// A, its block of C and a panel of B stay in the second cache. Edges are computed as whole tiles beside C, so an element's
// bits do not depend on where in C it stands. Source of the scheme: Goto, van de Geijn 2008, "Anatomy of high-performance
// matrix multiplication", ACM TOMS 34(3), 12.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/small_product.hpp>
#include <blinkbert/backend/cpu/transpose.hpp>

namespace blinkbert::cpu_detail {

/// Element (i, k) is at data[i * row_stride + k * column_stride]; one of the strides is 1.
template <class Real>
struct Operand {
  const Real* data = nullptr;
  std::int64_t row_stride = 0, column_stride = 0;

  Operand at(std::int64_t i, std::int64_t k) const {
    return {data + i * row_stride + k * column_stride, row_stride, column_stride};
  }
};

template <class Real>
Operand<Real> as_is(const Real* data, std::int64_t stride) {
  return {data, stride, 1};
}

template <class Real>
Operand<Real> transposed(const Real* data, std::int64_t stride) {
  return {data, 1, stride};
}

#if defined(__AVX512F__)
inline constexpr int gemm_tile_rows = 12;  // 12 x 2 sums, 2 packs of B, 1 of A: 27 of 32 registers
#else
inline constexpr int gemm_tile_rows = 6;  // 6 x 2 sums, 2 packs of B, 1 of A: 15 of 16 registers
#endif
template <class Real>
inline constexpr int gemm_tile_columns = 2 * pack_size<Real>;

inline constexpr int gemm_rows = 192;   // of a block of A and C
inline constexpr int gemm_depth = 192;  // of a block: a panel of B takes 24 KB, half of the first cache
static_assert(gemm_rows % gemm_tile_rows == 0);

/// A panel of A: `gemm_tile_rows` consecutive numbers for each k.
template <class Real>
struct PackedLeft {
  const Real* data;
  Real operator()(int i, int k) const { return data[k * gemm_tile_rows + i]; }
};

/// The same rows where they are.
template <class Real>
struct RowsLeft {
  const Real* data;
  std::int64_t stride;
  Real operator()(int i, int k) const { return data[i * stride + k]; }
};

/// Whether rows of A are as good where they are: one beside the other, and not so far apart that a tile's rows fall into the
/// same few lines of the first cache.
template <class Real>
bool is_read_in_place(const Operand<Real>& a) {
  return a.column_stride == 1 && a.row_stride * static_cast<std::int64_t>(sizeof(Real)) % 4096 != 0;
}

/// to[panel][k][i] = element (panel height + i, k) of `from`, zeros beyond `count`.
template <int height, class Real>
void pack_panels(Real* to, const Operand<Real>& from, int count, int depth) {
  const std::int64_t panel_size = std::int64_t{height} * depth;
  const int rest = count % height, full = count - rest;
  if (rest > 0) std::fill_n(to + std::int64_t{full} * depth, panel_size, Real(0));
  if (from.row_stride != 1) {
    for (int first = 0; first < count; first += height) {
      transpose(to + first * std::int64_t{depth}, height, from.data + first * from.row_stride, from.row_stride,
                std::min(height, count - first), depth);
    }
    return;
  }
  // All panels for one k, so that what lies side by side in `from` is read side by side: widths are often powers of two,
  // and a column of them would keep falling into the same few cache lines.
  for (int k = 0; k < depth; ++k) {
    const Real* row = from.data + k * from.column_stride;
    Real* panel = to + k * height;
    // std::copy_n would call memmove for every few numbers.
    for (int first = 0; first < full; first += height, panel += panel_size) {
      std::memcpy(panel, row + first, sizeof(Real) * height);
    }
    if (rest > 0) std::copy_n(row + full, rest, panel);
  }
}

/// One tile of C from up to `gemm_tile_rows` rows of A, filled up with zeros, and one panel of B.
template <class Left, class Real>
void packed_tile(Real* c, std::int64_t c_stride, const Left& left, const Real* b, int rows, int columns, int depth,
                 Result result, Real* edge) {
  constexpr int height = gemm_tile_rows, width = gemm_tile_columns<Real>;
  if (rows == height && columns == width) {
    product_tile<height, 2>(c, c_stride, left, b, width, depth, result);
    return;
  }
  const auto compute = [&]<int some_rows>(std::integral_constant<int, some_rows>) {
    if (columns > width / 2) {
      product_tile<some_rows, 2>(edge, width, left, b, width, depth, Result::overwrite);
    } else {
      product_tile<some_rows, 1>(edge, width, left, b, width, depth, Result::overwrite);
    }
  };
  if (rows > height / 2) {
    compute(std::integral_constant<int, height>{});
  } else {
    compute(std::integral_constant<int, height / 2>{});
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      Real& element = c[i * c_stride + j];
      element = edge[i * width + j] + (result == Result::add ? element : Real(0));
    }
  }
}

/// C = or += rows that lie `from_stride` apart; 0 = the same row for all.
template <class Real>
void write_rows(Real* c, std::int64_t c_stride, const Real* from, std::int64_t from_stride, int rows, int columns,
                Result result) {
  const bool adds = result == Result::add;
  for (int i = 0; i < rows; ++i) {
    map_packs<Real>(
        c + i * c_stride, columns,
        [adds](Pack<Real> value, Pack<Real> before) { return adds ? before + value : value; }, from + i * from_stride,
        c + i * c_stride);
  }
}

/// What becomes of the sums of a product. `write(row, column, sums, count, writer)` takes some of a row, which may lie in C
/// already, and writes C and what else depends on them.
template <class Real, class Write>
struct Finish {
  bool copies;        // write does no more than to bring the sums to C
  const Real* reads;  // a matrix of C's shape and stride that write reads at the same place; null = none
  Write write;
};

/// Writes through the caches.
template <class Real>
struct NearWriter {
  static void copy(Real* to, const Real* from, int count) {
    if (to != from) std::copy_n(from, count, to);
  }
  template <class Function, class... From>
  static void map(Real* to, int count, const Function& function, const From*... from) {
    map_packs<Real>(to, count, function, from...);
  }
};

/// Finishes the rows [first, last), whose sums lie in C.
template <class Real, class Write>
void finish_rows(const Finish<Real, Write>& finish, const Real* c, std::int64_t c_stride, int first, int last,
                 int columns) {
  if (finish.copies) return;
  for (int row = first; row < last; ++row) finish.write(row, 0, c + row * c_stride, columns, NearWriter<Real>{});
}

/// Products by the code of this file: what a multiplier has. It holds no state.
template <class Real>
struct OwnProducts {
  using Packed = Real;
  static constexpr int panel_columns = gemm_tile_columns<Real>;
  static constexpr int format = 0;  // of packed factors; another for each multiplier

  static std::int64_t packed_size(int columns, int depth) {
    return padded(std::int64_t{multiple_of(panel_columns, columns)} * depth);
  }
  /// Of the workspace of one thread.
  static std::int64_t room_size(int, int depth) {
    return padded(std::int64_t{gemm_rows} * std::min(gemm_depth, depth)) + padded(gemm_tile_rows * panel_columns);
  }

  /// Where a panel of B begins.
  template <class Number>
  static Number* panel(Number* packed, int index, int depth) {
    return packed + std::int64_t{index} * panel_columns * depth;
  }

  /// Packs the panels [first, last) of B.
  static void pack(Real* packed, const Operand<Real>& b, int columns, int depth, int first, int last) {
    const Operand<Real> from = b.at(0, first * panel_columns);
    pack_panels<panel_columns>(panel(packed, first, depth), {from.data, from.column_stride, from.row_stride},
                               std::min(columns, last * panel_columns) - first * panel_columns, depth);
  }

  /// C = A B + bias or C += A B, then what `finish` says; `bias` [columns], null = none. Sums are finished as soon as they are
  /// complete, while they are still in a cache.
  template <class Finish>
  static void multiply(Real* c, std::int64_t c_stride, const Operand<Real>& a, const Real* packed, int rows,
                       int columns, int depth, Result result, const Real* bias, Real* room, const Finish& finish) {
    const int passes = std::max(1, (depth + gemm_depth - 1) / gemm_depth), block = (depth + passes - 1) / passes;
    const bool reads_in_place = is_read_in_place(a);
    Real* packed_a = room;
    Real* edge = packed_a + padded(std::int64_t{gemm_rows} * std::min(gemm_depth, depth));
    for (int i = 0; i < rows; i += gemm_rows) {
      const int block_rows = std::min(gemm_rows, rows - i);
      if (depth == 0 && result == Result::overwrite) {
        for (int ii = 0; ii < block_rows; ++ii) std::fill_n(c + (i + ii) * c_stride, columns, Real(0));
      }
      for (int k = 0; k < depth; k += block) {
        const int block_depth = std::min(block, depth - k);
        const Result tile_result = k == 0 ? result : Result::add;
        const int in_place = reads_in_place ? block_rows / gemm_tile_rows * gemm_tile_rows : 0;
        pack_panels<gemm_tile_rows>(packed_a, a.at(i + in_place, k), block_rows - in_place, block_depth);
        for (int j = 0; j < columns; j += panel_columns) {
          const Real* panel_b = packed + std::int64_t{j} * depth + std::int64_t{k} * panel_columns;
          for (int ii = 0; ii < block_rows; ii += gemm_tile_rows) {
            const auto compute = [&](const auto& left) {
              packed_tile(c + (i + ii) * c_stride + j, c_stride, left, panel_b,
                          std::min(gemm_tile_rows, block_rows - ii), std::min(panel_columns, columns - j), block_depth,
                          tile_result, edge);
            };
            if (ii < in_place) {
              compute(RowsLeft<Real>{a.at(i + ii, k).data, a.row_stride});
            } else {
              compute(PackedLeft<Real>{packed_a + std::int64_t{ii - in_place} * block_depth});
            }
          }
        }
      }
      if (bias) write_rows(c + i * c_stride, c_stride, bias, 0, block_rows, columns, Result::add);
      finish_rows(finish, c, c_stride, i, i + block_rows, columns);
    }
  }
};

/// One thread's product of its own: packs B, then multiplies. `room`: product_room(columns, depth) elements.
template <class Real>
void multiply(Real* c, std::int64_t c_stride, const Operand<Real>& a, const Operand<Real>& b, int rows, int columns,
              int depth, Result result, Real* room) {
  using Own = OwnProducts<Real>;
  Real* packed = room + Own::room_size(columns, depth);
  Own::pack(packed, b, columns, depth, 0, (columns + Own::panel_columns - 1) / Own::panel_columns);
  const auto leave = [](int, int, const Real*, int, const auto&) {};
  Own::multiply(c, c_stride, a, packed, rows, columns, depth, result, nullptr, room,
                Finish<Real, decltype(leave)>{true, nullptr, leave});
}

template <class Real>
std::int64_t product_room(int columns, int depth) {
  return OwnProducts<Real>::room_size(columns, depth) + OwnProducts<Real>::packed_size(columns, depth);
}

}  // namespace blinkbert::cpu_detail
