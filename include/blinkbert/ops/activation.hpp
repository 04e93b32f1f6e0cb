#pragma once

// The head's activation and dropout: y = dropout(relu(x)). Row-wise.

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// y = keep_scale * max(x, 0) where kept, else 0.
template <class Real>
struct ActivationForward {
  View<Real, 2> y;                                             // [R, F]  out
  View<const Real, 2> x;                                       // [R, F]
  View<const int, 1> rows = {};                                // [R]     t of each gathered row (-1: any bits); empty = row r is row t = r
  Dropout dropout = {};                                        // element = (t % L, column) of sequence t / L
  int L = 1;

  void check() const {
    const int R = x.extent(0), F = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, R, F) && has_shape_or_is_empty(rows, R) && L > 0, R, F, L);
  }
};

/// dx = keep_scale * dy where kept and x > 0, else 0.
template <class Real>
struct ActivationBackward {
  View<Real, 2> dx;                                            // [R, F]  out, overwritten; may be dy itself
  View<const Real, 2> dy, x;                                   // [R, F]
  View<const int, 1> rows = {};                                // [R]     as in forward
  Dropout dropout = {};                                        // as in forward
  int L = 1;

  void check() const {
    const int R = x.extent(0), F = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(dx, R, F) && has_shape(dy, R, F) && has_shape_or_is_empty(rows, R) && L > 0, R, F, L);
  }
};

}  // namespace blinkbert
