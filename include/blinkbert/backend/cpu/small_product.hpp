#pragma once

// Products of small matrices that lie in the first caches: what attention is made of. Every row of B and C is padded to
// whole packs, so that the loops have no remainders.

#include <cstdint>
#include <cstring>

namespace blinkbert::cpu_detail {

#if defined(__AVX512F__)
inline constexpr int pack_bytes = 64;  // one register
inline constexpr int tile_packs = 4;   // 6 x 4 sums, 4 + 1 operands: 29 of 32 registers
#elif defined(__AVX__)
inline constexpr int pack_bytes = 32;
inline constexpr int tile_packs = 2;  // 6 x 2 sums, 2 + 1 operands: 15 of 16 registers
#else
inline constexpr int pack_bytes = 16;
inline constexpr int tile_packs = 2;
#endif
inline constexpr int tile_rows = 6;

template <class Real>
struct PackOf {
  typedef Real type __attribute__((vector_size(pack_bytes)));
  static constexpr int size = pack_bytes / static_cast<int>(sizeof(Real));
};

/// `count` elements rounded up to whole packs.
template <class Real>
constexpr int whole_packs(int count) {
  constexpr int size = PackOf<Real>::size;
  return (count + size - 1) / size * size;
}

template <class Real>
typename PackOf<Real>::type load_pack(const Real* from) {
  typename PackOf<Real>::type pack;
  std::memcpy(&pack, from, sizeof(pack));
  return pack;
}

/// Element (i, k) of A is at data[i * row_stride + k * column_stride]: a matrix or its transpose.
template <class Real>
struct LeftOperand {
  const Real* data;
  int row_stride, column_stride;
};

enum class Result { overwrite, add };

template <int rows, int packs, class Real>
void product_tile(Real* c, int c_stride, const LeftOperand<Real>& a, const Real* b, int b_stride, int depth, Result result) {
  using Pack = typename PackOf<Real>::type;
  constexpr int size = PackOf<Real>::size;
  Pack sums[rows][packs];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < packs; ++j) sums[i][j] = result == Result::add ? load_pack(c + i * c_stride + j * size) : Pack{};
  }
  for (int k = 0; k < depth; ++k) {
    Pack right[packs];
#pragma GCC unroll 8
    for (int j = 0; j < packs; ++j) right[j] = load_pack(b + k * b_stride + j * size);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Real left = a.data[i * a.row_stride + k * a.column_stride];
#pragma GCC unroll 8
      for (int j = 0; j < packs; ++j) sums[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < packs; ++j) std::memcpy(c + i * c_stride + j * size, &sums[i][j], sizeof(Pack));
  }
}

template <int packs, class Real>
void product_columns(Real* c, int c_stride, LeftOperand<Real> a, const Real* b, int b_stride, int rows, int depth,
                     Result result) {
  int i = 0;
  for (; i + tile_rows <= rows; i += tile_rows) {
    product_tile<tile_rows, packs>(c, c_stride, a, b, b_stride, depth, result);
    c += tile_rows * c_stride;
    a.data += tile_rows * a.row_stride;
  }
  switch (rows - i) {
    case 5: return product_tile<5, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 4: return product_tile<4, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 3: return product_tile<3, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 2: return product_tile<2, packs>(c, c_stride, a, b, b_stride, depth, result);
    case 1: return product_tile<1, packs>(c, c_stride, a, b, b_stride, depth, result);
    default: return;
  }
}

/// C = A B or C += A B:  C [rows, columns], A [rows, depth], B [depth, columns]; `columns` in whole packs.
template <class Real>
void small_product(Real* c, int c_stride, const LeftOperand<Real>& a, const Real* b, int b_stride, int rows, int columns,
                   int depth, Result result) {
  constexpr int size = PackOf<Real>::size, wide = tile_packs * size;
  int j = 0;
  for (; j + wide <= columns; j += wide) {
    product_columns<tile_packs>(c + j, c_stride, a, b + j, b_stride, rows, depth, result);
  }
  for (; j + 2 * size <= columns && tile_packs > 2; j += 2 * size) {
    product_columns<2>(c + j, c_stride, a, b + j, b_stride, rows, depth, result);
  }
  for (; j < columns; j += size) product_columns<1>(c + j, c_stride, a, b + j, b_stride, rows, depth, result);
}

}  // namespace blinkbert::cpu_detail
