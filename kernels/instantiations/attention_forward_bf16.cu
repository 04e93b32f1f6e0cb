#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/gathered_attention.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const MaskedAttentionForward<bf16>&);
template void run(Cuda<bf16>&, const GatheredAttentionForward<bf16>&);

}  // namespace blinkbert
