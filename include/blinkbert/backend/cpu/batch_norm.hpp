#pragma once

// Batch normalisation on the CPU: per-chunk column sums over the real rows, added in the order of the chunks.
// Column sums are kept in double: thousands of rows are added one after another, and F is small beside what is read.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/batch_norm.hpp>

namespace blinkbert {
namespace cpu_detail {

/// True for rows within their sequence; without lengths every row is real.
inline bool is_real(const View<const int, 1>& lengths, int L, int row) {
  return !lengths || row % L < lengths(row / L);
}

inline std::int64_t real_rows(const View<const int, 1>& lengths, int R) {
  if (!lengths) return R;
  std::int64_t count = 0;
  for (int b = 0; b < lengths.extent(0); ++b) count += lengths(b);
  return count;
}

/// Sums over the real rows: body(r, sums) adds row r to `sums` (`width` doubles). `partial` holds one row of
/// padded(width) doubles per chunk; the total ends in its first row.
template <class Real, class Body>
void sum_real_rows(Cpu<Real>& cpu, double* partial, int chunks, int width, const View<const int, 1>& lengths, int L,
                   int R, const Body& body) {
  const std::int64_t stride = padded(width);
  cpu.for_chunks(R, chunks, [&](int first, int last, int chunk) {
    double* sums = partial + chunk * stride;
    std::fill_n(sums, width, 0.0);
    for (int r = first; r < last; ++r) {
      if (is_real(lengths, L, r)) body(r, sums);
    }
  });
  for (int chunk = 1; chunk < chunks; ++chunk) {
    for (int i = 0; i < width; ++i) partial[i] += partial[chunk * stride + i];
  }
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const BatchNormForward<Real>& op) {
  op.check();
  const int R = op.x.extent(0), F = op.x.extent(1), chunks = cpu.chunks(R, F);
  const std::int64_t n = cpu_detail::real_rows(op.lengths, R), stride = cpu_detail::padded(F);
  const Real epsilon = static_cast<Real>(op.epsilon);
  if (op.statistics == BatchStatistics::batch && n >= 2) {
    const double count = static_cast<double>(n), momentum = static_cast<double>(op.momentum);
    double* mean = cpu.template workspace<double>(stride * (chunks + 1));
    double* partial = mean + stride;
    cpu_detail::sum_real_rows(cpu, partial, chunks, F, op.lengths, op.L, R, [&](int r, double* sums) {
      const Real* x = &op.x.data()[std::int64_t{r} * F];
#pragma omp simd
      for (int f = 0; f < F; ++f) sums[f] += static_cast<double>(x[f]);
    });
    for (int f = 0; f < F; ++f) mean[f] = partial[f] / count;
    cpu_detail::sum_real_rows(cpu, partial, chunks, F, op.lengths, op.L, R, [&](int r, double* sums) {
      const Real* x = &op.x.data()[std::int64_t{r} * F];
#pragma omp simd
      for (int f = 0; f < F; ++f) {
        const double deviation = static_cast<double>(x[f]) - mean[f];
        sums[f] += deviation * deviation;
      }
    });
    for (int f = 0; f < F; ++f) {
      const double variance = partial[f] / count, running_mean = static_cast<double>(op.running_mean(f));
      const double running_variance = static_cast<double>(op.running_variance(f));
      op.mean(f) = static_cast<Real>(mean[f]);
      op.rstd(f) = static_cast<Real>(1 / std::sqrt(variance + static_cast<double>(op.epsilon)));
      op.running_mean(f) = static_cast<Real>(running_mean + momentum * (mean[f] - running_mean));
      op.running_variance(f) =
          static_cast<Real>(running_variance + momentum * (partial[f] / (count - 1) - running_variance));
    }
  } else {
    for (int f = 0; f < F; ++f) {
      op.mean(f) = op.running_mean(f);
      op.rstd(f) = 1 / std::sqrt(op.running_variance(f) + epsilon);
    }
  }
  cpu.for_chunks(R, chunks, [&](int first, int last, int) {
    const Real *mean = op.mean.data(), *rstd = op.rstd.data(), *gamma = op.gamma.data(), *beta = op.beta.data();
    for (int r = first; r < last; ++r) {
      const Real* x = &op.x.data()[std::int64_t{r} * F];
      Real* y = &op.y.data()[std::int64_t{r} * F];
      if (!cpu_detail::is_real(op.lengths, op.L, r)) {
        std::fill_n(y, F, Real(0));
        continue;
      }
#pragma omp simd
      for (int f = 0; f < F; ++f) y[f] = gamma[f] * ((x[f] - mean[f]) * rstd[f]) + beta[f];
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const BatchNormBackward<Real>& op) {
  op.check();
  const int R = op.x.extent(0), F = op.x.extent(1), chunks = cpu.chunks(R, 2 * F);
  const std::int64_t n = cpu_detail::real_rows(op.lengths, R), stride = cpu_detail::padded(2 * F);
  const Real *mean = op.mean.data(), *rstd = op.rstd.data(), *gamma = op.gamma.data();
  double* partial = cpu.template workspace<double>(stride * (chunks + 1));  // [dbeta | dgamma] per chunk
  cpu_detail::sum_real_rows(cpu, partial, chunks, 2 * F, op.lengths, op.L, R, [&](int r, double* sums) {
    const Real *dy = &op.dy.data()[std::int64_t{r} * F], *x = &op.x.data()[std::int64_t{r} * F];
    double* products = sums + F;
#pragma omp simd
    for (int f = 0; f < F; ++f) {
      sums[f] += static_cast<double>(dy[f]);
      products[f] += static_cast<double>(dy[f] * ((x[f] - mean[f]) * rstd[f]));
    }
  });
  // What the statistics take back, per column: mean_n(g) and mean_n(g xhat); nothing where they were constants.
  Real* mean_gradient = reinterpret_cast<Real*>(partial + stride * chunks);
  Real* mean_product = mean_gradient + F;
  const bool are_constants = op.statistics == BatchStatistics::running || n < 2;
  for (int f = 0; f < F; ++f) {
    const double g = static_cast<double>(gamma[f]), count = static_cast<double>(n);
    op.dbeta(f) += static_cast<Real>(partial[f]);
    op.dgamma(f) += static_cast<Real>(partial[F + f]);
    mean_gradient[f] = are_constants ? Real(0) : static_cast<Real>(g * partial[f] / count);
    mean_product[f] = are_constants ? Real(0) : static_cast<Real>(g * partial[F + f] / count);
  }
  cpu.for_chunks(R, chunks, [&](int first, int last, int) {
    for (int r = first; r < last; ++r) {
      const Real *dy = &op.dy.data()[std::int64_t{r} * F], *x = &op.x.data()[std::int64_t{r} * F];
      Real* dx = &op.dx.data()[std::int64_t{r} * F];
      if (!cpu_detail::is_real(op.lengths, op.L, r)) {
        std::fill_n(dx, F, Real(0));
        continue;
      }
#pragma omp simd
      for (int f = 0; f < F; ++f) {
        const Real xhat = (x[f] - mean[f]) * rstd[f];
        dx[f] = rstd[f] * (gamma[f] * dy[f] - mean_gradient[f] - xhat * mean_product[f]);
      }
    }
  });
}

}  // namespace blinkbert
