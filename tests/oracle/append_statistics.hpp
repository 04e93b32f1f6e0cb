#pragma once

// Mean, mean absolute value and standard deviation of a window's visible rows as further channels, as plain loops.

#include <cmath>
#include <vector>

namespace blinkbert::oracle {

/// x [B L, N], lengths [B], visible [B][L] -> [B L, 4 N].
template <class Number>
std::vector<Number> append_statistics(const std::vector<Number>& x, const std::vector<int>& lengths,
                                      const std::vector<std::vector<int>>& visible, int L, int N) {
  std::vector<Number> y(x.size() * 4, Number(0));
  for (int b = 0; b < static_cast<int>(lengths.size()); ++b) {
    for (int n = 0; n < N; ++n) {
      using std::sqrt;
      Number sum = 0, size = 0;
      int count = 0;
      for (int s = 0; s < lengths[b]; ++s) {
        if (visible[b][s] == 0) continue;
        const Number value = x[(b * L + s) * N + n];
        sum += value;
        size += value > Number(0) ? value : -value;
        ++count;
      }
      Number squares = 0;
      for (int s = 0; s < lengths[b]; ++s) {
        if (visible[b][s] == 0) continue;
        const Number deviation = x[(b * L + s) * N + n] - sum / Number(count);
        squares += deviation * deviation;
      }
      for (int l = 0; l < lengths[b]; ++l) {
        const int row = b * L + l;
        y[row * 4 * N + n] = x[row * N + n];
        if (count == 0) continue;
        y[row * 4 * N + N + n] = sum / Number(count);
        y[row * 4 * N + 2 * N + n] = size / Number(count);
        y[row * 4 * N + 3 * N + n] = squares > Number(0) ? sqrt(squares / Number(count)) : Number(0);
      }
    }
  }
  return y;
}

}  // namespace blinkbert::oracle
