#include <blinkbert/cuda/batch_norm.cuh>
#include <blinkbert/cuda/device.hpp>

namespace blinkbert {

template void run(Cuda<bf16>&, const BatchNormForward<bf16>&);
template void run(Cuda<bf16>&, const BatchNormBackward<bf16>&);
template void run(Cuda<float>&, const BatchNormForward<float>&);
template void run(Cuda<float>&, const BatchNormBackward<float>&);

}  // namespace blinkbert
