#pragma once

// score_loss.cuh -- the loss on the scores of a batch.
//
//   what       formula, shapes: <blinkbert/ops/score_loss.hpp>. Here: only how.
//   mapping    one block; thread i takes the sequences i, i + threads, ...
//   staging    none; the threads' sums are added up in shared memory
//   order      each thread its sequences in ascending order, then block_sum: the same input gives the same bits
//   traffic    lengths read once, prediction and target where a sequence counts; dprediction written once. These are a few
//              KB: more blocks would need a second launch, which costs more than they gain

#include <blinkbert/dev/warp.hpp>
#include <blinkbert/ops/score_loss.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

inline constexpr int score_loss_threads = 1024;

template <class Real>
BB_KERNEL(score_loss_threads, 1)
score_loss(ScoreLoss<Real> op) {
  SharedMemory shared;
  const auto scratch = shared.take<float>(threads() / warp_size);
  float sum = 0;
  for (int b = thread(); b < op.lengths.extent(0); b += threads()) {
    float gradient = 0;
    if (load(at(op.lengths, b)) > 0) {
      const float error = static_cast<float>(load(at(op.prediction, b, 0))) - load(at(op.target, b));
      sum += loss_value(op.kind, op.delta, error);
      gradient = op.scale * loss_slope(op.kind, op.delta, error);
    }
    if (op.dprediction) store(at(op.dprediction, b, 0), static_cast<Real>(gradient));
  }
  sum = block_sum(sum, scratch);
  if (thread() > 0) return;
  const auto place = at(op.sum, 0);
  store(place, load(place) + sum);
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ScoreLoss<typename Gpu::Real>& op) {
  op.check();
  const int B = op.lengths.extent(0), warps = dev::ceil_div(B, dev::warp_size);
  const int threads = std::min(warps * dev::warp_size, kernels::score_loss_threads);
  dev::launch<kernels::score_loss<typename Gpu::Real>>(
      gpu,
      {.blocks = B > 0 ? 1 : 0, .threads = threads, .shared_bytes = dev::shared_bytes<float>(threads / dev::warp_size)},
      op);
}

}  // namespace blinkbert
