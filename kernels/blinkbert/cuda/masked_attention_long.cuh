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

/// Which rows a block owns, and what its threads share.
template <class Real, int DC, class Op>
struct LongBlock {
  static constexpr int R = long_rows<Real>;
  int first, strip;  // first row of the block; strip of the warp within it
  Problem<Op> problem;

  BB_DEVICE explicit LongBlock(const Op& op)
      : first(block() % ceil_div(op.qkv.extent(1), R) * R),
        strip(warp()),
        problem(op, block() / ceil_div(op.qkv.extent(1), R)) {}

  /// Columns `column` .. + the tile's width of part `which` of qkv, rows `row` .. + R. All threads call it.
  BB_DEVICE void load_part(const Tile<Real, DC>& tile, const Op& op, int which, int row, int column = 0) const {
    load_tile(tile, R, problem.length - row, op.qkv.extent(4) - column, thread(), threads(),
              [&](int r, int c) { return at(op.qkv, problem.b, row + r, which, problem.h, column + c); });
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

template <class Real, int DC>
BB_KERNEL(2 * long_rows<Real>, 2)
masked_attention_long_forward(MaskedAttentionForward<Real> op, int width) {
  constexpr int R = long_rows<Real>;
  const int L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  const LongBlock<Real, DC, MaskedAttentionForward<Real>> mine(op);
  const int b = mine.problem.b, h = mine.problem.h, length = mine.problem.length;
  SharedMemory shared;
  const Tile<Real, DC> q{shared.take<Real>(R * width), width}, k{shared.take<Real>(R * width), width};
  const Tile<Real, DC> v{shared.take<Real>(R * DC), DC};
  const float scale = score_scale(D) * log2_e;
  const int queries = mine.first < length ? length : 0;  // a block of padded rows has nothing to see
  const auto scores = [&](Strip<R>& S, int tile, float(&largest)[2]) {
    clear(S);
    multiply_transposed(S, q, 16 * mine.strip, k, queries - tile * R);
    mask_scores(S, largest, VisibleKeys<R>(op.visible, b, tile * R / 32));
  };

  mine.load_part(q, op, 0, mine.first);
  RunningSums running;
  float largest[2];
  for (int tile = 0; tile * R < queries; ++tile) {
    mine.load_part(k, op, 1, tile * R);
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
    const bool is_real = mine.first + 16 * mine.strip + strip_row(2 * half) < length;
    factor[half] = is_real ? sums.inverse[half] * op.dropout.keep_scale() : 0;
  }

  BB_UNROLL_BY(1)
  for (int column = 0; column < width; column += DC) {
    Strip<DC> o;
    clear(o);
    for (int tile = 0; tile * R < queries; ++tile) {
      mine.load_part(k, op, 1, tile * R);
      mine.load_part(v, op, 2, tile * R, column);
      finish_copies();
      Strip<R> P;
      scores(P, tile, largest);
      const auto kept = KeptBits<R>::template draw<Rows::queries>(op.dropout, op.dropout.attention_sequence(b, h, H),
                                                                  mine.first / 16 + mine.strip, tile * R / 16, length);
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          P.part[n][r] = kept(n, r) ? exp2((P.part[n][r] - sums.largest[r / 2]) * scale) : 0;
        }
      }
      multiply(o, Weights<Real, R>(P), v, 0, queries - tile * R);
      sync_block();  // k and v are free
    }
    store_strip(
        o, factor, mine.first + 16 * mine.strip, L, column, D, [&](int row, int c) { return at(op.o, b, row, h, c); },
        Real(0.0f));
  }
  finish_copies();  // q where there was no tile
}

// --- backward ----------------------------------------------------------------------------------------------------------

/// rows(b, h, 0 .. 3, l): largest, inverse, delta of each query.
using RowResults = View<float, 4>;

