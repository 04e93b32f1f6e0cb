#pragma once

// z = x + dropout(branch), as plain loops; its norm is oracle/layer_norm.hpp.

#include <vector>

#include <tests/oracle/dropout.hpp>
#include <tests/oracle/rounded.hpp>

namespace blinkbert::oracle {

/// x, branch [T, E] -> z [T, E]; row r of them is row rows[r] % L of sequence rows[r] / L (rows[r] = -1: kept, arbitrarily).
template <class Number>
std::vector<Number> residual(const std::vector<Number>& x, const std::vector<Number>& branch,
                             const std::vector<int>& rows, int L, int E, const DropoutCase& dropout) {
  std::vector<Number> z;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (int e = 0; e < E; ++e) {
      const float factor = rows[r] < 0 ? 1.0f : dropout.element(rows[r] / L, rows[r] % L, E, e);
      const int place = static_cast<int>(r) * E + e;
      z.push_back(stored(x[place] + Number(factor) * branch[place]));
    }
  }
  return z;
}

/// 0, 1, ..., T - 1: every row of a batch where it is.
inline std::vector<int> all_rows(int T) {
  std::vector<int> rows;
  for (int t = 0; t < T; ++t) rows.push_back(t);
  return rows;
}

}  // namespace blinkbert::oracle
