#pragma once

// The rows named, zeros for -1, as plain loops.

#include <vector>

namespace blinkbert::oracle {

/// x [T, E], rows [M] -> [M, E].
template <class Number>
std::vector<Number> gather_rows(const std::vector<Number>& x, const std::vector<int>& rows, int E) {
  std::vector<Number> y;
  for (const int row : rows) {
    for (int e = 0; e < E; ++e) y.push_back(row < 0 ? Number(0) : x[row * E + e]);
  }
  return y;
}

}  // namespace blinkbert::oracle
