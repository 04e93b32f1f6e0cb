#pragma once

// One optimizer step over the flat parameter block: clip by the global norm, AdamW with decoupled decay.
// Source: Loshchilov, Hutter 2017, arXiv:1711.05101, algorithm 2; clipping: Pascanu et al. 2012, arXiv:1211.5063, algorithm 1.

#include <blinkbert/core/random.hpp>
#include <blinkbert/core/segment.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// For each segment that trains at `step`, n = step - first_trainable + 1 - (skipped - skips_before) its steps so far,
/// c = min(1, clip / (sqrt(sum_of_squares) + 1e-6)), g = c * gradient:
///   value *= 1 - rate * weight_decay                          (where the segment decays)
///   m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
///   value -= rate * (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + epsilon)
///   working = value rounded to Real.
/// If sum_of_squares is not finite nothing changes but `skipped`, which grows by one, and `statistics`, which the step's
/// forward passes have moved and which get their values from before back.
template <class Real>
struct AdamW {
  View<Wide<Real>, 1> values;                                  // [P]  in and out
  View<Real, 1> working;                                       // [P]  out; may be the memory of values
  View<Wide<Real>, 1> first_moment, second_moment;             // [P]  in and out
  View<std::int64_t, 1> skipped;                               // [1]  in and out: steps skipped so far
  View<const Wide<Real>, 1> gradients;                         // [P]
  View<const Segment, 1> segments;                             // in ascending order
  View<const double, 1> sum_of_squares;                        // [1]  of the gradients
  View<const StepValues, 1> now;                               // [1]  step and learning rate
  View<Wide<Real>, 1> statistics = {};                         // [S]  in and out
  View<const Wide<Real>, 1> statistics_before = {};            // [S]
  float weight_decay = 0;
  float clip = 1;                                              // largest global norm
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;

  void check() const {
    const int P = values.extent(0);
    BLINKBERT_EXPECTS(has_shape(working, P) && has_shape(first_moment, P) && has_shape(second_moment, P), P);
    BLINKBERT_EXPECTS(has_shape(gradients, P) && segments && has_shape(sum_of_squares, 1) && has_shape(skipped, 1), P);
    BLINKBERT_EXPECTS(has_shape(now, 1) && statistics.extents() == statistics_before.extents(), statistics.extent(0));
    BLINKBERT_EXPECTS(clip > 0 && weight_decay >= 0, clip, weight_decay);
  }
};

}  // namespace blinkbert
