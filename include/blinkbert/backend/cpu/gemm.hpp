#pragma once

// Large products: the one seam where oneDNN or CBLAS may stand in.
//
//   C [rows, columns] = or += A [rows, depth] B [depth, columns]
//
// Called from one thread on its own rows of C; who splits the rows is the op. B is packed once per block of columns into
// panels as wide as a tile, A per block into panels as high as a tile, so that the innermost loop reads both in order; a
// block of A and a panel of B stay in the second cache. Edges are computed as whole tiles beside C, so an
// element's bits do not depend on where in C it stands. Source of the scheme: Goto, van de Geijn 2008, "Anatomy of
// high-performance matrix multiplication", ACM TOMS 34(3), 12.

#include <algorithm>
#include <cstdint>
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

inline constexpr int gemm_depth = 384;                  // of a block: a panel of B is 48 KB at most
inline constexpr int gemm_rows = 12 * gemm_tile_rows;   // of a block: A takes 216 KB in float, 432 KB in double
inline constexpr std::int64_t gemm_packed_b = 1 << 20;  // elements of B packed at a time, 4 MB: some of the third cache

/// A panel of A: `gemm_tile_rows` consecutive numbers for each k.
template <class Real>
struct PackedLeft {
  const Real* data;
  Real operator()(int i, int k) const { return data[k * gemm_tile_rows + i]; }
};

/// Columns of B that are packed at a time.
template <class Real>
int gemm_columns(int columns, int depth) {
  const std::int64_t room = gemm_packed_b / std::max(depth, 1) / gemm_tile_columns<Real> * gemm_tile_columns<Real>;
  return static_cast<int>(std::clamp<std::int64_t>(multiple_of(gemm_tile_columns<Real>, columns), 0,
                                                   std::max<std::int64_t>(room, gemm_tile_columns<Real>)));
}

/// Elements of workspace that are enough for a call of `multiply` with these sizes or smaller ones.
template <class Real>
std::int64_t gemm_room(int columns, int depth) {
  const std::int64_t whole = std::int64_t{multiple_of(gemm_tile_columns<Real>, columns)} * depth;
  const std::int64_t packed_b = std::min(whole, std::max(gemm_packed_b, std::int64_t{gemm_tile_columns<Real>} * depth));
  return padded(packed_b) + padded(gemm_rows * std::min(gemm_depth, depth)) +
         padded(gemm_tile_rows * gemm_tile_columns<Real>);
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
    for (int first = 0; first < full; first += height, panel += panel_size) std::copy_n(row + first, height, panel);
    if (rest > 0) std::copy_n(row + full, rest, panel);
  }
}

/// One tile of C from one panel of A and one of B.
template <class Real>
void packed_tile(Real* c, std::int64_t c_stride, const Real* a, const Real* b, int rows, int columns, int depth,
                 Result result, Real* edge) {
  constexpr int height = gemm_tile_rows, width = gemm_tile_columns<Real>;
  const PackedLeft<Real> left{a};
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

/// C = A B or C += A B. `finish(first_row, last_row, first_column, last_column)` is called for every block of C as soon as
/// it is complete, while it is still in a cache. `room`: gemm_room(columns, depth) elements.
template <class Real, class Finish>
void multiply(Real* c, std::int64_t c_stride, const Operand<Real>& a, const Operand<Real>& b, int rows, int columns,
              int depth, Result result, Real* room, const Finish& finish) {
  const int width = gemm_columns<Real>(columns, depth);
  Real* packed_b = room;
  Real* packed_a = packed_b + padded(std::int64_t{width} * depth);
  Real* edge = packed_a + padded(gemm_rows * std::min(gemm_depth, depth));
  for (int j = 0; j < columns; j += width) {
    const int block_columns = std::min(width, columns - j);
    const int panels_width = multiple_of(gemm_tile_columns<Real>, block_columns);
    for (int k = 0; k < depth; k += gemm_depth) {
      const Operand<Real> from = b.at(k, j);
      pack_panels<gemm_tile_columns<Real>>(packed_b + std::int64_t{k} * panels_width,
                                           {from.data, from.column_stride, from.row_stride}, block_columns,
                                           std::min(gemm_depth, depth - k));
    }
    for (int i = 0; i < rows; i += gemm_rows) {
      const int block_rows = std::min(gemm_rows, rows - i);
      if (depth == 0 && result == Result::overwrite) {
        for (int ii = 0; ii < block_rows; ++ii) std::fill_n(c + (i + ii) * c_stride + j, block_columns, Real(0));
      }
      for (int k = 0; k < depth; k += gemm_depth) {
        const int block_depth = std::min(gemm_depth, depth - k);
        const Result tile_result = k == 0 ? result : Result::add;
        pack_panels<gemm_tile_rows>(packed_a, a.at(i, k), block_rows, block_depth);
        for (int jj = 0; jj < block_columns; jj += gemm_tile_columns<Real>) {
          const Real* panel_b = packed_b + std::int64_t{k} * panels_width + std::int64_t{jj} * block_depth;
          for (int ii = 0; ii < block_rows; ii += gemm_tile_rows) {
            packed_tile(c + (i + ii) * c_stride + j + jj, c_stride, packed_a + std::int64_t{ii} * block_depth, panel_b,
                        std::min(gemm_tile_rows, block_rows - ii),
                        std::min(gemm_tile_columns<Real>, block_columns - jj), block_depth, tile_result, edge);
          }
        }
      }
      finish(i, i + block_rows, j, j + block_columns);
    }
  }
}

/// Nothing is left to do with a complete block.
struct NoFinish {
  void operator()(int, int, int, int) const {}
};

}  // namespace blinkbert::cpu_detail
