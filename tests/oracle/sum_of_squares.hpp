#pragma once

// The square of the gradient norm over what trains, as a plain loop.

#include <cstdint>
#include <vector>

#include <blinkbert/core/segment.hpp>

namespace blinkbert::oracle {

template <class Number>
Number sum_of_squares(const std::vector<Number>& gradients, const std::vector<Segment>& segments, std::int64_t step) {
  Number sum = 0;
  for (const Segment& segment : segments) {
    if (step < segment.first_trainable) continue;
    for (std::int64_t p = segment.begin; p < segment.end; ++p) {
      sum += gradients[static_cast<std::size_t>(p)] * gradients[static_cast<std::size_t>(p)];
    }
  }
  return sum;
}

}  // namespace blinkbert::oracle
