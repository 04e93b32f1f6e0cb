#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/zero_padding.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const ZeroPadding<bf16>&);
template void run(Cuda<float>&, const ZeroPadding<float>&);

}  // namespace blinkbert
