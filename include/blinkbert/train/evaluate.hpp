#pragma once

// What a model and the baselines are measured by, on windows of held-out drivers.

#include <map>
#include <span>
#include <string>
#include <vector>

#include <blinkbert/data/dataset.hpp>
#include <blinkbert/objective/metrics.hpp>
#include <blinkbert/train/predict.hpp>
#include <blinkbert/train/trainer.hpp>

namespace blinkbert {

/// Errors on masked rows, kept apart as reports need them: the original features' headline by driver; under
/// `data.calibration = append` a driver's first rows, which follow from visible neighbours; the calibration features;
/// and by driver the rows that follow its first `data.calibration_blinks`, whatever the calibration: the same in all runs
/// that are compared.
class MaskedErrors {
 public:
  MaskedErrors(const Dataset& dataset, const Config& config)
      : dataset_(&dataset),
        config_(&config),
        original_(static_cast<int>(config.data.features.size())),
        early_(original_),
        calibration_(dataset.N() - original_) {}

  /// `rows` of the window were predicted as `predictions` [rows, N], in scaled units.
  template <class Number>
  void add(const NumberedWindow& window, std::span<const int> rows, std::span<const Number> predictions) {
    const auto N = static_cast<std::size_t>(dataset_->N());
    const auto N0 = static_cast<std::size_t>(original_);
    std::vector<double> unbounded(N);
    MaskedSums& driver = by_driver_.try_emplace(dataset_->driver_of(window.window), original_).first->second;
    MaskedSums& later = later_by_driver_.try_emplace(dataset_->driver_of(window.window), original_).first->second;
    for (std::size_t m = 0; m < rows.size(); ++m) {
      const auto row = static_cast<std::size_t>(window.window.start + rows[m]);
      const std::span<const float> target(dataset_->table.x.data() + row * N, N);
      const std::span<const Number> prediction = predictions.subspan(m * N, N);
      dataset_->scaler.apply_unbounded(dataset_->values.data() + row * N, unbounded.data());
      const std::span<const double> raw(unbounded);
      const bool is_later = dataset_->blink_numbers[row] > config_->data.calibration_blinks;
      const bool is_early = config_->data.calibration == Calibration::append && !is_later;
      if (is_later) later.add(prediction.first(N0), target.first(N0), raw.first(N0));
      (is_early ? early_ : driver).add(prediction.first(N0), target.first(N0), raw.first(N0));
      if (is_early) continue;
      add_loss(prediction, target);
      if (N > N0) calibration_.add(prediction.subspan(N0), target.subspan(N0), raw.subspan(N0));
    }
  }

  const std::map<int, MaskedSums>& by_driver() const { return by_driver_; }
  const std::map<int, MaskedSums>& later_by_driver() const { return later_by_driver_; }
  const MaskedSums& early() const { return early_; }
  const MaskedSums& calibration() const { return calibration_; }

  /// All drivers' headline sums.
  MaskedSums headline() const {
    MaskedSums sums(original_);
    for (const auto& [driver, one] : by_driver_) sums += one;
    return sums;
  }

  /// The objective's loss over the headline rows: what early stopping watches. NaN without such a row.
  double masked_loss() const { return loss_ / (static_cast<double>(loss_rows_) * weight_sum_); }

 private:
  template <class Number>
  void add_loss(std::span<const Number> prediction, std::span<const float> target) {
    weight_sum_ = 0;
    for (std::size_t n = 0; n < target.size(); ++n) {
      const double weight = n < static_cast<std::size_t>(original_) ? 1.0 : config_->mask.calibration_weight;
      const double error = static_cast<double>(prediction[n]) - static_cast<double>(target[n]);
      loss_ += weight * loss_value(config_->train.loss, config_->train.huber_delta, error);
      weight_sum_ += weight;
    }
    ++loss_rows_;
  }

  const Dataset* dataset_;
  const Config* config_;
  int original_;  // original features, N of `append` being twice that
  MaskedSums early_, calibration_;
  std::map<int, MaskedSums> by_driver_, later_by_driver_;
  double loss_ = 0, weight_sum_ = 0;
  std::int64_t loss_rows_ = 0;
};

/// Variance of each original feature over the rows of the windows' recordings, in raw units: unbounded, and with the
/// scaler's tail bound applied first.
struct FeatureVariance {
  std::vector<double> unbounded, bounded;  // [N original]
};

inline FeatureVariance feature_variance(const Dataset& dataset, std::span<const NumberedWindow> windows, int features) {
  std::vector<char> is_wanted(static_cast<std::size_t>(dataset.frame.rows()), 0);
  for (const NumberedWindow& one : windows)
    std::fill_n(is_wanted.begin() + one.window.start, one.window.length, char{1});
  const auto N = static_cast<std::size_t>(dataset.N());
  FeatureVariance variance;
  for (std::size_t n = 0; n < static_cast<std::size_t>(features); ++n) {
    const auto variance_of = [&](auto value) {
      double count = 0, sum = 0, squares = 0;
      for (std::size_t row = 0; row < is_wanted.size(); ++row) {
        if (is_wanted[row] != 0) count += 1, sum += value(row);
      }
      const double mean = sum / count;
      for (std::size_t row = 0; row < is_wanted.size(); ++row) {
        if (is_wanted[row] != 0) squares += (value(row) - mean) * (value(row) - mean);
      }
      return squares / count;
    };
    variance.unbounded.push_back(variance_of([&](std::size_t row) { return dataset.values[row * N + n]; }));
    variance.bounded.push_back(variance_of(
        [&](std::size_t row) { return static_cast<double>(dataset.table.x[row * N + n]) * dataset.scaler.scale[n]; }));
  }
  return variance;
}

/// The model's errors on the rows that masking chooses in these windows.
template <Backend Device>
MaskedErrors evaluate_masked_rows(Device& device, const PretrainingModel<Device>& model,
                                  const PretrainingStage<Device>& stage,
                                  Buckets<PretrainingModel<Device>, Device>& buckets, BatchLoader<Device>& loader,
                                  const Dataset& dataset, const Config& config,
                                  std::span<const NumberedWindow> windows) {
  MaskedErrors errors(dataset, config);
  predict(device, model, stage, buckets, loader, windows, config.train.batch,
          [&](const WindowPrediction& one) { errors.add(*one.window, one.rows, one.values); });
  return errors;
}

/// The model's scores of these windows, not clamped, in their order. `reading` says what the head's outputs mean.
template <Backend Device>
std::vector<ScoredWindow> evaluate_scores(Device& device, const FinetuningModel<Device>& model,
                                          const FinetuningStage<Device>& stage,
                                          Buckets<FinetuningModel<Device>, Device>& buckets,
                                          BatchLoader<Device>& loader, const Dataset& dataset, int batch_size,
                                          std::span<const NumberedWindow> windows, const ScoreReading& reading = {}) {
  std::vector<ScoredWindow> scored;
  predict(device, model, stage, buckets, loader, windows, batch_size, [&](const WindowPrediction& one) {
    const std::vector<double> posterior = reading.posterior(one.values);
    scored.push_back({.driver = dataset.driver_of(one.window->window),
                      .recording = one.window->window.recording,
                      .truth = one.window->window.label,
                      .prediction = reading.score(one.values, posterior),
                      .posterior = posterior});
  });
  return scored;
}

}  // namespace blinkbert
