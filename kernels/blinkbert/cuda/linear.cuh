#pragma once

// linear.cuh -- linear layers: matrix products of the backend, and what their epilogues leave to do.
//
//   what       formula, shapes: <blinkbert/ops/linear.hpp>. Here: only how.
//   products   multiply(gpu, ...): matrix_product.hpp. On a card it is cuBLASLt's (cublaslt.hpp), which takes bias, GELU,
//              GELU's slope and a residual on the way where it can; a weight gradient is added to in fp32
//   mapping    what is left of an epilogue: a row is shared by up to 32 threads (row_threads.cuh), in place. The bias
//              gradient: blocks walk over the rows of a panel of at most 256 columns, a thread stays with its columns.
//              A product that the backend cannot do: a thread per element of the result
//   staging    bias gradient: a thread's sums in registers, a block's in shared memory, then column_sums.cuh
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    epilogue: the result read once, written once (and its pre-activation); bias gradient: dy read once
//   numerics   sums in fp32; a product without its epilogue is rounded to the storage type once more

#include <blinkbert/cuda/column_sums.cuh>
#include <blinkbert/cuda/gelu.cuh>
#include <blinkbert/cuda/matrix_product.hpp>
#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/linear.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int linear_residency = 4;  // blocks on a multiprocessor
/// Rows that a thread loads before it uses the first.
inline constexpr int bias_sum_rows = 4;

/// y = activation(y + bias), where y holds the product.
template <class Real, int Chunk>
BB_KERNEL(row_threads, linear_residency)
linear_finish(LinearForward<Real> op, int lanes) {
  const int T = op.y.extent(0), out = op.y.extent(1);
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int t = mine.row; t < T; t += mine.row_step) {
    for (int column = mine.column; column < out; column += mine.column_step) {
      const auto product = load<Chunk>(at(op.y, t, column));
      Vector<Real, Chunk> y, pre_activation;
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        // One by one: part of a packed bias may begin anywhere.
        const float h = static_cast<float>(product[j]) + static_cast<float>(load(at(op.bias, column + j)));
        pre_activation[j] = static_cast<Real>(h);
        y[j] = static_cast<Real>(op.activation == Activation::gelu ? gelu(h) : h);
      }
      if (op.pre_activation) store(at(op.pre_activation, t, column), pre_activation);
      store(at(op.y, t, column), y);
    }
  }
}

/// dx = dx gelu'(h), where dx holds the product.
template <class Real, int Chunk>
BB_KERNEL(row_threads, linear_residency)
linear_gelu_gradient(LinearInputGradient<Real> op, int lanes) {
  const int T = op.dx.extent(0), in = op.dx.extent(1);
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int t = mine.row; t < T; t += mine.row_step) {
    for (int column = mine.column; column < in; column += mine.column_step) {
      const auto product = load<Chunk>(at(op.dx, t, column));
      const auto h = load<Chunk>(at(op.pre_activation, t, column));
      Vector<Real, Chunk> dx;
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) {
        dx[j] = static_cast<Real>(static_cast<float>(product[j]) * gelu_slope(static_cast<float>(h[j])));
      }
      store(at(op.dx, t, column), dx);
    }
  }
}

/// From one column of a chunk to the next in linear_bias_sums: with 4 added, lanes of a warp never meet in a bank.
inline constexpr int bias_sum_stride = row_threads + 4;

/// partials(walker, o) = sum of the walker's rows of dy(., o).
template <class Real, int Chunk>
BB_KERNEL(row_threads, linear_residency)
linear_bias_sums(View<const Real, 2> dy, View<float, 2> partials, PanelGrid grid) {  // partials [walkers, out]
  SharedMemory shared;
  const auto sums = shared.take<float>(bias_sum_stride * Chunk);
  const int T = dy.extent(0), out = dy.extent(1);
  const Panel<Chunk> panel(grid);
  const RowThreads<Chunk> mine(grid.lanes, panel.walker, grid.walkers);
  const int column = panel.first + mine.column;
  float sum[Chunk] = {};
  for (int first = mine.row; first < T && column < out; first += bias_sum_rows * mine.row_step) {
    Vector<Real, Chunk> rows[bias_sum_rows];
    BB_UNROLL
    for (int k = 0; k < bias_sum_rows; ++k) {
      const int t = first + k * mine.row_step;
      rows[k] = {};
      if (t < T) rows[k] = load<Chunk>(at(dy, t, column));
    }
    BB_UNROLL
    for (int k = 0; k < bias_sum_rows; ++k) {
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) sum[j] += static_cast<float>(rows[k][j]);
    }
  }
  BB_UNROLL
  for (int j = 0; j < Chunk; ++j) store(at(sums, j * bias_sum_stride + thread()), sum[j]);
  sync_block();  // the threads' sums are there
  const int c = thread();
  if (c >= panel.width || panel.first + c >= out) return;
  float total = 0;
  for (int i = c / Chunk; i < threads(); i += grid.lanes) total += load(at(sums, c % Chunk * bias_sum_stride + i));
  store(at(partials, panel.walker, panel.first + c), total);
}

