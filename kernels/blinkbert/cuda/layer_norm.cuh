#pragma once

// layer_norm.cuh -- layer normalisation over the width of each row.
//
//   what       formula, shapes: <blinkbert/ops/layer_norm.hpp>. Here: only how.
//   mapping    one warp per row, the row in registers (row_slice.cuh); warps walk over the rows
//   staging    none forward; backward, each warp keeps dgamma and dbeta of its columns in registers, then the warps of a
//              block are added up in shared memory and the blocks by column_sums.cuh
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    forward: x read, y written once; backward: dy, x (and the residual) read, dx written once
//   numerics   statistics by two passes over registers, in fp32

#include <blinkbert/cuda/row_norm.cuh>
#include <blinkbert/ops/layer_norm.hpp>

namespace blinkbert {
namespace kernels {

template <class Real, int Chunk, int Chunks>
BB_KERNEL(32 * norm_warps, norm_residency(Chunk, Chunks))
layer_norm_forward(LayerNormForward<Real> op) {
  const int T = op.x.extent(0), E = op.x.extent(1);
  const auto gamma = load_row<Chunk, Chunks>(op.gamma), beta = load_row<Chunk, Chunks>(op.beta);
  for (int t = block() * norm_warps + warp(); t < T; t += blocks() * norm_warps) {
    const auto x = load_row<Chunk, Chunks>(op.x, t);
    const RowStatistics row = row_statistics(x, E, op.epsilon);
    RowSlice<Chunk, Chunks> y;
    BB_UNROLL
    for (int i = 0; i < x.count; ++i) y[i] = gamma[i] * ((x[i] - row.mean) * row.rstd) + beta[i];
    store_row(op.y, t, y);
    if (lane() > 0) continue;
    if (op.mean) store(at(op.mean, t), row.mean);
    if (op.rstd) store(at(op.rstd, t), row.rstd);
  }
}

template <class Real, int Chunk, int Chunks>
BB_KERNEL(32 * norm_warps, norm_residency(Chunk, Chunks))
layer_norm_backward(LayerNormBackward<Real> op, View<float, 2> partials) {  // partials [blocks, 2 E]
  const int T = op.x.extent(0), E = op.x.extent(1);
  SharedMemory shared;
  const auto scratch = shared.take<float>(norm_warps * E);
  const auto gamma = load_row<Chunk, Chunks>(op.gamma);
  RowSlice<Chunk, Chunks> dgamma{}, dbeta{};
  for (int t = block() * norm_warps + warp(); t < T; t += blocks() * norm_warps) {
    const auto dy = load_row<Chunk, Chunks>(op.dy, t), x = load_row<Chunk, Chunks>(op.x, t);
    const RowStatistics row{load(at(op.mean, t)), load(at(op.rstd, t))};
    auto dx = norm_gradient(dgamma, dbeta, dy, x, gamma, row, E);
    if (op.residual) {
      const auto residual = load_row<Chunk, Chunks>(op.residual, t);
      BB_UNROLL
      for (int i = 0; i < dx.count; ++i) dx[i] += residual[i];
    }
    if (op.dx) store_row(op.dx, t, dx);
  }
  add_warps(partials, 0, dgamma, E, scratch);
  add_warps(partials, E, dbeta, E, scratch);
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LayerNormForward<typename Gpu::Real>& op) {
  op.check();
  const int T = op.x.extent(0);
  kernels::dispatch_row(op.x.extent(1), [&](auto chunk, auto chunks) {
    dev::launch<kernels::layer_norm_forward<typename Gpu::Real, chunk(), chunks()>>(
        gpu, {.blocks = kernels::norm_blocks(gpu, T), .threads = 32 * kernels::norm_warps}, op);
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LayerNormBackward<typename Gpu::Real>& op) {
  op.check();
  const int E = op.x.extent(1), blocks = kernels::norm_blocks(gpu, op.x.extent(0));
  const View<float, 2> partials = gpu.template workspace<float>(blocks, 2 * E);
  kernels::dispatch_row(E, [&](auto chunk, auto chunks) {
    dev::launch<kernels::layer_norm_backward<typename Gpu::Real, chunk(), chunks()>>(
        gpu,
        {.blocks = blocks,
         .threads = 32 * kernels::norm_warps,
         .shared_bytes = dev::shared_bytes<float>(kernels::norm_warps * E)},
        op, partials);
  });
  kernels::add_column_sums<Gpu, float>(gpu, {.out = {op.dgamma, op.dbeta}, .partials = partials, .width = E});
}

}  // namespace blinkbert
