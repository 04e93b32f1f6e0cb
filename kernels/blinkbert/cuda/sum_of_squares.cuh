#pragma once

// sum_of_squares.cuh -- the square of the global gradient norm.
//
//   what       formula: <blinkbert/ops/sum_of_squares.hpp>. Here: only how.
//   mapping    a warp takes four stretches of 128 gradients at a time (segments.cuh); warps walk over the block
//   staging    each lane adds up its own squares, each block its threads, a second launch of one block the blocks
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    the gradients of segments that train, read once; nothing of frozen ones
//   numerics   in double: the square of a large float is not yet infinite, and adding millions of them loses nothing. One
//              conversion and one product for 4 bytes: memory is still the limit where double runs at half the speed of
//              float, as on the cards this is compiled for

#include <blinkbert/cuda/segments.cuh>
#include <blinkbert/dev/warp.hpp>
#include <blinkbert/ops/sum_of_squares.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int squares_warps = 8;
inline constexpr int squares_residency = 4;  // blocks on a multiprocessor
inline constexpr int squares_stretches = 4;  // of a warp, whose reads are under way together

template <class Real>
BB_KERNEL(32 * squares_warps, squares_residency)
partial_sums_of_squares(SumOfSquares<Real> op, View<double, 1> partials) {  // partials [blocks]
  SharedMemory shared;
  const auto scratch = shared.take<double>(squares_warps);
  const int count = stretches(op.gradients.extent(0));
  const std::int64_t step = load(at(op.now, 0)).step;
  SegmentCursor<Segment> segment(op.segments);
  double sum = 0;
  for (int begin = (block() * squares_warps + warp()) * squares_stretches; begin < count;
       begin += blocks() * squares_warps * squares_stretches) {
    Vector<float, 4> gradients[squares_stretches];
    BB_UNROLL
    for (int k = 0; k < squares_stretches; ++k) {
      const int first = (begin + k) * stretch;
      const bool is_wanted = begin + k < count && segment.finds(first) && segment.entry().trains_at(step);
      gradients[k] = {};
      if (is_wanted) gradients[k] = load_four(op.gradients, first + 4 * lane(), static_cast<int>(segment.entry().end));
    }
    BB_UNROLL
    for (int k = 0; k < squares_stretches; ++k) {
      BB_UNROLL
      for (int i = 0; i < 4; ++i) sum += static_cast<double>(gradients[k][i]) * static_cast<double>(gradients[k][i]);
    }
  }
  sum = block_sum(sum, scratch);
  if (thread() == 0) store(at(partials, block()), sum);
}

/// sum = partials, added up.
template <class T>
BB_KERNEL(32 * squares_warps, 1)
sum_of_partials(View<T, 1> sum, View<const T, 1> partials) {
  SharedMemory shared;
  const auto scratch = shared.take<T>(squares_warps);
  T mine = 0;
  for (int i = thread(); i < partials.extent(0); i += threads()) mine += load(at(partials, i));
  mine = block_sum(mine, scratch);
  if (thread() == 0) store(at(sum, 0), mine);
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const SumOfSquares<typename Gpu::Real>& op) {
  op.check();
  const int turns =
      dev::ceil_div(kernels::stretches(op.gradients.extent(0)), kernels::squares_warps * kernels::squares_stretches);
  const int blocks = std::min(turns, kernels::squares_residency * gpu.multiprocessors());
  const View<double, 1> partials = gpu.template workspace<double>(blocks);
  const dev::LaunchShape shape{.blocks = blocks,
                               .threads = 32 * kernels::squares_warps,
                               .shared_bytes = dev::shared_bytes<double>(kernels::squares_warps)};
  dev::launch<kernels::partial_sums_of_squares<typename Gpu::Real>>(gpu, shape, op, partials);
  dev::launch<kernels::sum_of_partials<double>>(
      gpu, {.blocks = 1, .threads = shape.threads, .shared_bytes = shape.shared_bytes}, op.sum,
      View<const double, 1>(partials));
}

}  // namespace blinkbert