template <class Real, int DC>
BB_KERNEL(2 * long_rows<Real>, 1)
masked_attention_long_queries(MaskedAttentionBackward<Real> op, RowResults results, int width) {
  constexpr int R = long_rows<Real>;
  const int L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  const LongBlock<Real, DC, MaskedAttentionBackward<Real>> mine(op);
  const int b = mine.problem.b, h = mine.problem.h, length = mine.problem.length;
  SharedMemory shared;
  const Tile<Real, DC> q{shared.take<Real>(R * width), width}, k{shared.take<Real>(R * width), width};
  const Tile<Real, DC> v{shared.take<Real>(R * width), width}, dout{shared.take<Real>(R * width), width};
  const float scale = score_scale(D), scale_log2 = scale * log2_e, keep_scale = op.dropout.keep_scale();
  const int queries = mine.first < length ? length : 0;
  /// Masked scores and dP of a tile, v and k being there.
  const auto products = [&](Strip<R>& S, Strip<R>& dP, int tile, float(&largest)[2]) {
    clear(S);
    clear(dP);
    multiply_transposed(S, q, 16 * mine.strip, k, queries - tile * R);
    multiply_transposed(dP, dout, 16 * mine.strip, v, queries - tile * R);
    mask_scores(S, largest, VisibleKeys<R>(op.visible, b, tile * R / 32));
    const auto kept = KeptBits<R>::template draw<Rows::queries>(op.dropout, op.dropout.attention_sequence(b, h, H),
                                                                mine.first / 16 + mine.strip, tile * R / 16, length);
    BB_UNROLL
    for (int n = 0; n < R / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) dP.part[n][r] = kept(n, r) ? dP.part[n][r] * keep_scale : 0;
    }
  };

  mine.load_part(q, op, 0, mine.first);
  load_tile(dout, R, length - mine.first, D, thread(), threads(),
            [&](int r, int c) { return at(op.output_gradient, b, mine.first + r, h, c); });
  RunningSums running;
  float largest[2];
  for (int tile = 0; tile * R < queries; ++tile) {
    mine.load_part(k, op, 1, tile * R);
    mine.load_part(v, op, 2, tile * R);
    finish_copies();
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
    const int row = mine.first + 16 * mine.strip + strip_row(2 * half);
    if (lane() % 4 != 0 || row >= length) continue;
    store(at(results, b, h, 0, row), sums.largest[half]);
    store(at(results, b, h, 1, row), sums.inverse[half]);
    store(at(results, b, h, 2, row), delta[half]);
  }

  const float factor[2] = {scale, scale};
  BB_UNROLL_BY(1)
  for (int column = 0; column < width; column += DC) {
    Strip<DC> dq;
    clear(dq);
    for (int tile = 0; tile * R < queries; ++tile) {
      mine.load_part(k, op, 1, tile * R);
      mine.load_part(v, op, 2, tile * R);
      finish_copies();
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
      multiply(dq, Weights<Real, R>(S), k, column, queries - tile * R);
      sync_block();  // k and v are free
    }
    store_strip(
        dq, factor, mine.first + 16 * mine.strip, L, column, D,
        [&](int row, int c) { return at(op.dqkv, b, row, 0, h, c); }, Real(0.0f));
  }
  finish_copies();  // q and do where there was no tile
}

