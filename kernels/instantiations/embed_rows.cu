#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/embed_rows.cuh>

namespace blinkbert {

template void run(Cuda<bf16>&, const EmbedRowsForward<bf16>&);
template void run(Cuda<bf16>&, const EmbedRowsBackward<bf16>&);
template void run(Cuda<float>&, const EmbedRowsForward<float>&);
template void run(Cuda<float>&, const EmbedRowsBackward<float>&);

}  // namespace blinkbert
