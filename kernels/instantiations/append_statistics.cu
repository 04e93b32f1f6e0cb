#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/append_statistics.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const AppendStatistics<bf16>&);
template void run(Cuda<float>&, const AppendStatistics<float>&);

}  // namespace blinkbert
