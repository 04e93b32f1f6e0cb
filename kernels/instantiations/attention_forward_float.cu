#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/gathered_attention.cuh>

namespace blinkbert {

template void run(Cuda<float>&, const MaskedAttentionForward<float>&);
template void run(Cuda<float>&, const GatheredAttentionForward<float>&);

}  // namespace blinkbert
