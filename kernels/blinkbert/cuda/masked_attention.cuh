#pragma once

// masked_attention.cuh -- attention over short padded sequences; nothing of size L x L is stored.
//
//   what       formula, shapes, padding rule: <blinkbert/ops/masked_attention.hpp>. Here: only how, for rows that fit into
//              the registers and the shared memory of a block; longer ones: masked_attention_long.cuh.
//   mapping    a problem is a head of a sequence. A warp owns a strip of 16 of its rows against all L columns; ceil(L / 16)
//              warps make a problem, a block works on `slots` problems (neighbouring heads, so that it reads whole sectors).
//   staging    q, k, v (and do) of a problem in shared memory, copied asynchronously: q and k first, v while S is computed.
//              S = q k^T and P stay in registers: a strip of sums is laid out like the left factor of the next product.
//   backward   by two phases of products, so that nothing is transposed and nothing saved:
//                A  rows are queries:  S, P, dP = do v^T, delta, dS -> dq = dS k.   What softmax needs of each row and delta
//                   go to shared memory.
//                B  rows are keys:     S^T = k q^T, P^T -> dv = P~^T do;   dP^T = v do^T, dS^T -> dk = dS^T q.
//   order      a block owns every row of its problems, no atomics: the same input gives the same bits
//   traffic    qkv (and do) read once, o (dqkv) written once; padded rows are not read
//   sources    one pass over a whole row needs no running maximum; dropout replayed from counters: core/dropout.hpp

#include <blinkbert/cuda/attention_rows.cuh>
#include <blinkbert/cuda/masked_attention_long.cuh>

namespace blinkbert {
namespace kernels {

/// How problems are spread over blocks; equal in forward and backward but for the tiles.
struct AttentionShape {
  int problems = 0;  // B H
  int warps = 0;     // of a problem: strips of 16 rows
  int slots = 0;     // problems of a block
  int width = 0;     // of tiles

  int blocks() const { return ceil_div(problems, slots); }
  int threads() const { return slots * warps * warp_size; }
};

/// Most threads of a block: as many as one problem needs, or 128 (256 for narrow heads, whose rows are short).
constexpr int attention_threads(int LT, int DC) {
  const int least = DC <= 32 ? 256 : 128, problem = 2 * LT;
  return problem > least ? problem : least;
}

/// Blocks on a multiprocessor that registers must suffice for: as many as leave no spills.
template <class Real>
constexpr int forward_residency(int LT, int DC) {
  if (LT > 32) return 2;
  if (DC > 32) return 4;
  return sizeof(Real) == 2 ? 3 : 2;
}
constexpr int backward_residency(int LT, int DC) {
  if (LT > 32) return 1;
  return DC > 32 ? 3 : 2;
}

// --- forward -----------------------------------------------------------------------------------------------------------

/// The threads and the strip of a problem that this thread belongs to.
struct Team {
  int slot, strip;  // problem of the block; strip of 16 rows of the warp
  int rows;         // of a tile
  int me, size;     // thread of the team

  BB_DEVICE explicit Team(const AttentionShape& shape)
      : slot(warp() / shape.warps),
        strip(warp() % shape.warps),
        rows(16 * shape.warps),
        me(thread() - slot * shape.warps * warp_size),
        size(shape.warps * warp_size) {}
};

template <class Op, class Real, int LT, int DC>
BB_KERNEL(attention_threads(LT, DC), forward_residency<Real>(LT, DC))
attention_forward(Op op, AttentionShape shape) {
  const int D = Problem<Op>::D(op);
  const Team team(shape);
  const Problem<Op> problem(op, block() * shape.slots + team.slot);
  const VisibleKeys<LT> visible(op.visible, problem.b);
  const auto is_query = [&](int r) { return problem.is_query(r); };
  const auto is_key = [&](int s) { return problem.is_visible(s); };

  SharedMemory shared;
  const int width = shape.width, area = team.rows * width;
  const Shared<Real> room = shared.take<Real>(shape.slots * 3 * area).from(team.slot * 3 * area);
  const Tile<Real, DC> q{room, width}, k{room.from(area), width}, v{room.from(2 * area), width};
  load_tile(q, team.rows, D, team.me, team.size, is_query, [&](int r, int c) { return problem.q(r, c); });
  load_tile(k, team.rows, D, team.me, team.size, is_key, [&](int s, int c) { return problem.k(s, c); });
  commit_copies();
  load_tile(v, team.rows, D, team.me, team.size, is_key, [&](int s, int c) { return problem.v(s, c); });
  commit_copies();

  wait_copies<1>();
  sync_block();  // q and k of all warps are there
  Strip<LT> S;
  clear(S);
  multiply_transposed(S, q, 16 * team.strip, k, problem.length);
  const RowSums sums = masked_softmax(S, visible, score_scale(D) * log2_e);
  const auto kept = KeptBits<LT>::template draw<Rows::queries>(problem, team.strip, 0, problem.length);
  BB_UNROLL
  for (int n = 0; n < LT / 8; ++n) {
    BB_UNROLL
    for (int r = 0; r < 4; ++r) S.part[n][r] = kept(n, r) ? S.part[n][r] : 0;
  }
  float factor[2];
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    const bool is_real = problem.is_query(16 * team.strip + strip_row(2 * half));
    factor[half] = is_real ? sums.inverse[half] * op.dropout.keep_scale() : 0;
  }

