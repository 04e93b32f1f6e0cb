#pragma once

// The head's activation and dropout on the CPU: chunks of rows.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/dropout_factors.hpp>
#include <blinkbert/ops/activation.hpp>

namespace blinkbert {
namespace cpu_detail {

/// Calls body(offset of the row, its factors) for every row; the factors are all 1 without dropout.
template <class Real, class Op, class Body>
void for_rows_with_factors(Cpu<Real>& cpu, const Op& op, const Body& body) {
  const int R = op.x.extent(0), F = op.x.extent(1), chunks = cpu.chunks(R, 2 * F);
  const std::int64_t stride = padded(std::max<std::int64_t>(RowFactors<Real>::room_size(F), F));
  Real* room = cpu.template workspace<Real>(stride * chunks);
  cpu.for_chunks(R, chunks, [&](int first, int last, int chunk) {
    Real* own = room + chunk * stride;
    RowFactors<Real> factors(own, op.dropout, F);
    if (!op.dropout.is_active()) std::fill_n(own, F, Real(1));
    for (int r = first; r < last; ++r) {
      body(std::int64_t{r} * F, op.dropout.is_active() ? factors.row_of_batch(op.rows, r, op.L) : own);
    }
  });
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const ActivationForward<Real>& op) {
  op.check();
  const int F = op.x.extent(1);
  cpu_detail::for_rows_with_factors(cpu, op, [&](std::int64_t row, const Real* factor) {
    const Real* x = op.x.data() + row;
    Real* y = op.y.data() + row;
    // x <= 0 rather than x > 0, so that a NaN goes on and is found by the gradient norm.
#pragma omp simd
    for (int f = 0; f < F; ++f) y[f] = cpu_detail::dropped(x[f] <= 0 ? Real(0) : x[f], factor[f]);
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const ActivationBackward<Real>& op) {
  op.check();
  const int F = op.x.extent(1);
  cpu_detail::for_rows_with_factors(cpu, op, [&](std::int64_t row, const Real* factor) {
    const Real *x = op.x.data() + row, *dy = op.dy.data() + row;
    Real* dx = op.dx.data() + row;
#pragma omp simd
    for (int f = 0; f < F; ++f) dx[f] = x[f] > 0 ? cpu_detail::dropped(dy[f], factor[f]) : Real(0);
  });
}

}  // namespace blinkbert
