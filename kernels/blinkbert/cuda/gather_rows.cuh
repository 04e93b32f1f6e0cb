#pragma once

// gather_rows.cuh -- the rows that a head reads, and their gradients back in place.
//
//   what       formula, shapes: <blinkbert/ops/gather_rows.hpp>. Here: only how.
//   mapping    a row of the result is shared by up to 32 threads (row_threads.cuh); blocks walk over the rows.
//              Backward is the same copy along `slots`: no scatter, no zeros written beforehand
//   traffic    each row of the result written once, its source and its residual read once; rows of -1 cost no reads,
//              and nothing at all where the residual is in its place already

#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/gather_rows.hpp>

namespace blinkbert {
namespace kernels {

/// Blocks on a multiprocessor: 24 KB of loads under way, 40 registers.
inline constexpr int copy_rows_residency = 6;

/// to_r = residual_r + from[rows_r], without the second where rows_r = -1. An empty residual is zeros, without a sum.
template <class Real>
struct RowCopies {
  View<Real, 2> to;              // [R, E]    out; may be the residual itself
  View<const Real, 2> from;      // [any, E]
  View<const int, 1> rows;       // [R]
  View<const Real, 2> residual;  // [R, E]
};

template <class Real, int Chunk>
BB_KERNEL(row_threads, copy_rows_residency)
copy_rows(RowCopies<Real> op, int lanes) {
  const int R = op.to.extent(0), E = op.to.extent(1);
  const bool is_in_place = op.residual.data() == op.to.data();
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int r = mine.row; r < R; r += mine.row_step) {
    const int source = load(at(op.rows, r));
    if (source < 0 && is_in_place) continue;
    for (int column = mine.column; column < E; column += mine.column_step) {
      Vector<Real, Chunk> chunk{};
      if (source >= 0) chunk = load<Chunk>(at(op.from, source, column));
      if (op.residual) {
        const auto before = load<Chunk>(at(op.residual, r, column));
        BB_UNROLL
        for (int j = 0; j < Chunk; ++j) {
          const float sum = static_cast<float>(before[j]) + static_cast<float>(chunk[j]);
          chunk[j] = source < 0 ? before[j] : static_cast<Real>(sum);
        }
      }
      store(at(op.to, r, column), chunk);
    }
  }
}

template <class Gpu>
void launch_copy_rows(Gpu& gpu, const RowCopies<typename Gpu::Real>& op) {
  const int R = op.to.extent(0), E = op.to.extent(1);
  dispatch_chunk(E, [&](auto chunk) {
    const int lanes = lanes_of_row(E, chunk());
    launch<copy_rows<typename Gpu::Real, chunk()>>(gpu, row_threads_shape(gpu, R, lanes, copy_rows_residency), op,
                                                   lanes);
  });
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatherRowsForward<typename Gpu::Real>& op) {
  op.check();
  kernels::launch_copy_rows(gpu, {.to = op.y, .from = op.x, .rows = op.rows, .residual = {}});
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatherRowsBackward<typename Gpu::Real>& op) {
  op.check();
  kernels::launch_copy_rows(gpu, {.to = op.dx, .from = op.dy, .rows = op.slots, .residual = op.residual});
}

}  // namespace blinkbert
