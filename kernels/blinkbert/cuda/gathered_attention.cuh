#pragma once

// gathered_attention.cuh -- attention of some rows' queries over the keys of their whole sequences.
//
//   what       formula, shapes, padding rule: <blinkbert/ops/gathered_attention.hpp>
//   how        the kernels of masked_attention.cuh and masked_attention_long.cuh, with queries from a compact tensor. A
//              problem has as many warps as its keys need; those without queries have nothing to do in forward.
//   dropout    counts rows of the sequence, so a lane's two queries need a call of the generator each

#include <blinkbert/cuda/masked_attention.cuh>
#include <blinkbert/ops/gathered_attention.hpp>

namespace blinkbert {

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatheredAttentionForward<typename Gpu::Real>& op) {
  op.check();
  kernels::run_attention_forward(gpu, op);
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatheredAttentionBackward<typename Gpu::Real>& op) {
  op.check();
  kernels::run_attention_backward(gpu, op);
}

}  // namespace blinkbert
