#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/sum_of_squares.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const SumOfSquares<bf16>&);
template void run(Cuda<float>&, const SumOfSquares<float>&);

}  // namespace blinkbert
