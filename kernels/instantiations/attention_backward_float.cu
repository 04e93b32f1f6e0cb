#include <blinkbert/cuda/cuda.cuh>
#include <blinkbert/cuda/gathered_attention.cuh>

namespace blinkbert {

template void run(Cuda<float>&, const MaskedAttentionBackward<float>&);
template void run(Cuda<float>&, const GatheredAttentionBackward<float>&);

}  // namespace blinkbert
