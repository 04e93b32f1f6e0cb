#pragma once

// y = dropout(relu(x)), as plain loops.

#include <vector>

#include <tests/oracle/dropout.hpp>
#include <tests/oracle/dual.hpp>

namespace blinkbert::oracle {

/// x [R, F]; row r of x is row rows[r] % L of sequence rows[r] / L (rows[r] = -1: kept, arbitrarily).
template <class Number>
std::vector<Number> activation(const std::vector<Number>& x, const std::vector<int>& rows, int L, int F,
                               const DropoutCase& dropout) {
  std::vector<Number> y;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (int f = 0; f < F; ++f) {
      const float factor = rows[r] < 0 ? 1.0f : dropout.element(rows[r] / L, rows[r] % L, F, f);
      y.push_back(Number(factor) * larger(x[r * static_cast<std::size_t>(F) + static_cast<std::size_t>(f)], Number(0)));
    }
  }
  return y;
}

}  // namespace blinkbert::oracle
