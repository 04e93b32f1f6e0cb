#include <blinkbert/cuda/activation.cuh>
#include <blinkbert/cuda/device.hpp>

namespace blinkbert {

template void run(Cuda<bf16>&, const ActivationForward<bf16>&);
template void run(Cuda<bf16>&, const ActivationBackward<bf16>&);
template void run(Cuda<float>&, const ActivationForward<float>&);
template void run(Cuda<float>&, const ActivationBackward<float>&);

}  // namespace blinkbert
