#pragma once

// The loss on the score on the CPU: a few numbers per sequence, one thread.

#include <algorithm>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/score_loss.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>&, const ScoreLoss<Real>& op) {
  op.check();
  const int O = op.prediction.extent(1);
  double sum = 0;
  for (int b = 0; b < op.lengths.extent(0); ++b) {
    const Real weight = op.weights ? op.weights(b) : Real(1);
    const auto write = [&](int j, Real slope) {
      if (op.dprediction) op.dprediction(b, j) = op.scale * weight * slope;
    };
    if (op.lengths(b) == 0) {
      if (op.dprediction) std::fill_n(&op.dprediction(b, 0), O, Real(0));
    } else if (is_over_levels(op.kind)) {
      int level = 0;
      for (int j = 0; j < op.edges.extent(0); ++j) level += op.edges(j) <= op.target(b) ? 1 : 0;
      const auto z = [&](int j) { return op.prediction(b, j); };
      sum += static_cast<double>(weight * level_loss<Real>(op.kind, level, O, z, write));
    } else {
      const Real error = op.prediction(b, 0) - op.target(b);
      sum += static_cast<double>(weight * loss_value(op.kind, op.delta, error));
      write(0, loss_slope(op.kind, op.delta, error));
    }
  }
  op.sum(0) += static_cast<Real>(sum);
}

}  // namespace blinkbert
