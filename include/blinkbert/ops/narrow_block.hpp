#pragma once

// A whole encoder block at a small width, fused: what the attention upscalings and encoders without upscaling run on. A
// backend need not have it: EncoderBlock falls back to the single ops. Formulas: layers/encoder_block.hpp; attention,
// residual norm and GELU as in masked_attention.hpp, residual_norm.hpp, linear.hpp.
// Length-aware (masked_attention.hpp): zeros at padded rows, whatever they hold.

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// post: LN(x + f(x)), as in the original encoder;  pre: x + f(LN(x)), without a final norm.
enum class NormOrder { post, pre };

/// Widest block, and widest head of it.
inline constexpr int narrow_width = 32, narrow_head_width = 16;

/// Parameters of a block of width N with H heads of width D and F hidden features.
template <class Real>
struct BlockWeights {
  View<const Real, 2> in_weight;                               // [3 H D, N]
  View<const Real, 1> in_bias;                                 // [3 H D]
  View<const Real, 2> out_weight;                              // [N, H D]
  View<const Real, 1> out_bias;                                // [N]
  View<const Real, 2> weight1;                                 // [F, N]
  View<const Real, 1> bias1;                                   // [F]
  View<const Real, 2> weight2;                                 // [N, F]
  View<const Real, 1> bias2;                                   // [N]
  View<const Wide<Real>, 1> gamma1, beta1, gamma2, beta2;      // [N]

  bool fits(int N, int H) const {
    const int inner = out_weight.extent(1), F = weight1.extent(0);
    return inner > 0 && inner % H == 0 && has_shape(in_weight, 3 * inner, N) && has_shape(in_bias, 3 * inner) &&
           has_shape(out_weight, N, inner) && has_shape(out_bias, N) && has_shape(weight1, F, N) && has_shape(bias1, F) &&
           has_shape(weight2, N, F) && has_shape(bias2, N) && has_shape(gamma1, N) && has_shape(beta1, N) &&
           has_shape(gamma2, N) && has_shape(beta2, N);
  }
};

/// Their gradients, in the same order.
template <class Real>
struct BlockGradients {
  Acc<Wide<Real>, 2> in_weight;                                // [3 H D, N]  out, added to
  Acc<Wide<Real>, 1> in_bias;                                  // [3 H D]     ...
  Acc<Wide<Real>, 2> out_weight;                               // [N, H D]
  Acc<Wide<Real>, 1> out_bias;                                 // [N]
  Acc<Wide<Real>, 2> weight1;                                  // [F, N]
  Acc<Wide<Real>, 1> bias1;                                    // [F]
  Acc<Wide<Real>, 2> weight2;                                  // [N, F]
  Acc<Wide<Real>, 1> bias2;                                    // [N]
  Acc<Wide<Real>, 1> gamma1, beta1, gamma2, beta2;             // [N]

  bool fit(const BlockWeights<Real>& of) const {
    const int inner = of.out_weight.extent(1), N = of.out_weight.extent(0), F = of.weight1.extent(0);
    return has_shape(in_weight.view(), 3 * inner, N) && has_shape(in_bias.view(), 3 * inner) &&
           has_shape(out_weight.view(), N, inner) && has_shape(out_bias.view(), N) && has_shape(weight1.view(), F, N) &&
           has_shape(bias1.view(), F) && has_shape(weight2.view(), N, F) && has_shape(bias2.view(), N) &&
           has_shape(gamma1.view(), N) && has_shape(beta1.view(), N) && has_shape(gamma2.view(), N) &&
           has_shape(beta2.view(), N);
  }
};

/// What a block of T = B L rows needs beside its parameters.
template <class Real>
struct BlockSetting {
  View<const std::uint32_t, 2> visible;                        // [B, ceil(L/32)]
  View<const int, 1> lengths;                                  // [B]
  int L = 0;                                                   // rows per sequence
  int H = 1;                                                   // heads
  NormOrder order = NormOrder::post;
  Dropout attention = {}, after_attention = {}, after_feed_forward = {};
  float epsilon = 1e-5f;                                       // of both norms

  bool fits(int T, int N, int inner) const {
    return L > 0 && H > 0 && N <= narrow_width && inner <= narrow_head_width * H && lengths.extent(0) * L == T &&
           has_shape(visible, lengths.extent(0), visible_words(L)) && epsilon > 0;
  }
};

/// y = block(x) at real rows, zeros at padded ones.
template <class Real>
struct NarrowBlockForward {
  View<Real, 2> y;                                             // [T, N]  out
  View<const Real, 2> x;                                       // [T, N]
  BlockWeights<Real> weights;
  BlockSetting<Real> setting;

  void check() const {
    const int T = x.extent(0), N = x.extent(1);
    BLINKBERT_EXPECTS(has_shape(y, T, N) && weights.fits(N, setting.H), T, N, setting.H);
    BLINKBERT_EXPECTS(setting.fits(T, N, weights.out_weight.extent(1)), T, N, setting.L, setting.H);
  }
};

/// dx and the parameters' gradients from dy; the forward pass is computed again from x.
template <class Real>
struct NarrowBlockBackward {
  View<Real, 2> dx = {};                                       // [T, N]  out, overwritten; empty = not wanted
  BlockGradients<Real> gradients;
  View<const Real, 2> dy, x;                                   // [T, N]
  BlockWeights<Real> weights;
  BlockSetting<Real> setting;

  void check() const {
    const int T = x.extent(0), N = x.extent(1);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(dx, T, N) && has_shape(dy, T, N) && weights.fits(N, setting.H), T, N, setting.H);
    BLINKBERT_EXPECTS(setting.fits(T, N, weights.out_weight.extent(1)) && gradients.fit(weights), T, N, setting.L, setting.H);
  }
};

}  // namespace blinkbert
