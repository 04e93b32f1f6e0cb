#pragma once

// Attention on the CPU over all rows of each sequence: blocks of 16 consecutive queries (attention_head.hpp).

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/attention_head.hpp>
#include <blinkbert/ops/masked_attention.hpp>

namespace blinkbert {
namespace cpu_detail {

/// Queries that attend to something.
inline int attending_rows(const AttentionHead& head) { return head.keys > 0 ? head.length : 0; }

/// factors [key, query]: dropout of the block of queries that starts at row `first`, on all real keys.
template <class Real>
void draw_factors(const AttentionRoom<Real>& room, const Dropout& dropout, const AttentionHead& head, int first) {
  if (!dropout.is_active()) return;
  for (int tile = 0; tile * query_block < head.length; ++tile) {
    attention_tile_factors(room.factors + tile * query_block * query_block, dropout, head.b, head.h, head.H,
                           first / query_block, tile);
  }
}

template <class Real>
void attention_forward(const MaskedAttentionForward<Real>& op, const AttentionHead& head,
                       const AttentionRoom<Real>& room) {
  const int D = head.D, queries = attending_rows(head);
  const RowsOfHead<const Real> query = head.rows(op.qkv, 0);
  const RowsOfHead<Real> o = head.rows(op.o);
  pack_keys(room, head, head.rows(op.qkv, 1), head.rows(op.qkv, 2));
  for (int first = 0; first < queries; first += query_block) {
    const int rows = std::min(query_block, queries - first);
    transpose_block(room.query_transposed, query(first), query.stride, rows, D, score_scale<Real>(D));
    draw_factors(room, op.dropout, head, first);
    attend(room, head, op.dropout, rows);
    for (int i = 0; i < rows; ++i) std::copy_n(room.result + i * room.width, D, o(first + i));
  }
  for (int l = queries; l < head.L; ++l) std::fill_n(o(l), D, Real(0));
}

template <class Real>
void attention_backward(const MaskedAttentionBackward<Real>& op, const AttentionHead& head,
                        const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width, queries = attending_rows(head);
  const RowsOfHead<const Real> query = head.rows(op.qkv, 0), gradient = head.rows(op.output_gradient);
  const RowsOfHead<Real> dquery = head.rows(op.dqkv, 0);
  pack_keys(room, head, head.rows(op.qkv, 1), head.rows(op.qkv, 2));
  clear_key_gradients(room, head);
  for (int first = 0; first < queries; first += query_block) {
    const int rows = std::min(query_block, queries - first);
    transpose_block(room.query_transposed, query(first), query.stride, rows, D, score_scale<Real>(D));
    transpose_block(room.gradient_transposed, gradient(first), gradient.stride, rows, D, Real(1));
    pack_rows(room.query, width, rows, D, [&](int i) { return query(first + i); });
    pack_rows(room.gradient, width, rows, D, [&](int i) { return gradient(first + i); });
    draw_factors(room, op.dropout, head, first);
    attend_backward(room, head, op.dropout, rows);
    for (int i = 0; i < rows; ++i) write_scaled(dquery(first + i), room.result + i * width, D);
  }
  for (int l = queries; l < head.L; ++l) std::fill_n(dquery(l), D, Real(0));
  write_key_gradients(head.rows(op.dqkv, 1), head.rows(op.dqkv, 2), room, head);
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const MaskedAttentionForward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op.qkv, op.visible, op.lengths, op.qkv.extent(1),
                        [&](const auto& head, const auto& room) { cpu_detail::attention_forward(op, head, room); });
}

template <class Real>
void run(Cpu<Real>& cpu, const MaskedAttentionBackward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op.qkv, op.visible, op.lengths, op.qkv.extent(1),
                        [&](const auto& head, const auto& room) { cpu_detail::attention_backward(op, head, room); });
}

}  // namespace blinkbert
