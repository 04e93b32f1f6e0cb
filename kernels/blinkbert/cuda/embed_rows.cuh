#pragma once

// embed_rows.cuh -- features to the embedding width, plus the position; and back.
//
//   what       formula, shapes, padding rule: <blinkbert/ops/embed_rows.hpp>. Here: only how.
//   mapping    forward: a thread computes 8 columns of the rows that 8 sequences have at one position, so that W, x and
//              the position are each read once for 64 products; blocks walk over positions and groups of sequences,
//              beside a panel of at most 256 columns of W in shared memory.
//              backward, sums: rows in the order of positions, cut into one piece for each multiprocessor; a thread
//              owns two columns and keeps their products with all features in registers.
//              backward, inputs: a warp holds four rows of dy in registers and adds up their products with one feature
//              of W after another over its lanes
//   staging    W and x as fp32 in shared memory; partial sums of blocks in the workspace
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    forward: y written once, x read once for each panel; backward: dy read once for the sums, once for dx,
//              its first columns once for dprefix; padded rows written, not read
//   limits     64 features; backward: width 1024

#include <blinkbert/cuda/row_slice.cuh>
#include <blinkbert/cuda/row_threads.cuh>
#include <blinkbert/ops/embed_rows.hpp>

namespace blinkbert {
namespace kernels {

/// W of some features and of `width` columns of y, as fp32 in shared memory: zeros in the columns of the prefix and
/// beyond the last one. The halves of chunks of 8 lie apart, so that lanes that load 16 bytes each do not meet in a
/// bank.
template <int Chunk>
struct WeightTile {
  Shared<float> values;  // [features, width + 4]: with 4 more, filling it meets in few banks
  int width;

  BLINKBERT_HOST_DEVICE static constexpr int size(int features, int columns) { return features * (columns + 4); }

  /// The features from first_feature on, the columns from first_column on; a barrier must follow.
  template <class Real>
  BB_DEVICE void fill(const View<const Real, 2>& weight, int first_feature, int features, int first_column,
                      int K) const {
    for (int i = thread(); i < features * width; i += threads()) {  // neighbouring threads read neighbouring features
      const int n = i % features, column = i / features, out = first_column + column - K;
      const bool is_inside = out >= 0 && out < weight.extent(0);
      store(at(values, place(n, column)),
            is_inside ? static_cast<float>(load(at(weight, out, first_feature + n))) : 0.0f);
    }
  }

  /// Of feature n, the `Chunk` columns from `column` on.
  BB_DEVICE Vector<float, Chunk> chunk(int n, int column) const {
    Vector<float, Chunk> result;
    constexpr int part = Chunk == 8 ? 4 : Chunk;
    BB_UNROLL
    for (int first = 0; first < Chunk; first += part) {
      const auto half = load<part>(at(values, place(n, column + first)));
      BB_UNROLL
      for (int j = 0; j < part; ++j) result[first + j] = half[j];
    }
    return result;
  }

