#pragma once

// Attention on the CPU: one (sequence, head) at a time, everything in the first caches.
//
// The visible keys' rows are packed side by side, so hidden and padded rows cost nothing and are never read. Queries are
// taken 16 at a time, the height of a tile of dropout decisions: their weights P are the only part of the L x L weights
// that exists at any time. Backward computes P again from qkv.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/dropout_factors.hpp>
#include <blinkbert/backend/cpu/elementary.hpp>
#include <blinkbert/backend/cpu/small_product.hpp>
#include <blinkbert/ops/masked_attention.hpp>

namespace blinkbert {
namespace cpu_detail {

inline constexpr int query_block = 16;

/// One (sequence, head): its real rows, its visible keys and where its rows lie in qkv.
template <class Real>
struct AttentionHead {
  int b = 0, h = 0, H = 0, D = 0, L = 0;
  int length = 0;                     // real rows
  int keys = 0;                       // visible ones among them
  std::array<int, 512> key_rows{};    // [keys]  ascending

  AttentionHead(const View<const Real, 5>& qkv, const View<const std::uint32_t, 2>& visible,
                const View<const int, 1>& lengths, int item)
      : b(item / qkv.extent(3)), h(item % qkv.extent(3)), H(qkv.extent(3)), D(qkv.extent(4)), L(qkv.extent(1)),
        length(lengths(b)) {
    for (int s = 0; s < length; ++s) {
      key_rows[static_cast<std::size_t>(keys)] = s;
      keys += static_cast<int>(visible(b, s / 32) >> (s % 32) & 1u);
    }
  }

  /// Offset of row l of part 0 (q), 1 (k) or 2 (v) in qkv.
  std::int64_t packed_offset(int part, int l) const {
    return (((std::int64_t{b} * L + l) * 3 + part) * H + h) * D;
  }
  std::int64_t output_offset(int l) const { return ((std::int64_t{b} * L + l) * H + h) * D; }
};

/// A thread's room for one head: rows of keys are padded to `columns`, rows of a head's width to `width`, whole packs both.
template <class Real>
struct AttentionRoom {
  int columns, width;
  Real *keys, *keys_transposed;          // [L, width], [D, columns]
  Real *values, *values_transposed;      // [L, width], [D, columns]
  Real *dkeys, *dvalues;                 // [L, width]
  Real *query, *gradient, *result;       // [16, width]
  Real *weights, *dweights, *factors;    // [16, columns]
  Real* all_factors;                     // [16, L up to a multiple of 16]

  static std::int64_t size(int L, int D) {
    const std::int64_t columns = whole_packs<Real>(L), width = whole_packs<Real>(D);
    return padded(4 * L * width + 2 * D * columns + query_block * (3 * width + 3 * columns + (L + 15) / 16 * 16));
  }

