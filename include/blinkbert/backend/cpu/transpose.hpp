#pragma once

// Transposes of pieces that lie in the first cache.

#include <cstdint>
#include <cstring>
#include <type_traits>

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

/// to[k * to_stride + i] = from[i * from_stride + k] for i in [0, rows) and k in [0, columns).
template <class Real>
void transpose(Real* to, std::int64_t to_stride, const Real* from, std::int64_t from_stride, int rows, int columns) {
  int i = 0;
  if constexpr (std::is_same_v<Real, float>) {
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
