#pragma once

// batch_norm.cuh -- batch normalisation over the real rows.
//
//   what       formula, shapes, padding rule: <blinkbert/ops/batch_norm.hpp>. Here: only how.
//   mapping    blocks walk over the rows of a panel of at most 256 columns; a row is shared by up to 32 threads
//              (row_threads.cuh), so that a thread stays with its columns
//   staging    two launches each way: partial results of every block; then every block combines all of them by itself
//              and goes on to the rows. The first block of a panel writes what is left behind (mean, rstd, running
//              values; dgamma, dbeta). With running values forward needs the second launch only
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    forward: x read twice, y written once; backward: dy and x read twice, dx written once; padded rows
//              written, not read
//   numerics   fp32. A thread takes the mean of a few rows and their squared deviations from it by two passes over its
//              registers, and combines that with what it has; threads and blocks are combined in fp64
//   sources    combining groups: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"

#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/dev/warp.hpp>
#include <blinkbert/ops/batch_norm.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int batch_norm_threads = 512;
/// Rows that a thread loads before it uses the first: 32 KB under way on a multiprocessor that holds one block.
inline constexpr int batch_norm_rows = 4;

/// Of one column: how many rows, their mean, and the sum of their squared deviations from it.
struct Moments {
  float count, mean, squares;

  /// Of the groups first, first + step, ... below `groups`; group(i) gives the moments of one. A handful of additions:
  /// in double, so that they take nothing from the means.
  template <class Group>
  BB_DEVICE static Moments of(int first, int groups, int step, const Group& group) {
    double count = 0, sum = 0, squares = 0;
    for (int i = first; i < groups; i += step) {
      const Moments one = group(i);
      count += one.count;
      sum += static_cast<double>(one.count) * one.mean;
    }
    if (count == 0) return {};
    const double mean = sum / count;
    for (int i = first; i < groups; i += step) {
      const Moments one = group(i);
      squares += one.squares + one.count * (one.mean - mean) * (one.mean - mean);
    }
    return {static_cast<float>(count), static_cast<float>(mean), static_cast<float>(squares)};
  }
};

/// Of one column: how many rows, sum of dy, sum of dy * xhat.
struct GradientSums {
  float count, dy, product;

  template <class Group>
  BB_DEVICE static GradientSums of(int first, int groups, int step, const Group& group) {
    GradientSums sum{};
    for (int i = first; i < groups; i += step) {
      const GradientSums one = group(i);
      sum.count += one.count;
      sum.dy += one.dy;
      sum.product += one.product;
    }
    return sum;
  }
};

/// Combines the groups of every column c of a panel; group(i, c) gives one. All threads of the block take part: first
/// each takes a share of a column's groups, then one thread the shares. The result of column c is valid on thread c.
/// `scratch` holds one element per thread.
template <class Part, class Group>
BB_DEVICE Part combined_by_block(int groups, int width, const Shared<Part>& scratch, const Group& group) {
  const int column = thread() % width, shares = threads() / width;
  const Part mine = Part::of(thread() / width, groups, shares, [&](int i) { return group(i, column); });
  store(at(scratch, thread()), mine);
  sync_block();
  if (thread() >= width) return mine;
  return Part::of(0, shares, 1, [&](int i) { return load(at(scratch, i * width + column)); });
}

/// From one column of a chunk to the next in store_partial: with 4 added, neither writing nor reading parts of 12 bytes
/// makes lanes of a warp meet in a bank.
inline constexpr int parts_stride = batch_norm_threads + 4;

/// Combines what the threads of a block have of the columns of its panel, and leaves it in the block's row of
/// `partials` [walkers, F]. mine(j) gives a thread's part of column j of its chunk.
template <class Part, int Chunk, class Mine>
BB_DEVICE void store_partial(const View<Part, 2>& partials, const Panel<Chunk>& panel, const Mine& mine) {
  SharedMemory shared;
  const auto scratch = shared.take<Part>(threads());
  const auto parts = shared.take<Part>(parts_stride * Chunk);
  BB_UNROLL
  for (int j = 0; j < Chunk; ++j) store(at(parts, j * parts_stride + thread()), mine(j));
  sync_block();
  const int lanes = panel.width / Chunk;
  const Part all = combined_by_block(threads() / lanes, panel.width, scratch, [&](int i, int c) {
    return load(at(parts, c % Chunk * parts_stride + i * lanes + c / Chunk));
  });
  const int column = panel.first + thread();
  if (thread() < panel.width && column < partials.extent(1)) store(at(partials, panel.walker, column), all);
}

