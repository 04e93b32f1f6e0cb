#pragma once

// Layer normalisation: statistics over the width of each row. Row-wise: padded rows are rows like others.

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// y = gamma * xhat + beta,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(mean_E((x - mean)^2) + epsilon).
/// Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450, eq. 4.
template <class Real>
struct LayerNormForward {
  View<Real, 2> y;                                             // [T, E]  out
  View<Wide<Real>, 1> mean = {}, rstd = {};                    // [T]     out, for backward; empty = not wanted
  View<const Real, 2> x;                                       // [T, E]
  View<const Wide<Real>, 1> gamma, beta;                       // [E]     wide: a bf16 gamma near 1 is off by .4 %
  float epsilon = 1e-5f;                                       // added to the variance, in units of x^2

  void check() const {
    const int T = x.extent(0), E = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, T, E) && has_shape(gamma, E) && has_shape(beta, E) && epsilon > 0, T, E, epsilon);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(mean, T) && has_shape_or_is_empty(rstd, T), T);
  }
};

/// With g = gamma * dy:  dx = rstd * (g - mean_E(g) - xhat * mean_E(g * xhat)) + residual.
template <class Real>
struct LayerNormBackward {
  View<Real, 2> dx = {};                                       // [T, E]  out, overwritten; empty = not wanted
  Acc<Wide<Real>, 1> dgamma, dbeta;                            // [E]     out, added to: sum_T dy * xhat, sum_T dy
  View<const Real, 2> dy, x;                                   // [T, E]
  View<const Real, 2> residual = {};                           // [T, E]  added to dx; may be dx itself; empty = none
  View<const Wide<Real>, 1> mean, rstd;                        // [T]     from forward
  View<const Wide<Real>, 1> gamma;                             // [E]

  void check() const {
    const int T = x.extent(0), E = x.extent(1);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(dx, T, E) && has_shape(dy, T, E) && has_shape(gamma, E), T, E);
    BLINKBERT_EXPECTS(has_shape(dgamma.view(), E) && has_shape(dbeta.view(), E), E);
    BLINKBERT_EXPECTS(has_shape(mean, T) && has_shape(rstd, T) && has_shape_or_is_empty(residual, T, E), T, E);
  }
};

}  // namespace blinkbert
