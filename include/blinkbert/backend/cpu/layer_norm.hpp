#pragma once

// Layer normalisation on the CPU: chunks of rows; parameter gradients as one partial sum per chunk.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/row_norm.hpp>
#include <blinkbert/ops/layer_norm.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const LayerNormForward<Real>& op) {
  op.check();
  const int T = op.x.extent(0), E = op.x.extent(1);
  cpu.for_chunks(T, cpu.chunks(T, E), [&](int first, int last, int) {
    for (int t = first; t < last; ++t) {
      const std::int64_t row = std::int64_t{t} * E;
      const auto statistics = cpu_detail::row_statistics(&op.x.data()[row], E, static_cast<Real>(op.epsilon));
      cpu_detail::normalise_row(&op.y.data()[row], &op.x.data()[row], statistics, op.gamma.data(), op.beta.data(), E);
      if (op.mean) op.mean(t) = statistics.mean;
      if (op.rstd) op.rstd(t) = statistics.rstd;
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const LayerNormBackward<Real>& op) {
  op.check();
  const int T = op.x.extent(0), E = op.x.extent(1), chunks = cpu.chunks(T, 2 * E);
  const std::int64_t stride = cpu_detail::padded(E);
  Real* partial = cpu.template workspace<Real>(2 * stride * chunks);
  cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
    Real* dgamma = partial + chunk * stride;
    Real* dbeta = partial + (chunks + chunk) * stride;
    std::fill_n(dgamma, E, Real(0));
    std::fill_n(dbeta, E, Real(0));
    const Real* gamma = op.gamma.data();
    for (int t = first; t < last; ++t) {
      const std::int64_t row = std::int64_t{t} * E;
      const Real *dy = &op.dy.data()[row], *x = &op.x.data()[row];
      const cpu_detail::RowStatistics<Real> statistics{op.mean(t), op.rstd(t)};
      const auto means = cpu_detail::row_gradient_sums(dgamma, dbeta, dy, x, statistics, gamma, E);
      if (!op.dx) continue;
      Real* dx = &op.dx.data()[row];
      if (op.residual) {
        const Real* residual = &op.residual.data()[row];
#pragma omp simd
        for (int e = 0; e < E; ++e)
          dx[e] = cpu_detail::norm_gradient(dy[e], x[e], gamma[e], statistics, means) + residual[e];
      } else {
#pragma omp simd
        for (int e = 0; e < E; ++e) dx[e] = cpu_detail::norm_gradient(dy[e], x[e], gamma[e], statistics, means);
      }
    }
  });
  cpu_detail::add_partials(op.dgamma.data(), partial, stride, chunks, E);
  cpu_detail::add_partials(op.dbeta.data(), partial + chunks * stride, stride, chunks, E);
}

}  // namespace blinkbert
