#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/narrow_block.cuh>

namespace blinkbert {

template bool fuses_narrow_block(const Cuda<bf16>&, int, int, int, int);
template bool fuses_narrow_block(const Cuda<float>&, int, int, int, int);
template void run(Cuda<bf16>&, const NarrowBlockForward<bf16>&);
template void run(Cuda<bf16>&, const NarrowBlockBackward<bf16>&);
template void run(Cuda<float>&, const NarrowBlockForward<float>&);
template void run(Cuda<float>&, const NarrowBlockBackward<float>&);

}  // namespace blinkbert
