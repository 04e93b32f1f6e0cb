#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/gathered_attention.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const MaskedAttentionBackward<bf16>&);
template void run(Cuda<bf16>&, const GatheredAttentionBackward<bf16>&);

}  // namespace blinkbert
