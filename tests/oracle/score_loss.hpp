#pragma once

// The loss on a drowsiness score, as a plain loop.

#include <vector>

#include <tests/oracle/masked_loss.hpp>

namespace blinkbert::oracle {

/// prediction, target [B]; sequences of length 0 do not count. Returns the sum, [1].
template <class Number>
std::vector<Number> score_loss(const std::vector<Number>& prediction, const std::vector<Number>& target,
                               const std::vector<int>& lengths, Loss kind, double delta) {
  Number sum = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] > 0) sum += loss(kind, delta, prediction[b] - target[b]);
  }
  return {sum};
}

}  // namespace blinkbert::oracle
