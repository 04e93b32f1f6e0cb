#pragma once

// The square of the global gradient norm, in a fixed order: equal input gives equal bits.

#include <blinkbert/core/segment.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// sum = sum of gradients_p^2 over the segments that train at `step`.
template <class Real>
struct SumOfSquares {
  View<double, 1> sum;                                         // [1]  out
  View<const Wide<Real>, 1> gradients;                         // [P]
  View<const Segment, 1> segments;                             // in ascending order
  std::int64_t step = 0;

  void check() const { BLINKBERT_EXPECTS(has_shape(sum, 1) && gradients && segments); }
};

}  // namespace blinkbert
