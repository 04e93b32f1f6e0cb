#pragma once

// The M rows that a head reads out of all T, and back. A length-aware op: a row number of -1 gives zeros, so that a
// sequence of length 0 has a place among the last rows.

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// y_m = x[rows_m], or zeros where rows_m = -1.
template <class Real>
struct GatherRowsForward {
  View<Real, 2> y;                                             // [M, E]  out
  View<const Real, 2> x;                                       // [T, E]
  View<const int, 1> rows;                                     // [M]     row of x, or -1; no row twice

  void check() const {
    const int M = rows.extent(0), E = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, M, E) && has_shape(rows, M), M, E);
  }
};

/// dx_t = residual_t + dy[slots_t], without the second where slots_t = -1: every row is written once.
template <class Real>
struct GatherRowsBackward {
  View<Real, 2> dx;                                            // [T, E]  out, overwritten
  View<const Real, 2> dy;                                      // [M, E]
  View<const int, 1> slots;                                    // [T]     place m of row t, or -1: the inverse of rows
  View<const Real, 2> residual = {};                           // [T, E]  added to dx; may be dx itself; empty = none

  void check() const {
    const int T = slots.extent(0), E = dy.extent(1);
    BLINKBERT_EXPECTS(has_shape(dx, T, E) && has_shape(slots, T) && has_shape_or_is_empty(residual, T, E), T, E);
  }
};

}  // namespace blinkbert
