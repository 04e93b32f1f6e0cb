#pragma once

// Attention on the CPU: one (sequence, head) at a time, everything in the first caches.
//
// The visible keys' rows are packed one after another, so hidden and padded rows cost nothing and are never read. Queries
// are taken 16 at a time, the height of a tile of dropout decisions: only their part of the L x L weights exists at any
// time, as [key, query], so that the softmax over the keys works on whole packs of queries. Queries that fill up the last
// block are zeros and are not written back. Backward computes P again from qkv.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/dropout_factors.hpp>
#include <blinkbert/backend/cpu/elementary.hpp>
#include <blinkbert/backend/cpu/small_product.hpp>
#include <blinkbert/backend/cpu/transpose.hpp>
#include <blinkbert/ops/masked_attention.hpp>

namespace blinkbert {
namespace cpu_detail {

inline constexpr int query_block = 16;
static_assert(query_block % pack_size<float> == 0 && query_block % pack_size<double> == 0);

/// One (sequence, head): its real rows, its visible keys and where its rows lie in qkv.
template <class Real>
struct AttentionHead {
  int b = 0, h = 0, H = 0, D = 0, L = 0;
  int length = 0;                   // real rows
  int keys = 0;                     // visible ones among them
  std::array<int, 512> key_rows{};  // [keys]  ascending

  AttentionHead(const View<const Real, 5>& qkv, const View<const std::uint32_t, 2>& visible,
                const View<const int, 1>& lengths, int item)
      : b(item / qkv.extent(3)),
        h(item % qkv.extent(3)),
        H(qkv.extent(3)),
        D(qkv.extent(4)),
        L(qkv.extent(1)),
        length(lengths(b)) {
    for (int s = 0; s < length; ++s) {
      key_rows[static_cast<std::size_t>(keys)] = s;
      keys += static_cast<int>(visible(b, s / 32) >> (s % 32) & 1u);
    }
  }

  /// Offset of row l of part 0 (q), 1 (k) or 2 (v) in qkv.
  std::int64_t packed_offset(int part, int l) const { return (((std::int64_t{b} * L + l) * 3 + part) * H + h) * D; }
  std::int64_t packed_stride() const { return std::int64_t{3} * H * D; }  // from row to row

  /// The same in o and its gradient.
  std::int64_t output_offset(int l) const { return ((std::int64_t{b} * L + l) * H + h) * D; }
  std::int64_t output_stride() const { return std::int64_t{H} * D; }

  /// Queries that attend to something.
  int queries() const { return keys > 0 ? length : 0; }
};

/// A thread's room for one head; rows of a head's width are padded to `width`, whole packs.
template <class Real>
struct AttentionRoom {
  int width;
  Real *keys, *values;                           // [L, width]  visible ones only
  Real *dkeys, *dvalues;                         // [L, width]
  Real *query, *gradient, *result;               // [16, width]
  Real *query_transposed, *gradient_transposed;  // [D, 16]
  Real *weights, *kept_weights, *dweights;       // [L, 16]     of visible keys
  Real* factors;                                 // [L up to a multiple of 16, 16]  of all keys

  static std::int64_t size(int L, int D) {
    const std::int64_t padded_width = whole_packs<Real>(D);
    return padded((4 * L + 3 * query_block) * padded_width +
                  query_block * (2 * D + 3 * L + multiple_of(query_block, L)));
  }

