#pragma once

// Attention on the CPU for gathered queries: those of a sequence are packed into blocks of 16, whatever rows they are, and
// then go the way of all queries (attention_head.hpp).

#include <algorithm>
#include <array>
#include <cstdint>

#include <blinkbert/backend/cpu/attention_head.hpp>
#include <blinkbert/ops/gathered_attention.hpp>

namespace blinkbert {
namespace cpu_detail {

/// Up to 16 queries of one sequence.
class QueryBlock {
 public:
  int count() const { return count_; }
  int place(int i) const { return places_[static_cast<std::size_t>(i)]; }  // m of query i of the block
  int row(int i) const { return rows_[static_cast<std::size_t>(i)]; }      // its row in the sequence

  void add(int place, int row) {
    places_[static_cast<std::size_t>(count_)] = place;
    rows_[static_cast<std::size_t>(count_)] = row;
    ++count_;
  }
  void clear() { count_ = 0; }

 private:
  int count_ = 0;
  std::array<int, query_block> places_{}, rows_{};
};

/// Calls pass_over(m) for the queries of the head's sequence that attend to nothing, and take(block) for the others.
template <class Op, class PassOver, class Take>
void for_query_blocks(const Op& op, const AttentionHead& head, const PassOver& pass_over, const Take& take) {
  QueryBlock block;
  for (int m = op.offsets(head.b); m < op.offsets(head.b + 1); ++m) {
    if (op.rows(m) < 0 || head.keys == 0) {
      pass_over(m);
      continue;
    }
    block.add(m, op.rows(m) - head.b * head.L);
    if (block.count() < query_block) continue;
    take(block);
    block.clear();
  }
  if (block.count() > 0) take(block);
}

/// to [16, width] = the block's rows, packed; transposed [D, 16] = scale * their transpose.
template <class Real>
void pack_block(Real* to, Real* transposed, const RowsOfHead<const Real>& from, const QueryBlock& block, int width,
                int D, Real scale) {
  pack_rows(to, width, block.count(), D, [&](int i) { return from(block.place(i)); });
  transpose_block(transposed, to, width, block.count(), D, scale);
}

/// factors [key, query]: dropout of the block's queries on all real keys. Rows ascend, so each tile is drawn once.
template <class Real>
void draw_factors(const AttentionRoom<Real>& room, const Dropout& dropout, const AttentionHead& head,
                  const QueryBlock& block) {
  if (!dropout.is_active()) return;
  for (int key_tile = 0; key_tile * query_block < head.length; ++key_tile) {
    Real* factors = room.factors + key_tile * query_block * query_block;
    std::fill_n(factors, query_block * query_block, Real(0));
    int drawn = -1;
    for (int i = 0; i < block.count(); ++i) {
      const int row = block.row(i), query_tile = row / query_block;
      if (query_tile != drawn) {
        attention_tile_factors(room.tile, dropout, head.b, head.h, head.H, query_tile, key_tile);
        drawn = query_tile;
      }
      for (int s = 0; s < query_block; ++s) {
        factors[s * query_block + i] = room.tile[s * query_block + row % query_block];
      }
    }
  }
}

template <class Real>
void gathered_forward(const GatheredAttentionForward<Real>& op, const AttentionHead& head,
                      const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width;
  const RowsOfHead<const Real> query = head.rows(op.q);
  const RowsOfHead<Real> o = head.rows(op.o);
  pack_keys(room, head, head.rows(op.kv, 0), head.rows(op.kv, 1));
  for_query_blocks(
      op, head, [&](int m) { std::fill_n(o(m), D, Real(0)); },
      [&](const QueryBlock& block) {
        pack_block(room.query, room.query_transposed, query, block, width, D, score_scale<Real>(D));
        draw_factors(room, op.dropout, head, block);
        attend(room, head, op.dropout, block.count());
        for (int i = 0; i < block.count(); ++i) {
          std::copy_n(room.result + i * width, D, o(block.place(i)));
        }
      });
}

template <class Real>
void gathered_backward(const GatheredAttentionBackward<Real>& op, const AttentionHead& head,
                       const AttentionRoom<Real>& room) {
  const int D = head.D, width = room.width;
  const RowsOfHead<const Real> query = head.rows(op.q), gradient = head.rows(op.output_gradient);
  const RowsOfHead<Real> dquery = head.rows(op.dq);
  pack_keys(room, head, head.rows(op.kv, 0), head.rows(op.kv, 1));
  clear_key_gradients(room, head);
  for_query_blocks(
      op, head, [&](int m) { std::fill_n(dquery(m), D, Real(0)); },
      [&](const QueryBlock& block) {
        pack_block(room.query, room.query_transposed, query, block, width, D, score_scale<Real>(D));
        pack_block(room.gradient, room.gradient_transposed, gradient, block, width, D, Real(1));
        draw_factors(room, op.dropout, head, block);
        attend_backward(room, head, op.dropout, block.count());
        for (int i = 0; i < block.count(); ++i) {
          write_scaled(dquery(block.place(i)), room.result + i * width, D);
        }
      });
  write_key_gradients(head.rows(op.dkv, 0), head.rows(op.dkv, 1), room, head);
}

/// About how many queries a sequence has, counted in whole blocks.
template <class Op>
int queries_per_sequence(const Op& op) {
  return multiple_of(query_block, op.q.extent(0) / std::max(op.kv.extent(0), 1) + 1);
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const GatheredAttentionForward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op.kv, op.visible, op.lengths, cpu_detail::queries_per_sequence(op),
                        [&](const auto& head, const auto& room) { cpu_detail::gathered_forward(op, head, room); });
}

template <class Real>
void run(Cpu<Real>& cpu, const GatheredAttentionBackward<Real>& op) {
  op.check();
  cpu_detail::for_heads(cpu, op.kv, op.visible, op.lengths, cpu_detail::queries_per_sequence(op),
                        [&](const auto& head, const auto& room) { cpu_detail::gathered_backward(op, head, room); });
}

}  // namespace blinkbert
