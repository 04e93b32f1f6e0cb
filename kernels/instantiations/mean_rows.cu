#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/mean_rows.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const MeanRowsForward<bf16>&);
template void run(Cuda<bf16>&, const MeanRowsBackward<bf16>&);
template void run(Cuda<float>&, const MeanRowsForward<float>&);
template void run(Cuda<float>&, const MeanRowsBackward<float>&);

}  // namespace blinkbert
