#include <blinkbert/blinkbert.hpp>

#include <cmath>

int main() {
  float x[4]{1, 2, 3, 6}, y[4]{}, gamma[4]{1, 1, 1, 1}, beta[4]{};
  blinkbert::Cpu<float> cpu(1);
  run(cpu, blinkbert::LayerNormForward<float>{.y = {y, {1, 4}},
                                              .mean = {},
                                              .rstd = {},
                                              .x = blinkbert::View<float, 2>(x, {1, 4}),
                                              .gamma = blinkbert::View<float, 1>(gamma, {4}),
                                              .beta = blinkbert::View<float, 1>(beta, {4})});
  // The mean is 3, the variance 3.5.
  const float expected = 3 / std::sqrt(3.5f);
  return std::abs(y[3] - expected) < 1e-4f ? 0 : 1;
}