/// Combines the blocks' parts: [walkers, F], or none at all. Column panel.first + c is valid on thread c.
template <class Part, int Chunk>
BB_DEVICE Part combined_partials(const View<const Part, 2>& partials, const Panel<Chunk>& panel,
                                 const Shared<Part>& scratch) {
  const int column = panel.first + thread() % panel.width;
  return combined_by_block(column < partials.extent(1) ? partials.extent(0) : 0, panel.width, scratch,
                           [&](int i, int) { return load(at(partials, i, column)); });
}

template <class Real, int Chunk>
BB_KERNEL(batch_norm_threads, 1)
batch_norm_moments(BatchNormForward<Real> op, View<Moments, 2> partials, PanelGrid grid) {
  const int R = op.x.extent(0), F = op.x.extent(1);
  const Panel<Chunk> panel(grid);
  const RowThreads<Chunk> mine(grid.lanes, panel.walker, grid.walkers);
  const int column = panel.first + mine.column;
  float count = 0, sum[Chunk] = {}, squares[Chunk] = {};
  for (int first = mine.row; first < R && column < F; first += batch_norm_rows * mine.row_step) {
    Vector<Real, Chunk> x[batch_norm_rows];
    float weight[batch_norm_rows], rows = 0;  // 1 for a real row, 0 for none
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      const int r = first + k * mine.row_step;
      const bool takes_part = r < R && is_real(op.lengths, op.L, r);
      x[k] = {};
      if (takes_part) x[k] = load<Chunk>(at(op.x, r, column));
      weight[k] = takes_part ? 1.0f : 0.0f;
      rows += weight[k];
    }
    if (rows == 0) continue;
    const float each = 1 / rows, each_before = count > 0 ? 1 / count : 0.0f,
                weight_of_shift = count * rows / (count + rows);
    BB_UNROLL
    for (int j = 0; j < Chunk; ++j) {
      float more = 0, deviations = 0;
      BB_UNROLL
      for (int k = 0; k < batch_norm_rows; ++k) more += static_cast<float>(x[k][j]);  // 0 where there is no row
      const float mean = more * each, shift = mean - sum[j] * each_before;
      BB_UNROLL
      for (int k = 0; k < batch_norm_rows; ++k) {
        const float off = weight[k] * (static_cast<float>(x[k][j]) - mean);
        deviations += off * off;
      }
      sum[j] += more;
      squares[j] += deviations + shift * shift * weight_of_shift;
    }
    count += rows;
  }
  store_partial(partials, panel, [&](int j) { return Moments{count, count > 0 ? sum[j] / count : 0.0f, squares[j]}; });
}

template <class Real, int Chunk>
BB_KERNEL(batch_norm_threads, 1)
batch_norm_forward(BatchNormForward<Real> op, View<const Moments, 2> partials, PanelGrid grid) {
  const int R = op.x.extent(0), F = op.x.extent(1);
  const Panel<Chunk> panel(grid);
  SharedMemory shared;
  const auto scratch = shared.take<Moments>(threads());
  const auto means = shared.take<float>(panel.width), scales = shared.take<float>(panel.width);
  const auto shifts = shared.take<float>(panel.width);
  const Moments all = combined_partials(partials, panel, scratch);
  if (const int f = panel.first + thread(); thread() < panel.width && f < F) {
    // Without partials the count is 0. Running values are read by one block only where that block also writes them.
    const bool is_batch = all.count >= 2;
    const float mean = is_batch ? all.mean : load(at(op.running_mean, f));
    const float variance = is_batch ? all.squares / all.count : load(at(op.running_variance, f));
    const float rstd = 1 / sqrtf(variance + op.epsilon);
    store(at(means, thread()), mean);
    store(at(scales, thread()), load(at(op.gamma, f)) * rstd);
    store(at(shifts, thread()), load(at(op.beta, f)));
    if (panel.walker == 0) {
      store(at(op.mean, f), mean);
      store(at(op.rstd, f), rstd);
      if (is_batch) {
        const float running_mean = load(at(op.running_mean, f)), running_variance = load(at(op.running_variance, f));
        store(at(op.running_mean, f), running_mean + op.momentum * (mean - running_mean));
        store(at(op.running_variance, f),
              running_variance + op.momentum * (all.squares / (all.count - 1) - running_variance));
      }
    }
  }
  sync_block();

  const RowThreads<Chunk> mine(grid.lanes, panel.walker, grid.walkers);
  const int column = panel.first + mine.column;
  if (column >= F) return;
  const auto mean = load<Chunk>(at(means, mine.column)), scale = load<Chunk>(at(scales, mine.column)),
             shift = load<Chunk>(at(shifts, mine.column));
  for (int first = mine.row; first < R; first += batch_norm_rows * mine.row_step) {
    Vector<Real, Chunk> x[batch_norm_rows];
    bool takes_part[batch_norm_rows];
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      const int r = first + k * mine.row_step;
      takes_part[k] = r < R && is_real(op.lengths, op.L, r);
      x[k] = {};
      if (takes_part[k]) x[k] = load<Chunk>(at(op.x, r, column));
    }
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      const int r = first + k * mine.row_step;
      if (r >= R) continue;
      Vector<Real, Chunk> y;
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        const float value = (static_cast<float>(x[k][j]) - mean[j]) * scale[j] + shift[j];
        y[j] = static_cast<Real>(takes_part[k] ? value : 0.0f);
      }
      store(at(op.y, r, column), y);
    }
  }
}

