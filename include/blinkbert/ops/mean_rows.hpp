#pragma once

// The mean of a sequence's real rows, and back. A length-aware op (masked_attention.hpp: the padding rule).

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// y_b = (1 / length_b) sum_{l < length_b} x_{bl}, zeros for sequences of length 0.
template <class Real>
struct MeanRowsForward {
  View<Real, 2> y;                                             // [B, E]  out
  View<const Real, 2> x;                                       // [T, E]
  View<const int, 1> lengths;                                  // [B]
  int L = 0;                                                   // rows per sequence

  void check() const {
    const int B = lengths.extent(0), E = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, B, E) && has_shape(x, B * L, E), B, L, E);
  }
};

/// Every real row has the same share:  dx_{bl} = dy_b / length_b, zeros in padded rows.
template <class Real>
struct MeanRowsBackward {
  View<Real, 2> dx;                                            // [T, E]  out, overwritten
  View<const Real, 2> dy;                                      // [B, E]
  View<const int, 1> lengths;                                  // [B]
  int L = 0;

  void check() const {
    const int B = lengths.extent(0), E = dy.extent(1);
    BLINKBERT_EXPECTS(has_shape(dx, B * L, E) && has_shape(dy, B, E), B, L, E);
  }
};

}  // namespace blinkbert
