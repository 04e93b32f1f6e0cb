#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/gather_rows.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const GatherRowsForward<bf16>&);
template void run(Cuda<bf16>&, const GatherRowsBackward<bf16>&);
template void run(Cuda<float>&, const GatherRowsForward<float>&);
template void run(Cuda<float>&, const GatherRowsBackward<float>&);

}  // namespace blinkbert
