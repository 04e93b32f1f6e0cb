// What instantiations.cpp is for the CPU: the numerics on a CUDA device, compiled once for all programs. The kernels are in the
// library that this is linked with.

#include <blinkbert/cuda.hpp>

#include "instantiations.hpp"

BLINKBERT_INSTANTIATE_FOR(, blinkbert::Cuda<blinkbert::bf16>)
BLINKBERT_INSTANTIATE_FOR(, blinkbert::Cuda<float>)
