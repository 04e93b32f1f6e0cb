#pragma once

// Zeros at padded rows: what makes a model's input and output length-aware (masked_attention.hpp: the padding rule).

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// y_t = x_t at real rows, zeros at padded ones. Linear with a gradient of the same form.
template <class Real>
struct ZeroPadding {
  View<Real, 2> y;                                             // [T, F]  out; may be x itself
  View<const Real, 2> x;                                       // [T, F]
  View<const int, 1> lengths;                                  // [B]
  int L = 0;                                                   // rows per sequence; 1 for gathered rows

  void check() const {
    const int T = lengths.extent(0) * L, F = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, T, F) && has_shape(x, T, F), T, F);
  }
};

}  // namespace blinkbert
