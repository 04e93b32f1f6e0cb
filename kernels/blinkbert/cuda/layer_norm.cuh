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

#include <blinkbert/cuda/column_sums.cuh>
#include <blinkbert/cuda/row_slice.cuh>
#include <blinkbert/ops/layer_norm.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int norm_warps = 8;  // rows of a block at a time
/// Blocks on a multiprocessor: two, but one where a lane's part of the row does not leave it enough registers.
constexpr int norm_residency(int elements) { return elements <= 16 ? 2 : 1; }

struct RowStatistics {
  float mean, rstd;
};

/// Columns beyond the width hold zeros.
template <int Chunk, int Chunks>
BB_DEVICE RowStatistics row_statistics(const RowSlice<Chunk, Chunks>& x, int width, float epsilon) {
  float sum = 0;
  BB_UNROLL
  for (int i = 0; i < x.count; ++i) sum += x[i];
  const float mean = warp_sum(sum) / static_cast<float>(width);
  float squares = 0;
  BB_UNROLL
  for (int i = 0; i < x.count; ++i) {
    const float off = x.column(i) < width ? x[i] - mean : 0.0f;
    squares += off * off;
  }
  return {mean, 1 / sqrtf(warp_sum(squares) / static_cast<float>(width) + epsilon)};
}

/// dx of one row, from dy, x and gamma; adds the row to dgamma and dbeta.
template <int Chunk, int Chunks>
BB_DEVICE RowSlice<Chunk, Chunks> norm_gradient(RowSlice<Chunk, Chunks>& dgamma, RowSlice<Chunk, Chunks>& dbeta,
                                                const RowSlice<Chunk, Chunks>& dy, const RowSlice<Chunk, Chunks>& x,
                                                const RowSlice<Chunk, Chunks>& gamma, RowStatistics row, int width) {
  float sum = 0, sum_of_product = 0;
  BB_UNROLL
  for (int i = 0; i < x.count; ++i) {
    const float xhat = (x[i] - row.mean) * row.rstd, g = gamma[i] * dy[i];  // g is 0 beyond the width
    dgamma[i] += dy[i] * xhat;
    dbeta[i] += dy[i];
    sum += g;
    sum_of_product += g * xhat;
  }
  const float mean = warp_sum(sum) / static_cast<float>(width);
  const float mean_of_product = warp_sum(sum_of_product) / static_cast<float>(width);
  RowSlice<Chunk, Chunks> dx;
  BB_UNROLL
  for (int i = 0; i < x.count; ++i) {
    const float xhat = (x[i] - row.mean) * row.rstd;
    dx[i] = row.rstd * (gamma[i] * dy[i] - mean - xhat * mean_of_product);
  }
  return dx;
}

/// Adds up a block's warps: partials(block, first + c) = sum over warps of `mine`. `scratch` is [norm_warps, width].
template <int Chunk, int Chunks>
BB_DEVICE void add_warps(const View<float, 2>& partials, int first, const RowSlice<Chunk, Chunks>& mine, int width,
                         const Shared<float>& scratch) {
  BB_UNROLL
  for (int i = 0; i < mine.count; ++i) {
    if (mine.column(i) < width) store(at(scratch, warp() * width + mine.column(i)), mine[i]);
  }
  sync_block();
  for (int column = thread(); column < width; column += threads()) {
    float sum = 0;
    for (int w = 0; w < norm_warps; ++w) sum += load(at(scratch, w * width + column));
    store(at(partials, block(), first + column), sum);
  }
  sync_block();
}

template <class Real, int Chunk, int Chunks>
BB_KERNEL(32 * norm_warps, norm_residency(Chunk* Chunks))
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
BB_KERNEL(32 * norm_warps, norm_residency(Chunk* Chunks))
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

/// Blocks that walk over T rows: as many as there are rows for, at most two for each multiprocessor.
template <class Gpu>
int norm_blocks(const Gpu& gpu, int T) {
  return std::min(ceil_div(T, norm_warps), 2 * gpu.multiprocessors());
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
