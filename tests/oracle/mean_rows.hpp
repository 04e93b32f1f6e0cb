#pragma once

// The mean of a sequence's real rows, as plain loops.

#include <vector>

namespace blinkbert::oracle {

/// x [B L, E], lengths [B] -> [B, E].
template <class Number>
std::vector<Number> mean_rows(const std::vector<Number>& x, const std::vector<int>& lengths, int L, int E) {
  std::vector<Number> y;
  for (int b = 0; b < static_cast<int>(lengths.size()); ++b) {
    for (int e = 0; e < E; ++e) {
      Number sum = 0;
      for (int l = 0; l < lengths[b]; ++l) sum += x[(b * L + l) * E + e];
      y.push_back(lengths[b] > 0 ? sum / Number(lengths[b]) : Number(0));
    }
  }
  return y;
}

}  // namespace blinkbert::oracle
