#include <blinkbert/cuda/cuda.cuh>
#include <blinkbert/cuda/narrow_block.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const NarrowBlockForward<bf16>&);
template void run(Cuda<bf16>&, const NarrowBlockBackward<bf16>&);
template void run(Cuda<float>&, const NarrowBlockForward<float>&);
template void run(Cuda<float>&, const NarrowBlockBackward<float>&);

}  // namespace blinkbert
