#pragma once

// What masked_attention and gathered_attention share: one (sequence, head) at a time, everything in the first caches.
//
// The visible keys' rows are packed one after another, so hidden and padded rows cost nothing and are never read. Queries
// are taken 16 at a time, the height of a tile of dropout decisions: only their part of the weights exists at any time, as
// [key, query], so that the softmax over the keys works on whole packs of queries. Queries that fill up the last block
// are zeros and are not written back. Backward computes P again.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/dropout_factors.hpp>
#include <blinkbert/backend/cpu/elementary.hpp>
#include <blinkbert/backend/cpu/small_product.hpp>
#include <blinkbert/backend/cpu/transpose.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert::cpu_detail {

inline constexpr int query_block = 16;
static_assert(query_block % pack_size<float> == 0 && query_block % pack_size<double> == 0);

/// 1 / sqrt(D).
template <class Real>
Real score_scale(int D) {
  return 1 / std::sqrt(static_cast<Real>(D));
}

/// Consecutive rows of one head: D numbers each.
template <class Real>
struct RowsOfHead {
  Real* first;
  std::int64_t stride;  // from row to row

  Real* operator()(int i) const { return first + i * stride; }
};

/// One (sequence, head): its real rows and its visible keys.
struct AttentionHead {
  int b = 0, h = 0, H = 0, D = 0, L = 0;
  int length = 0;                   // real rows
  int keys = 0;                     // visible ones among them
  std::array<int, 512> key_rows{};  // [keys]  ascending

  /// `keys_from` [B, L, parts, H, D]: the tensor that the keys are in.
  template <class Real>
  AttentionHead(const View<const Real, 5>& keys_from, const View<const std::uint32_t, 2>& visible,
                const View<const int, 1>& lengths, int item)
      : b(item / keys_from.extent(3)),
        h(item % keys_from.extent(3)),
        H(keys_from.extent(3)),
        D(keys_from.extent(4)),
        L(keys_from.extent(1)),
        length(lengths(b)) {
    for (int s = 0; s < length; ++s) {
      key_rows[static_cast<std::size_t>(keys)] = s;
      keys += static_cast<int>(visible(b, s / 32) >> (s % 32) & 1u);
    }
  }

  /// The sequence's rows of a part of [B, L, parts, H, D].
  template <class Real>
  RowsOfHead<Real> rows(const View<Real, 5>& tensor, int part) const {
    const int parts = tensor.extent(2);
    return {tensor.data() + ((std::int64_t{b} * L * parts + part) * H + h) * D, std::int64_t{parts} * H * D};
  }
  /// The sequence's rows of [B, L, H, D].
  template <class Real>
  RowsOfHead<Real> rows(const View<Real, 4>& tensor) const {
    return {tensor.data() + (std::int64_t{b} * L * H + h) * D, std::int64_t{H} * D};
  }
  /// All rows of [M, H, D].
  template <class Real>
  RowsOfHead<Real> rows(const View<Real, 3>& tensor) const {
    return {tensor.data() + std::int64_t{h} * D, std::int64_t{H} * D};
  }
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
  Real* tile;                                    // [16, 16]    factors on their way there

