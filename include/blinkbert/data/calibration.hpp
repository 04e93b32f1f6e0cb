#pragma once

// From a blink's measured features to what the model sees: row transforms, calibration by driver, then scaling. All travel
// with the checkpoint; all are causal: a row depends on no later row of its driver.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/data/frame.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// Names of a row's features as the model predicts them: the original ones, `increment_<feature>` for each of
/// data.increments, then `calibration_<channel>` for each of both where they are appended. Throws InputError where an original
/// feature already has one of the new names.
inline std::vector<std::string> model_feature_names(const DataConfig& config) {
  std::vector<std::string> names = config.features;
  const auto add = [&](const std::string& prefix, const std::string& feature, std::string_view maker,
                       std::string_view remedy) {
    const std::string name = prefix + feature;
    if (std::find(config.features.begin(), config.features.end(), name) != config.features.end()) {
      throw InputError(text("data.features names ", name, ", which ", maker, " makes from ", feature,
                            ": leave it out, or ", remedy));
    }
    names.push_back(name);
  };
  for (const std::string& feature : config.increments)
    add("increment_", feature, "data.increments", "do not name the feature there");
  if (config.calibration != Calibration::append) return names;
  for (const std::string& channel : std::vector<std::string>(names)) {
    add("calibration_", channel, "data.calibration = \"append\"",
        "set data.calibration to \"standardise\" or \"none\"");
  }
  return names;
}

/// From the features of a recording's blinks to the channels of its rows, blink by blink: the features, then the increments
///   i_n = n f_n - (n - 1) f_{n-1}   of each feature in data.increments, n = the blink's number in its recording from 1:
/// what blink n alone has where f_n is the mean over the recording's blinks 1 .. n. Then, with data.transform = asinh, every
/// channel becomes asinh(channel / its data.transform_scale).
class RowTransform {
 public:
  explicit RowTransform(const DataConfig& config)
      : transform_(config.transform), features_(config.features.size()), scale_(config.transform_scale) {
    scale_.resize(static_cast<std::size_t>(row_channels(config)), scale_.at(0));
    for (const std::string& name : config.increments) {
      const auto found = std::find(config.features.begin(), config.features.end(), name);
      BLINKBERT_EXPECTS(found != config.features.end(), name);
      increments_.push_back(static_cast<std::size_t>(found - config.features.begin()));
    }
    before_.resize(increments_.size());
  }

  void begin_recording() { blinks_ = 0; }

  /// The recording's next blink.
  void push(std::span<const double> features, std::span<double> channels) {
    BLINKBERT_EXPECTS(features.size() == features_ && channels.size() == scale_.size(), features.size(),
                      channels.size());
    std::copy(features.begin(), features.end(), channels.begin());
    for (std::size_t i = 0; i < increments_.size(); ++i) {
      const double now = features[increments_[i]];
      channels[features_ + i] = blinks_ == 0 ? now : (blinks_ + 1) * now - blinks_ * before_[i];
      before_[i] = now;
    }
    ++blinks_;
    if (transform_ == Transform::none) return;
    for (std::size_t i = 0; i < channels.size(); ++i) channels[i] = std::asinh(channels[i] / scale_[i]);
  }

 private:
  Transform transform_;
  std::size_t features_;
  std::vector<double> scale_;            // [channels]
  std::vector<std::size_t> increments_;  // features
  std::vector<double> before_;           // their last values
  double blinks_ = 0;                    // of the recording so far
};

/// The running calibration of one driver. The calibration feature of the driver's blink n (from 1) is the mean over
/// blinks 1 .. min(n, K), K = `data.calibration_blinks`: this blink included, constant from blink K on.
class DriverCalibration {
 public:
  explicit DriverCalibration(const DataConfig& config)
      : mode_(config.calibration),
        most_(config.calibration_blinks),
        first_(static_cast<std::size_t>(row_channels(config)), 0.0),
        sums_(first_) {
    BLINKBERT_EXPECTS(most_ >= 1 && !sums_.empty(), most_, sums_.size());
  }

  /// Blinks that count towards the mean so far, at most K.
  int blinks() const { return blinks_; }

  /// Takes the channels of the driver's next blink and writes it as the model sees it, unscaled: `append` the N channels and their N
  /// calibration features, `standardise` channel minus calibration feature, `none` the channels.
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
  RowTransform transform(config);
  std::vector<double> channels(static_cast<std::size_t>(row_channels(config)));
  for (const Recording& recording : frame.recordings) {
    DriverCalibration& driver = drivers[static_cast<std::size_t>(recording.driver)];
    transform.begin_recording();
    for (int i = 0; i < recording.rows; ++i) {
      const auto row = static_cast<std::size_t>(recording.first_row + i);
      transform.push(std::span(frame.values).subspan(row * N, N), channels);
      driver.push(channels, std::span(values).subspan(row * width, width));
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

/// Fits a scaler on the marked rows of values [rows, N], N = model features; every row weighs the same, or as `weights`
/// [rows] says where it is not empty, and the values of other rows are never read. `standard`: mean and population standard
/// deviation. `uncentred`: 0 and the root mean square, so that 0 stays 0. `robust`: median and interquartile
/// range / 1.349 (which is the deviation of a normal distribution), quantiles interpolated between neighbours; a
/// feature with an interquartile range of 0 that is not constant takes its population standard deviation. A constant
/// feature gets scale 1. Throws InputError without training rows.
inline Scaler fit_scaler(const std::vector<double>& values, int N, const std::vector<char>& is_training_row,
                         const DataConfig& config, const std::vector<double>& weights = {}) {
  BLINKBERT_EXPECTS(
      weights.empty() || (weights.size() == is_training_row.size() && config.scaler != ScalerKind::robust),
      weights.size());
  BLINKBERT_EXPECTS(N >= 1 && values.size() == is_training_row.size() * static_cast<std::size_t>(N), N, values.size(),
                    is_training_row.size());
  Scaler scaler{.center = {}, .scale = {}, .tail_bound = config.tail_bound};
  for (int n = 0; n < N; ++n) {
    std::vector<double> column, weight;
    for (std::size_t row = 0; row < is_training_row.size(); ++row) {
      if (is_training_row[row] != 0) {
        column.push_back(values[row * static_cast<std::size_t>(N) + static_cast<std::size_t>(n)]);
        weight.push_back(weights.empty() ? 1.0 : weights[row]);
      }
    }
    if (column.empty()) throw InputError("the training drivers have no rows: a scaler needs at least one");
    const auto count = static_cast<double>(column.size());
    const double weight_sum = std::accumulate(weight.begin(), weight.end(), 0.0);

    // Around the first value, so that a constant feature has a deviation of exactly 0 and a large offset costs no
    // digits.
    double sum = 0;
    for (std::size_t i = 0; i < column.size(); ++i) sum += weight[i] * (column[i] - column.front());
    double center = config.scaler == ScalerKind::uncentred ? 0.0 : column.front() + sum / weight_sum;
    double squares = 0;
    for (std::size_t i = 0; i < column.size(); ++i)
      squares += weight[i] * ((column[i] - center) * (column[i] - center));
    double scale = std::sqrt(squares / weight_sum);

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
