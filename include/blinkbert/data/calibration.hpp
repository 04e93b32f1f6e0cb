#pragma once

// From a blink's measured features to what the model sees: calibration by driver, then scaling. Both are values that
// travel with the checkpoint; both are causal: a row depends on no later row of its driver.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/data/frame.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// Names of a row's features as the model sees them: the original ones, then `calibration_<feature>` for each where
/// they are appended. Throws InputError where an original feature already has one of the new names.
inline std::vector<std::string> model_feature_names(const DataConfig& config) {
  std::vector<std::string> names = config.features;
  if (config.calibration != Calibration::append) return names;
  for (const std::string& feature : config.features) {
    const std::string name = "calibration_" + feature;
    if (std::find(config.features.begin(), config.features.end(), name) != config.features.end()) {
      throw InputError(text("data.features names ", name, ", which data.calibration = \"append\" makes from ", feature,
                            ": leave it out, or set data.calibration to \"standardise\" or \"none\""));
    }
    names.push_back(name);
  }
  return names;
}

/// The running calibration of one driver. The calibration feature of the driver's blink n (from 1) is the mean over
/// blinks 1 .. min(n, K), K = `data.calibration_blinks`: this blink included, constant from blink K on.
class DriverCalibration {
 public:
  explicit DriverCalibration(const DataConfig& config)
      : mode_(config.calibration),
        most_(config.calibration_blinks),
        first_(config.features.size(), 0.0),
        sums_(config.features.size(), 0.0) {
    BLINKBERT_EXPECTS(most_ >= 1 && !sums_.empty(), most_, sums_.size());
  }

  /// Blinks that count towards the mean so far, at most K.
  int blinks() const { return blinks_; }

  /// Takes the driver's next blink and writes it as the model sees it, unscaled: `append` the N features and their N
  /// calibration features, `standardise` feature minus calibration feature, `none` the features.
  void push(std::span<const double> features, std::span<double> model_features) {
    const std::size_t N = sums_.size();
    BLINKBERT_EXPECTS(features.size() == N, features.size(), N);
    BLINKBERT_EXPECTS(model_features.size() == (mode_ == Calibration::append ? 2 * N : N), model_features.size(), N);
    if (blinks_ == 0) std::copy(features.begin(), features.end(), first_.begin());
    if (blinks_ < most_) {
      for (std::size_t n = 0; n < N; ++n) sums_[n] += features[n] - first_[n];
      ++blinks_;
    }
    for (std::size_t n = 0; n < N; ++n) {
      const double mean = first_[n] + sums_[n] / blinks_;
      model_features[n] = mode_ == Calibration::standardise ? features[n] - mean : features[n];
      if (mode_ == Calibration::append) model_features[N + n] = mean;
    }
  }

 private:
  Calibration mode_;
  int most_;
  int blinks_ = 0;
  // Differences to the first blink are summed: the mean of equal values is that value, so that a constant feature has a
  // constant calibration feature, not one of rounding errors that a scaler would blow up.
  std::vector<double> first_, sums_;  // [N]
};

/// All rows of the frame as the model sees them, unscaled.  [rows, model features]
inline std::vector<double> calibrated_values(const Frame& frame, const DataConfig& config) {
  BLINKBERT_EXPECTS(frame.features == config.features, frame.N(), config.features.size());
  const std::size_t N = frame.features.size();
  const auto width = static_cast<std::size_t>(model_features(config));
  std::vector<double> values(static_cast<std::size_t>(frame.rows()) * width);
  std::vector<DriverCalibration> drivers(frame.drivers.size(), DriverCalibration(config));
  for (const Recording& recording : frame.recordings) {
    DriverCalibration& driver = drivers[static_cast<std::size_t>(recording.driver)];
    for (int i = 0; i < recording.rows; ++i) {
      const auto row = static_cast<std::size_t>(recording.first_row + i);
      driver.push(std::span(frame.values).subspan(row * N, N), std::span(values).subspan(row * width, width));
    }
  }
  return values;
}

