#pragma once

// Batch normalisation over the real rows, as plain loops.

#include <cmath>
#include <vector>

namespace blinkbert::oracle {

template <class Number>
struct BatchNormalised {
  std::vector<Number> y;                               // [R, F]
  std::vector<Number> mean, rstd;                      // [F]  what was used
  std::vector<Number> running_mean, running_variance;  // [F]  afterwards
};

enum class Statistics { batch, running };

/// x [R, F]; is_real [R] != 0 where the row takes part; batch statistics need two real rows, else the running ones are used.
template <class Number>
BatchNormalised<Number> batch_norm(const std::vector<Number>& x, const std::vector<Number>& gamma,
                                   const std::vector<Number>& beta, const std::vector<Number>& running_mean,
                                   const std::vector<Number>& running_variance, const std::vector<int>& is_real, int F,
                                   Statistics statistics, float epsilon, float momentum) {
  using std::sqrt;
  const int R = static_cast<int>(is_real.size());
  int n = 0;
  for (const int real : is_real) n += real != 0 ? 1 : 0;
  BatchNormalised<Number> result{std::vector<Number>(R * F, Number(0)), running_mean, std::vector<Number>(F),
                                 running_mean, running_variance};
  for (int f = 0; f < F; ++f) {
    Number mean = running_mean[f], variance = running_variance[f];
    if (statistics == Statistics::batch && n >= 2) {
      mean = 0;
      variance = 0;
      for (int r = 0; r < R; ++r) {
        if (is_real[r] != 0) mean += x[r * F + f];
      }
      mean = mean / Number(n);
      for (int r = 0; r < R; ++r) {
        if (is_real[r] != 0) variance += (x[r * F + f] - mean) * (x[r * F + f] - mean);
      }
      variance = variance / Number(n);
      const Number unbiased = variance * Number(n) / Number(n - 1);
      result.running_mean[f] += Number(momentum) * (mean - running_mean[f]);
      result.running_variance[f] += Number(momentum) * (unbiased - running_variance[f]);
    }
    result.mean[f] = mean;
    result.rstd[f] = Number(1) / sqrt(variance + Number(epsilon));
    for (int r = 0; r < R; ++r) {
      if (is_real[r] != 0) result.y[r * F + f] = gamma[f] * ((x[r * F + f] - mean) * result.rstd[f]) + beta[f];
    }
  }
  return result;
}

}  // namespace blinkbert::oracle
