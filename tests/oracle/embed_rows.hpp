#pragma once

// y = [prefix | W x + b] + position, as plain loops.

#include <vector>

namespace blinkbert::oracle {

/// x [T, N], prefix [T, K], weight [E - K, N], bias [E - K], position [>= L, E], lengths [B] -> [T, E], zero in padded rows.
template <class Number>
std::vector<Number> embed_rows(const std::vector<Number>& x, const std::vector<Number>& prefix,
                               const std::vector<Number>& weight, const std::vector<Number>& bias,
                               const std::vector<Number>& position, const std::vector<int>& lengths, int L, int N,
                               int K, int E) {
  const int B = static_cast<int>(lengths.size());
  std::vector<Number> y(B * L * E, Number(0));
  for (int b = 0; b < B; ++b) {
    for (int l = 0; l < lengths[b]; ++l) {
      const int t = b * L + l;
      for (int e = 0; e < E; ++e) {
        Number sum = 0;
        if (e < K) {
          sum = prefix[t * K + e];
        } else {
          sum = bias[e - K];
          for (int n = 0; n < N; ++n) sum += weight[(e - K) * N + n] * x[t * N + n];
        }
        y[t * E + e] = sum + position[l * E + e];
      }
    }
  }
  return y;
}

}  // namespace blinkbert::oracle
