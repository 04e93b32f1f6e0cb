#pragma once

// Attention of some rows' queries over the keys of their whole sequences: what the last block needs where only these rows
// are read. Formula and padding rule as in masked_attention.hpp, and so are the dropout's counters: query i is the row in
// its sequence, wherever it stands among the gathered ones.

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// For every query m of row l of sequence b, in head h:
///   S_ms = q_m . k_s / sqrt(D) over the visible keys s of b;  P = softmax_s(S);  o_m = sum_s dropout(P_ms) v_s.
/// Zeros where rows_m = -1, and in a sequence without a visible key.
template <class Real>
struct GatheredAttentionForward {
  View<Real, 3> o;                                             // [M, H, D]        out
  View<const Real, 3> q;                                       // [M, H, D]
  View<const Real, 5> kv;                                      // [B, L, 2, H, D]  of all rows
  View<const int, 1> rows;                                     // [M]              t = b L + l of each query, a real row, ascending; or -1
  View<const int, 1> offsets;                                  // [B + 1]          queries [offsets_b, offsets_b+1) are those of sequence b, at most L; last = M
  View<const std::uint32_t, 2> visible;                        // [B, ceil(L/32)]  bit s % 32 of word s / 32; bits beyond the length are 0
  View<const int, 1> lengths;                                  // [B]
  Dropout dropout = {};                                        // of P

  void check() const {
    const int M = q.extent(0), H = q.extent(1), D = q.extent(2), B = kv.extent(0), L = kv.extent(1);
    BLINKBERT_EXPECTS(has_shape(o, M, H, D) && has_shape(q, M, H, D) && has_shape(kv, B, L, 2, H, D), M, B, L, H, D);
    BLINKBERT_EXPECTS(has_shape(rows, M) && has_shape(offsets, B + 1), M, B);
    BLINKBERT_EXPECTS(has_shape(visible, B, visible_words(L)) && has_shape(lengths, B), B, L);
    BLINKBERT_EXPECTS(L <= 512 && D > 0, L, D);
  }
};

/// With P~ = dropout(P), dP~_ms = do_m . v_s, dP = dropout(dP~), delta_m = sum_s P_ms dP_ms, sums over m being those over
/// the queries of a sequence:
///   dS = P * (dP - delta),  dq_m = sum_s dS_ms k_s / sqrt(D),  dk_s = sum_m dS_ms q_m / sqrt(D),  dv_s = sum_m P~_ms do_m.
/// P is computed again from q and kv; o is not read. Zeros where forward wrote zeros, and at keys that are not visible.
template <class Real>
struct GatheredAttentionBackward {
  View<Real, 3> dq;                                            // [M, H, D]        out, overwritten
  View<Real, 5> dkv;                                           // [B, L, 2, H, D]  out, overwritten
  View<const Real, 3> output_gradient;                         // [M, H, D]        do
  View<const Real, 3> q;                                       // [M, H, D]
  View<const Real, 5> kv;                                      // [B, L, 2, H, D]
  View<const int, 1> rows;                                     // [M]              as in forward
  View<const int, 1> offsets;                                  // [B + 1]
  View<const std::uint32_t, 2> visible;                        // [B, ceil(L/32)]
  View<const int, 1> lengths;                                  // [B]
  Dropout dropout = {};                                        // as in forward

  void check() const {
    const int M = q.extent(0), H = q.extent(1), D = q.extent(2), B = kv.extent(0), L = kv.extent(1);
    BLINKBERT_EXPECTS(has_shape(dq, M, H, D) && has_shape(q, M, H, D) && has_shape(output_gradient, M, H, D), M, H, D);
    BLINKBERT_EXPECTS(has_shape(dkv, B, L, 2, H, D) && has_shape(kv, B, L, 2, H, D), B, L, H, D);
    BLINKBERT_EXPECTS(has_shape(rows, M) && has_shape(offsets, B + 1), M, B);
    BLINKBERT_EXPECTS(has_shape(visible, B, visible_words(L)) && has_shape(lengths, B), B, L);
    BLINKBERT_EXPECTS(L <= 512 && D > 0, L, D);
  }
};

}  // namespace blinkbert