/// The number of each row among its driver's blinks in file order, from 1.  [rows]
///
/// Rows whose number is at most `data.calibration_blinks` follow, under `append`, from visible neighbours (a mean and
/// its count give the row away): masked errors report them on a line of their own.
inline std::vector<int> blinks_so_far(const Frame& frame) {
  std::vector<int> numbers(static_cast<std::size_t>(frame.rows()));
  std::vector<int> counts(frame.drivers.size(), 0);
  for (const Recording& recording : frame.recordings) {
    for (int i = 0; i < recording.rows; ++i) {
      numbers[static_cast<std::size_t>(recording.first_row + i)] = ++counts[static_cast<std::size_t>(recording.driver)];
    }
  }
  return numbers;
}

/// Feature by feature, z = (x - center) / scale.
struct Scaler {
  std::vector<double> center, scale;  // [model features]
  double tail_bound = 5;              // in units of scale

  /// out[n] = z[n] clamped to [-tail_bound, tail_bound]: what the model is fed.
  void apply(const double* row, float* out) const {
    for (std::size_t n = 0; n < center.size(); ++n) {
      out[n] = static_cast<float>(std::clamp((row[n] - center[n]) / scale[n], -tail_bound, tail_bound));
    }
  }

  /// out[n] = z[n] as it is: for errors that are reported unbounded.
  void apply_unbounded(const double* row, double* out) const {
    for (std::size_t n = 0; n < center.size(); ++n) out[n] = (row[n] - center[n]) / scale[n];
  }
};

/// Fits a scaler on the marked rows of values [rows, N], N = model features; every row weighs the same, and the values
/// of other rows are never read. `standard`: mean and population standard deviation. `robust`: median and interquartile
/// range / 1.349 (which is the deviation of a normal distribution), quantiles interpolated between neighbours; a
/// feature with an interquartile range of 0 that is not constant takes its population standard deviation. A constant
/// feature gets scale 1. Throws InputError without training rows.
inline Scaler fit_scaler(const std::vector<double>& values, int N, const std::vector<char>& is_training_row,
                         const DataConfig& config) {
  BLINKBERT_EXPECTS(N >= 1 && values.size() == is_training_row.size() * static_cast<std::size_t>(N), N, values.size(),
                    is_training_row.size());
  Scaler scaler{.center = {}, .scale = {}, .tail_bound = config.tail_bound};
  for (int n = 0; n < N; ++n) {
    std::vector<double> column;
    for (std::size_t row = 0; row < is_training_row.size(); ++row) {
      if (is_training_row[row] != 0) {
        column.push_back(values[row * static_cast<std::size_t>(N) + static_cast<std::size_t>(n)]);
      }
    }
    if (column.empty()) throw InputError("the training drivers have no rows: a scaler needs at least one");
    const auto count = static_cast<double>(column.size());

    // Around the first value, so that a constant feature has a deviation of exactly 0 and a large offset costs no
    // digits.
    double sum = 0;
    for (const double value : column) sum += value - column.front();
    const double mean = column.front() + sum / count;
    double squares = 0;
    for (const double value : column) squares += (value - mean) * (value - mean);
    double center = mean;
    double scale = std::sqrt(squares / count);

    if (config.scaler == ScalerKind::robust) {
      std::sort(column.begin(), column.end());
      const auto quantile = [&](double share) {
        const double place = share * (count - 1);
        const auto below = static_cast<std::size_t>(place);
        const std::size_t above = std::min(below + 1, column.size() - 1);
        return column[below] + (place - static_cast<double>(below)) * (column[above] - column[below]);
      };
      constexpr double normal_interquartile_range = 1.349;  // 2 * 0.6745, of a standard normal distribution
      const double range = quantile(0.75) - quantile(0.25);
      center = quantile(0.5);
      if (range > 0) scale = range / normal_interquartile_range;
    }
    scaler.center.push_back(center);
    scaler.scale.push_back(scale > 0 ? scale : 1);
  }
  return scaler;
}

}  // namespace blinkbert
