#pragma once

// Levels of a score: bands between labels.edges. What a head that was trained over levels says of a window, and how that
// becomes one number.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/model/config.hpp>
#include <blinkbert/ops/score_loss.hpp>

namespace blinkbert {

/// Level of a continuous value: the number of edges at or below it.
/// Edges [3.34, 6.68]: 0 below 3.34, 1 below 6.68, else 2.
inline int level_of(double value, const std::vector<double>& edges) {
  return static_cast<int>(std::upper_bound(edges.begin(), edges.end(), value) - edges.begin());
}

/// The value of the level's band that is nearest to `value`. A band holds its lower edge and not its upper one.
inline double into_level(double value, int level, const std::vector<double>& edges) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto k = static_cast<std::size_t>(level);
  const double low = level > 0 ? edges[k - 1] : -infinity;
  const double high = k < edges.size() ? std::nextafter(edges[k], -infinity) : infinity;
  return std::clamp(value, low, high);
}

/// The level of the largest probability, the lowest of equals.
inline int most_likely_level(std::span<const double> posterior) {
  return static_cast<int>(std::max_element(posterior.begin(), posterior.end()) - posterior.begin());
}

/// From the outputs of a fine-tuning head to a score.
struct ScoreReading {
  LossKind loss = LossKind::squared;
  std::vector<double> level_values = {};  // [K], in KSS; over levels only

  /// P(level k) for every k (ops/score_loss.hpp); empty where the loss is on the score itself.
  std::vector<double> posterior(std::span<const float> outputs) const {
    std::vector<double> shares(level_values.size());
    if (loss == LossKind::softmax) {
      BLINKBERT_EXPECTS(outputs.size() == shares.size(), outputs.size(), shares.size());
      const double most = static_cast<double>(*std::max_element(outputs.begin(), outputs.end()));
      std::transform(outputs.begin(), outputs.end(), shares.begin(),
                     [&](float output) { return std::exp(static_cast<double>(output) - most); });
      const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
      for (double& share : shares) share /= sum;
    } else if (loss == LossKind::ordinal) {
      BLINKBERT_EXPECTS(outputs.size() + 1 == shares.size(), outputs.size(), shares.size());
      double reached = 1;
      for (std::size_t j = 0; j < outputs.size(); ++j) {
        const auto z = static_cast<double>(outputs[j]);
        shares[j] = reached * logistic(-z);
        reached *= logistic(z);
      }
      shares.back() = reached;
    }
    return shares;
  }

  /// The output itself, or the expected value of the level: sum_k P(k) level_values_k.
  double score(std::span<const float> outputs, std::span<const double> posterior) const {
    if (!is_over_levels(loss)) return static_cast<double>(outputs[0]);
    return std::inner_product(posterior.begin(), posterior.end(), level_values.begin(), 0.0);
  }
};

/// The value of each level, in KSS: the mean of the training labels in it; where there is none, the middle of its band
/// within labels.range.
inline std::vector<double> level_means(std::span<const double> labels, const LabelsConfig& config) {
  const std::size_t K = config.edges.size() + 1;
  std::vector<double> sums(K, 0.0), counts(K, 0.0);
  for (const double label : labels) {
    const auto level = static_cast<std::size_t>(level_of(label, config.edges));
    sums[level] += label;
    counts[level] += 1;
  }
  for (std::size_t k = 0; k < K; ++k) {
    const double low = k == 0 ? config.range[0] : config.edges[k - 1];
    const double high = k + 1 == K ? config.range[1] : config.edges[k];
    sums[k] = counts[k] > 0 ? sums[k] / counts[k] : (low + high) / 2;
  }
  return sums;
}

/// What the head's output bias starts at, so that the first prediction is that of the training labels alone: their mean, or
/// the outputs that give the levels' shares (half a label is added to each level). `weights` as in the loss.
inline std::vector<double> starting_outputs(std::span<const double> labels, std::span<const double> weights,
                                            const Config& config) {
  BLINKBERT_EXPECTS(!labels.empty() && labels.size() == weights.size(), labels.size(), weights.size());
  if (!is_over_levels(config.train.loss)) {
    const double sum = std::inner_product(labels.begin(), labels.end(), weights.begin(), 0.0);
    return {sum / std::accumulate(weights.begin(), weights.end(), 0.0)};
  }
  std::vector<double> shares(config.labels.edges.size() + 1, 0.5);
  for (std::size_t i = 0; i < labels.size(); ++i)
    shares[static_cast<std::size_t>(level_of(labels[i], config.labels.edges))] += weights[i];
  std::vector<double> outputs(static_cast<std::size_t>(score_outputs(config)));
  for (std::size_t j = 0; j < outputs.size(); ++j) {
    const double above = std::accumulate(shares.begin() + static_cast<std::ptrdiff_t>(j) + 1, shares.end(), 0.0);
    outputs[j] = config.train.loss == LossKind::softmax ? std::log(shares[j]) : std::log(above / shares[j]);
  }
  return outputs;
}

}  // namespace blinkbert
