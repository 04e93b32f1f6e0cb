#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/gathered_attention.cuh>

namespace blinkbert {

template void run(Cuda<float>&, const MaskedAttentionBackward<float>&);
template void run(Cuda<float>&, const GatheredAttentionBackward<float>&);

}  // namespace blinkbert
