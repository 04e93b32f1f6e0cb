#pragma once

// The loss over the chosen rows on the CPU: N is a few features, so one thread walks the rows.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/masked_loss.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const MaskedLoss<Real>& op) {
  op.check();
  const int R = op.prediction.extent(0), N = op.prediction.extent(1);
  double* sums = cpu.template workspace<double>(N);  // a few numbers per chosen row: double is free here
  std::fill_n(sums, N, 0.0);
  for (int r = 0; r < R; ++r) {
    const int selected = op.selected(r);
    if (selected < 0) {
      if (op.dprediction) std::fill_n(&op.dprediction.data()[std::int64_t{r} * N], N, Real(0));
      continue;
    }
    const int t = op.rows == HeadRows::all ? r : selected;
    for (int n = 0; n < N; ++n) {
      const Real error = op.prediction(r, n) - op.target(t, n);
      sums[n] += static_cast<double>(loss_value(op.kind, op.delta, error));
      if (op.dprediction) op.dprediction(r, n) = op.scale * op.weights(n) * loss_slope(op.kind, op.delta, error);
    }
  }
  for (int n = 0; n < N; ++n) op.sums(n) += static_cast<Real>(sums[n]);
}

}  // namespace blinkbert
