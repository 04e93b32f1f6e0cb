#pragma once

// Failures of CUDA's runtime as exceptions. Any compiler reads this header.

#include <cuda_runtime_api.h>

#include <blinkbert/core/expects.hpp>

namespace blinkbert {

/// Throws RunError with CUDA's own words where a call of the runtime failed.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw RunError(text("CUDA: ", what, ": ", cudaGetErrorString(status)));
}

}  // namespace blinkbert
