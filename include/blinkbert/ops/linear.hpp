#pragma once

// y = x W^T + b, with W [out, in] in memory and in files, as PyTorch keeps it. Input and weight gradients are ops of
// their own: a frozen layer needs only the first, the lowest layer only the second.

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// gelu(h) = h/2 (1 + tanh(u)),  u = sqrt(2/pi) (h + 0.044715 h^3).  The tanh form: Hendrycks, Gimpel 2016,
/// arXiv:1606.08415, section 2.
enum class Activation { none, gelu };

/// y = activation(h),  h = x W^T + b. Row-wise: padded rows are rows like others.
template <class Real>
struct LinearForward {
  View<Real, 2> y;                                             // [T, out]   out
  View<Real, 2> pre_activation = {};                           // [T, out]   out, h, for backward; empty = not wanted
  View<const Real, 2> x;                                       // [T, in]
  View<const Real, 2> weight;                                  // [out, in]
  View<const Real, 1> bias;                                    // [out]
  Activation activation = Activation::none;

  void check() const {
    const int T = x.extent(0), in = x.extent(1), out = weight.extent(0);
    BLINKBERT_EXPECTS(has_shape(y, T, out) && has_shape(weight, out, in) && has_shape(bias, out), T, in, out);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(pre_activation, T, out), T, out);
    BLINKBERT_EXPECTS(!pre_activation || activation == Activation::gelu);
  }
};

/// dx = dy W,  or where x = gelu(h) came from a layer below:  dh = (dy W) gelu'(h);  or plus a residual's gradient.
/// gelu'(h) = (1 + tanh u)/2 + h/2 (1 - tanh^2 u) sqrt(2/pi) (1 + 3 * 0.044715 h^2).
template <class Real>
struct LinearInputGradient {
  View<Real, 2> dx;                                            // [T, in]    out, overwritten
  View<const Real, 2> dy;                                      // [T, out]
  View<const Real, 2> weight;                                  // [out, in]
  View<const Real, 2> pre_activation = {};                     // [T, in]    h of the layer below; empty = no activation
  View<const Real, 2> residual = {};                           // [T, in]    added to dx; may be dx itself; empty = none

  void check() const {
    const int T = dy.extent(0), out = weight.extent(0), in = weight.extent(1);
    BLINKBERT_EXPECTS(has_shape(dx, T, in) && has_shape(dy, T, out), T, in, out);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(pre_activation, T, in) && has_shape_or_is_empty(residual, T, in), T, in);
    BLINKBERT_EXPECTS(!(pre_activation && residual));
  }
};

/// dW += dy^T x,  db += sum_T dy.
template <class Real>
struct LinearWeightGradient {
  Acc<Wide<Real>, 2> dweight;                                  // [out, in]  out, added to
  Acc<Wide<Real>, 1> dbias;                                    // [out]      out, added to
  View<const Real, 2> dy;                                      // [T, out]
  View<const Real, 2> x;                                       // [T, in]

  void check() const {
    const int T = x.extent(0), in = x.extent(1), out = dy.extent(1);
    BLINKBERT_EXPECTS(has_shape(dy, T, out) && has_shape(dweight.view(), out, in) && has_shape(dbias.view(), out), T, in, out);
  }
};

}  // namespace blinkbert
