#include <blinkbert/cuda.hpp>

#include <cmath>
#include <iostream>

using namespace blinkbert;

int main() {
  if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
    std::cout << "no CUDA here: " << obstacle << '\n';
    try {
      Cuda<float> device;
    } catch (const RunError&) {
      return 0;
    }
    return 1;
  }
  const float numbers[12]{1, 2, 3, 6, 1, 1, 1, 1, 0, 0, 0, 0};  // x, gamma, beta
  Cuda<float> device;
  const CudaMemory memory = device.allocate(16 * sizeof(float));
  float* const data = reinterpret_cast<float*>(memory.data());
  upload(device, View<float, 1>(data, {12}), numbers);
  const View<float, 2> x(data, {1, 4}), y(data + 12, {1, 4});
  const View<float, 1> gamma(data + 4, {4}), beta(data + 8, {4});
  run(device, LayerNormForward<float>{.y = y, .mean = {}, .rstd = {}, .x = x, .gamma = gamma, .beta = beta});
  float normed[4];
  download(device, normed, y);
  // The mean is 3, the variance 3.5.
  return std::abs(normed[3] - 3 / std::sqrt(3.5f)) < 1e-4f ? 0 : 1;
}
