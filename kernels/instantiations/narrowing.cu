#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/narrowing.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const Narrowing<bf16>&);
template void run(Cuda<float>&, const Narrowing<float>&);

}  // namespace blinkbert
