#pragma once

// Batch normalisation over the real rows of a micro-batch. Length-aware (masked_attention.hpp): padded rows take no part
// and become zeros. Source: Ioffe, Szegedy 2015, arXiv:1502.03167, algorithm 1.

#include <blinkbert/core/view.hpp>

namespace blinkbert {

enum class BatchStatistics {
  batch,    // of the real rows; with fewer than two of them the running values are used and kept
  running,  // evaluation
};

/// y = gamma * xhat + beta,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(variance + epsilon), statistics per column over
/// the n real rows (biased variance). With batch statistics the running values move:
///   running += momentum * (statistic - running), the variance unbiased by n / (n - 1).
template <class Real>
struct BatchNormForward {
  View<Real, 2> y;                                             // [R, F]  out
  View<Wide<Real>, 1> mean, rstd;                              // [F]     out: what was used, for backward
  View<Wide<Real>, 1> running_mean, running_variance;          // [F]     in and out
  View<const Real, 2> x;                                       // [R, F]
  View<const Wide<Real>, 1> gamma, beta;                       // [F]
  View<const int, 1> lengths = {};                             // [B]     R = B L; empty = every row is real
  int L = 1;                                                   // rows per sequence; 1 for gathered rows
  BatchStatistics statistics = BatchStatistics::running;
  float epsilon = 1e-5f;
  float momentum = 0.1f;

  void check() const {
    const int R = x.extent(0), F = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, R, F) && has_shape(gamma, F) && has_shape(beta, F), R, F);
    BLINKBERT_EXPECTS(has_shape(mean, F) && has_shape(rstd, F), F);
    BLINKBERT_EXPECTS(has_shape(running_mean, F) && has_shape(running_variance, F), F);
    BLINKBERT_EXPECTS(L > 0 && (!lengths || lengths.extent(0) * L == R) && epsilon > 0, L, R, epsilon);
  }
};

/// With batch statistics over n real rows and g = gamma * dy:  dx = rstd * (g - mean_n(g) - xhat * mean_n(g * xhat)).
/// With running values (also for n < 2) they are constants:  dx = rstd * g.  Padded rows: dx = 0.
template <class Real>
struct BatchNormBackward {
  View<Real, 2> dx;                                            // [R, F]  out, overwritten; may be dy itself
  Acc<Wide<Real>, 1> dgamma, dbeta;                            // [F]     out, added to: sum_n dy * xhat, sum_n dy
  View<const Real, 2> dy, x;                                   // [R, F]
  View<const Wide<Real>, 1> mean, rstd;                        // [F]     from forward
  View<const Wide<Real>, 1> gamma;                             // [F]
  View<const int, 1> lengths = {};                             // [B]     as in forward
  int L = 1;
  BatchStatistics statistics = BatchStatistics::running;

  void check() const {
    const int R = x.extent(0), F = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(dx, R, F) && has_shape(dy, R, F) && has_shape(gamma, F), R, F);
    BLINKBERT_EXPECTS(has_shape(dgamma.view(), F) && has_shape(dbeta.view(), F), F);
    BLINKBERT_EXPECTS(has_shape(mean, F) && has_shape(rstd, F), F);
    BLINKBERT_EXPECTS(L > 0 && (!lengths || lengths.extent(0) * L == R), L, R);
  }
};

}  // namespace blinkbert
