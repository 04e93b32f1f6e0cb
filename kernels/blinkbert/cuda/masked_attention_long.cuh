#pragma once

// masked_attention_long.cuh -- attention over rows that do not fit into a block (masked_attention.cuh), tile by tile.
//
//   what       formula, shapes, padding rule: <blinkbert/ops/masked_attention.hpp>. Here: only how.
//   mapping    a block owns R = 64 rows (fp32: 32) of a head of a sequence, a warp a strip of 16 of them, and walks over the
//              tiles of R rows of the other side. Rows are queries in forward and dq, keys in dk and dv.
//   staging    tiles in shared memory, read again for every 64 columns of the result: sums stay in registers whatever D is
//   forward    a first walk finds the largest score and the sum of exponentials of each row, a second one multiplies
//   backward   dq: a first walk finds largest, inverse and delta of each row and leaves them in the workspace; a second one
//              adds up dS k. dk, dv: one walk over the queries with what the first kernel left.
//   order      a block owns its rows, no atomics: the same input gives the same bits
//   sources    running maximum and sum: Milakov, Gimelshein 2018, arXiv:1805.02867, algorithm 3

#include <blinkbert/cuda/attention_rows.cuh>

namespace blinkbert::kernels {

template <class Real>
inline constexpr int long_rows = std::is_same_v<Real, bf16> ? 64 : 32;  // R

/// Which rows a block owns. Rows are queries or keys; a block of rows beyond them has nothing to walk over.
template <class Op, int R>
struct LongBlock {
  int first, strip;  // first row of the block, first row of the warp
  Problem<Op> problem;

  BB_DEVICE explicit LongBlock(const Op& op)
      : first(block() % ceil_div(Problem<Op>::L(op), R) * R),
        strip(16 * warp()),
        problem(op, block() / ceil_div(Problem<Op>::L(op), R)) {}

  /// Rows `row` .. + R of q or do, columns as many as the tile is wide from `column` on. All threads call it.
  template <class Real, int DC, class Source>
  BB_DEVICE void load_queries(const Tile<Real, DC>& tile, int row, const Source& source) const {
    load_tile(
        tile, R, Problem<Op>::D(problem.op), thread(), threads(), [&](int r) { return problem.is_query(row + r); },
        [&](int r, int c) { return source(row + r, c); });
  }
  /// The same of k or v.
  template <class Real, int DC, class Source>
  BB_DEVICE void load_keys(const Tile<Real, DC>& tile, int row, const Source& source, int column = 0) const {
    load_tile(
        tile, R, Problem<Op>::D(problem.op) - column, thread(), threads(),
        [&](int s) { return problem.is_visible(row + s); }, [&](int s, int c) { return source(row + s, column + c); });
  }
};

/// Waits for copies of all threads.
BB_DEVICE void finish_copies() {
  commit_copies();
  wait_copies<0>();
  sync_block();
}

/// A row's largest score and sum of exponentials, over the tiles seen so far.
struct RunningSums {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, product[2] = {0, 0};

  /// Takes in a tile of masked scores; `dP` of the same tile goes into sum exp dP.
  template <int LT, class Product>
  BB_DEVICE void add(const Strip<LT>& S, const float (&tile_largest)[2], float scale, const Product& dP) {
    float safe[2];
    BB_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float before = largest[half];
      largest[half] = fmaxf(before, tile_largest[half]);
      safe[half] = largest[half] == -INFINITY ? 0 : largest[half];
      const float shrink = exp2((before - safe[half]) * scale);
      sum[half] *= shrink;
      product[half] *= shrink;
    }
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) {
        const float weight = exp2((S.part[n][r] - safe[r / 2]) * scale);
        sum[r / 2] += weight;
        product[r / 2] += weight * dP(n, r);
      }
    }
  }

  BB_DEVICE RowSums finish() {
    RowSums sums{};
    BB_UNROLL
    for (int half = 0; half < 2; ++half) {
      sum[half] = row_sum(sum[half]);
      product[half] = row_sum(product[half]);
      sums.largest[half] = largest[half] == -INFINITY ? 0 : largest[half];
      sums.inverse[half] = sum[half] > 0 ? 1 / sum[half] : 0;
    }
    return sums;
  }
};