  wait_copies<0>();
  sync_block();  // v is there
  multiply_and_store(Weights<Real, LT>(S), v, problem.length, factor, 16 * team.strip, problem.written_queries, D,
                     [&](int r, int c) { return problem.o(r, c); });
}

// --- backward ----------------------------------------------------------------------------------------------------------

/// Shared memory of a problem beside its four tiles: largest, inverse and delta of each row.
BLINKBERT_HOST_DEVICE constexpr int row_floats(int rows) { return 3 * rows; }

template <class Op, class Real, int LT, int DC>
BB_KERNEL(attention_threads(LT, DC), backward_residency(LT, DC))
attention_backward(Op op, AttentionShape shape) {
  const int D = Problem<Op>::D(op);
  const Team team(shape);
  const Problem<Op> problem(op, block() * shape.slots + team.slot);
  const VisibleKeys<LT> visible(op.visible, problem.b);
  const int length = problem.length, queries = problem.queries, first = 16 * team.strip;
  const auto is_query = [&](int r) { return problem.is_query(r); };
  const auto is_key = [&](int s) { return problem.is_visible(s); };

  SharedMemory shared;
  const int width = shape.width, rows = team.rows, area = rows * width;
  const Shared<Real> room = shared.take<Real>(shape.slots * 4 * area).from(team.slot * 4 * area);
  const Tile<Real, DC> q{room, width}, k{room.from(area), width};
  const Tile<Real, DC> v{room.from(2 * area), width}, dout{room.from(3 * area), width};
  const Shared<float> largest = shared.take<float>(shape.slots * row_floats(rows)).from(team.slot * row_floats(rows));
  const Shared<float> inverse = largest.from(rows), deltas = largest.from(2 * rows);
  load_tile(q, rows, D, team.me, team.size, is_query, [&](int r, int c) { return problem.q(r, c); });
  load_tile(k, rows, D, team.me, team.size, is_key, [&](int s, int c) { return problem.k(s, c); });
  commit_copies();
  load_tile(v, rows, D, team.me, team.size, is_key, [&](int s, int c) { return problem.v(s, c); });
  load_tile(dout, rows, D, team.me, team.size, is_query, [&](int r, int c) { return problem.dout(r, c); });
  commit_copies();
  const float scale = score_scale(D), scale_log2 = scale * log2_e, keep_scale = op.dropout.keep_scale();

  wait_copies<1>();
  sync_block();  // q and k of all warps are there
  {              // phase A: rows are queries
    Strip<LT> S, dP;
    clear(S);
    multiply_transposed(S, q, first, k, length);
    const RowSums sums = masked_softmax(S, visible, scale_log2);
    wait_copies<0>();
    sync_block();  // v and do are there
    clear(dP);
    multiply_transposed(dP, dout, first, v, length);
    const auto kept = KeptBits<LT>::template draw<Rows::queries>(problem, team.strip, 0, length);
    float delta[2] = {0, 0};
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) {
        S.part[n][r] *= sums.inverse[r / 2];  // P
        dP.part[n][r] = kept(n, r) ? dP.part[n][r] * keep_scale : 0;
        delta[r / 2] += S.part[n][r] * dP.part[n][r];
      }
    }
    BB_UNROLL
    for (int half = 0; half < 2; ++half) {
      delta[half] = row_sum(delta[half]);
      if (lane() % 4 != 0) continue;
      const int row = first + strip_row(2 * half);
      store(at(largest, row), sums.largest[half]);
      store(at(inverse, row), sums.inverse[half]);
      store(at(deltas, row), delta[half]);
    }
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) S.part[n][r] *= dP.part[n][r] - delta[r / 2];  // dS
    }
    // Rows that are no query have do = 0, so dP = delta = dS = 0.
    const float factor[2] = {scale, scale};
    multiply_and_store(Weights<Real, LT>(S), k, length, factor, first, problem.written_queries, D,
                       [&](int r, int c) { return problem.dq(r, c); });
  }
  sync_block();  // what phase A left of all rows is there
  {              // phase B: rows are keys, columns are queries
    Strip<LT> P, other;
    clear(P);
    multiply_transposed(P, k, first, q, queries);
    const bool is_visible[2] = {is_key(first + strip_row(0)), is_key(first + strip_row(2))};
    const auto kept = KeptBits<LT>::template draw<Rows::keys>(problem, team.strip, 0, queries);
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int query = strip_column(n, r);
        const float most = query < queries ? load(at(largest, query)) : 0;
        const float share = query < queries ? load(at(inverse, query)) : 0;
        P.part[n][r] = query < queries && is_visible[r / 2] ? exp2((P.part[n][r] - most) * scale_log2) * share : 0;
        other.part[n][r] = kept(n, r) ? P.part[n][r] * keep_scale : 0;
      }
    }
    const float one[2] = {1, 1}, factor[2] = {scale, scale};
    multiply_and_store(Weights<Real, LT>(other), dout, queries, one, first, problem.written_keys, D,
                       [&](int s, int c) { return problem.dv(s, c); });
    clear(other);
    multiply_transposed(other, v, first, dout, queries);  // dP
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int query = strip_column(n, r);
        const float dP = kept(n, r) ? other.part[n][r] * keep_scale : 0;
        P.part[n][r] = query < queries ? P.part[n][r] * (dP - load(at(deltas, query))) : 0;  // dS
      }
    }
    multiply_and_store(Weights<Real, LT>(P), q, queries, factor, first, problem.written_keys, D,
                       [&](int s, int c) { return problem.dk(s, c); });
  }
}

