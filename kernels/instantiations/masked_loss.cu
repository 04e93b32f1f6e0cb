#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/masked_loss.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const MaskedLoss<bf16>&);
template void run(Cuda<float>&, const MaskedLoss<float>&);

}  // namespace blinkbert
