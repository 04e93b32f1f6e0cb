#pragma once

// row_norm.cuh -- what layer_norm.cuh and residual_norm.cuh have in common: statistics and gradients of a row in registers,
// sums of parameter gradients over the warps of a block.

#include <blinkbert/cuda/column_sums.cuh>
#include <blinkbert/cuda/row_slice.cuh>

namespace blinkbert::kernels {

inline constexpr int norm_warps = 8;  // rows of a block at a time
/// Blocks on a multiprocessor: two, but one where a lane's part of the row does not leave it enough registers (single
/// elements need a place each).
constexpr int norm_residency(int chunk, int chunks) { return chunk * chunks <= 16 && chunks < 16 ? 2 : 1; }

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

/// Blocks that walk over T rows: as many as there are rows for, at most two for each multiprocessor.
template <class Gpu>
int norm_blocks(const Gpu& gpu, int T) {
  return std::min(ceil_div(T, norm_warps), 2 * gpu.multiprocessors());
}

}  // namespace blinkbert::kernels