  AttentionRoom(Real* room, int L, int D) : width(whole_packs<Real>(D)) {
    const auto take = [&](std::int64_t rows, std::int64_t columns) {
      Real* taken = room;
      room += rows * columns;
      return taken;
    };
    keys = take(L, width);
    values = take(L, width);
    dkeys = take(L, width);
    dvalues = take(L, width);
    query = take(query_block, width);
    gradient = take(query_block, width);
    result = take(query_block, width);
    query_transposed = take(D, query_block);
    gradient_transposed = take(D, query_block);
    weights = take(L, query_block);
    kept_weights = take(L, query_block);
    dweights = take(L, query_block);
    factors = take(multiple_of(query_block, L), query_block);
  }
};

/// to [rows, width] = the D numbers of each row, zeros behind; row(i) is where row i starts.
template <class Real, class Row>
void pack_rows(Real* to, int width, int rows, int D, const Row& row) {
  for (int i = 0; i < rows; ++i, to += width) {
    std::copy_n(row(i), D, to);
    std::fill(to + D, to + width, Real(0));
  }
}

/// Keys and values of the head, packed.
template <class Real>
void pack_keys(const AttentionRoom<Real>& room, const AttentionHead<Real>& head, const Real* qkv) {
  const auto row_of = [&](int part) {
    return [&head, qkv, part](int s) {
      return qkv + head.packed_offset(part, head.key_rows[static_cast<std::size_t>(s)]);
    };
  };
  pack_rows(room.keys, room.width, head.keys, head.D, row_of(1));
  pack_rows(room.values, room.width, head.keys, head.D, row_of(2));
}

/// to [D, 16] = scale * the transpose of `rows` rows, zeros behind.
template <class Real>
void transpose_block(Real* to, const Real* from, std::int64_t stride, int rows, int D, Real scale) {
  if (rows < query_block) std::fill_n(to, D * query_block, Real(0));
  transpose(to, query_block, from, stride, rows, D);
  if (scale != 1)
    map_packs<Real>(
        to, D * query_block, [scale](Pack<Real> q) { return scale * q; }, to);
}

template <class Real>
Pack<Real> dropped(Pack<Real> value, Pack<Real> factor) {
  return factor != Real(0) ? value * factor : Pack<Real>{};
}

/// Factors of the visible key s for the pack of queries that starts at q.
template <class Real>
Pack<Real> factor_of(const AttentionRoom<Real>& room, const AttentionHead<Real>& head, int s, int q) {
  return load<Real>(room.factors + head.key_rows[static_cast<std::size_t>(s)] * query_block + q);
}

/// factors [key, query]: dropout of the block of queries that starts at row `first`, on all real keys.
template <class Real>
void draw_factors(const AttentionRoom<Real>& room, const Dropout& dropout, const AttentionHead<Real>& head, int first) {
  for (int tile = 0; tile * query_block < head.length; ++tile) {
    attention_tile_factors(room.factors + tile * query_block * query_block, dropout, head.b, head.h, head.H,
                           first / query_block, tile);
  }
}

/// weights [key, query] = softmax over the keys of key . query.
template <class Real>
void attention_weights(const AttentionRoom<Real>& room, const AttentionHead<Real>& head) {
  small_product<Real>(room.weights, query_block, {room.keys, room.width, 1}, room.query_transposed, query_block,
                      head.keys, query_block, head.D, Result::overwrite);
  for (int q = 0; q < query_block; q += pack_size<Real>) {
    Real* weights = room.weights + q;
    Pack<Real> largest = load<Real>(weights);
    for (int s = 1; s < head.keys; ++s) {
      const Pack<Real> score = load<Real>(weights + s * query_block);
      largest = score > largest ? score : largest;
    }
    Pack<Real> sum{};
    for (int s = 0; s < head.keys; ++s) {
      const Pack<Real> weight = exponential(load<Real>(weights + s * query_block) - largest);
      sum += weight;
      store<Real>(weights + s * query_block, weight);
    }
    const Pack<Real> share = Real(1) / sum;
    for (int s = 0; s < head.keys; ++s) {
      store<Real>(weights + s * query_block, load<Real>(weights + s * query_block) * share);
    }
  }
}

/// kept_weights [key, query] = dropout(weights).
template <class Real>
void drop_weights(const AttentionRoom<Real>& room, const AttentionHead<Real>& head) {
  for (int s = 0; s < head.keys; ++s) {
    for (int q = 0; q < query_block; q += pack_size<Real>) {
      const int at = s * query_block + q;
      store<Real>(room.kept_weights + at, dropped<Real>(load<Real>(room.weights + at), factor_of(room, head, s, q)));
    }
  }
}

template <class Real>
void attention_forward(const MaskedAttentionForward<Real>& op, const AttentionHead<Real>& head,
                       const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width;
  const Real scale = 1 / std::sqrt(static_cast<Real>(D));
  const Real* qkv = op.qkv.data();
  pack_keys(room, head, qkv);
  for (int first = 0; first < head.queries(); first += query_block) {
    const int rows = std::min(query_block, head.queries() - first);
    transpose_block(room.query_transposed, qkv + head.packed_offset(0, first), head.packed_stride(), rows, D, scale);
    attention_weights(room, head);
    const Real* kept_weights = room.weights;
    if (op.dropout.is_active()) {
      draw_factors(room, op.dropout, head, first);
      drop_weights(room, head);
      kept_weights = room.kept_weights;
    }
    small_product<Real>(room.result, width, {kept_weights, 1, query_block}, room.values, width, rows, width, head.keys,
                        Result::overwrite);
    for (int i = 0; i < rows; ++i) std::copy_n(room.result + i * width, D, op.o.data() + head.output_offset(first + i));
  }
  for (int l = head.queries(); l < head.L; ++l) std::fill_n(op.o.data() + head.output_offset(l), D, Real(0));
}

/// dweights: from the gradients of the kept weights to those of the scores.
template <class Real>
void score_gradients(const AttentionRoom<Real>& room, const AttentionHead<Real>& head, const Dropout& dropout) {
  for (int q = 0; q < query_block; q += pack_size<Real>) {
    Pack<Real> delta{};
    for (int s = 0; s < head.keys; ++s) {
      const int at = s * query_block + q;
      Pack<Real> gradient = load<Real>(room.dweights + at);
      if (dropout.is_active()) {
        gradient = dropped<Real>(gradient, factor_of(room, head, s, q));
        store<Real>(room.dweights + at, gradient);
      }
      delta += load<Real>(room.weights + at) * gradient;
    }
    for (int s = 0; s < head.keys; ++s) {
      const int at = s * query_block + q;
      store<Real>(room.dweights + at, load<Real>(room.weights + at) * (load<Real>(room.dweights + at) - delta));
    }
  }
}

template <class Real>
void attention_backward(const MaskedAttentionBackward<Real>& op, const AttentionHead<Real>& head,
                        const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width;
  const Real scale = 1 / std::sqrt(static_cast<Real>(D));
  const Real *qkv = op.qkv.data(), *output_gradient = op.output_gradient.data();
  Real* dqkv = op.dqkv.data();
  pack_keys(room, head, qkv);
  std::fill_n(room.dkeys, head.keys * width, Real(0));
  std::fill_n(room.dvalues, head.keys * width, Real(0));
  for (int first = 0; first < head.queries(); first += query_block) {
    const int rows = std::min(query_block, head.queries() - first);
    const Real *query = qkv + head.packed_offset(0, first), *gradient = output_gradient + head.output_offset(first);
    transpose_block(room.query_transposed, query, head.packed_stride(), rows, D, scale);
    transpose_block(room.gradient_transposed, gradient, head.output_stride(), rows, D, Real(1));
    pack_rows(room.query, width, rows, D, [&](int i) { return query + i * head.packed_stride(); });
    pack_rows(room.gradient, width, rows, D, [&](int i) { return gradient + i * head.output_stride(); });
    attention_weights(room, head);
    const Real* kept_weights = room.weights;
    if (op.dropout.is_active()) {
      draw_factors(room, op.dropout, head, first);
      drop_weights(room, head);
      kept_weights = room.kept_weights;
    }
    small_product<Real>(room.dvalues, width, {kept_weights, query_block, 1}, room.gradient, width, head.keys, width,
                        rows, Result::add);
    small_product<Real>(room.dweights, query_block, {room.values, width, 1}, room.gradient_transposed, query_block,
                        head.keys, query_block, D, Result::overwrite);
    score_gradients(room, head, op.dropout);
    small_product<Real>(room.dkeys, width, {room.dweights, query_block, 1}, room.query, width, head.keys, width, rows,
                        Result::add);
    small_product<Real>(room.result, width, {room.dweights, 1, query_block}, room.keys, width, rows, width, head.keys,
                        Result::overwrite);
    for (int i = 0; i < rows; ++i) {
      map_packs<Real>(
          dqkv + head.packed_offset(0, first + i), D, [scale](Pack<Real> dq) { return scale * dq; },
          room.result + i * width);
    }
  }
  for (int l = head.queries(); l < head.L; ++l) std::fill_n(dqkv + head.packed_offset(0, l), D, Real(0));
  for (int l = 0, s = 0; l < head.L; ++l) {
    Real *dkey = dqkv + head.packed_offset(1, l), *dvalue = dqkv + head.packed_offset(2, l);
    if (s < head.keys && head.key_rows[static_cast<std::size_t>(s)] == l) {
      map_packs<Real>(
          dkey, D, [scale](Pack<Real> dk) { return scale * dk; }, room.dkeys + s * width);
      std::copy_n(room.dvalues + s * width, D, dvalue);
      ++s;
    } else {
      std::fill_n(dkey, D, Real(0));
      std::fill_n(dvalue, D, Real(0));
    }
  }
}

/// Calls body(head, room) for every head of every sequence. Heads are dealt to the threads in turn: batches are sorted by
/// length, so neighbours cost the same.
template <class Real, class Op, class Body>
void for_heads(Cpu<Real>& cpu, const Op& op, const Body& body) {
  const int B = op.qkv.extent(0), L = op.qkv.extent(1), H = op.qkv.extent(3), D = op.qkv.extent(4);
  const int items = B * H, chunks = cpu.chunks(items, std::int64_t{L} * L * D / 2);
  const std::int64_t size = AttentionRoom<Real>::size(L, D);
  Real* rooms = cpu.template workspace<Real>(size * chunks);
  cpu.for_chunks(chunks, chunks, [&](int first, int last, int) {
    for (int chunk = first; chunk < last; ++chunk) {
      const AttentionRoom<Real> room(rooms + chunk * size, L, D);
      for (int item = chunk; item < items; item += chunks) {
        body(AttentionHead<Real>(op.qkv, op.visible, op.lengths, item), room);
      }
    }
  });
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const MaskedAttentionForward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op,
                        [&](const auto& head, const auto& room) { cpu_detail::attention_forward(op, head, room); });
}

template <class Real>
void run(Cpu<Real>& cpu, const MaskedAttentionBackward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op,
                        [&](const auto& head, const auto& room) { cpu_detail::attention_backward(op, head, room); });
}

}  // namespace blinkbert
