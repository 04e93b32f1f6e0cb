#pragma once

// How the factors of a large product lie in memory.

#include <cstdint>

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

}  // namespace blinkbert::cpu_detail
