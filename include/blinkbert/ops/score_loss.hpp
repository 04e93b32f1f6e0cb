#pragma once

// The loss on a drowsiness score: value and gradient in one pass. On the score itself, or over levels of it.

#include <cmath>

#include <blinkbert/core/view.hpp>
#include <blinkbert/ops/masked_loss.hpp>

namespace blinkbert {

/// log(1 + e^x), for any x.
template <class Number>
BLINKBERT_HOST_DEVICE Number softplus(Number x) {
  using std::exp, std::log1p;
  return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

/// 1 / (1 + e^-x): the slope of softplus.
template <class Number>
BLINKBERT_HOST_DEVICE Number logistic(Number x) {
  using std::exp;
  return x > 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

/// -log P(level k) of the outputs z = z(0), ..., z(O - 1), and its slopes: slope(j, dl/dz_j) for every j.
///   softmax  O = K levels.  P(k) = e^{z_k} / sum_j e^{z_j}:
///              l = log sum_j e^{z_j} - z_k                     dl/dz_j = P(j) - [j = k]
///   ordinal  O = K - 1 steps upwards.  P(level > j | level >= j) = logistic(z_j), so
///            P(k) = prod_{j<k} logistic(z_j) * (1 - logistic(z_k)), without the last factor for the highest level:
///              l = sum_{j<k} softplus(-z_j) + softplus(z_k)    dl/dz_j = logistic(z_j) - 1 (j < k), logistic(z_k), 0 (j > k)
/// Sources: Bridle 1990 (softmax); Tutz 1991, doi:10.1016/0167-9473(91)90033-4 (sequential models of ordered levels).
template <class Number, class Outputs, class Slopes>
BLINKBERT_HOST_DEVICE Number level_loss(LossKind kind, int k, int O, const Outputs& z, const Slopes& slope) {
  using std::exp, std::log;
  if (kind == LossKind::softmax) {
    Number most = z(0), sum = 0;
    for (int j = 1; j < O; ++j) most = z(j) > most ? z(j) : most;
    for (int j = 0; j < O; ++j) sum += exp(z(j) - most);
    for (int j = 0; j < O; ++j) slope(j, exp(z(j) - most) / sum - (j == k ? 1 : 0));
    return log(sum) + (most - z(k));
  }
  Number loss = 0;
  for (int j = 0; j < O; ++j) {
    if (j <= k) loss += softplus(j < k ? -z(j) : z(j));
    slope(j, j < k ? -logistic(-z(j)) : j == k ? logistic(z(j)) : Number(0));
  }
  return loss;
}

/// Over the sequences with a real row:  sum += sum_b w_b l_b,   dprediction_b = scale * w_b * dl_b/dprediction_b, and 0 for
/// sequences of length 0. On the score itself O = 1 and l_b = l(prediction_b - target_b); over levels l_b is `level_loss`
/// at the level of the target, which is the number of edges at or below it.
template <class Real>
struct ScoreLoss {
  View<Real, 2> dprediction = {};                              // [B, O]  out, overwritten; empty = not wanted
  Acc<Wide<Real>, 1> sum;                                      // [1]     out, added to
  View<const Real, 2> prediction;                              // [B, O]
  View<const Wide<Real>, 1> target;                            // [B]     KSS
  View<const Wide<Real>, 1> edges = {};                        // [K - 1] ascending, in KSS; over levels only
  View<const Wide<Real>, 1> weights = {};                      // [B]     w; empty = 1
  View<const int, 1> lengths;                                  // [B]
  LossKind kind = LossKind::squared;
  Wide<Real> delta = 1;                                        // of Huber's loss, in KSS
  Wide<Real> scale = 1;

  void check() const {
    const int B = lengths.extent(0), O = prediction.extent(1);
    BLINKBERT_EXPECTS(has_shape(prediction, B, O) && has_shape_or_is_empty(dprediction, B, O), B, O);
    BLINKBERT_EXPECTS(has_shape(target, B) && has_shape(sum.view(), 1) && delta > 0, B, delta);
    BLINKBERT_EXPECTS(has_shape_or_is_empty(weights, B), B);
    if (is_over_levels(kind)) {
      const int wanted = edges.extent(0) + (kind == LossKind::softmax ? 1 : 0);
      BLINKBERT_EXPECTS(static_cast<bool>(edges) && edges.extent(0) > 0 && O == wanted, O, wanted);
    } else {
      BLINKBERT_EXPECTS(O == 1 && !edges, O);
    }
  }
};

}  // namespace blinkbert
