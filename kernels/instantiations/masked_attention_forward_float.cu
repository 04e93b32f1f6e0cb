#include <blinkbert/cuda/cuda.cuh>
#include <blinkbert/cuda/masked_attention.cuh>

namespace blinkbert {

template void run(Cuda<float>&, const MaskedAttentionForward<float>&);

}  // namespace blinkbert
