#pragma once

// The square of the global gradient norm, in a fixed order: equal input gives equal bits.

#include <blinkbert/core/random.hpp>
#include <blinkbert/core/segment.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// sum = sum of gradients_p^2 over the segments that train at the step.
template <class Real>
struct SumOfSquares {
  View<double, 1> sum;                                         // [1]  out
  View<const Wide<Real>, 1> gradients;                         // [P]
  View<const Segment, 1> segments;                             // in ascending order
  View<const StepValues, 1> now;                               // [1]

  void check() const { BLINKBERT_EXPECTS(has_shape(sum, 1) && gradients && segments && has_shape(now, 1)); }
};

}  // namespace blinkbert
