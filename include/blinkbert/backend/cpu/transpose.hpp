#pragma once

// Transposes of pieces that lie in the first cache.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <blinkbert/backend/cpu/pack.hpp>

namespace blinkbert::cpu_detail {

/// to[k * to_stride + i] = from[i * from_stride + k] for i and k in [0, 4).
inline void transpose_4x4(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride) {
  typedef float Four __attribute__((vector_size(16)));
  Four rows[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], from + i * from_stride, sizeof(Four));
  const Four low01 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Four high01 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Four high23 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  const Four columns[4] = {
      __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int k = 0; k < 4; ++k) std::memcpy(to + k * to_stride, &columns[k], sizeof(Four));
}

#if defined(__AVX512F__)
/// The same for i and k in [0, 16). Each of the four passes exchanges what differs in one bit of row and column.
inline void transpose_16x16(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride) {
  Pack<float> a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = load<float>(from + i * from_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
#pragma GCC unroll 8
  for (int half = 0; half < 8; ++half) {
    const int i = half / 2 * 4 + half % 2;
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
#pragma GCC unroll 8
  for (int half = 0; half < 8; ++half) {
    const int i = half / 4 * 8 + half % 4;
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[i] = __builtin_shufflevector(b[i], b[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    a[i + 8] = __builtin_shufflevector(b[i], b[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) store<float>(to + k * to_stride, a[k]);
}
#endif

/// to[k * to_stride + i] = from[i * from_stride + k] for i in [0, rows) and k in [0, columns).
template <class Real>
void transpose(Real* to, std::int64_t to_stride, const Real* from, std::int64_t from_stride, int rows, int columns) {
  int i = 0;
  if constexpr (std::is_same_v<Real, float>) {
#if defined(__AVX512F__)
    for (; i + 16 <= rows; i += 16) {
      const float* sixteen = from + i * from_stride;
      int k = 0;
      for (; k + 16 <= columns; k += 16) transpose_16x16(to + k * to_stride + i, to_stride, sixteen + k, from_stride);
      for (; k < columns; ++k) {
        for (int r = 0; r < 16; ++r) to[k * to_stride + i + r] = sixteen[r * from_stride + k];
      }
    }
#endif
    for (; i + 4 <= rows; i += 4) {
      const float* four = from + i * from_stride;
      int k = 0;
      for (; k + 4 <= columns; k += 4) transpose_4x4(to + k * to_stride + i, to_stride, four + k, from_stride);
      for (; k < columns; ++k) {
        for (int r = 0; r < 4; ++r) to[k * to_stride + i + r] = four[r * from_stride + k];
      }
    }
  }
  for (; i < rows; ++i) {
    for (int k = 0; k < columns; ++k) to[k * to_stride + i] = from[i * from_stride + k];
  }
}

}  // namespace blinkbert::cpu_detail
