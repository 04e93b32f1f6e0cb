#pragma once

// The loss on a drowsiness score, and over its levels, as plain loops.

#include <cmath>
#include <vector>

#include <tests/oracle/masked_loss.hpp>

namespace blinkbert::oracle {

/// prediction, target [B], weights [B] or empty; sequences of length 0 do not count. Returns the sum, [1].
template <class Number>
std::vector<Number> score_loss(const std::vector<Number>& prediction, const std::vector<Number>& target,
                               const std::vector<int>& lengths, Loss kind, double delta,
                               const std::vector<double>& weights = {}) {
  Number sum = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] == 0) continue;
    sum += Number(weights.empty() ? 1.0 : weights[b]) * loss(kind, delta, prediction[b] - target[b]);
  }
  return {sum};
}

enum class LevelLoss { softmax, ordinal };

/// log sum_j e^{z_j}, as the largest z plus what is left.
template <class Number>
Number log_of_sum(const std::vector<Number>& z) {
  using std::exp, std::log;
  Number most = z[0], sum = 0;
  for (const Number& one : z) most = larger(most, one);
  for (const Number& one : z) sum += exp(one - most);
  return most + log(sum);
}

/// -log P(level) of the outputs z. ordinal: the chance to go up from j is e^{z_j} / (1 + e^{z_j}).
template <class Number>
Number level_loss(LevelLoss kind, int level, const std::vector<Number>& z) {
  if (kind == LevelLoss::softmax) return log_of_sum(z) - z[level];
  Number loss = 0;
  for (int j = 0; j <= level && j < static_cast<int>(z.size()); ++j) {
    loss += log_of_sum(std::vector<Number>{Number(0), z[j]});
    if (j < level) loss -= z[j];
  }
  return loss;
}

/// prediction [B, O], levels [B], weights [B] or empty. Returns the sum, [1].
template <class Number>
std::vector<Number> score_loss_over_levels(const std::vector<Number>& prediction, const std::vector<int>& levels,
                                           const std::vector<int>& lengths, int O, LevelLoss kind,
                                           const std::vector<double>& weights = {}) {
  Number sum = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] == 0) continue;
    const auto first = prediction.begin() + static_cast<std::ptrdiff_t>(b) * O;
    sum +=
        Number(weights.empty() ? 1.0 : weights[b]) * level_loss(kind, levels[b], std::vector<Number>(first, first + O));
  }
  return {sum};
}

}  // namespace blinkbert::oracle