  static std::int64_t size(int L, int D) {
    const std::int64_t padded_width = whole_packs<Real>(D);
    return padded((4 * L + 3 * query_block) * padded_width +
                  query_block * (2 * D + 3 * L + multiple_of(query_block, L) + query_block));
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
    tile = take(query_block, query_block);
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

/// The head's visible keys and values, packed.
template <class Real>
void pack_keys(const AttentionRoom<Real>& room, const AttentionHead& head, const RowsOfHead<const Real>& keys,
               const RowsOfHead<const Real>& values) {
  const auto visible = [&head](const RowsOfHead<const Real>& rows) {
    return [&head, &rows](int s) { return rows(head.key_rows[static_cast<std::size_t>(s)]); };
  };
  pack_rows(room.keys, room.width, head.keys, head.D, visible(keys));
  pack_rows(room.values, room.width, head.keys, head.D, visible(values));
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
Pack<Real> factor_of(const AttentionRoom<Real>& room, const AttentionHead& head, int s, int q) {
  return load<Real>(room.factors + head.key_rows[static_cast<std::size_t>(s)] * query_block + q);
}

/// weights [key, query] = softmax over the keys of key . query.
template <class Real>
void attention_weights(const AttentionRoom<Real>& room, const AttentionHead& head) {
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

/// [key, query] = dropout(weights): the weights themselves where nothing is dropped.
template <class Real>
const Real* drop_weights(const AttentionRoom<Real>& room, const AttentionHead& head, const Dropout& dropout) {
  if (!dropout.is_active()) return room.weights;
  for (int s = 0; s < head.keys; ++s) {
    for (int q = 0; q < query_block; q += pack_size<Real>) {
      const int at = s * query_block + q;
      store<Real>(room.kept_weights + at, dropped<Real>(load<Real>(room.weights + at), factor_of(room, head, s, q)));
    }
  }
  return room.kept_weights;
}

/// result [query, width] = o of the block whose queries, times the scale, are in query_transposed. `factors` is set where
/// dropout is active.
template <class Real>
void attend(const AttentionRoom<Real>& room, const AttentionHead& head, const Dropout& dropout, int rows) {
  attention_weights(room, head);
  const Real* kept_weights = drop_weights(room, head, dropout);
  small_product<Real>(room.result, room.width, {kept_weights, 1, query_block}, room.values, room.width, rows,
                      room.width, head.keys, Result::overwrite);
}

/// dweights: from the gradients of the kept weights to those of the scores.
template <class Real>
void score_gradients(const AttentionRoom<Real>& room, const AttentionHead& head, const Dropout& dropout) {
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
void clear_key_gradients(const AttentionRoom<Real>& room, const AttentionHead& head) {
  std::fill_n(room.dkeys, head.keys * room.width, Real(0));
  std::fill_n(room.dvalues, head.keys * room.width, Real(0));
}

/// Adds the block's part to dkeys and dvalues and leaves its dq in result, both still without the scale. The block's
/// queries and gradients are packed, and transposed as `attend` takes them.
template <class Real>
void attend_backward(const AttentionRoom<Real>& room, const AttentionHead& head, const Dropout& dropout, int rows) {
  const int width = room.width;
  attention_weights(room, head);
  const Real* kept_weights = drop_weights(room, head, dropout);
  small_product<Real>(room.dvalues, width, {kept_weights, query_block, 1}, room.gradient, width, head.keys, width, rows,
                      Result::add);
  small_product<Real>(room.dweights, query_block, {room.values, width, 1}, room.gradient_transposed, query_block,
                      head.keys, query_block, head.D, Result::overwrite);
  score_gradients(room, head, dropout);
  small_product<Real>(room.dkeys, width, {room.dweights, query_block, 1}, room.query, width, head.keys, width, rows,
                      Result::add);
  small_product<Real>(room.result, width, {room.dweights, 1, query_block}, room.keys, width, rows, width, head.keys,
                      Result::overwrite);
}

/// to = 1 / sqrt(D) times a row of gradients.
template <class Real>
void write_scaled(Real* to, const Real* from, int D) {
  const Real scale = score_scale<Real>(D);
  map_packs<Real>(
      to, D, [scale](Pack<Real> gradient) { return scale * gradient; }, from);
}

/// The gradients of the visible keys and values to their rows, zeros to the other rows.
template <class Real>
void write_key_gradients(const RowsOfHead<Real>& dkeys, const RowsOfHead<Real>& dvalues,
                         const AttentionRoom<Real>& room, const AttentionHead& head) {
  for (int l = 0, s = 0; l < head.L; ++l) {
    if (s < head.keys && head.key_rows[static_cast<std::size_t>(s)] == l) {
      write_scaled(dkeys(l), room.dkeys + s * room.width, head.D);
      std::copy_n(room.dvalues + s * room.width, head.D, dvalues(l));
      ++s;
    } else {
      std::fill_n(dkeys(l), head.D, Real(0));
      std::fill_n(dvalues(l), head.D, Real(0));
    }
  }
}

/// Where the given one of `chunks` parts of all heads of all sequences begins: parts of neighbours that cost about the same.
inline int first_head(const View<const int, 1>& lengths, int H, int chunk, int chunks) {
  const int B = lengths.extent(0);
  std::int64_t all = 0;  // a head costs its real rows, and 1
  for (int b = 0; b < B; ++b) all += std::int64_t{lengths(b) + 1} * H;
  std::int64_t left = all * chunk / chunks;
  int b = 0;
  while (b < B && left >= std::int64_t{lengths(b) + 1} * H) left -= std::int64_t{lengths(b++) + 1} * H;
  return b * H + (b < B ? static_cast<int>(left / (lengths(b) + 1)) : 0);
}

/// Calls body(head, room) for every head of every sequence, `queries` being about how many each has. A thread gets
/// neighbouring sequences: their rows are in its cache, as products and norms split rows the same way.
template <class Real, class Body>
void for_heads(Cpu<Real>& cpu, const View<const Real, 5>& keys_from, const View<const std::uint32_t, 2>& visible,
               const View<const int, 1>& lengths, int queries, const Body& body) {
  const int B = keys_from.extent(0), L = keys_from.extent(1), H = keys_from.extent(3), D = keys_from.extent(4);
  const int chunks = cpu.chunks(B * H, std::int64_t{L} * queries * D / 2);
  const std::int64_t size = AttentionRoom<Real>::size(L, D);
  Real* rooms = cpu.template workspace<Real>(size * chunks);
  cpu.for_chunks(chunks, chunks, [&](int, int, int chunk) {
    const AttentionRoom<Real> room(rooms + chunk * size, L, D);
    const int last = first_head(lengths, H, chunk + 1, chunks);
    for (int item = first_head(lengths, H, chunk, chunks); item < last; ++item) {
      body(AttentionHead(keys_from, visible, lengths, item), room);
    }
  });
}

}  // namespace blinkbert::cpu_detail
