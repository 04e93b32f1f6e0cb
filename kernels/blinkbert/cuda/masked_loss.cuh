#pragma once

// masked_loss.cuh -- the loss over the chosen rows: value, sums per feature and gradient in one pass.
//
//   what       formula, shapes: <blinkbert/ops/masked_loss.hpp>. Here: only how.
//   mapping    a thread owns a column and takes every so many rows: of a block's threads the first N have a row, the next N
//              the next row, ..., so neighbours hold neighbouring elements whatever N is. Blocks walk over the rows. More
//              columns than threads are taken in turns
//   staging    a thread reads its elements of four rows before it works on the first; its sum stays in a register, the
//              threads of a column are added up in shared memory and the blocks by column_sums.cuh
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    selected read once; prediction and target where a row counts, and nothing of other rows; dprediction written
//              once. N is a few features and mostly odd, so rows are not aligned for longer vectors

#include <blinkbert/cuda/column_sums.cuh>
#include <blinkbert/ops/masked_loss.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int masked_loss_threads = 256;
inline constexpr int masked_loss_rows = 4;  // of a thread, whose reads are under way together

/// Columns that a block of masked_loss takes at a time, `left` being left.
BLINKBERT_HOST_DEVICE constexpr int masked_loss_columns(int left) {
  return left < masked_loss_threads ? left : masked_loss_threads;
}

template <class Real>
BB_KERNEL(masked_loss_threads, 2)
masked_loss(MaskedLoss<Real> op, View<float, 2> partials) {  // partials [blocks, N]
  const int R = op.prediction.extent(0), N = op.prediction.extent(1);
  SharedMemory shared;
  const auto sums = shared.take<float>(masked_loss_threads);
  for (int first = 0; first < N; first += masked_loss_threads) {
    const int columns = masked_loss_columns(N - first), groups = masked_loss_threads / columns;
    const int group = thread() / columns, n = first + thread() % columns, stride = blocks() * groups;
    float sum = 0;
    if (group < groups) {
      const float weight = op.scale * load(at(op.weights, n));
      for (int begin = block() * groups + group; begin < R; begin += masked_loss_rows * stride) {
        int selected[masked_loss_rows];
        BB_UNROLL
        for (int k = 0; k < masked_loss_rows; ++k) {
          const int r = begin + k * stride;
          selected[k] = r < R ? load(at(op.selected, r)) : -1;
        }
        float error[masked_loss_rows];
        BB_UNROLL
        for (int k = 0; k < masked_loss_rows; ++k) {
          const int r = begin + k * stride, t = op.rows == HeadRows::all ? r : selected[k];
          error[k] = 0;  // of rows that do not count: no loss, and no slope either
          if (selected[k] >= 0)
            error[k] = static_cast<float>(load(at(op.prediction, r, n))) - load(at(op.target, t, n));
        }
        BB_UNROLL
        for (int k = 0; k < masked_loss_rows; ++k) {
          const int r = begin + k * stride;
          sum += loss_value(op.kind, op.delta, error[k]);
          if (op.dprediction && r < R) {
            store(at(op.dprediction, r, n), static_cast<Real>(weight * loss_slope(op.kind, op.delta, error[k])));
          }
        }
      }
    }
    store(at(sums, thread()), sum);
    sync_block();  // before the sums of other threads are read; none before the next columns: where some follow, a column
                   // has one thread, which reads its own sum
    if (thread() < columns) {
      float total = 0;
      for (int g = 0; g < groups; ++g) total += load(at(sums, g * columns + thread()));
      store(at(partials, block(), first + thread()), total);
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedLoss<typename Gpu::Real>& op) {
  op.check();
  const int R = op.prediction.extent(0), N = op.prediction.extent(1);
  if (R == 0 || N == 0) return;
  const int rows = kernels::masked_loss_threads / kernels::masked_loss_columns(N);
  const int blocks = std::min(dev::ceil_div(R, rows), 2 * gpu.multiprocessors());
  const View<float, 2> partials = gpu.template workspace<float>(blocks, N);
  dev::launch<kernels::masked_loss<typename Gpu::Real>>(
      gpu,
      {.blocks = blocks,
       .threads = kernels::masked_loss_threads,
       .shared_bytes = dev::shared_bytes<float>(kernels::masked_loss_threads)},
      op, partials);
  kernels::add_column_sums<Gpu, float>(gpu, {.out = {op.sums}, .partials = partials, .width = N});
}

}  // namespace blinkbert
