#pragma once

// Statistics of a window as further channels of each of its rows. Rows that are not visible do not count, so that nothing
// of a row hidden by masking reaches others this way; of one that masking replaced and left visible, only what replaced it.

#include <blinkbert/core/pass.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// Channels that each feature becomes: itself and its statistics.
inline constexpr int statistics_inputs = 4;

/// With V_b = visible real rows of sequence b, sums over these rows s, for every real row l:
///   y_{bl} = [x_{bl} | m_b | (1 / V_b) sum_s |x_{bs}| | sqrt((1 / V_b) sum_s (x_{bs} - m_b)^2)],   m_b = (1 / V_b) sum_s x_{bs};
/// zeros in the place of statistics where V_b = 0.
/// Zeros in padded rows. x is data, so there is no way back.
template <class Real>
struct AppendStatistics {
  View<Real, 3> y;                                             // [B, L, 4 N]      out
  View<const Real, 3> x;                                       // [B, L, N]
  View<const int, 1> lengths;                                  // [B]
  View<const std::uint32_t, 2> visible;                        // [B, ceil(L/32)]  bit s % 32 of word s / 32: row s counts

  void check() const {
    const int B = x.extent(0), L = x.extent(1), N = x.extent(2);
    BLINKBERT_EXPECTS(has_shape(y, B, L, statistics_inputs * N) && has_shape(lengths, B) && has_shape(visible, B, visible_words(L)), B, L, N);
  }
};

}  // namespace blinkbert
