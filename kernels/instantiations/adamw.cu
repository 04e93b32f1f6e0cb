#include <blinkbert/cuda/adamw.cuh>
#include <blinkbert/cuda/device.hpp>

namespace blinkbert {

template void run(Cuda<bf16>&, const AdamW<bf16>&);
template void run(Cuda<float>&, const AdamW<float>&);

}  // namespace blinkbert