// --- forward -----------------------------------------------------------------------------------------------------------

template <class Op, class Real, int DC>
BB_KERNEL(2 * long_rows<Real>, 2)
attention_long_forward(Op op, int width) {
  constexpr int R = long_rows<Real>;
  const int D = Problem<Op>::D(op);
  const LongBlock<Op, R> mine(op);
  const Problem<Op>& problem = mine.problem;
  const auto k_source = [&](int s, int c) { return problem.k(s, c); };
  SharedMemory shared;
  const Tile<Real, DC> q{shared.take<Real>(R * width), width}, k{shared.take<Real>(R * width), width};
  const Tile<Real, DC> v{shared.take<Real>(R * DC), DC};
  const float scale = score_scale(D) * log2_e;
  const int keys = mine.first < problem.queries ? problem.length : 0;
  const auto scores = [&](Strip<R>& S, int tile, float(&largest)[2]) {
    clear(S);
    multiply_transposed(S, q, mine.strip, k, keys - tile * R);
    mask_scores(S, largest, VisibleKeys<R>(op.visible, problem.b, tile * R / 32));
  };

  mine.load_queries(q, mine.first, [&](int r, int c) { return problem.q(r, c); });
  RunningSums running;
  float largest[2];
  for (int tile = 0; tile * R < keys; ++tile) {
    mine.load_keys(k, tile * R, k_source);
    finish_copies();
    Strip<R> S;
    scores(S, tile, largest);
    running.add(S, largest, scale, [](int, int) { return 0.0f; });
    sync_block();  // k is free
  }
  const RowSums sums = running.finish();
  float factor[2];
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    const bool is_real = problem.is_query(mine.first + mine.strip + strip_row(2 * half));
    factor[half] = is_real ? sums.inverse[half] * op.dropout.keep_scale() : 0;
  }

  BB_UNROLL_BY(1)
  for (int column = 0; column < width; column += DC) {
    Strip<DC> o;
    clear(o);
    for (int tile = 0; tile * R < keys; ++tile) {
      mine.load_keys(k, tile * R, k_source);
      mine.load_keys(
          v, tile * R, [&](int s, int c) { return problem.v(s, c); }, column);
      finish_copies();
      Strip<R> P;
      scores(P, tile, largest);
      const auto kept = KeptBits<R>::template draw<Rows::queries>(problem, (mine.first + mine.strip) / 16,
                                                                  tile * R / 16, problem.length);
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          P.part[n][r] = kept(n, r) ? exp2((P.part[n][r] - sums.largest[r / 2]) * scale) : 0;
        }
      }
      multiply(o, Weights<Real, R>(P), v, 0, keys - tile * R);
      sync_block();  // k and v are free
    }
    store_strip(
        o, factor, mine.first + mine.strip, problem.written_queries, column, D,
        [&](int r, int c) { return problem.o(r, c); }, Real(0.0f));
  }
  finish_copies();  // q where there was no tile
}

// --- backward ----------------------------------------------------------------------------------------------------------

/// results(b, h, 0 .. 3, r): largest, inverse, delta of each query.
using RowResults = View<float, 4>;

