#pragma once

// residual_norm.cuh -- dropout, residual and layer norm in one pass.
//
//   what       formula, shapes: <blinkbert/ops/residual_norm.hpp>. Here: only how.
//   mapping    as layer_norm.cuh: one warp per row, the row in registers, warps walk over the rows
//   dropout    replayed from counters; one call of the generator serves 8 neighbouring columns
//   numerics   z is rounded to its number type before the statistics, so that backward finds the same zhat
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    forward: x, branch read, z, y written once; backward: dy, z (and dz) read, dx, dbranch written once

#include <blinkbert/cuda/row_norm.cuh>
#include <blinkbert/ops/residual_norm.hpp>

namespace blinkbert {
namespace kernels {

/// Bits of the elements that dropout keeps in row r: all where nothing is dropped.
template <int Chunk, int Chunks, class Op>
BB_DEVICE std::uint32_t kept_of_branch(const Op& op, int r, int width) {
  if (!op.dropout.is_active()) return ~0u;
  int t = op.rows ? load(at(op.rows, r)) : r;
  if (t < 0) t = 0;
  return kept_elements<Chunk, Chunks>(op.dropout, t / op.L, t % op.L, width);
}

template <class Real, int Chunk, int Chunks>
BB_KERNEL(32 * norm_warps, norm_residency(Chunk, Chunks))
residual_norm_forward(ResidualNormForward<Real> op) {
  const int T = op.x.extent(0), E = op.x.extent(1);
  RowSlice<Chunk, Chunks> gamma{}, beta{};
  if (op.y) {
    gamma = load_row<Chunk, Chunks>(op.gamma);
    beta = load_row<Chunk, Chunks>(op.beta);
  }
  const float keep_scale = op.dropout.keep_scale();
  for (int t = block() * norm_warps + warp(); t < T; t += blocks() * norm_warps) {
    auto z = load_row<Chunk, Chunks>(op.x, t);
    const auto branch = load_row<Chunk, Chunks>(op.branch, t);
    const std::uint32_t kept = kept_of_branch<Chunk, Chunks>(op, t, E);
    BB_UNROLL
    for (int i = 0; i < z.count; ++i) {
      const float sum = z[i] + ((kept >> i & 1) != 0 ? branch[i] * keep_scale : 0);
      z[i] = static_cast<float>(static_cast<Real>(sum));
    }
    store_row(op.z, t, z);
    if (!op.y) continue;
    const RowStatistics row = row_statistics(z, E, op.epsilon);
    RowSlice<Chunk, Chunks> y;
    BB_UNROLL
    for (int i = 0; i < z.count; ++i) y[i] = gamma[i] * ((z[i] - row.mean) * row.rstd) + beta[i];
    store_row(op.y, t, y);
    if (lane() > 0) continue;
    if (op.mean) store(at(op.mean, t), row.mean);
    if (op.rstd) store(at(op.rstd, t), row.rstd);
  }
}

template <class Real, int Chunk, int Chunks>
BB_KERNEL(32 * norm_warps, norm_residency(Chunk, Chunks))
residual_norm_backward(ResidualNormBackward<Real> op, View<float, 2> partials) {  // partials [blocks, 2 E]
  const int T = op.dx.extent(0), E = op.dx.extent(1);
  SharedMemory shared;
  const auto scratch = shared.take<float>(norm_warps * E);
  RowSlice<Chunk, Chunks> gamma{}, dgamma{}, dbeta{};
  if (op.dy) gamma = load_row<Chunk, Chunks>(op.gamma);
  const float keep_scale = op.dropout.keep_scale();
  for (int t = block() * norm_warps + warp(); t < T; t += blocks() * norm_warps) {
    RowSlice<Chunk, Chunks> dx{};
    if (op.dy) {
      const auto dy = load_row<Chunk, Chunks>(op.dy, t), z = load_row<Chunk, Chunks>(op.z, t);
      const RowStatistics row{load(at(op.mean, t)), load(at(op.rstd, t))};
      dx = norm_gradient(dgamma, dbeta, dy, z, gamma, row, E);
    }
    if (op.dz) {
      const auto dz = load_row<Chunk, Chunks>(op.dz, t);
      BB_UNROLL
      for (int i = 0; i < dx.count; ++i) dx[i] += dz[i];
    }
    store_row(op.dx, t, dx);
    if (!op.dbranch) continue;
    const std::uint32_t kept = kept_of_branch<Chunk, Chunks>(op, t, E);
    BB_UNROLL
    for (int i = 0; i < dx.count; ++i) dx[i] = (kept >> i & 1) != 0 ? dx[i] * keep_scale : 0;
    store_row(op.dbranch, t, dx);
  }
  if (!op.dy) return;
  add_warps(partials, 0, dgamma, E, scratch);
  add_warps(partials, E, dbeta, E, scratch);
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ResidualNormForward<typename Gpu::Real>& op) {
  op.check();
  const int T = op.x.extent(0);
  kernels::dispatch_row(op.x.extent(1), [&](auto chunk, auto chunks) {
    dev::launch<kernels::residual_norm_forward<typename Gpu::Real, chunk(), chunks()>>(
        gpu, {.blocks = kernels::norm_blocks(gpu, T), .threads = 32 * kernels::norm_warps}, op);
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ResidualNormBackward<typename Gpu::Real>& op) {
  op.check();
  const int E = op.dx.extent(1), blocks = kernels::norm_blocks(gpu, op.dx.extent(0));
  const View<float, 2> partials = gpu.template workspace<float>(blocks, 2 * E);
  kernels::dispatch_row(E, [&](auto chunk, auto chunks) {
    dev::launch<kernels::residual_norm_backward<typename Gpu::Real, chunk(), chunks()>>(
        gpu,
        {.blocks = blocks,
         .threads = 32 * kernels::norm_warps,
         .shared_bytes = dev::shared_bytes<float>(kernels::norm_warps * E)},
        op, partials);
  });
  if (op.dy) {
    kernels::add_column_sums<Gpu, float>(gpu, {.out = {op.dgamma, op.dbeta}, .partials = partials, .width = E});
  }
}

}  // namespace blinkbert
