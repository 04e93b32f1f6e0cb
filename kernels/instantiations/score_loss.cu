#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/score_loss.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const ScoreLoss<bf16>&);
template void run(Cuda<float>&, const ScoreLoss<float>&);

}  // namespace blinkbert
