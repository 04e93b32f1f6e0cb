#pragma once

// The loss on a drowsiness score: value and gradient in one pass.

#include <blinkbert/core/view.hpp>
#include <blinkbert/ops/masked_loss.hpp>

namespace blinkbert {

/// Over the sequences with a real row, e_b = prediction_b - target_b:
///   sum += sum_b l(e_b),   dprediction_b = scale * l'(e_b), and 0 for sequences of length 0.
template <class Real>
struct ScoreLoss {
  View<Real, 2> dprediction = {};                              // [B, 1]  out, overwritten; empty = not wanted
  Acc<Wide<Real>, 1> sum;                                      // [1]     out, added to
  View<const Real, 2> prediction;                              // [B, 1]
  View<const Wide<Real>, 1> target;                            // [B]     KSS
  View<const int, 1> lengths;                                  // [B]
  LossKind kind = LossKind::squared;
  Wide<Real> delta = 1;                                        // of Huber's loss, in KSS
  Wide<Real> scale = 1;

  void check() const {
    const int B = lengths.extent(0);
    BLINKBERT_EXPECTS(has_shape(prediction, B, 1) && has_shape_or_is_empty(dprediction, B, 1), B);
    BLINKBERT_EXPECTS(has_shape(target, B) && has_shape(sum.view(), 1) && delta > 0, B, delta);
  }
};

}  // namespace blinkbert
