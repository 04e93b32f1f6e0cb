#pragma once

// Features to the embedding width, plus the position: the end of all four upscalings.
//
//   y_t = [prefix_t | W x_t + b] + position_l,   l = t % L
//
//   none                     prefix = x (K = N = E), no W
//   linear                   W x, no prefix
//   attention_linear         W u, u the block's output
//   attention_concatenation  prefix = u (K = N), W x (E - N wide)
// Length-aware (masked_attention.hpp): zeros at padded rows, whatever they hold.
// Source: Devlin et al. 2018, arXiv:1810.04805, figure 2 (sum with a learned position).

#include <blinkbert/core/view.hpp>

namespace blinkbert {

template <class Real>
struct EmbedRowsForward {
  View<Real, 2> y;                                             // [T, E]           out
  View<const Real, 2> x = {};                                  // [T, N]           empty = no linear part
  View<const Real, 2> prefix = {};                             // [T, K]           empty = K is 0
  View<const Real, 2> weight = {};                             // [E - K, N]
  View<const Real, 1> bias = {};                               // [E - K]
  View<const Wide<Real>, 2> position;                          // [max_length, E]  L <= max_length
  View<const int, 1> lengths;                                  // [B]
  int L = 0;                                                   // rows per sequence

  void check() const {
    const int B = lengths.extent(0), T = B * L, E = y.extent(1), K = prefix ? prefix.extent(1) : 0;
    BLINKBERT_EXPECTS(has_shape(y, T, E) && (x || prefix) && K <= E, T, E, K);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(prefix, T, K), T, K);
    BLINKBERT_EXPECTS(position.extent(1) == E && L <= position.extent(0), L, E, position.extent(0));
    if (x) {
      const int N = x.extent(1);
      BLINKBERT_EXPECTS(has_shape(x, T, N) && has_shape(weight, E - K, N) && has_shape(bias, E - K), T, N, E, K);
    } else {
      BLINKBERT_EXPECTS(K == E && !weight && !bias, K, E);
    }
  }
};

/// With dy = [dy_left (K wide) | dy_right], over real rows only:
///   dprefix = dy_left,  dx = dy_right W,  dW += dy_right^T x,  db += sum dy_right,  dposition_l += sum over sequences of dy.
template <class Real>
struct EmbedRowsBackward {
  View<Real, 2> dx = {};                                       // [T, N]           out, overwritten; empty = not wanted
  View<Real, 2> dprefix = {};                                  // [T, K]           out, overwritten; empty = not wanted
  Acc<Wide<Real>, 2> dweight = {};                             // [E - K, N]       out, added to; empty = no linear part
  Acc<Wide<Real>, 1> dbias = {};                               // [E - K]          out, added to
  Acc<Wide<Real>, 2> dposition = {};                           // [max_length, E]  out, added to; empty = not trained
  View<const Real, 2> dy;                                      // [T, E]
  View<const Real, 2> x = {};                                  // [T, N]
  View<const Real, 2> weight = {};                             // [E - K, N]
  View<const int, 1> lengths;                                  // [B]
  int K = 0;                                                   // width of the prefix
  int L = 0;

  void check() const {
    const int B = lengths.extent(0), T = B * L, E = dy.extent(1);
    BLINKBERT_EXPECTS(has_shape(dy, T, E) && K >= 0 && K <= E, T, E, K);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(dprefix, T, K), T, K);
    BLINKBERT_EXPECTS(!dposition || (dposition.extent(1) == E && L <= dposition.extent(0)), L, E);
    if (x) {
      const int N = x.extent(1);
      BLINKBERT_EXPECTS(has_shape(x, T, N) && has_shape(weight, E - K, N) && has_shape_or_is_empty(dx, T, N), T, N, E, K);
      BLINKBERT_EXPECTS(has_shape(dweight.view(), E - K, N) && has_shape(dbias.view(), E - K), E, K, N);
    } else {
      BLINKBERT_EXPECTS(K == E && !dx && !dweight && !dbias, K, E);
    }
  }
};

}  // namespace blinkbert
