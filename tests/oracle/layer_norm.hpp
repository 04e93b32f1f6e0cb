#pragma once

// Layer normalisation over the width of each row, as plain loops.

#include <cmath>
#include <vector>

namespace blinkbert::oracle {

template <class Number>
struct Normalised {
  std::vector<Number> y;           // [T, E]
  std::vector<Number> mean, rstd;  // [T]
};

/// x [T, E], gamma and beta [E].
template <class Number>
Normalised<Number> layer_norm(const std::vector<Number>& x, const std::vector<Number>& gamma,
                              const std::vector<Number>& beta, int T, int E, float epsilon) {
  using std::sqrt;
  Normalised<Number> result{std::vector<Number>(T * E), std::vector<Number>(T), std::vector<Number>(T)};
  for (int t = 0; t < T; ++t) {
    Number mean = 0;
    for (int e = 0; e < E; ++e) mean += x[t * E + e];
    mean = mean / Number(E);
    Number variance = 0;
    for (int e = 0; e < E; ++e) variance += (x[t * E + e] - mean) * (x[t * E + e] - mean);
    variance = variance / Number(E);
    const Number rstd = Number(1) / sqrt(variance + Number(epsilon));
    for (int e = 0; e < E; ++e) result.y[t * E + e] = gamma[e] * ((x[t * E + e] - mean) * rstd) + beta[e];
    result.mean[t] = mean;
    result.rstd[t] = rstd;
  }
  return result;
}

}  // namespace blinkbert::oracle
