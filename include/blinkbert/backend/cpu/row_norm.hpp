#pragma once

// What layer_norm and residual_norm share: the arithmetic of one row. A row stays in the first cache between its passes.

#include <cmath>
#include <cstdint>

namespace blinkbert::cpu_detail {

template <class Real>
struct RowStatistics {
  Real mean, rstd;
};

/// Mean and 1 / sqrt(variance + epsilon) of a row. The second pass also sums the deviations themselves: what rounding
/// left in the first mean is then taken out of mean and variance (Chan, Golub, LeVeque 1983, eq. 1.7).
template <class Real>
RowStatistics<Real> row_statistics(const Real* x, int E, Real epsilon) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int e = 0; e < E; ++e) sum += x[e];
  const Real width = static_cast<Real>(E), mean = sum / width;
  Real deviations = 0, squares = 0;
#pragma omp simd reduction(+ : deviations, squares)
  for (int e = 0; e < E; ++e) {
    const Real deviation = x[e] - mean;
    deviations += deviation;
    squares += deviation * deviation;
  }
  const Real shift = deviations / width;
  return {mean + shift, 1 / std::sqrt(squares / width - shift * shift + epsilon)};
}

/// y = gamma (x - mean) rstd + beta.
template <class Real>
void normalise_row(Real* y, const Real* x, RowStatistics<Real> statistics, const Real* gamma, const Real* beta, int E) {
  const auto [mean, rstd] = statistics;
#pragma omp simd
  for (int e = 0; e < E; ++e) y[e] = gamma[e] * ((x[e] - mean) * rstd) + beta[e];
}

template <class Real>
struct RowMeans {
  Real of_gradient, of_product;  // mean_E(g), mean_E(g xhat)
};

/// Adds the row's part to dgamma and dbeta and returns what its dx needs.
template <class Real>
RowMeans<Real> row_gradient_sums(Real* dgamma, Real* dbeta, const Real* dy, const Real* x,
                                 RowStatistics<Real> statistics, const Real* gamma, int E) {
  const auto [mean, rstd] = statistics;
  Real gradients = 0, products = 0;
#pragma omp simd reduction(+ : gradients, products)
  for (int e = 0; e < E; ++e) {
    const Real xhat = (x[e] - mean) * rstd, g = gamma[e] * dy[e];
    dgamma[e] += dy[e] * xhat;
    dbeta[e] += dy[e];
    gradients += g;
    products += g * xhat;
  }
  return {gradients / static_cast<Real>(E), products / static_cast<Real>(E)};
}

/// dx_e of the norm alone.
template <class Real>
Real norm_gradient(Real dy, Real x, Real gamma, RowStatistics<Real> statistics, RowMeans<Real> means) {
  const Real xhat = (x - statistics.mean) * statistics.rstd;
  return statistics.rstd * (gamma * dy - means.of_gradient - xhat * means.of_product);
}

/// total_e += sum over chunks, in the order of the chunks; `partial` holds one row of `stride` elements per chunk.
template <class Real>
void add_partials(Real* total, const Real* partial, std::int64_t stride, int chunks, int E) {
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const Real* row = partial + chunk * stride;
#pragma omp simd
    for (int e = 0; e < E; ++e) total[e] += row[e];
  }
}

}  // namespace blinkbert::cpu_detail
