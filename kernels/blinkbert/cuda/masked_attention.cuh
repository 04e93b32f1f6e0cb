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
BLINKBERT_HOST_DEVICE constexpr int attention_threads(int LT, int DC) {
  const int least = DC <= 32 ? 256 : 128, problem = 2 * LT;
  return problem > least ? problem : least;
}

// --- forward -----------------------------------------------------------------------------------------------------------

template <class Real, int LT, int DC>
BB_KERNEL(attention_threads(LT, DC), LT > 32    ? 2
                                     : DC <= 32 ? 3
                                                : 4)
masked_attention_forward(MaskedAttentionForward<Real> op, AttentionShape shape) {
  const int L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  const int slot = warp() / shape.warps, strip = warp() % shape.warps, rows = 16 * shape.warps;
  const int number = block() * shape.slots + slot;
  const bool is_there = number < shape.problems;
  const Problem<MaskedAttentionForward<Real>> problem(op, number);
  const int b = problem.b, h = problem.h, length = problem.length;

  SharedMemory shared;
  const int width = shape.width, area = rows * width;
  const Shared<Real> room = shared.take<Real>(shape.slots * 3 * area).from(slot * 3 * area);
  const Tile<Real, DC> q{room, width}, k{room.from(area), width}, v{room.from(2 * area), width};
  const int me = thread() - slot * shape.warps * warp_size, team = shape.warps * warp_size;
  const auto source = [&](int which) {
    return [&op, which, b, h](int row, int column) { return at(op.qkv, b, row, which, h, column); };
  };
  load_tile(q, rows, length, D, me, team, source(0));
  load_tile(k, rows, length, D, me, team, source(1));
  commit_copies();
  load_tile(v, rows, length, D, me, team, source(2));
  commit_copies();
  const VisibleKeys<LT> visible(op.visible, b);

  wait_copies<1>();
  sync_block();  // q and k of all warps are there
  Strip<LT> S;
  clear(S);
  multiply_transposed(S, q, 16 * strip, k, length);
  const RowSums sums = masked_softmax(S, visible, score_scale(D) * log2_e);
  float factor[2] = {sums.inverse[0], sums.inverse[1]};
  if (op.dropout.is_active()) {
    const auto kept = KeptBits<LT>::template draw<Rows::queries>(op.dropout, op.dropout.attention_sequence(b, h, H),
                                                                 strip, 0, length);
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) S.part[n][r] = kept(n, r) ? S.part[n][r] : 0;
    }
    factor[0] *= op.dropout.keep_scale();
    factor[1] *= op.dropout.keep_scale();
  }
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (16 * strip + strip_row(2 * half) >= length) factor[half] = 0;  // padded rows
  }

  wait_copies<0>();
  sync_block();  // v is there
  multiply_and_store(Weights<Real, LT>(S), v, length, factor, 16 * strip, is_there ? L : 0, D,
                     [&](int row, int column) { return at(op.o, b, row, h, column); });
}

// --- backward ----------------------------------------------------------------------------------------------------------

/// Shared memory of a problem beside its four tiles: largest, inverse and delta of each row.
BLINKBERT_HOST_DEVICE constexpr int row_floats(int rows) { return 3 * rows; }

