#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/row_masks.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const RowMasks<bf16>&);
template void run(Cuda<float>&, const RowMasks<float>&);

}  // namespace blinkbert
