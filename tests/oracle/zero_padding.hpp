#pragma once

// Real rows as they are, zeros in padded ones, as plain loops.

#include <vector>

namespace blinkbert::oracle {

/// x [B L, F], lengths [B] -> [B L, F].
template <class Number>
std::vector<Number> zero_padding(const std::vector<Number>& x, const std::vector<int>& lengths, int L, int F) {
  std::vector<Number> y(x.size(), Number(0));
  for (int b = 0; b < static_cast<int>(lengths.size()); ++b) {
    for (int place = b * L * F; place < (b * L + lengths[b]) * F; ++place) y[place] = x[place];
  }
  return y;
}

}  // namespace blinkbert::oracle
