#pragma once

// mean_rows.cuh -- the mean of a sequence's real rows, and its gradient back to each of them.
//
//   what       formula, shapes: <blinkbert/ops/mean_rows.hpp>. Here: only how.
//   mapping    a row of the result is shared by up to 32 threads (row_threads.cuh); blocks walk over the rows. Forward, a thread
//              adds up its columns over the sequence's rows
//   order      rows in ascending order: the same input gives the same bits
//   traffic    forward reads each real row once and writes a row a sequence; backward writes each row of the batch once and
//              reads the sequence's row for each, mostly from cache. Padded rows are not read

#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/mean_rows.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int mean_rows_residency = 4;

template <class Real, int Chunk>
BB_KERNEL(row_threads, mean_rows_residency)
mean_rows_forward(MeanRowsForward<Real> op, int lanes) {
  const int B = op.y.extent(0), E = op.y.extent(1);
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int b = mine.row; b < B; b += mine.row_step) {
    const int length = load(at(op.lengths, b));
    for (int column = mine.column; column < E; column += mine.column_step) {
      float sum[Chunk] = {};
      for (int l = 0; l < length; ++l) {
        const Vector<Real, Chunk> chunk = load<Chunk>(at(op.x, b * op.L + l, column));
        BB_UNROLL
        for (int j = 0; j < Chunk; ++j) sum[j] += static_cast<float>(chunk[j]);
      }
      Vector<Real, Chunk> mean{};
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) mean[j] = static_cast<Real>(length > 0 ? sum[j] / static_cast<float>(length) : 0);
      store(at(op.y, b, column), mean);
    }
  }
}

template <class Real, int Chunk>
BB_KERNEL(row_threads, mean_rows_residency)
mean_rows_backward(MeanRowsBackward<Real> op, int lanes) {
  const int T = op.dx.extent(0), E = op.dx.extent(1);
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int t = mine.row; t < T; t += mine.row_step) {
    const int b = t / op.L, length = load(at(op.lengths, b));
    const bool is_real = t % op.L < length;
    for (int column = mine.column; column < E; column += mine.column_step) {
      Vector<Real, Chunk> chunk{};
      if (is_real) {
        chunk = load<Chunk>(at(op.dy, b, column));
        BB_UNROLL
        for (int j = 0; j < Chunk; ++j) {
          chunk[j] = static_cast<Real>(static_cast<float>(chunk[j]) / static_cast<float>(length));
        }
      }
      store(at(op.dx, t, column), chunk);
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MeanRowsForward<typename Gpu::Real>& op) {
  op.check();
  const int B = op.y.extent(0), E = op.y.extent(1);
  kernels::dispatch_chunk(E, [&](auto chunk) {
    const int lanes = kernels::lanes_of_row(E, chunk());
    dev::launch<kernels::mean_rows_forward<typename Gpu::Real, chunk()>>(
        gpu, kernels::row_threads_shape(gpu, B, lanes, kernels::mean_rows_residency), op, lanes);
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MeanRowsBackward<typename Gpu::Real>& op) {
  op.check();
  const int T = op.dx.extent(0), E = op.dx.extent(1);
  kernels::dispatch_chunk(E, [&](auto chunk) {
    const int lanes = kernels::lanes_of_row(E, chunk());
    dev::launch<kernels::mean_rows_backward<typename Gpu::Real, chunk()>>(
        gpu, kernels::row_threads_shape(gpu, T, lanes, kernels::mean_rows_residency), op, lanes);
  });
}

}  // namespace blinkbert