 private:
  BB_DEVICE int place(int n, int column) const {
    if constexpr (Chunk == 8) return n * (width + 4) + column % 8 / 4 * (width / 2) + column / 8 * 4 + column % 4;
    return n * (width + 4) + column;
  }
};

// --- forward ---------------------------------------------------------------------------------------------------------

inline constexpr int embed_threads = 256;
inline constexpr int embed_sequences = 8;  // whose rows of one position are computed together

template <class Real, int Chunk>
BB_KERNEL(embed_threads, 2)
embed_rows_forward(EmbedRowsForward<Real> op, PanelGrid grid) {
  const int B = op.lengths.extent(0), L = op.L, E = op.y.extent(1);
  const int N = op.x ? op.x.extent(1) : 0, K = op.prefix ? op.prefix.extent(1) : 0;
  const Panel<Chunk> panel(grid);
  const int lanes = grid.lanes, groups = threads() / lanes,
            place = thread() % lanes;  // a group: threads of one position
  const int column = panel.first + place * Chunk;
  SharedMemory shared;
  const WeightTile<Chunk> weight{shared.take<float>(WeightTile<Chunk>::size(N, panel.width)), panel.width};
  const auto inputs =  // [N, sequences] of this group
      shared.take<float>(groups * N * embed_sequences).from(thread() / lanes * N * embed_sequences);
  weight.fill(op.weight, 0, N, panel.first, K);
  Vector<float, Chunk> bias{};
  BB_UNROLL
  for (int j = 0; j < Chunk; ++j) {
    if (column + j >= K && column + j < E) bias[j] = static_cast<float>(load(at(op.bias, column + j - K)));
  }
  sync_block();  // W is there

  const int units = ceil_div(B, embed_sequences) * L;  // a position of a group of sequences
  for (int first = panel.walker * groups + warp() * (warp_size / lanes); first < units;
       first += grid.walkers * groups) {
    const int unit = first + lane() / lanes, l = unit % L, b = unit / L * embed_sequences;
    const bool is_real_row = place < embed_sequences && b + place < B && l < load(at(op.lengths, b + place));
    const std::uint32_t real = ballot(is_real_row) >> (lane() / lanes * lanes);  // bit i: sequence b + i
    for (int i = place; i < N * embed_sequences; i += lanes) {
      const int n = i % N, s = i / N;
      const bool is_wanted = (real >> s & 1u) != 0;
      store(at(inputs, n * embed_sequences + s),
            is_wanted ? static_cast<float>(load(at(op.x, (b + s) * L + l, n))) : 0.0f);
    }
    sync_warp();  // x is there
    if (column < E) {
      float sum[embed_sequences][Chunk];
      const auto position = load<Chunk>(at(op.position, l, column));
      BB_UNROLL
      for (int s = 0; s < embed_sequences; ++s) {
        BB_UNROLL
        for (int j = 0; j < Chunk; ++j) sum[s][j] = bias[j] + position[j];
      }
      for (int n = 0; n < N; ++n) {
        const auto w = weight.chunk(n, place * Chunk);
        const auto x = load<embed_sequences>(at(inputs, n * embed_sequences));
        BB_UNROLL
        for (int s = 0; s < embed_sequences; ++s) {
          BB_UNROLL
          for (int j = 0; j < Chunk; ++j) sum[s][j] += x[s] * w[j];
        }
      }
      BB_UNROLL
      for (int s = 0; s < embed_sequences; ++s) {
        if (b + s >= B) continue;
        const int t = (b + s) * L + l;
        Vector<Real, Chunk> y{};
        if ((real >> s & 1u) != 0) {
          BB_UNROLL
          for (int j = 0; j < Chunk; ++j) {
            if (column + j < K) sum[s][j] += static_cast<float>(load(at(op.prefix, t, column + j)));
            y[j] = static_cast<Real>(sum[s][j]);
          }
        }
        store(at(op.y, t, column), y);
      }
    }
    sync_warp();  // before the next x
  }
}

// --- backward: dW, db, dposition -----------------------------------------------------------------------------------

inline constexpr int embed_sums_threads = 512;
inline constexpr int embed_sums_rows = 128;       // of x in shared memory at a time
inline constexpr int embed_sums_least_rows = 64;  // of a block, or its partial sums would be more bytes than its dy
inline constexpr int embed_totals_warps = 8;

/// What blocks leave. `rows` rows of a block in the order l B + b; its warps stand in `ways` ways, of which each takes
/// every ways-th row over the whole width.
struct EmbedPartials {
  View<float, 3> sums;       // [walkers, N + 1, E]               dW by feature, then db
  View<float, 2> positions;  // [walkers segments ways, E]        dposition of each position that the block has rows of
  int walkers, rows, segments, ways;
};

/// Elements column and column + 1 of some rows of `view`, zeros for rows of -1 and beyond the width. All loads are
/// issued before any is waited for.
template <class Real, int Rows>
BB_DEVICE void load_pairs(Vector<Real, 2> (&pair)[Rows], const View<const Real, 2>& view, const int (&row)[Rows],
                          int column) {
  const int width = view.extent(1);
  BB_UNROLL
  for (int k = 0; k < Rows; ++k) pair[k] = {};
  if (width % 2 == 0) {
    BB_UNROLL
    for (int k = 0; k < Rows; ++k) {
      if (row[k] >= 0) pair[k] = load<2>(at(view, row[k], column));
    }
  } else {
    BB_UNROLL
    for (int k = 0; k < Rows; ++k) {
      if (row[k] >= 0) pair[k][0] = load(at(view, row[k], column));
      if (row[k] >= 0 && column + 1 < width) pair[k][1] = load(at(view, row[k], column + 1));
    }
  }
}

template <class Real, int Features>
BB_KERNEL(embed_sums_threads, 1)
embed_rows_sums(EmbedRowsBackward<Real> op, EmbedPartials partials) {
  // Rows of dy that a thread loads at once: 20 KB on a multiprocessor, 16 KB where the sums need the registers.
  constexpr int under_way = (Features <= 20 ? 40 : 32) / static_cast<int>(sizeof(Vector<Real, 2>));
  const int B = op.lengths.extent(0), L = op.L, E = op.dy.extent(1), N = op.x ? op.x.extent(1) : 0;
  const int walker = block() % partials.walkers, first_feature = block() / partials.walkers * Features;
  const int column_warps = ceil_div(E, 2 * warp_size), ways = partials.ways, way = warp() / column_warps;
  const int column = warp() % column_warps * 2 * warp_size + 2 * lane();
  const bool is_busy = way < ways && column < E;
  SharedMemory shared;
  const auto inputs = shared.take<float>(embed_sums_rows * Features);
  const auto row_numbers = shared.take<int>(embed_sums_rows);  // t, or -1 for a padded row
  const auto scratch = shared.take<float>(ways > 1 ? 2 * Features * column_warps * warp_size : 0);

  float sum[2][Features] = {};
  const int begin = walker * partials.rows, end = begin + partials.rows < B * L ? begin + partials.rows : B * L;
  for (int l = begin / B; l * B < end; ++l) {
    const int from = begin > l * B ? begin - l * B : 0, to = end < (l + 1) * B ? end - l * B : B;
    float of_position[2] = {};
    for (int first = from; first < to; first += embed_sums_rows) {
      const int rows = to - first < embed_sums_rows ? to - first : embed_sums_rows;
      sync_block();  // the rows before are done with
      for (int i = thread(); i < rows * Features; i += threads()) {
        const int r = i / Features, n = first_feature + i % Features, t = (first + r) * L + l;
        const bool takes_part = l < load(at(op.lengths, first + r));
        float x = n == N ? 1.0f : 0.0f;  // the feature after the last is the bias
        if (n < N && takes_part) x = static_cast<float>(load(at(op.x, t, n)));
        store(at(inputs, i), takes_part ? x : 0.0f);
        if (i % Features == 0) store(at(row_numbers, r), takes_part ? t : -1);
      }
      sync_block();  // x is there
      for (int r = way; r < rows && is_busy; r += under_way * ways) {
        int t[under_way];
        BB_UNROLL
        for (int k = 0; k < under_way; ++k) t[k] = r + k * ways < rows ? load(at(row_numbers, r + k * ways)) : -1;
        Vector<Real, 2> dy[under_way];
        load_pairs(dy, op.dy, t, column);
        BB_UNROLL
        for (int k = 0; k < under_way; ++k) {
          const float left = static_cast<float>(dy[k][0]), right = static_cast<float>(dy[k][1]);
          const int row = r + k * ways < rows ? r + k * ways : r;  // dy is 0 beyond the rows
          of_position[0] += left;
          of_position[1] += right;
          BB_UNROLL
          for (int n = 0; n < Features; n += 4) {
            const auto x = load<4>(at(inputs, row * Features + n));
            BB_UNROLL
            for (int j = 0; j < 4; ++j) {
              sum[0][n + j] += left * x[j];
              sum[1][n + j] += right * x[j];
            }
          }
        }
      }
    }
    if (op.dposition && first_feature == 0 && is_busy) {
      const int row = (walker * partials.segments + l - begin / B) * ways + way;
      store(at(partials.positions, row, column), of_position[0]);
      if (column + 1 < E) store(at(partials.positions, row, column + 1), of_position[1]);
    }
  }
  if (!op.dweight) return;

  const int stride = column_warps * warp_size, place = warp() % column_warps * warp_size + lane();
  for (int from = 1; from < ways; ++from) {  // the ways added to the first, one after another
    if (way == from) {
      BB_UNROLL
      for (int i = 0; i < 2 * Features; ++i) store(at(scratch, i * stride + place), sum[i / Features][i % Features]);
    }
    sync_block();
    if (way == 0) {
      BB_UNROLL
      for (int i = 0; i < 2 * Features; ++i) sum[i / Features][i % Features] += load(at(scratch, i * stride + place));
    }
    sync_block();
  }
  if (way > 0) return;
  BB_UNROLL
  for (int n = 0; n < Features; ++n) {
    BB_UNROLL
    for (int c = 0; c < 2; ++c) {
      if (first_feature + n > N || column + c >= E) continue;
      store(at(partials.sums, walker, first_feature + n, column + c), sum[c][n]);
    }
  }
}

/// Adds the blocks' parts to the gradients. A block owns 32 of their elements; its warps take the parts in turns.
template <class Real>
BB_KERNEL(32 * embed_totals_warps, 4)
embed_rows_totals(EmbedRowsBackward<Real> op, EmbedPartials partials, int weight_blocks) {
  const int B = op.lengths.extent(0), L = op.L, E = op.dy.extent(1), N = op.x ? op.x.extent(1) : 0, K = op.K;
  const bool is_weight = block() < weight_blocks;
  const int element = (is_weight ? block() : block() - weight_blocks) * 32 + lane();
  const int row = element / E, e = element % E;  // row: feature n, or position l
  float sum = 0;
  if (is_weight && row <= N) {
    for (int i = warp(); i < partials.walkers; i += embed_totals_warps) sum += load(at(partials.sums, i, row, e));
  } else if (!is_weight && row < L) {
    const int first = row * B / partials.rows, last = ((row + 1) * B - 1) / partials.rows;  // blocks with rows of l
    for (int i = warp(); i < (last - first + 1) * partials.ways; i += embed_totals_warps) {
      const int walker = first + i / partials.ways, segment = row - walker * partials.rows / B;
      sum +=
          load(at(partials.positions, (walker * partials.segments + segment) * partials.ways + i % partials.ways, e));
    }
  }
  SharedMemory shared;
  const auto sums = shared.take<float>(32 * embed_totals_warps);
  store(at(sums, thread()), sum);
  sync_block();
  if (warp() > 0) return;
  float total = 0;
  for (int w = 0; w < embed_totals_warps; ++w) total += load(at(sums, w * 32 + lane()));
  if (!is_weight) {
    if (row < L) store(at(op.dposition, row, e), load(at(op.dposition, row, e)) + total);
  } else if (e >= K && row < N) {
    store(at(op.dweight, e - K, row), load(at(op.dweight, e - K, row)) + total);
  } else if (e >= K && row == N) {
    store(at(op.dbias, e - K), load(at(op.dbias, e - K)) + total);
  }
}

// --- backward: dx, dprefix -----------------------------------------------------------------------------------------

inline constexpr int embed_inputs_warps = 8;
inline constexpr int embed_inputs_rows = 4;  // of a warp at a time
inline constexpr int embed_prefix_residency = 8;

/// Sums over the warp of four values at once: lanes 8 i to 8 i + 7 get that of value[i]. Six shuffles, not twenty.
BB_DEVICE float four_warp_sums(const float (&value)[4]) {
  const bool is_upper = lane() >= 16, is_odd = lane() / 8 % 2 != 0;
  float even = is_upper ? value[2] : value[0], odd = is_upper ? value[3] : value[1];
  even += shuffle_xor(is_upper ? value[0] : value[2], 16);
  odd += shuffle_xor(is_upper ? value[1] : value[3], 16);
  float sum = is_odd ? odd : even;
  sum += shuffle_xor(is_odd ? even : odd, 8);
  BB_UNROLL
  for (int mask = 4; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  return sum;
}

template <class Real, int Chunk, int Chunks>
BB_KERNEL(32 * embed_inputs_warps, Chunk* Chunks <= 16 ? 2 : 1)
embed_rows_inputs(EmbedRowsBackward<Real> op, int walkers, int most_features) {
  constexpr int rows = embed_inputs_rows;
  const int T = op.dy.extent(0), N = op.dx.extent(1);
  const int walker = block() % walkers, first_feature = block() / walkers * most_features;
  const int features = N - first_feature < most_features ? N - first_feature : most_features;
  SharedMemory shared;
  constexpr int width = warp_size * Chunk * Chunks;
  const WeightTile<Chunk> weight{shared.take<float>(WeightTile<Chunk>::size(most_features, width)), width};
  const auto results = shared
                           .take<float>(embed_inputs_warps * rows * most_features)  // [rows, features] of this warp
                           .from(warp() * rows * most_features);
  weight.fill(op.weight, first_feature, features, 0, op.K);
  sync_block();  // W is there

  for (int first = (walker * embed_inputs_warps + warp()) * rows; first < T;
       first += walkers * embed_inputs_warps * rows) {
    RowSlice<Chunk, Chunks> dy[rows];
    BB_UNROLL
    for (int r = 0; r < rows; ++r) {
      dy[r] = {};
      if (first + r < T && is_real(op.lengths, op.L, first + r)) dy[r] = load_row<Chunk, Chunks>(op.dy, first + r);
    }
    for (int n = 0; n < features; ++n) {
      float sum[rows] = {};
      BB_UNROLL
      for (int i = 0; i < Chunk * Chunks; i += Chunk) {
        const auto w = weight.chunk(n, dy[0].column(i));
        BB_UNROLL
        for (int j = 0; j < Chunk; ++j) {
          BB_UNROLL
          for (int r = 0; r < rows; ++r) sum[r] += dy[r][i + j] * w[j];
        }
      }
      const float total = four_warp_sums(sum);
      if (lane() % 8 == 0) store(at(results, lane() / 8 * features + n), total);
    }
    sync_warp();                                                 // the results are there
    for (int i = lane(); i < rows * features; i += warp_size) {  // neighbouring lanes write neighbouring elements
      const int t = first + i / features;
      if (t < T) store(at(op.dx, t, first_feature + i % features), static_cast<Real>(load(at(results, i))));
    }
    sync_warp();  // before the next results
  }
}

template <class Real, int Chunk>
BB_KERNEL(row_threads, embed_prefix_residency)
embed_rows_prefix(EmbedRowsBackward<Real> op, int lanes) {
  const int T = op.dy.extent(0), K = op.K;
  const RowThreads<Chunk> mine(lanes, block(), blocks());
  for (int t = mine.row; t < T; t += mine.row_step) {
    const bool is_kept = is_real(op.lengths, op.L, t);
    for (int column = mine.column; column < K; column += mine.column_step) {
      Vector<Real, Chunk> chunk{};
      if (is_kept) chunk = load<Chunk>(at(op.dy, t, column));
      store(at(op.dprefix, t, column), chunk);
    }
  }
}

inline constexpr int embed_most_features = 64;

template <class Gpu>
void launch_embed_sums(Gpu& gpu, const EmbedRowsBackward<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  const int B = op.lengths.extent(0), T = op.dy.extent(0), E = op.dy.extent(1), N = op.x ? op.x.extent(1) : 0;
  if (T == 0 || E == 0) return;
  dispatch<1024>("embedding width", E, [](auto) {});
  const int column_warps = ceil_div(E, 2 * warp_size);
  dispatch<12, 20, 24>("features and the bias of a block:", std::min(N + 1, 24), [&](auto features) {
    const int feature_blocks = ceil_div(N + 1, features());
    const int rows = std::max(ceil_div(T, std::max(gpu.multiprocessors() / feature_blocks, 1)), embed_sums_least_rows);
    EmbedPartials partials{.sums = {},
                           .positions = {},
                           .walkers = ceil_div(T, rows),
                           .rows = rows,
                           .segments = (rows - 1) / B + 2,
                           .ways = embed_sums_threads / warp_size / column_warps};
    const int sums = op.dweight ? partials.walkers * (N + 1) : 0;
    const int positions = op.dposition ? partials.walkers * partials.segments * partials.ways : 0;
    const View<float, 2> room = gpu.template workspace<float>(sums + positions, E);
    partials.sums = {room.data(), {op.dweight ? partials.walkers : 0, N + 1, E}};
    partials.positions = {room.data() + std::int64_t{sums} * E, {positions, E}};
    launch<embed_rows_sums<Real, features()>>(
        gpu,
        {.blocks = partials.walkers * feature_blocks,
         .threads = embed_sums_threads,
         .shared_bytes = shared_bytes<float>(embed_sums_rows * features()) + shared_bytes<int>(embed_sums_rows) +
                         (partials.ways > 1 ? shared_bytes<float>(2 * features() * column_warps * warp_size) : 0)},
        op, partials);
    const int weight_blocks = op.dweight ? ceil_div((N + 1) * E, 32) : 0;
    launch<embed_rows_totals<Real>>(gpu,
                                    {.blocks = weight_blocks + (op.dposition ? ceil_div(op.L * E, 32) : 0),
                                     .threads = 32 * embed_totals_warps,
                                     .shared_bytes = shared_bytes<float>(32 * embed_totals_warps)},
                                    op, partials, weight_blocks);
  });
}

template <class Gpu>
void launch_embed_inputs(Gpu& gpu, const EmbedRowsBackward<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  const int T = op.dy.extent(0), E = op.dy.extent(1), N = op.dx.extent(1);
  if (E == 0 || N == 0) return;
  dispatch_row(E, [&](auto chunk, auto chunks) {
    constexpr int width = warp_size * chunk() * chunks(), tile_bytes = 96 * 1024;  // two blocks on a multiprocessor
    const int features = std::min(N, tile_bytes / (4 * width)), feature_blocks = ceil_div(N, features);
    const int walkers = std::min(ceil_div(T, embed_inputs_warps * embed_inputs_rows),
                                 std::max(2 * gpu.multiprocessors() / feature_blocks, 1));
    launch<embed_rows_inputs<Real, chunk(), chunks()>>(
        gpu,
        {.blocks = walkers * feature_blocks,
         .threads = 32 * embed_inputs_warps,
         .shared_bytes = shared_bytes<float>(WeightTile<chunk()>::size(features, width)) +
                         shared_bytes<float>(embed_inputs_warps * embed_inputs_rows * features)},
        op, walkers, features);
  });
}

template <class Gpu>
void launch_embed_prefix(Gpu& gpu, const EmbedRowsBackward<typename Gpu::Real>& op) {
  const int T = op.dy.extent(0), E = op.dy.extent(1), K = op.K;
  dispatch_chunk(K % 8 == 0 ? E : K, [&](auto chunk) {
    const int lanes = lanes_of_row(K, chunk());
    launch<embed_rows_prefix<typename Gpu::Real, chunk()>>(
        gpu, row_threads_shape(gpu, T, lanes, embed_prefix_residency), op, lanes);
  });
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const EmbedRowsForward<typename Gpu::Real>& op) {
  op.check();
  const int B = op.lengths.extent(0), E = op.y.extent(1), N = op.x ? op.x.extent(1) : 0;
  dev::dispatch<kernels::embed_most_features>("number of features", N, [](auto) {});
  kernels::dispatch_chunk(E, [&](auto chunk) {
    using namespace kernels;
    // Eight lanes at least: each looks at the length of one sequence.
    const int lanes = lanes_of_row(E, chunk(), embed_sequences), width = lanes * chunk(),
              groups = embed_threads / lanes;
    const int panels = ceil_div(E, width), units = ceil_div(B, embed_sequences) * op.L;
    const int walkers = std::min(ceil_div(units, groups), std::max(2 * gpu.multiprocessors() / std::max(panels, 1), 1));
    launch<embed_rows_forward<typename Gpu::Real, chunk()>>(
        gpu,
        {.blocks = walkers * panels,
         .threads = embed_threads,
         .shared_bytes = dev::shared_bytes<float>(WeightTile<chunk()>::size(N, width)) +
                         dev::shared_bytes<float>(groups * N * embed_sequences)},
        op, PanelGrid{.lanes = lanes, .walkers = walkers, .panels = panels});
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const EmbedRowsBackward<typename Gpu::Real>& op) {
  op.check();
  dev::dispatch<kernels::embed_most_features>("number of features", op.x ? op.x.extent(1) : 0, [](auto) {});
  if (op.dweight || op.dposition) kernels::launch_embed_sums(gpu, op);
  if (op.dx) kernels::launch_embed_inputs(gpu, op);
  if (op.dprefix) kernels::launch_embed_prefix(gpu, op);
}

}  // namespace blinkbert