  AttentionRoom(Real* room, int L, int D) : columns(whole_packs<Real>(L)), width(whole_packs<Real>(D)) {
    const auto take = [&](std::int64_t rows, std::int64_t stride) {
      Real* taken = room;
      room += rows * stride;
      return taken;
    };
    keys = take(L, width);
    values = take(L, width);
    dkeys = take(L, width);
    dvalues = take(L, width);
    keys_transposed = take(D, columns);
    values_transposed = take(D, columns);
    query = take(query_block, width);
    gradient = take(query_block, width);
    result = take(query_block, width);
    weights = take(query_block, columns);
    dweights = take(query_block, columns);
    factors = take(query_block, columns);
    all_factors = take(query_block, (L + 15) / 16 * 16);
  }
};

/// to [rows, width] = scale * D numbers of each row, zeros behind; offset(i) is where row i starts in `from`.
template <class Real, class Offset>
void pack_rows(Real* to, int width, const Real* from, int rows, int D, Real scale, const Offset& offset) {
  for (int i = 0; i < rows; ++i) {
    const Real* row = from + offset(i);
#pragma omp simd
    for (int d = 0; d < D; ++d) to[i * width + d] = scale * row[d];
    for (int d = D; d < width; ++d) to[i * width + d] = 0;
  }
}

/// to [D, columns] = the transpose of from [rows, width], zeros behind.
template <class Real>
void transpose(Real* to, int columns, const Real* from, int width, int rows, int D) {
  for (int d = 0; d < D; ++d) {
    for (int i = 0; i < rows; ++i) to[d * columns + i] = from[i * width + d];
    for (int i = rows; i < columns; ++i) to[d * columns + i] = 0;
  }
}

/// weights [rows, columns] = softmax over the keys of query . keys. What stands behind the keys is not a weight.
template <class Real>
void attention_weights(const AttentionRoom<Real>& room, int rows, int keys, int columns, int D) {
  small_product<Real>(room.weights, columns, {room.query, room.width, 1}, room.keys_transposed, columns, rows, columns, D,
                      Result::overwrite);
  for (int i = 0; i < rows; ++i) {
    Real* row = room.weights + i * columns;
    for (int s = keys; s < columns; ++s) row[s] = std::numeric_limits<Real>::lowest();
    Pack<Real> largest = load<Real>(row);
    for (int s = pack_size<Real>; s < columns; s += pack_size<Real>) {
      const Pack<Real> next = load<Real>(row + s);
      largest = next > largest ? next : largest;
    }
    Real maximum = largest[0];
    for (int k = 1; k < pack_size<Real>; ++k) maximum = largest[k] > maximum ? largest[k] : maximum;
    Pack<Real> sums{};
    for (int s = 0; s < columns; s += pack_size<Real>) {
      const Pack<Real> weight = exponential(load<Real>(row + s) - maximum);
      sums += weight;
      store<Real>(row + s, weight);
    }
    Real sum = 0;
    for (int k = 0; k < pack_size<Real>; ++k) sum += sums[k];
    const Real share = 1 / sum;
#pragma omp simd
    for (int s = 0; s < columns; ++s) row[s] *= share;
  }
}

/// factors [rows, columns]: dropout of the weights of queries [first, first + 16) on the visible keys.
template <class Real>
void attention_factors(const AttentionRoom<Real>& room, const Dropout& dropout, const AttentionHead<Real>& head, int first,
                       int rows, int columns) {
  const Real scale = static_cast<Real>(dropout.keep_scale());
  for (int i = 0; i < rows; ++i) {
    for (int s = 0; s < head.keys; ++s) {
      room.factors[i * columns + s] =
          dropout.keeps_attention(head.b, head.h, head.H, first + i, head.key_rows[static_cast<std::size_t>(s)]) ? scale : Real(0);
    }
    for (int s = head.keys; s < columns; ++s) room.factors[i * columns + s] = 0;
  }
}

template <class Real>
void attention_forward(const MaskedAttentionForward<Real>& op, const AttentionHead<Real>& head,
                       const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width, columns = whole_packs<Real>(head.keys);
  const int written = head.keys > 0 ? head.length : 0;
  if (written > 0) {
    const auto row_of = [&](int part) {
      return [&head, part](int s) { return head.packed_offset(part, head.key_rows[static_cast<std::size_t>(s)]); };
    };
    pack_rows(room.keys, width, op.qkv.data(), head.keys, D, Real(1), row_of(1));
    pack_rows(room.values, width, op.qkv.data(), head.keys, D, Real(1), row_of(2));
    transpose(room.keys_transposed, columns, room.keys, width, head.keys, D);
  }
  const Real scale = 1 / std::sqrt(static_cast<Real>(D));
  for (int first = 0; first < written; first += query_block) {
    const int rows = std::min(query_block, written - first);
    pack_rows(room.query, width, op.qkv.data(), rows, D, scale, [&](int i) { return head.packed_offset(0, first + i); });
    attention_weights(room, rows, head.keys, columns, D);
    if (op.dropout.is_active()) {
      attention_factors(room, op.dropout, head, first, rows, columns);
#pragma omp simd
      for (int i = 0; i < rows * columns; ++i) room.weights[i] = dropped(room.weights[i], room.factors[i]);
    }
    small_product<Real>(room.result, width, {room.weights, columns, 1}, room.values, width, rows, width, head.keys,
                        Result::overwrite);
    for (int i = 0; i < rows; ++i) std::copy_n(room.result + i * width, D, op.o.data() + head.output_offset(first + i));
  }
  for (int l = written; l < head.L; ++l) std::fill_n(op.o.data() + head.output_offset(l), D, Real(0));
}

template <class Real>
void attention_backward(const MaskedAttentionBackward<Real>& op, const AttentionHead<Real>& head,
                        const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width, columns = whole_packs<Real>(head.keys);
  const int written = head.keys > 0 ? head.length : 0;
  Real* dqkv = op.dqkv.data();
  if (written > 0) {
    const auto row_of = [&](int part) {
      return [&head, part](int s) { return head.packed_offset(part, head.key_rows[static_cast<std::size_t>(s)]); };
    };
    pack_rows(room.keys, width, op.qkv.data(), head.keys, D, Real(1), row_of(1));
    pack_rows(room.values, width, op.qkv.data(), head.keys, D, Real(1), row_of(2));
    transpose(room.keys_transposed, columns, room.keys, width, head.keys, D);
    transpose(room.values_transposed, columns, room.values, width, head.keys, D);
    std::fill_n(room.dkeys, head.keys * width, Real(0));
    std::fill_n(room.dvalues, head.keys * width, Real(0));
  }
  const Real scale = 1 / std::sqrt(static_cast<Real>(D));
  for (int first = 0; first < written; first += query_block) {
    const int rows = std::min(query_block, written - first);
    pack_rows(room.query, width, op.qkv.data(), rows, D, scale, [&](int i) { return head.packed_offset(0, first + i); });
    pack_rows(room.gradient, width, op.output_gradient.data(), rows, D, Real(1),
              [&](int i) { return head.output_offset(first + i); });
    attention_weights(room, rows, head.keys, columns, D);
    small_product<Real>(room.dweights, columns, {room.gradient, width, 1}, room.values_transposed, columns, rows, columns, D,
                        Result::overwrite);
    const bool is_dropped = op.dropout.is_active();
    if (is_dropped) {
      attention_factors(room, op.dropout, head, first, rows, columns);
#pragma omp simd
      for (int i = 0; i < rows * columns; ++i) {
        room.dweights[i] = dropped(room.dweights[i], room.factors[i]);
        room.factors[i] = dropped(room.weights[i], room.factors[i]);
      }
    }
    const Real* kept_weights = is_dropped ? room.factors : room.weights;
    small_product<Real>(room.dvalues, width, {kept_weights, 1, columns}, room.gradient, width, head.keys, width, rows,
                        Result::add);
    for (int i = 0; i < rows; ++i) {
      const Real* weights = room.weights + i * columns;
      Real *dscores = room.dweights + i * columns, delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int s = 0; s < columns; ++s) delta += weights[s] * dscores[s];
#pragma omp simd
      for (int s = 0; s < columns; ++s) dscores[s] = weights[s] * (dscores[s] - delta);
    }
    small_product<Real>(room.dkeys, width, {room.dweights, 1, columns}, room.query, width, head.keys, width, rows,
                        Result::add);
    small_product<Real>(room.result, width, {room.dweights, columns, 1}, room.keys, width, rows, width, head.keys,
                        Result::overwrite);
    for (int i = 0; i < rows; ++i) {
      Real* to = dqkv + head.packed_offset(0, first + i);
#pragma omp simd
      for (int d = 0; d < D; ++d) to[d] = scale * room.result[i * width + d];
    }
  }
  for (int l = written; l < head.L; ++l) std::fill_n(dqkv + head.packed_offset(0, l), D, Real(0));
  for (int l = 0, s = 0; l < head.L; ++l) {
    Real *dkey = dqkv + head.packed_offset(1, l), *dvalue = dqkv + head.packed_offset(2, l);
    if (s < head.keys && head.key_rows[static_cast<std::size_t>(s)] == l) {
      std::copy_n(room.dkeys + s * width, D, dkey);
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
  cpu_detail::for_heads(cpu, op, [&](const auto& head, const auto& room) { cpu_detail::attention_forward(op, head, room); });
}

template <class Real>
void run(Cpu<Real>& cpu, const MaskedAttentionBackward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op, [&](const auto& head, const auto& room) { cpu_detail::attention_backward(op, head, room); });
}

}  // namespace blinkbert
