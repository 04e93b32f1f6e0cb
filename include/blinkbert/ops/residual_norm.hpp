#pragma once

// Dropout, residual and layer norm, fused:  z = x + dropout(branch),  y = LN(z).
// A post-norm block takes y; a pre-norm block takes z as the stream and y as the next part's input; where nothing is
// normalised after the sum, y, gamma and beta are empty. Row-wise: padded rows are rows like others. Where rows were
// gathered, T is their number.
// Source: Vaswani et al. 2017, arXiv:1706.03762, section 5.4; layer norm as in layer_norm.hpp.

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// z = x + dropout(branch);  y = gamma * (z - mean) * rstd + beta, statistics over the width of the stored z.
template <class Real>
struct ResidualNormForward {
  View<Real, 2> z;                                             // [T, E]  out
  View<Real, 2> y = {};                                        // [T, E]  out; empty = no norm
  View<Wide<Real>, 1> mean = {}, rstd = {};                    // [T]     out, for backward; empty = not wanted
  View<const Real, 2> x, branch;                               // [T, E]
  View<const Wide<Real>, 1> gamma = {}, beta = {};             // [E]     empty = no norm
  View<const int, 1> rows = {};                                // [T]     t of each gathered row (-1: any bits); empty = row t is row t
  Dropout dropout = {};                                        // of branch; element = (row in its sequence, column)
  int L = 0;                                                   // rows per sequence: row t of the batch is row t % L of sequence t / L
  float epsilon = 1e-5f;

  void check() const {
    const int T = x.extent(0), E = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(z, T, E) && has_shape(branch, T, E) && L > 0 && epsilon > 0, T, E, L, epsilon);
    BLINKBERT_EXPECTS(rows ? has_shape(rows, T) : T % L == 0, T, L);
    BLINKBERT_EXPECTS(y ? has_shape(y, T, E) && has_shape(gamma, E) && has_shape(beta, E) : !gamma && !beta && !mean && !rstd, T, E);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(mean, T) && has_shape_or_is_empty(rstd, T), T);
  }
};

/// With g = gamma * dy, zhat = (z - mean) * rstd:
///   dx      = rstd * (g - mean_E(g) - zhat * mean_E(g * zhat)) + dz     (the first part only where there is a norm)
///   dbranch = dx * keep_scale where kept, else 0.
template <class Real>
struct ResidualNormBackward {
  View<Real, 2> dx;                                            // [T, E]  out, overwritten
  View<Real, 2> dbranch = {};                                  // [T, E]  out, overwritten; empty = not wanted (it equals dx without dropout)
  Acc<Wide<Real>, 1> dgamma = {}, dbeta = {};                  // [E]     out, added to: sum_T dy * zhat, sum_T dy
  View<const Real, 2> dy = {};                                 // [T, E]  gradient of y; empty = no norm
  View<const Real, 2> dz = {};                                 // [T, E]  gradient that reaches z directly; may be dx itself; empty = none
  View<const Real, 2> z = {};                                  // [T, E]  from forward
  View<const Wide<Real>, 1> mean = {}, rstd = {};              // [T]     from forward
  View<const Wide<Real>, 1> gamma = {};                        // [E]
  View<const int, 1> rows = {};                                // [T]     as in forward
  Dropout dropout = {};                                        // as in forward
  int L = 0;

  void check() const {
    const int T = dx.extent(0), E = dx.extent(1);
    BLINKBERT_EXPECTS(has_shape(dx, T, E) && L > 0 && (dy || dz), T, E, L);
    BLINKBERT_EXPECTS(rows ? has_shape(rows, T) : T % L == 0, T, L);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(dbranch, T, E) && has_shape_or_is_empty(dz, T, E), T, E);
    BLINKBERT_EXPECTS(dbranch || !dropout.is_active());
    if (dy) {
      BLINKBERT_EXPECTS(has_shape(dy, T, E) && has_shape(z, T, E) && has_shape(mean, T) && has_shape(rstd, T), T, E);
      BLINKBERT_EXPECTS(has_shape(gamma, E) && has_shape(dgamma.view(), E) && has_shape(dbeta.view(), E), E);
    }
  }
};

}  // namespace blinkbert
