#include <blinkbert/cuda/cuda.cuh>
#include <blinkbert/cuda/masked_attention.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const MaskedAttentionForward<bf16>&);

}  // namespace blinkbert