template <class Real, int LT, int DC>
BB_KERNEL(attention_threads(LT, DC), LT <= 32 ? (DC <= 32 ? 2 : 3) : 1)
masked_attention_backward(MaskedAttentionBackward<Real> op, AttentionShape shape) {
  const int L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  const int slot = warp() / shape.warps, strip = warp() % shape.warps, rows = 16 * shape.warps;
  const int number = block() * shape.slots + slot;
  const int written_rows = number < shape.problems ? L : 0;
  const Problem<MaskedAttentionBackward<Real>> problem(op, number);
  const int b = problem.b, h = problem.h, length = problem.length;

  SharedMemory shared;
  const int width = shape.width, area = rows * width;
  const Shared<Real> room = shared.take<Real>(shape.slots * 4 * area).from(slot * 4 * area);
  const Tile<Real, DC> q{room, width}, k{room.from(area), width};
  const Tile<Real, DC> v{room.from(2 * area), width}, dout{room.from(3 * area), width};
  const Shared<float> largest = shared.take<float>(shape.slots * row_floats(rows)).from(slot * row_floats(rows));
  const Shared<float> inverse = largest.from(rows), deltas = largest.from(2 * rows);
  const int me = thread() - slot * shape.warps * warp_size, team = shape.warps * warp_size;
  const auto source = [&](int which) {
    return [&op, which, b, h](int row, int column) { return at(op.qkv, b, row, which, h, column); };
  };
  load_tile(q, rows, length, D, me, team, source(0));
  load_tile(k, rows, length, D, me, team, source(1));
  commit_copies();
  load_tile(v, rows, length, D, me, team, source(2));
  load_tile(dout, rows, length, D, me, team,
            [&](int row, int column) { return at(op.output_gradient, b, row, h, column); });
  commit_copies();
  const VisibleKeys<LT> visible(op.visible, b);
  const float scale = score_scale(D), scale_log2 = scale * log2_e;
  const float keep_scale = op.dropout.keep_scale();
  const std::uint32_t sequence = op.dropout.attention_sequence(b, h, H);
  const auto target = [&](int which) {
    return [&op, which, b, h](int row, int column) { return at(op.dqkv, b, row, which, h, column); };
  };

  wait_copies<1>();
  sync_block();  // q and k of all warps are there
  {              // phase A: rows are queries
    Strip<LT> S, dP;
    clear(S);
    multiply_transposed(S, q, 16 * strip, k, length);
    const RowSums sums = masked_softmax(S, visible, scale_log2);
    wait_copies<0>();
    sync_block();  // v and do are there
    clear(dP);
    multiply_transposed(dP, dout, 16 * strip, v, length);
    const auto kept = KeptBits<LT>::template draw<Rows::queries>(op.dropout, sequence, strip, 0, length);
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
      const int row = 16 * strip + strip_row(2 * half);
      store(at(largest, row), sums.largest[half]);
      store(at(inverse, row), sums.inverse[half]);
      store(at(deltas, row), delta[half]);
    }
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) S.part[n][r] *= dP.part[n][r] - delta[r / 2];  // dS
    }
    // Padded rows have do = 0, so dP = delta = dS = 0.
    const float factor[2] = {scale, scale};
    multiply_and_store(Weights<Real, LT>(S), k, length, factor, 16 * strip, written_rows, D, target(0));
  }
  sync_block();  // what phase A left of all rows is there
  {              // phase B: rows are keys, columns are queries
    Strip<LT> P, other;
    clear(P);
    multiply_transposed(P, k, 16 * strip, q, length);
    const VisibleRows keys(op.visible, b, strip);
    const auto kept = KeptBits<LT>::template draw<Rows::keys>(op.dropout, sequence, strip, 0, length);
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int query = strip_column(n, r);
        P.part[n][r] = query < length && keys.is_visible[r / 2]
                           ? exp2((P.part[n][r] - load(at(largest, query))) * scale_log2) * load(at(inverse, query))
                           : 0;
        other.part[n][r] = kept(n, r) ? P.part[n][r] * keep_scale : 0;
      }
    }
    const float one[2] = {1, 1}, factor[2] = {scale, scale};
    multiply_and_store(Weights<Real, LT>(other), dout, length, one, 16 * strip, written_rows, D, target(2));
    clear(other);
    multiply_transposed(other, v, 16 * strip, dout, length);  // dP
    BB_UNROLL
    for (int n = 0; n < LT / 8; ++n) {
      BB_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int query = strip_column(n, r);
        const float dP = kept(n, r) ? other.part[n][r] * keep_scale : 0;
        P.part[n][r] = query < length ? P.part[n][r] * (dP - load(at(deltas, query))) : 0;  // dS
      }
    }
    multiply_and_store(Weights<Real, LT>(P), q, length, factor, 16 * strip, written_rows, D, target(1));
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

template <int LT, int DC>
AttentionShape attention_shape(int B, int L, int H, int D) {
  const int warps = ceil_div(L, 16);
  return {.problems = B * H,
          .warps = warps,
          .slots = attention_threads(LT, DC) / (warps * warp_size),
          .width = tile_width(D)};
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

/// Whether a problem fits into the registers of its warps and the shared memory of a block.
template <class Real, class Gpu>
bool fits_into_a_block(const Gpu& gpu, int L, int D) {
  const AttentionShape one{.problems = 1, .warps = ceil_div(L, 16), .slots = 1, .width = tile_width(D)};
  return L <= most_rows_in_registers<Real> && backward_bytes<Real>(one) <= gpu.most_shared_bytes();
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedAttentionForward<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  op.check();
  const int B = op.qkv.extent(0), L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  if (!kernels::fits_into_a_block<Real>(gpu, L, D)) return kernels::run_long(gpu, op);
  kernels::dispatch_attention<Real>(L, D, [&](auto length, auto columns) {
    const auto shape = kernels::attention_shape<length(), columns()>(B, L, H, D);
    dev::launch<kernels::masked_attention_forward<Real, length(), columns()>>(
        gpu,
        {.blocks = shape.blocks(), .threads = shape.threads(), .shared_bytes = kernels::forward_bytes<Real>(shape)}, op,
        shape);
  });
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedAttentionBackward<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  op.check();
  const int B = op.qkv.extent(0), L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  if (!kernels::fits_into_a_block<Real>(gpu, L, D)) return kernels::run_long(gpu, op);
  kernels::dispatch_attention<Real>(L, D, [&](auto length, auto columns) {
    const auto shape = kernels::attention_shape<length(), columns()>(B, L, H, D);
    dev::launch<kernels::masked_attention_backward<Real, length(), columns()>>(
        gpu,
        {.blocks = shape.blocks(), .threads = shape.threads(), .shared_bytes = kernels::backward_bytes<Real>(shape)},
        op, shape);
  });
}

}  // namespace blinkbert