template <class Real, int DC>
BB_KERNEL(2 * long_rows<Real>, 1)
masked_attention_long_keys(MaskedAttentionBackward<Real> op, RowResults results, int width) {
  constexpr int R = long_rows<Real>;
  const int L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  const LongBlock<Real, DC, MaskedAttentionBackward<Real>> mine(op);
  const int b = mine.problem.b, h = mine.problem.h, length = mine.problem.length;
  SharedMemory shared;
  const Tile<Real, DC> q{shared.take<Real>(R * width), width}, k{shared.take<Real>(R * width), width};
  const Tile<Real, DC> v{shared.take<Real>(R * width), width}, dout{shared.take<Real>(R * width), width};
  const Shared<float> row_results = shared.take<float>(3 * R);
  const float scale = score_scale(D), scale_log2 = scale * log2_e, keep_scale = op.dropout.keep_scale();
  const int keys = mine.first < length ? length : 0;
  const VisibleRows visible(op.visible, b, mine.first / 16 + mine.strip);

  mine.load_part(k, op, 1, mine.first);
  mine.load_part(v, op, 2, mine.first);
  const float one[2] = {1, 1}, factor[2] = {scale, scale};
  BB_UNROLL_BY(1)
  for (int column = 0; column < width; column += DC) {
    Strip<DC> dk, dv;
    clear(dk);
    clear(dv);
    for (int tile = 0; tile * R < keys; ++tile) {
      mine.load_part(q, op, 0, tile * R);
      load_tile(dout, R, length - tile * R, D, thread(), threads(),
                [&](int r, int c) { return at(op.output_gradient, b, tile * R + r, h, c); });
      for (int i = thread(); i < 3 * R; i += threads()) {
        const int row = tile * R + i % R;
        store(at(row_results, i), row < length ? load(at(results, b, h, i / R, row)) : 0.0f);
      }
      finish_copies();
      Strip<R> P, other;
      clear(P);
      multiply_transposed(P, k, 16 * mine.strip, q, keys - tile * R);
      const auto kept = KeptBits<R>::template draw<Rows::keys>(op.dropout, op.dropout.attention_sequence(b, h, H),
                                                               mine.first / 16 + mine.strip, tile * R / 16, length);
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          const int query = strip_column(n, r);
          const float exponent = (P.part[n][r] - load(at(row_results, query))) * scale_log2;
          P.part[n][r] = visible.is_visible[r / 2] ? exp2(exponent) * load(at(row_results, R + query)) : 0;
          other.part[n][r] = kept(n, r) ? P.part[n][r] * keep_scale : 0;
        }
      }
      multiply(dv, Weights<Real, R>(other), dout, column, keys - tile * R);
      clear(other);
      multiply_transposed(other, v, 16 * mine.strip, dout, keys - tile * R);  // dP
      BB_UNROLL
      for (int n = 0; n < R / 8; ++n) {
        BB_UNROLL
        for (int r = 0; r < 4; ++r) {
          const float dP = kept(n, r) ? other.part[n][r] * keep_scale : 0;
          P.part[n][r] *= dP - load(at(row_results, 2 * R + strip_column(n, r)));  // dS
        }
      }
      multiply(dk, Weights<Real, R>(P), q, column, keys - tile * R);
      sync_block();  // q and do are free
    }
    const int row = mine.first + 16 * mine.strip;
    store_strip(
        dk, factor, row, L, column, D, [&](int l, int c) { return at(op.dqkv, b, l, 1, h, c); }, Real(0.0f));
    store_strip(
        dv, one, row, L, column, D, [&](int l, int c) { return at(op.dqkv, b, l, 2, h, c); }, Real(0.0f));
  }
  finish_copies();  // k and v where there was no tile
}

// --- launching ---------------------------------------------------------------------------------------------------------

template <class Gpu, class Real>
void run_long(Gpu& gpu, const MaskedAttentionForward<Real>& op) {
  constexpr int R = long_rows<Real>;
  const int B = op.qkv.extent(0), L = op.qkv.extent(1), H = op.qkv.extent(3), width = tile_width(op.qkv.extent(4));
  dispatch_tile(width, [&](auto columns) {
    launch<masked_attention_long_forward<Real, columns()>>(
        gpu,
        {.blocks = B * H * ceil_div(L, R),
         .threads = 2 * R,
         .shared_bytes = 2 * shared_bytes<Real>(R * width) + shared_bytes<Real>(R * columns())},
        op, width);
  });
}

template <class Gpu, class Real>
void run_long(Gpu& gpu, const MaskedAttentionBackward<Real>& op) {
  constexpr int R = long_rows<Real>;
  const int B = op.qkv.extent(0), L = op.qkv.extent(1), H = op.qkv.extent(3), width = tile_width(op.qkv.extent(4));
  const RowResults results = gpu.template workspace<float>(B, H, 3, L);
  dispatch_tile(width, [&](auto columns) {
    const LaunchShape queries{
        .blocks = B * H * ceil_div(L, R), .threads = 2 * R, .shared_bytes = 4 * shared_bytes<Real>(R * width)};
    LaunchShape keys = queries;
    keys.shared_bytes += shared_bytes<float>(3 * R);
    launch<masked_attention_long_queries<Real, columns()>>(gpu, queries, op, results, width);
    launch<masked_attention_long_keys<Real, columns()>>(gpu, keys, op, results, width);
  });
}

}  // namespace blinkbert::kernels
