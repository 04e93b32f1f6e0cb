#pragma once

// score_loss.cuh -- the loss on the scores of a batch, or over their levels.
//
//   what       formula, shapes: <blinkbert/ops/score_loss.hpp>. Here: only how.
//   mapping    one block; thread i takes the sequences i, i + threads, ...
//   staging    none; the threads' sums are added up in shared memory
//   order      each thread its sequences in ascending order, then block_sum: the same input gives the same bits
//   traffic    lengths read once, target and weight where a sequence counts, its prediction once, or over levels up to four
//              times from cache; dprediction written once. These are a few KB: more blocks would need a second launch, which
//              costs more than they gain

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
  const int O = op.prediction.extent(1);
  float sum = 0;
  for (int b = thread(); b < op.lengths.extent(0); b += threads()) {
    float weight = 0;
    const auto z = [&](int j) { return static_cast<float>(load(at(op.prediction, b, j))); };
    const auto write = [&](int j, float slope) {
      if (op.dprediction) store(at(op.dprediction, b, j), static_cast<Real>(op.scale * weight * slope));
    };
    if (load(at(op.lengths, b)) == 0) {
      for (int j = 0; j < O; ++j) write(j, 0);
      continue;
    }
    weight = op.weights ? load(at(op.weights, b)) : 1;
    const float target = load(at(op.target, b));
    if (is_over_levels(op.kind)) {
      int level = 0;
      for (int j = 0; j < op.edges.extent(0); ++j) level += load(at(op.edges, j)) <= target ? 1 : 0;
      sum += weight * level_loss<float>(op.kind, level, O, z, write);
    } else {
      const float error = z(0) - target;
      sum += weight * loss_value(op.kind, op.delta, error);
      write(0, loss_slope(op.kind, op.delta, error));
    }
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
