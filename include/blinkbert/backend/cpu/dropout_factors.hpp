#pragma once

// Dropout's decisions as rows of factors (keep_scale or 0): drawn eight at a time, many counters side by side.

#include <algorithm>
#include <cstdint>

#include <blinkbert/core/dropout.hpp>

namespace blinkbert::cpu_detail {

/// 0 where the factor is 0, whatever the value.
template <class Real>
Real dropped(Real value, Real factor) {
  return factor != 0 ? value * factor : Real(0);
}

/// Room for the factors of `width` elements at any place: they start inside a group of eight and end inside one.
constexpr std::int64_t factor_room(int width) { return (std::int64_t{width} + 14) / 8 * 8; }

/// Factors of the elements (row, 0 .. width - 1) of sequence b, written into `room`; returns where the first one is.
template <class Real>
const Real* row_factors(Real* room, const Dropout& dropout, int b, int row, int width) {
  const std::uint32_t begin = static_cast<std::uint32_t>(row) * static_cast<std::uint32_t>(width);
  const std::uint32_t end = begin + static_cast<std::uint32_t>(width);
  const Real scale = static_cast<Real>(dropout.keep_scale());
  Real* to = room;
  for (std::uint32_t index = begin / 8; index * 8 < end; ++index, to += 8) {
    const RandomWords words = dropout.element_words(b, index);
    for (int k = 0; k < 8; ++k) to[k] = half_word(words, k) >= dropout.threshold ? scale : Real(0);
  }
  return room + begin % 8;
}

}  // namespace blinkbert::cpu_detail
