#pragma once

// Scaled dot-product attention over short padded sequences, packed qkv in, o out; nothing of size L x L is kept.
// Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; dropout on the weights as in section 5.4 of the BERT-like encoders.
//
// The padding rule of the library:
//   Length-aware ops (embedding, attention, gathers, batch norm, losses, a model's outputs) write zeros at padded rows
//   and ignore what they hold. Row-wise ops (linear, norms) treat padded rows as rows; dy is zero there from the loss on
//   and stays zero, so parameter gradients never see them. A sequence without a visible key gives zeros, never NaN.

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// For every real query row l of head h:
///   S_ls = q_l . k_s / sqrt(D) over the visible keys s;  P = softmax_s(S);  o_l = sum_s dropout(P_ls) v_s.
/// A row that is hidden as a key (chosen by MLM) is still a query.
template <class Real>
struct MaskedAttentionForward {
  View<Real, 4> o;                                             // [B, L, H, D]     out
  View<const Real, 5> qkv;                                     // [B, L, 3, H, D]
  View<const std::uint32_t, 2> visible;                        // [B, ceil(L/32)]  bit s % 32 of word s / 32; bits beyond the length are 0
  View<const int, 1> lengths;                                  // [B]
  Dropout dropout = {};                                        // of P

  void check() const {
    const int B = qkv.extent(0), L = qkv.extent(1), H = qkv.extent(3), D = qkv.extent(4);
    BLINKBERT_EXPECTS(qkv.extent(2) == 3 && has_shape(o, B, L, H, D), B, L, H, D);
    BLINKBERT_EXPECTS(has_shape(visible, B, visible_words(L)) && has_shape(lengths, B), B, L);
    BLINKBERT_EXPECTS(L <= 512 && D > 0, L, D);
  }
};

/// With P~ = dropout(P), dP~_ls = do_l . v_s, dP = dropout(dP~), delta_l = sum_s P_ls dP_ls:
///   dS = P * (dP - delta),  dq_l = sum_s dS_ls k_s / sqrt(D),  dk_s = sum_l dS_ls q_l / sqrt(D),  dv_s = sum_l P~_ls do_l.
/// P is computed again from qkv; o is not read.
template <class Real>
struct MaskedAttentionBackward {
  View<Real, 5> dqkv;                                          // [B, L, 3, H, D]  out, overwritten
  View<const Real, 4> output_gradient;                         // [B, L, H, D]     do
  View<const Real, 5> qkv;                                     // [B, L, 3, H, D]
  View<const std::uint32_t, 2> visible;                        // [B, ceil(L/32)]
  View<const int, 1> lengths;                                  // [B]
  Dropout dropout = {};                                        // as in forward

  void check() const {
    const int B = qkv.extent(0), L = qkv.extent(1), H = qkv.extent(3), D = qkv.extent(4);
    BLINKBERT_EXPECTS(has_shape(dqkv, B, L, 3, H, D) && has_shape(qkv, B, L, 3, H, D), B, L, H, D);
    BLINKBERT_EXPECTS(has_shape(output_gradient, B, L, H, D), B, L, H, D);
    BLINKBERT_EXPECTS(has_shape(visible, B, visible_words(L)) && has_shape(lengths, B), B, L);
    BLINKBERT_EXPECTS(L <= 512 && D > 0, L, D);
  }
};

}  // namespace blinkbert
