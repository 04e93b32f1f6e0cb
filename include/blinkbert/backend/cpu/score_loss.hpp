#pragma once

// The loss on the score on the CPU: one number per sequence, one thread.

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/score_loss.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>&, const ScoreLoss<Real>& op) {
  op.check();
  double sum = 0;
  for (int b = 0; b < op.lengths.extent(0); ++b) {
    if (op.lengths(b) == 0) {
      if (op.dprediction) op.dprediction(b, 0) = 0;
      continue;
    }
    const Real error = op.prediction(b, 0) - op.target(b);
    sum += static_cast<double>(loss_value(op.kind, op.delta, error));
    if (op.dprediction) op.dprediction(b, 0) = op.scale * loss_slope(op.kind, op.delta, error);
  }
  op.sum(0) += static_cast<Real>(sum);
}

}  // namespace blinkbert
