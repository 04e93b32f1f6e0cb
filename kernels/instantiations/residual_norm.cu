#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/residual_norm.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const ResidualNormForward<bf16>&);
template void run(Cuda<bf16>&, const ResidualNormBackward<bf16>&);
template void run(Cuda<float>&, const ResidualNormForward<float>&);
template void run(Cuda<float>&, const ResidualNormBackward<float>&);

}  // namespace blinkbert