template <class Real, int Chunk>
BB_KERNEL(batch_norm_threads, 1)
batch_norm_sums(BatchNormBackward<Real> op, View<GradientSums, 2> partials, PanelGrid grid) {
  const int R = op.x.extent(0), F = op.x.extent(1);
  const Panel<Chunk> panel(grid);
  const RowThreads<Chunk> mine(grid.lanes, panel.walker, grid.walkers);
  const int column = panel.first + mine.column;
  float count = 0, sum[Chunk] = {}, product[Chunk] = {};
  Vector<float, Chunk> mean{}, rstd{};
  if (column < F) mean = load<Chunk>(at(op.mean, column)), rstd = load<Chunk>(at(op.rstd, column));
  for (int first = mine.row; first < R && column < F; first += batch_norm_rows * mine.row_step) {
    Vector<Real, Chunk> dy[batch_norm_rows], x[batch_norm_rows];
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      const int r = first + k * mine.row_step;
      dy[k] = {};
      x[k] = {};
      if (r >= R || !is_real(op.lengths, op.L, r)) continue;
      dy[k] = load<Chunk>(at(op.dy, r, column));
      x[k] = load<Chunk>(at(op.x, r, column));
      count += 1;
    }
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        const float g = static_cast<float>(dy[k][j]);
        sum[j] += g;
        product[j] += g * ((static_cast<float>(x[k][j]) - mean[j]) * rstd[j]);
      }
    }
  }
  store_partial(partials, panel, [&](int j) { return GradientSums{count, sum[j], product[j]}; });
}

template <class Real, int Chunk>
BB_KERNEL(batch_norm_threads, 1)
batch_norm_backward(BatchNormBackward<Real> op, View<const GradientSums, 2> partials, PanelGrid grid) {
  const int R = op.x.extent(0), F = op.x.extent(1);
  const Panel<Chunk> panel(grid);
  SharedMemory shared;
  const auto scratch = shared.take<GradientSums>(threads());
  // dx = slope dy - pull - (x - mean) tilt
  const auto means = shared.take<float>(panel.width), slopes = shared.take<float>(panel.width);
  const auto pulls = shared.take<float>(panel.width), tilts = shared.take<float>(panel.width);
  const GradientSums all = combined_partials(partials, panel, scratch);
  if (const int f = panel.first + thread(); thread() < panel.width && f < F) {
    // Running values are constants: nothing is taken back.
    const bool is_batch = op.statistics == BatchStatistics::batch && all.count >= 2;
    const float rstd = load(at(op.rstd, f)), slope = load(at(op.gamma, f)) * rstd;
    store(at(means, thread()), load(at(op.mean, f)));
    store(at(slopes, thread()), slope);
    store(at(pulls, thread()), is_batch ? slope * (all.dy / all.count) : 0.0f);
    store(at(tilts, thread()), is_batch ? slope * rstd * (all.product / all.count) : 0.0f);
    if (panel.walker == 0) {
      store(at(op.dgamma, f), load(at(op.dgamma, f)) + all.product);
      store(at(op.dbeta, f), load(at(op.dbeta, f)) + all.dy);
    }
  }
  sync_block();

  const RowThreads<Chunk> mine(grid.lanes, panel.walker, grid.walkers);
  const int column = panel.first + mine.column;
  if (column >= F) return;
  const auto mean = load<Chunk>(at(means, mine.column)), slope = load<Chunk>(at(slopes, mine.column)),
             pull = load<Chunk>(at(pulls, mine.column)), tilt = load<Chunk>(at(tilts, mine.column));
  for (int first = mine.row; first < R; first += batch_norm_rows * mine.row_step) {
    Vector<Real, Chunk> dy[batch_norm_rows], x[batch_norm_rows];
    bool takes_part[batch_norm_rows];
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      const int r = first + k * mine.row_step;
      takes_part[k] = r < R && is_real(op.lengths, op.L, r);
      dy[k] = {};
      x[k] = {};
      if (!takes_part[k]) continue;
      dy[k] = load<Chunk>(at(op.dy, r, column));
      x[k] = load<Chunk>(at(op.x, r, column));
    }
    BB_UNROLL
    for (int k = 0; k < batch_norm_rows; ++k) {
      const int r = first + k * mine.row_step;
      if (r >= R) continue;
      Vector<Real, Chunk> dx;
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        const float value =
            slope[j] * static_cast<float>(dy[k][j]) - pull[j] - (static_cast<float>(x[k][j]) - mean[j]) * tilt[j];
        dx[j] = static_cast<Real>(takes_part[k] ? value : 0.0f);
      }
      store(at(op.dx, r, column), dx);
    }
  }
}

