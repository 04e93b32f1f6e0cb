#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/layer_norm.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const LayerNormForward<bf16>&);
template void run(Cuda<bf16>&, const LayerNormBackward<bf16>&);
template void run(Cuda<float>&, const LayerNormForward<float>&);
template void run(Cuda<float>&, const LayerNormBackward<float>&);

}  // namespace blinkbert
