// One kernel without the rest of the library: masked attention over raw device pointers. Compiles with
//   nvcc -std=c++20 -arch=native -I include -I kernels examples/attention_kernel.cu
// Includes: this library's include/ and kernels/, and Random123 for the dropout's counters.

#include <iostream>
#include <vector>

#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/masked_attention.cuh>

using namespace blinkbert;

int main() try {
  const int B = 2, L = 30, H = 4, D = 128;
  const std::vector<bf16> host_qkv(static_cast<std::size_t>(B) * L * 3 * H * D, bf16(0.5f));
  const std::vector<int> host_lengths{30, 17};
  const std::vector<std::uint32_t> host_visible{(1u << 30) - 1, (1u << 17) - 1};  // bit s: key s may be attended to

  Cuda<bf16> device;  // the current device and a stream
  // Any device pointers will do; these come from the device's own allocator.
  CudaMemory qkv = device.allocate(host_qkv.size() * sizeof(bf16)), o = device.allocate(B * L * H * D * sizeof(bf16));
  CudaMemory lengths = device.allocate(B * sizeof(int)), visible = device.allocate(B * sizeof(std::uint32_t));
  const View<bf16, 5> qkv_view{reinterpret_cast<bf16*>(qkv.data()), {B, L, 3, H, D}};
  const View<bf16, 4> o_view{reinterpret_cast<bf16*>(o.data()), {B, L, H, D}};
  const View<int, 1> lengths_view{reinterpret_cast<int*>(lengths.data()), {B}};
  const View<std::uint32_t, 2> visible_view{reinterpret_cast<std::uint32_t*>(visible.data()), {B, 1}};
  upload(device, qkv_view, host_qkv.data());
  upload(device, lengths_view, host_lengths.data());
  upload(device, visible_view, host_visible.data());

  run(device, MaskedAttentionForward<bf16>{
                  .o = o_view, .qkv = qkv_view, .visible = visible_view, .lengths = lengths_view, .dropout = {}});

  std::vector<bf16> host_o(static_cast<std::size_t>(o_view.size()));
  download(device, host_o.data(), o_view);  // waits
  const std::size_t padded = static_cast<std::size_t>(B * L - 1) * H * D;
  std::cout << "o of a real row " << host_o[0] << ", of a padded row " << host_o[padded] << '\n';
} catch (const RunError& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
