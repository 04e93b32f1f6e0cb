#pragma once

// row_threads.cuh -- the threads of a grid laid over the rows of a matrix, for ops that look at one chunk of a row at a
// time.
//
// `lanes` neighbouring threads share a row, a power of two of at most 32: a narrow row leaves no lane of its warp idle.
// Each takes chunks of `Chunk` neighbouring columns, moved 16 bytes at a time where the width is a multiple of 8, else
// one column at a time. Blocks walk over the rows.

#include <blinkbert/dev/dev.hpp>

namespace blinkbert::kernels {
using namespace dev;

/// A thread's first row and column, and the steps to its next ones. `lanes` divides 32.
template <int Chunk>
struct RowThreads {
  int row, row_step, column, column_step;

  /// Of block `b` of `count` that walk over the rows together.
  BB_DEVICE RowThreads(int lanes, int b, int count)
      : row(b * (threads() / lanes) + thread() / lanes),
        row_step(count * (threads() / lanes)),
        column(thread() % lanes * Chunk),
        column_step(lanes * Chunk) {}
};

/// `walkers` blocks over the rows for each of `panels` panels of columns.
struct PanelGrid {
  int lanes, walkers, panels;
};

/// A block's panel, its place among those that walk over the panel's rows, the panel's width and its first column.
template <int Chunk>
struct Panel {
  int walker, width, first;
  BB_DEVICE explicit Panel(const PanelGrid& grid)
      : walker(block() % grid.walkers), width(grid.lanes * Chunk), first(block() / grid.walkers * grid.lanes * Chunk) {}
};

/// True for rows within their sequence; without lengths every row is real.
BB_DEVICE bool is_real(const View<const int, 1>& lengths, int L, int row) {
  return !lengths || row % L < load(at(lengths, row / L));
}

/// Threads that share a row of `width`: as many as it has chunks, rounded up to a power of two, from `least` to 32.
constexpr int lanes_of_row(int width, int chunk, int least = 1) {
  int lanes = least;
  while (lanes < warp_size && lanes * chunk < width) lanes *= 2;
  return lanes;
}

/// Calls body(integral_constant Chunk): 8, or 1 where rows are no whole chunks of 8.
template <class Body>
void dispatch_chunk(int width, const Body& body) {
  if (width % 8 == 0) {
    body(std::integral_constant<int, 8>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

inline constexpr int row_threads = 256;  // of a block

/// Blocks that walk over `rows` rows: as many as there are rows for, at most `residency` for each multiprocessor.
template <class Gpu>
LaunchShape row_threads_shape(const Gpu& gpu, int rows, int lanes, int residency) {
  const int blocks = ceil_div(rows, row_threads / lanes);
  return {.blocks = std::min(blocks, residency * gpu.multiprocessors()), .threads = row_threads};
}

}  // namespace blinkbert::kernels