/// Blocks for R rows: at most one for each multiprocessor, at least one.
template <class Gpu>
PanelGrid panel_grid(const Gpu& gpu, int R, int F, int chunk) {
  const int lanes = lanes_of_row(F, chunk), panels = ceil_div(F, lanes * chunk);
  const int most = std::max(gpu.multiprocessors() / std::max(panels, 1), 1);
  return {.lanes = lanes, .walkers = std::clamp(ceil_div(R, batch_norm_threads / lanes), 1, most), .panels = panels};
}

/// Of a kernel that leaves partial results, and of one that combines them and keeps `values` numbers of every column.
template <class Part>
LaunchShape partials_shape(const PanelGrid& grid, int chunk) {
  return {.blocks = grid.walkers * grid.panels,
          .threads = batch_norm_threads,
          .shared_bytes = shared_bytes<Part>(batch_norm_threads) + shared_bytes<Part>(parts_stride * chunk)};
}
template <class Part>
LaunchShape combining_shape(const PanelGrid& grid, int chunk, int values) {
  return {.blocks = grid.walkers * grid.panels,
          .threads = batch_norm_threads,
          .shared_bytes = shared_bytes<Part>(batch_norm_threads) + values * shared_bytes<float>(grid.lanes * chunk)};
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const BatchNormForward<typename Gpu::Real>& op) {
  op.check();
  using Real = typename Gpu::Real;
  using kernels::Moments;
  const int R = op.x.extent(0), F = op.x.extent(1);
  kernels::dispatch_chunk(F, [&](auto chunk) {
    const kernels::PanelGrid grid = kernels::panel_grid(gpu, R, F, chunk());
    View<Moments, 2> partials;
    if (op.statistics == BatchStatistics::batch) {
      partials = gpu.template workspace<Moments>(grid.walkers, F);
      dev::launch<kernels::batch_norm_moments<Real, chunk()>>(gpu, kernels::partials_shape<Moments>(grid, chunk()), op,
                                                              partials, grid);
    }
    dev::launch<kernels::batch_norm_forward<Real, chunk()>>(gpu, kernels::combining_shape<Moments>(grid, chunk(), 3),
                                                            op, View<const Moments, 2>(partials), grid);
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const BatchNormBackward<typename Gpu::Real>& op) {
  op.check();
  using Real = typename Gpu::Real;
  using Sums = kernels::GradientSums;
  const int R = op.x.extent(0), F = op.x.extent(1);
  kernels::dispatch_chunk(F, [&](auto chunk) {
    const kernels::PanelGrid grid = kernels::panel_grid(gpu, R, F, chunk());
    const View<Sums, 2> partials = gpu.template workspace<Sums>(grid.walkers, F);
    dev::launch<kernels::batch_norm_sums<Real, chunk()>>(gpu, kernels::partials_shape<Sums>(grid, chunk()), op,
                                                         partials, grid);
    dev::launch<kernels::batch_norm_backward<Real, chunk()>>(gpu, kernels::combining_shape<Sums>(grid, chunk(), 4), op,
                                                             View<const Sums, 2>(partials), grid);
  });
}

}  // namespace blinkbert