template <class Op, class Real, int DC>
BB_KERNEL(2 * long_rows<Real>, 1)
attention_long_queries(Op op, RowResults results, int width) {
  constexpr int R = long_rows<Real>;
  const int D = Problem<Op>::D(op);
  const LongBlock<Op, R> mine(op);
  const Problem<Op>& problem = mine.problem;
  SharedMemory shared;
  const Tile<Real, DC> q{shared.take<Real>(R * width), width}, k{shared.take<Real>(R * width), width};
  const Tile<Real, DC> v{shared.take<Real>(R * width), width}, dout{shared.take<Real>(R * width), width};
  const float scale = score_scale(D), scale_log2 = scale * log2_e, keep_scale = op.dropout.keep_scale();
  const int keys = mine.first < problem.queries ? problem.length : 0;
  /// Masked scores and dP of a tile.
  const auto products = [&](Strip<R>& S, Strip<R>& dP, int tile, float(&largest)[2]) {
    mine.load_keys(k, tile * R, [&](int s, int c) { return problem.k(s, c); });
    mine.load_keys(v, tile * R, [&](int s, int c) { return problem.v(s, c); });
    finish_copies();
    clear(S);
    clear(dP);
    multiply_transposed(S, q, mine.strip, k, keys - tile * R);
    multiply_transposed(dP, dout, mine.strip, v, keys - tile * R);
    mask_scores(S, largest, VisibleKeys<R>(op.visible, problem.b, tile * R / 32));
    const auto kept = KeptBits<R>::template draw<Rows::queries>(problem, (mine.first + mine.strip) / 16, tile * R / 16,
                                                                problem.length);
    BB_UNROLL
    for (int n = 0; n < R / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) dP.part[n][r] = kept(n, r) ? dP.part[n][r] * keep_scale : 0;
    }
  };

  mine.load_queries(q, mine.first, [&](int r, int c) { return problem.q(r, c); });
  mine.load_queries(dout, mine.first, [&](int r, int c) { return problem.dout(r, c); });
  RunningSums running;
  float largest[2];
  for (int tile = 0; tile * R < keys; ++tile) {
    Strip<R> S, dP;
    products(S, dP, tile, largest);
    running.add(S, largest, scale_log2, [&](int n, int r) { return dP.part[n][r]; });
    sync_block();  // k and v are free
  }
  const RowSums sums = running.finish();
  float delta[2];
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    delta[half] = running.product[half] * sums.inverse[half];
    const int row = mine.first + mine.strip + strip_row(2 * half);
    if (lane() % 4 != 0 || row >= problem.queries) continue;
    store(at(results, problem.b, problem.h, 0, row), sums.largest[half]);
    store(at(results, problem.b, problem.h, 1, row), sums.inverse[half]);
    store(at(results, problem.b, problem.h, 2, row), delta[half]);
  }

  const float factor[2] = {scale, scale};
  BB_UNROLL_BY(1)
  for (int column = 0; column < width; column += DC) {
    Strip<DC> dq;
    clear(dq);
    for (int tile = 0; tile * R < keys; ++tile) {
      Strip<R> S, dP;
      products(S, dP, tile, largest);
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          const float P = exp2((S.part[n][r] - sums.largest[r / 2]) * scale_log2) * sums.inverse[r / 2];
          S.part[n][r] = P * (dP.part[n][r] - delta[r / 2]);  // dS
        }
      }
      multiply(dq, Weights<Real, R>(S), k, column, keys - tile * R);
      sync_block();  // k and v are free
    }
    store_strip(
        dq, factor, mine.first + mine.strip, problem.written_queries, column, D,
        [&](int r, int c) { return problem.dq(r, c); }, Real(0.0f));
  }
  finish_copies();  // q and do where there was no tile
}

