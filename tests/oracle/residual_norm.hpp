#pragma once

// z = x + dropout(branch), as plain loops; its norm is oracle/layer_norm.hpp.

#include <vector>

#include <tests/oracle/dropout.hpp>

namespace blinkbert::oracle {

/// x, branch [B L, E] -> z [B L, E].
template <class Number>
std::vector<Number> residual(const std::vector<Number>& x, const std::vector<Number>& branch, int B, int L, int E,
                             const DropoutCase& dropout) {
  std::vector<Number> z(B * L * E);
  for (int b = 0; b < B; ++b) {
    for (int l = 0; l < L; ++l) {
      for (int e = 0; e < E; ++e) {
        const int place = (b * L + l) * E + e;
        z[place] = x[place] + Number(dropout.element(b, l, E, e)) * branch[place];
      }
    }
  }
  return z;
}

}  // namespace blinkbert::oracle