/// A product without an epilogue, for operands that a backend's library refuses.
template <class Real, class Sum>
BB_KERNEL(row_threads, linear_residency)
plain_product(MatrixProduct<Real, Sum> op) {
  const int M = op.d.extent(0), N = op.d.extent(1), K = op.depth();
  for (int m = block(); m < M; m += blocks()) {
    for (int n = thread(); n < N; n += threads()) {
      float sum = op.c ? static_cast<float>(load(at(op.c, m, n))) : 0.0f;
      for (int k = 0; k < K; ++k) {
        const auto a = op.a_storage == Storage::as_is ? load(at(op.a, m, k)) : load(at(op.a, k, m));
        const auto b = op.b_storage == Storage::as_is ? load(at(op.b, k, n)) : load(at(op.b, n, k));
        sum += static_cast<float>(a) * static_cast<float>(b);
      }
      store(at(op.d, m, n), static_cast<Sum>(sum));
    }
  }
}

/// The product and its epilogue; finish() does to a bare product what the epilogue would have done.
template <class Gpu, class Sum, class Finish>
void multiply_and_finish(Gpu& gpu, const MatrixProduct<typename Gpu::Real, Sum>& product, const Finish& finish) {
  if (multiply(gpu, product, finish)) return;
  dev::launch<plain_product<typename Gpu::Real, Sum>>(
      gpu, {.blocks = std::min(product.d.extent(0), linear_residency * gpu.multiprocessors()), .threads = row_threads},
      product);
  finish();
}

/// dbias += sum_T dy.
template <class Gpu>
void add_bias_gradient(Gpu& gpu, const Acc<float, 1>& dbias, const View<const typename Gpu::Real, 2>& dy) {
  const int T = dy.extent(0), out = dy.extent(1);
  dispatch_chunk(out, [&](auto chunk) {
    const int lanes = lanes_of_row(out, chunk()), panels = ceil_div(out, lanes * chunk());
    const int most = std::max(linear_residency * gpu.multiprocessors() / panels, 1);
    const int walkers = std::min(ceil_div(T, row_threads / lanes * bias_sum_rows), most);
    const View<float, 2> partials = gpu.template workspace<float>(walkers, out);
    dev::launch<linear_bias_sums<typename Gpu::Real, chunk()>>(
        gpu,
        {.blocks = walkers * panels,
         .threads = row_threads,
         .shared_bytes = dev::shared_bytes<float>(bias_sum_stride * chunk())},
        dy, partials, PanelGrid{.lanes = lanes, .walkers = walkers, .panels = panels});
    add_column_sums<Gpu, float>(gpu, {.out = {dbias}, .partials = partials, .width = out});
  });
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LinearForward<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  op.check();
  const int T = op.y.extent(0), out = op.y.extent(1);
  if (T == 0) return;
  const bool has_gelu = op.activation == Activation::gelu;
  const MatrixProduct<Real> product{.d = op.y,
                                    .a = op.x,
                                    .b = op.weight,
                                    .b_storage = Storage::transposed,
                                    .epilogue = op.pre_activation ? Epilogue::bias_gelu_kept
                                                : has_gelu        ? Epilogue::bias_gelu
                                                                  : Epilogue::bias,
                                    .bias = op.bias,
                                    .pre_activation = op.pre_activation};
  kernels::multiply_and_finish(gpu, product, [&] {
    kernels::dispatch_chunk(out, [&](auto chunk) {
      const int lanes = kernels::lanes_of_row(out, chunk());
      dev::launch<kernels::linear_finish<Real, chunk()>>(
          gpu, kernels::row_threads_shape(gpu, T, lanes, kernels::linear_residency), op, lanes);
    });
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LinearInputGradient<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  op.check();
  const int T = op.dx.extent(0), in = op.dx.extent(1);
  if (T == 0) return;
  const View<const Real, 2>& h = op.pre_activation;
  const MatrixProduct<Real> product{
      .d = op.dx,
      .a = op.dy,
      .b = op.weight,
      .c = op.residual,
      .epilogue = h ? Epilogue::times_gelu_slope : Epilogue::none,
      .pre_activation = h ? View<Real, 2>{const_cast<Real*>(h.data()), h.extents()} : View<Real, 2>{}};
  kernels::multiply_and_finish(gpu, product, [&] {
    if (!h) return;
    kernels::dispatch_chunk(in, [&](auto chunk) {
      const int lanes = kernels::lanes_of_row(in, chunk());
      dev::launch<kernels::linear_gelu_gradient<Real, chunk()>>(
          gpu, kernels::row_threads_shape(gpu, T, lanes, kernels::linear_residency), op, lanes);
    });
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LinearWeightGradient<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  op.check();
  if (op.x.extent(0) == 0) return;
  const MatrixProduct<Real, float> product{
      .d = op.dweight.view(), .a = op.dy, .b = op.x, .a_storage = Storage::transposed, .c = op.dweight.view()};
  kernels::multiply_and_finish(gpu, product, [] {});
  kernels::add_bias_gradient(gpu, op.dbias, op.dy);
}

}  // namespace blinkbert
