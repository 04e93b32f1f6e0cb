#pragma once

// Dropout, residual and layer norm on the CPU: a row goes through all three while it is in the first cache.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/dropout_factors.hpp>
#include <blinkbert/backend/cpu/row_norm.hpp>
#include <blinkbert/ops/residual_norm.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const ResidualNormForward<Real>& op) {
  op.check();
  const int T = op.x.extent(0), E = op.x.extent(1), chunks = cpu.chunks(T, 2 * E);
  const std::int64_t stride = cpu_detail::padded(cpu_detail::RowFactors<Real>::room_size(E));
  Real* room = cpu.template workspace<Real>(stride * chunks);
  cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
    cpu_detail::RowFactors<Real> factors(room + chunk * stride, op.dropout, E);
    for (int t = first; t < last; ++t) {
      const std::int64_t row = std::int64_t{t} * E;
      const Real *x = &op.x.data()[row], *branch = &op.branch.data()[row];
      Real* z = &op.z.data()[row];
      if (op.dropout.is_active()) {
        const Real* factor = factors.row_of_batch(op.rows, t, op.L);
#pragma omp simd
        for (int e = 0; e < E; ++e) z[e] = x[e] + cpu_detail::dropped(branch[e], factor[e]);
      } else {
#pragma omp simd
        for (int e = 0; e < E; ++e) z[e] = x[e] + branch[e];
      }
      if (!op.y) continue;
      const auto statistics = cpu_detail::row_statistics(z, E, static_cast<Real>(op.epsilon));
      cpu_detail::normalise_row(&op.y.data()[row], z, statistics, op.gamma.data(), op.beta.data(), E);
      if (op.mean) op.mean(t) = statistics.mean;
      if (op.rstd) op.rstd(t) = statistics.rstd;
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const ResidualNormBackward<Real>& op) {
  op.check();
  const int T = op.dx.extent(0), E = op.dx.extent(1), chunks = cpu.chunks(T, 4 * E);
  const std::int64_t stride = cpu_detail::padded(E),
                     room_stride = cpu_detail::padded(cpu_detail::RowFactors<Real>::room_size(E));
  Real* partial = cpu.template workspace<Real>((2 * stride + room_stride) * chunks);
  Real* room = partial + 2 * stride * chunks;
  cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
    Real* dgamma = partial + chunk * stride;
    Real* dbeta = partial + (chunks + chunk) * stride;
    std::fill_n(dgamma, E, Real(0));
    std::fill_n(dbeta, E, Real(0));
    cpu_detail::RowFactors<Real> factors(room + chunk * room_stride, op.dropout, E);
    const Real* gamma = op.gamma.data();
    for (int t = first; t < last; ++t) {
      const std::int64_t row = std::int64_t{t} * E;
      Real* dx = &op.dx.data()[row];
      const Real* dz = op.dz ? &op.dz.data()[row] : nullptr;
      if (op.dy) {
        const Real *dy = &op.dy.data()[row], *z = &op.z.data()[row];
        const cpu_detail::RowStatistics<Real> statistics{op.mean(t), op.rstd(t)};
        const auto means = cpu_detail::row_gradient_sums(dgamma, dbeta, dy, z, statistics, gamma, E);
        if (dz) {
#pragma omp simd
          for (int e = 0; e < E; ++e)
            dx[e] = cpu_detail::norm_gradient(dy[e], z[e], gamma[e], statistics, means) + dz[e];
        } else {
#pragma omp simd
          for (int e = 0; e < E; ++e) dx[e] = cpu_detail::norm_gradient(dy[e], z[e], gamma[e], statistics, means);
        }
      } else if (dz != dx) {
        std::copy_n(dz, E, dx);
      }
      if (!op.dbranch) continue;
      Real* dbranch = &op.dbranch.data()[row];
      if (op.dropout.is_active()) {
        const Real* factor = factors.row_of_batch(op.rows, t, op.L);
#pragma omp simd
        for (int e = 0; e < E; ++e) dbranch[e] = cpu_detail::dropped(dx[e], factor[e]);
      } else {
        std::copy_n(dx, E, dbranch);
      }
    }
  });
  if (op.dy) {
    cpu_detail::add_partials(op.dgamma.data(), partial, stride, chunks, E);
    cpu_detail::add_partials(op.dbeta.data(), partial + chunks * stride, stride, chunks, E);
  }
}

}  // namespace blinkbert
