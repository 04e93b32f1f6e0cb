#pragma once

// Products of small matrices that lie in the first caches: what attention is made of, and the innermost tile of the large
// products (gemm.hpp). Rows of B and C are padded to whole packs, so that no loop has a remainder.

#include <blinkbert/backend/cpu/pack.hpp>

namespace blinkbert::cpu_detail {

/// Element (i, k) of A is at data[i * row_stride + k * column_stride]: a matrix or its transpose.
template <class Real>
struct LeftOperand {
  const Real* data;
  int row_stride, column_stride;

  Real operator()(int i, int k) const { return data[i * row_stride + k * column_stride]; }
};

enum class Result { overwrite, add };

/// C = A B or C += A B for a tile of `rows` x (`packs` packs) sums, all kept in registers.
template <int rows, int packs, class Real, class Stride, class Left>
inline __attribute__((always_inline)) void product_tile(Real* c, Stride c_stride, const Left& a, const Real* b,
                                                        int b_stride, int depth, Result result) {
  constexpr int size = pack_size<Real>;
  Pack<Real> sums[rows][packs]{};
  for (int i = 0; i < rows; ++i) __builtin_prefetch(c + i * c_stride, 1);  // needed when the sums are done
  for (int k = 0; k < depth; ++k) {
    Pack<Real> right[packs];
#pragma GCC unroll 16
    for (int j = 0; j < packs; ++j) right[j] = load<Real>(b + k * b_stride + j * size);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Real left = a(i, k);
#pragma GCC unroll 16
      for (int j = 0; j < packs; ++j) sums[i][j] += left * right[j];
    }
  }
  if (result == Result::add) {
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < packs; ++j) sums[i][j] += load<Real>(c + i * c_stride + j * size);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < packs; ++j) store<Real>(c + i * c_stride + j * size, sums[i][j]);
  }
}

/// All rows of `packs` packs of columns.
template <int packs, class Real>
void product_columns(Real* c, int c_stride, LeftOperand<Real> a, const Real* b, int b_stride, int rows, int depth,
                     Result result) {
  constexpr int tile_rows = 6;
  for (; rows >= tile_rows; rows -= tile_rows) {
    product_tile<tile_rows, packs>(c, c_stride, a, b, b_stride, depth, result);
    c += tile_rows * c_stride;
    a.data += tile_rows * a.row_stride;
  }
  switch (rows) {
    case 5:
      return product_tile<5, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 4:
      return product_tile<4, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 3:
      return product_tile<3, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 2:
      return product_tile<2, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 1:
      return product_tile<1, packs>(c, c_stride, a, b, b_stride, depth, result);
    default:
      return;
  }
}

/// C = A B or C += A B:  C [rows, columns], A [rows, depth], B [depth, columns]; `columns` in whole packs.
template <class Real>
void small_product(Real* c, int c_stride, const LeftOperand<Real>& a, const Real* b, int b_stride, int rows,
                   int columns, int depth, Result result) {
  constexpr int size = pack_size<Real>;
  int j = 0;
  for (; j + 2 * size <= columns; j += 2 * size) {
    product_columns<2>(c + j, c_stride, a, b + j, b_stride, rows, depth, result);
  }
  if (j < columns) product_columns<1>(c + j, c_stride, a, b + j, b_stride, rows, depth, result);
}

}  // namespace blinkbert::cpu_detail
