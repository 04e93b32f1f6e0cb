#pragma once

// gather_rows.cuh -- the rows that a head reads, and their gradients back in place.
//
//   what       formula, shapes: <blinkbert/ops/gather_rows.hpp>. Here: only how.
//   mapping    a row of the result is shared by up to 32 threads (row_threads.cuh); blocks walk over the rows. Backward is
//              the same copy along `slots`: no scatter, no zeros written beforehand
//   traffic    each row of the result written once, its source read once; rows of -1 cost no reads

#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/gather_rows.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int copy_rows_residency = 6;  // 24 KB of loads under way on a multiprocessor, 40 registers

/// to_r = from[rows_r], or zeros where rows_r = -1.
template <class Real>
struct RowCopies {
  View<Real, 2> to;          // [R, E]  out
  View<const Real, 2> from;  // [any, E]
  View<const int, 1> rows;   // [R]
};

template <class Real, int Chunk>
BB_KERNEL(row_threads, copy_rows_residency)
copy_rows(RowCopies<Real> op, int lanes) {
  const int R = op.to.extent(0), E = op.to.extent(1);
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int r = mine.row; r < R; r += mine.row_step) {
    const int source = load(at(op.rows, r));
    for (int column = mine.column; column < E; column += mine.column_step) {
      Vector<Real, Chunk> chunk{};
      if (source >= 0) chunk = load<Chunk>(at(op.from, source, column));
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
  kernels::launch_copy_rows(gpu, {.to = op.y, .from = op.x, .rows = op.rows});
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatherRowsBackward<typename Gpu::Real>& op) {
  op.check();
  kernels::launch_copy_rows(gpu, {.to = op.dx, .from = op.dy, .rows = op.slots});
}

}  // namespace blinkbert
