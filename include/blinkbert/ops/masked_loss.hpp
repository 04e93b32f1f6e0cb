#pragma once

// The loss over the rows chosen for prediction: value and gradient in one pass.

#include <cmath>

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// The last two are losses over levels: ScoreLoss only.
enum class LossKind { squared, absolute, huber, softmax, ordinal };

BLINKBERT_HOST_DEVICE constexpr bool is_over_levels(LossKind kind) { return kind == LossKind::softmax || kind == LossKind::ordinal; }

/// l(e):  e^2,  |e|,  or Huber's: e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2)  (Huber 1964, eq. 2.1).
template <class Number>
BLINKBERT_HOST_DEVICE Number loss_value(LossKind kind, Number delta, Number e) {
  const Number size = e < 0 ? -e : e;
  switch (kind) {
    case LossKind::squared: return e * e;
    case LossKind::absolute: return size;
    case LossKind::huber: return size <= delta ? e * e / 2 : delta * (size - delta / 2);
    case LossKind::softmax:
    case LossKind::ordinal: break;
  }
  return e;
}

/// l'(e):  2 e,  sign(e) (0 at 0),  or e clamped to [-delta, delta].
template <class Number>
BLINKBERT_HOST_DEVICE Number loss_slope(LossKind kind, Number delta, Number e) {
  switch (kind) {
    case LossKind::squared: return 2 * e;
    case LossKind::absolute: return e > 0 ? Number(1) : e < 0 ? Number(-1) : Number(0);
    case LossKind::huber: return e > delta ? delta : e < -delta ? -delta : e;
    case LossKind::softmax:
    case LossKind::ordinal: break;
  }
  return e;
}

/// Which rows the head predicts, and so what the rows of a prediction are.
enum class HeadRows {
  all,     // R = T: prediction row r belongs to row r of the batch
  masked,  // R = M: prediction row r belongs to row selected_r of the batch
};

/// Over the rows r with selected_r >= 0, e_rn = prediction_rn - target_tn, t = r (all) or selected_r (masked):
///   sums_n += sum_r l(e_rn),   dprediction_rn = scale * weights_n * l'(e_rn), and 0 in all other rows.
/// The caller knows what to divide by (counts over the whole optimizer step) and puts it into `scale`.
template <class Real>
struct MaskedLoss {
  View<Real, 2> dprediction = {};                              // [R, N]  out, overwritten; empty = not wanted
  Acc<Wide<Real>, 1> sums;                                     // [N]     out, added to: per feature, unweighted
  View<const Real, 2> prediction;                              // [R, N]
  View<const Wide<Real>, 2> target;                            // [T, N]  before masking
  View<const int, 1> selected;                                 // [R]     -1 = does not count; all: `slots`, masked: `rows` of RowMasks
  View<const Wide<Real>, 1> weights;                           // [N]
  HeadRows rows = HeadRows::all;
  LossKind kind = LossKind::squared;
  Wide<Real> delta = 1;                                        // of Huber's loss, in units of the scaled features
  Wide<Real> scale = 1;

  void check() const {
    const int R = prediction.extent(0), N = prediction.extent(1);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(dprediction, R, N) && has_shape(sums.view(), N) && has_shape(weights, N), R, N);
    BLINKBERT_EXPECTS(has_shape(selected, R) && target.extent(1) == N && delta > 0, R, N, delta);
    BLINKBERT_EXPECTS(!is_over_levels(kind));
    BLINKBERT_EXPECTS(rows == HeadRows::masked || target.extent(0) == R, R, target.extent(0));
  }
};

}  // namespace blinkbert