// --- which kernel ------------------------------------------------------------------------------------------------------

/// The longest rows that fit into a warp's registers.
template <class Real>
inline constexpr int most_rows_in_registers = std::is_same_v<Real, bf16> ? 128 : 64;

/// Calls body(integral_constant LT, integral_constant DC) for L rows and heads of width D.
template <class Real, class Body>
void dispatch_attention(int L, int D, const Body& body) {
  dispatch_tile(D, [&](auto columns) {
    if constexpr (std::is_same_v<Real, bf16>) {
      dispatch<32, 64, 128>("sequence length", L, [&](auto length) { body(length, columns); });
    } else {
      dispatch<32, 64>("sequence length", L, [&](auto length) { body(length, columns); });
    }
  });
}

template <class Real>
int forward_bytes(const AttentionShape& shape) {
  return shared_bytes<Real>(shape.slots * 3 * 16 * shape.warps * shape.width);
}
template <class Real>
int backward_bytes(const AttentionShape& shape) {
  return shared_bytes<Real>(shape.slots * 4 * 16 * shape.warps * shape.width) +
         shared_bytes<float>(shape.slots * row_floats(16 * shape.warps));
}

/// As many problems to a block as its threads and its shared memory allow, and at least one.
template <class Real, int LT, int DC, class Gpu>
AttentionShape attention_shape(const Gpu& gpu, int B, int L, int H, int D) {
  AttentionShape shape{.problems = B * H, .warps = ceil_div(L, 16), .slots = 1, .width = tile_width(D)};
  const int most = attention_threads(LT, DC) / shape.threads(), bytes = backward_bytes<Real>(shape);
  shape.slots = std::max(1, std::min(most, gpu.most_shared_bytes() / bytes));
  return shape;
}

/// Whether a problem fits into the registers of its warps and the shared memory of a block.
template <class Real, class Gpu>
bool fits_into_a_block(const Gpu& gpu, int L, int D) {
  const AttentionShape one{.problems = 1, .warps = ceil_div(L, 16), .slots = 1, .width = tile_width(D)};
  return L <= most_rows_in_registers<Real> && backward_bytes<Real>(one) <= gpu.most_shared_bytes();
}

/// Forward of any attention op.
template <class Gpu, class Op>
void run_attention_forward(Gpu& gpu, const Op& op) {
  using Real = typename Gpu::Real;
  const int B = op.lengths.extent(0), L = Problem<Op>::L(op), H = Problem<Op>::H(op), D = Problem<Op>::D(op);
  if (!fits_into_a_block<Real>(gpu, L, D)) return run_long_forward(gpu, op);
  dispatch_attention<Real>(L, D, [&](auto length, auto columns) {
    const auto shape = attention_shape<Real, length(), columns()>(gpu, B, L, H, D);
    launch<attention_forward<Op, Real, length(), columns()>>(
        gpu, {.blocks = shape.blocks(), .threads = shape.threads(), .shared_bytes = forward_bytes<Real>(shape)}, op,
        shape);
  });
}

template <class Gpu, class Op>
void run_attention_backward(Gpu& gpu, const Op& op) {
  using Real = typename Gpu::Real;
  const int B = op.lengths.extent(0), L = Problem<Op>::L(op), H = Problem<Op>::H(op), D = Problem<Op>::D(op);
  if (!fits_into_a_block<Real>(gpu, L, D)) return run_long_backward(gpu, op);
  dispatch_attention<Real>(L, D, [&](auto length, auto columns) {
    const auto shape = attention_shape<Real, length(), columns()>(gpu, B, L, H, D);
    launch<attention_backward<Op, Real, length(), columns()>>(
        gpu, {.blocks = shape.blocks(), .threads = shape.threads(), .shared_bytes = backward_bytes<Real>(shape)}, op,
        shape);
  });
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedAttentionForward<typename Gpu::Real>& op) {
  op.check();
  kernels::run_attention_forward(gpu, op);
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedAttentionBackward<typename Gpu::Real>& op) {
  op.check();
  kernels::run_attention_backward(gpu, op);
}

}  // namespace blinkbert
