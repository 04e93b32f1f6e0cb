#pragma once

// activation.cuh -- the head's ReLU and dropout.
//
//   what       formula, shapes: <blinkbert/ops/activation.hpp>. Here: only how.
//   mapping    a row is shared by up to 32 threads (row_threads.cuh); blocks walk over the rows
//   staging    none: random bits are drawn again in backward, one call of the generator for 8 elements
//   traffic    forward: x read, y written once; backward: dy and x read, dx written once

#include <blinkbert/cuda/element_dropout.cuh>
#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/activation.hpp>

namespace blinkbert {
namespace kernels {

/// Blocks on a multiprocessor: what the registers of the generator allow.
inline constexpr int activation_residency = 6;

/// What is kept of the `Chunk` elements from `column` of row r, one bit each.
template <int Chunk, class Op>
BB_DEVICE std::uint32_t kept_of_row(const Op& op, int r, int column) {
  if (!op.dropout.is_active()) return ~0u;
  int t = op.rows ? load(at(op.rows, r)) : r;
  if (t < 0) t = 0;  // no row: any bits
  return kept_of_chunk<Chunk>(op.dropout, t / op.L, t % op.L, op.x.extent(1), column);
}

template <class Real, int Chunk>
BB_KERNEL(row_threads, activation_residency)
activation_forward(ActivationForward<Real> op, int lanes) {
  const int R = op.x.extent(0), F = op.x.extent(1);
  const float scale = op.dropout.keep_scale();
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int r = mine.row; r < R; r += mine.row_step) {
    for (int column = mine.column; column < F; column += mine.column_step) {
      const auto x = load<Chunk>(at(op.x, r, column));
      const std::uint32_t kept = kept_of_row<Chunk>(op, r, column);
      Vector<Real, Chunk> y;
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        // x <= 0 rather than x > 0, so that a NaN goes on and is found by the gradient norm.
        const float active = static_cast<float>(x[j]) <= 0 ? 0.0f : static_cast<float>(x[j]);
        y[j] = static_cast<Real>((kept >> j & 1u) != 0 ? scale * active : 0.0f);
      }
      store(at(op.y, r, column), y);
    }
  }
}

template <class Real, int Chunk>
BB_KERNEL(row_threads, activation_residency)
activation_backward(ActivationBackward<Real> op, int lanes) {
  const int R = op.x.extent(0), F = op.x.extent(1);
  const float scale = op.dropout.keep_scale();
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int r = mine.row; r < R; r += mine.row_step) {
    for (int column = mine.column; column < F; column += mine.column_step) {
      const auto x = load<Chunk>(at(op.x, r, column)), dy = load<Chunk>(at(op.dy, r, column));
      const std::uint32_t kept = kept_of_row<Chunk>(op, r, column);
      Vector<Real, Chunk> dx;
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        const bool goes_on = static_cast<float>(x[j]) > 0 && (kept >> j & 1u) != 0;
        dx[j] = static_cast<Real>(goes_on ? scale * static_cast<float>(dy[j]) : 0.0f);
      }
      store(at(op.dx, r, column), dx);
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ActivationForward<typename Gpu::Real>& op) {
  op.check();
  const int R = op.x.extent(0), F = op.x.extent(1);
  kernels::dispatch_chunk(F, [&](auto chunk) {
    const int lanes = kernels::lanes_of_row(F, chunk());
    dev::launch<kernels::activation_forward<typename Gpu::Real, chunk()>>(
        gpu, kernels::row_threads_shape(gpu, R, lanes, kernels::activation_residency), op, lanes);
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ActivationBackward<typename Gpu::Real>& op) {
  op.check();
  const int R = op.x.extent(0), F = op.x.extent(1);
  kernels::dispatch_chunk(F, [&](auto chunk) {
    const int lanes = kernels::lanes_of_row(F, chunk());
    dev::launch<kernels::activation_backward<typename Gpu::Real, chunk()>>(
        gpu, kernels::row_threads_shape(gpu, R, lanes, kernels::activation_residency), op, lanes);
  });
}

}  // namespace blinkbert
