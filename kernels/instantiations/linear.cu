#include <blinkbert/cuda/cublaslt.hpp>
#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/linear.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const LinearForward<bf16>&);
template void run(Cuda<bf16>&, const LinearInputGradient<bf16>&);
template void run(Cuda<bf16>&, const LinearWeightGradient<bf16>&);
template void run(Cuda<float>&, const LinearForward<float>&);
template void run(Cuda<float>&, const LinearInputGradient<float>&);
template void run(Cuda<float>&, const LinearWeightGradient<float>&);

}  // namespace blinkbert
