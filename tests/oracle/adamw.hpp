#pragma once

// AdamW one parameter at a time: each parameter counts its own steps, as the textbook does, instead of deriving the count
// from the step of the run and the skips.

#include <cmath>
#include <cstdint>
#include <vector>

namespace blinkbert::oracle {

/// The rates are the op's floats; what is computed from them is computed in Number.
struct AdamWRates {
  float rate = 0, weight_decay = 0, clip = 1, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
};

template <class Number>
struct AdamWParameter {
  Number value = 0, first_moment = 0, second_moment = 0;
  int steps = 0;

  /// One step that is not skipped; `norm` = global norm of the gradients.
  void step(const AdamWRates& rates, Number gradient, Number norm, Number decay) {
    const Number rate = rates.rate, beta1 = rates.beta1, beta2 = rates.beta2;
    const Number ratio = Number(rates.clip) / (norm + Number(1e-6L));
    const Number clipped = ratio < 1 ? gradient * ratio : gradient;
    steps += 1;
    value -= rate * decay * value;
    first_moment = beta1 * first_moment + (1 - beta1) * clipped;
    second_moment = beta2 * second_moment + (1 - beta2) * clipped * clipped;
    // The powers are scalars of a step: long double, so that the tolerance does not grow by 1 - beta^n in low precision.
    const Number unbiased_first =
        first_moment / static_cast<Number>(1 - std::pow(static_cast<long double>(rates.beta1), steps));
    const Number unbiased_second =
        second_moment / static_cast<Number>(1 - std::pow(static_cast<long double>(rates.beta2), steps));
    value -= rate * unbiased_first / (std::sqrt(unbiased_second) + Number(rates.epsilon));
  }
};

}  // namespace blinkbert::oracle