template <class Op, class Real, int DC>
BB_KERNEL(2 * long_rows<Real>, 1)
attention_long_keys(Op op, RowResults results, int width) {
  constexpr int R = long_rows<Real>;
  const int D = Problem<Op>::D(op);
  const LongBlock<Op, R> mine(op);
  const Problem<Op>& problem = mine.problem;
  SharedMemory shared;
  const Tile<Real, DC> q{shared.take<Real>(R * width), width}, k{shared.take<Real>(R * width), width};
  const Tile<Real, DC> v{shared.take<Real>(R * width), width}, dout{shared.take<Real>(R * width), width};
  const Shared<float> row_results = shared.take<float>(3 * R);
  const float scale = score_scale(D), scale_log2 = scale * log2_e, keep_scale = op.dropout.keep_scale();
  const int queries = mine.first < problem.length ? problem.queries : 0;
  const int row = mine.first + mine.strip;
  const bool is_visible[2] = {problem.is_visible(row + strip_row(0)), problem.is_visible(row + strip_row(2))};

  mine.load_keys(k, mine.first, [&](int s, int c) { return problem.k(s, c); });
  mine.load_keys(v, mine.first, [&](int s, int c) { return problem.v(s, c); });
  const float one[2] = {1, 1}, factor[2] = {scale, scale};
  BB_UNROLL_BY(1)
  for (int column = 0; column < width; column += DC) {
    Strip<DC> dk, dv;
    clear(dk);
    clear(dv);
    for (int tile = 0; tile * R < queries; ++tile) {
      mine.load_queries(q, tile * R, [&](int r, int c) { return problem.q(r, c); });
      mine.load_queries(dout, tile * R, [&](int r, int c) { return problem.dout(r, c); });
      for (int i = thread(); i < 3 * R; i += threads()) {
        const int query = tile * R + i % R;
        store(at(row_results, i), query < queries ? load(at(results, problem.b, problem.h, i / R, query)) : 0.0f);
      }
      finish_copies();
      Strip<R> P, other;
      clear(P);
      multiply_transposed(P, k, mine.strip, q, queries - tile * R);
      const auto kept =
          KeptBits<R>::template draw<Rows::keys>(problem, (mine.first + mine.strip) / 16, tile * R / 16, queries);
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          const int query = strip_column(n, r);
          const float exponent = (P.part[n][r] - load(at(row_results, query))) * scale_log2;
          const float share = load(at(row_results, R + query));
          P.part[n][r] = is_visible[r / 2] ? exp2(exponent) * share : 0;
          other.part[n][r] = kept(n, r) ? P.part[n][r] * keep_scale : 0;
        }
      }
      multiply(dv, Weights<Real, R>(other), dout, column, queries - tile * R);
      clear(other);
      multiply_transposed(other, v, mine.strip, dout, queries - tile * R);  // dP
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          const float dP = kept(n, r) ? other.part[n][r] * keep_scale : 0;
          P.part[n][r] *= dP - load(at(row_results, 2 * R + strip_column(n, r)));  // dS
        }
      }
      multiply(dk, Weights<Real, R>(P), q, column, queries - tile * R);
      sync_block();  // q and do are free
    }
    store_strip(
        dk, factor, row, problem.written_keys, column, D, [&](int s, int c) { return problem.dk(s, c); }, Real(0.0f));
    store_strip(
        dv, one, row, problem.written_keys, column, D, [&](int s, int c) { return problem.dv(s, c); }, Real(0.0f));
  }
  finish_copies();  // k and v where there was no tile
}

// --- launching ---------------------------------------------------------------------------------------------------------

template <class Gpu, class Op>
void run_long_forward(Gpu& gpu, const Op& op) {
  using Real = typename Gpu::Real;
  constexpr int R = long_rows<Real>;
  const int problems = op.lengths.extent(0) * Problem<Op>::H(op), width = tile_width(Problem<Op>::D(op));
  dispatch_tile(width, [&](auto columns) {
    launch<attention_long_forward<Op, Real, columns()>>(
        gpu,
        {.blocks = problems * ceil_div(Problem<Op>::L(op), R),
         .threads = 2 * R,
         .shared_bytes = 2 * shared_bytes<Real>(R * width) + shared_bytes<Real>(R * columns())},
        op, width);
  });
}

template <class Gpu, class Op>
void run_long_backward(Gpu& gpu, const Op& op) {
  using Real = typename Gpu::Real;
  constexpr int R = long_rows<Real>;
  const int B = op.lengths.extent(0), L = Problem<Op>::L(op), H = Problem<Op>::H(op);
  const int width = tile_width(Problem<Op>::D(op));
  const RowResults results = gpu.template workspace<float>(B, H, 3, L);
  dispatch_tile(width, [&](auto columns) {
    const LaunchShape queries{
        .blocks = B * H * ceil_div(L, R), .threads = 2 * R, .shared_bytes = 4 * shared_bytes<Real>(R * width)};
    LaunchShape keys = queries;
    keys.shared_bytes += shared_bytes<float>(3 * R);
    launch<attention_long_queries<Op, Real, columns()>>(gpu, queries, op, results, width);
    launch<attention_long_keys<Op, Real, columns()>>(gpu, keys, op, results, width);
  });
}

}  // namespace blinkbert::kernels
