#pragma once

// zero_padding.cuh -- zeros at padded rows.
//
//   what       formula, shapes: <blinkbert/ops/zero_padding.hpp>. Here: only how.
//   mapping    a row is shared by up to 32 threads (row_threads.cuh); blocks walk over the rows
//   traffic    real rows read and written once, neither where y is x itself; padded rows written, not read

#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/zero_padding.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int zero_padding_residency = 8;  // all threads of a multiprocessor: 32 KB of loads under way

template <class Real, int Chunk>
BB_KERNEL(row_threads, zero_padding_residency)
zero_padding(ZeroPadding<Real> op, int lanes) {
  const int T = op.x.extent(0), F = op.x.extent(1);
  const bool is_in_place = op.y.data() == op.x.data();
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int t = mine.row; t < T; t += mine.row_step) {
    const bool is_kept = is_real(op.lengths, op.L, t);
    if (is_kept && is_in_place) continue;
    for (int column = mine.column; column < F; column += mine.column_step) {
      Vector<Real, Chunk> chunk{};
      if (is_kept) chunk = load<Chunk>(at(op.x, t, column));
      store(at(op.y, t, column), chunk);
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ZeroPadding<typename Gpu::Real>& op) {
  op.check();
  const int T = op.x.extent(0), F = op.x.extent(1);
  kernels::dispatch_chunk(F, [&](auto chunk) {
    const int lanes = kernels::lanes_of_row(F, chunk());
    dev::launch<kernels::zero_padding<typename Gpu::Real, chunk()>>(
        gpu, kernels::row_threads_shape(gpu, T, lanes, kernels::zero_padding_residency), op, lanes);
  });
}

}  // namespace blinkbert
