#pragma once

// gelu.cuh -- gelu(h) and gelu'(h) in the tanh form: <blinkbert/ops/linear.hpp>.

#include <blinkbert/dev/dev.hpp>

namespace blinkbert::kernels {
using namespace dev;

BB_DEVICE float gelu_tanh(float h) { return tanhf(0.7978845608028654f * (h + 0.044715f * h * h * h)); }
BB_DEVICE float gelu(float h) { return h / 2 * (1 + gelu_tanh(h)); }
BB_DEVICE float gelu_slope(float h) {
  const float t = gelu_tanh(h);
  return (1 + t) / 2 + h / 2 * (1 - t * t) * 0.7978845608028654f * (1 + 3 * 0.044715f * h * h);
}

}  // namespace blinkbert::kernels
