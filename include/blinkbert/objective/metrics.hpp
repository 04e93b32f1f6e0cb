#pragma once

// How good predictions are: scores against KSS, errors on masked rows, and intervals over drivers.
//
// Everything goes through additive sums (ScoreSums, MaskedSums): per driver, averaged over seeds, added up over the
// drivers drawn by the bootstrap, and turned into a metric only at the end. Host code in double.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/core/random.hpp>
#include <blinkbert/model/config.hpp>
#include <blinkbert/objective/levels.hpp>

namespace blinkbert {

// Scores --------------------------------------------------------------------------------------------------------------

/// One labelled window. `prediction` is the model's own output, not clamped, or the expected value of the level.
struct ScoredWindow {
  int driver = 0;
  int recording = 0;
  double truth = 0, prediction = 0;    // KSS, or whatever labels.range is in
  std::vector<double> posterior = {};  // [K]  P(level) of a model over levels; empty for others
};

/// The prediction that classes are counted by, clamped to labels.range. A posterior is turned into a number by its most
/// likely level: the prediction, clipped into that level's band.
inline double class_prediction(double prediction, std::span<const double> posterior, const LabelsConfig& labels) {
  const double clamped = std::clamp(prediction, labels.range[0], labels.range[1]);
  return posterior.empty() ? clamped : into_level(clamped, most_likely_level(posterior), labels.edges);
}

/// The mean over a recording's windows.
struct ScoredRecording {
  int driver = 0;
  int recording = 0;
  int windows = 0;
  double prediction = 0;
  std::vector<double> posterior = {};  // [K]
};

/// Means of predictions and posteriors by (driver, recording), in that order. Windows in any order.
inline std::vector<ScoredRecording> recording_means(std::span<const ScoredWindow> windows) {
  std::map<std::pair<int, int>, ScoredRecording> recordings;
  for (const ScoredWindow& window : windows) {
    ScoredRecording& one = recordings[{window.driver, window.recording}];
    one.driver = window.driver;
    one.recording = window.recording;
    one.windows += 1;
    one.prediction += window.prediction;
    one.posterior.resize(window.posterior.size());
    for (std::size_t k = 0; k < one.posterior.size(); ++k) one.posterior[k] += window.posterior[k];
  }
  std::vector<ScoredRecording> means;
  for (auto& [key, one] : recordings) {
    one.prediction /= one.windows;
    for (double& share : one.posterior) share /= one.windows;
    means.push_back(std::move(one));
  }
  return means;
}

/// Several models (of several seeds) as one: the mean of their predictions and posteriors, window by window. All must have
/// scored the same windows in the same order.
inline std::vector<ScoredWindow> mean_of_members(std::span<const std::vector<ScoredWindow>> members) {
  BLINKBERT_EXPECTS(!members.empty());
  std::vector<ScoredWindow> mean = members.front();
  for (const std::vector<ScoredWindow>& member : members.subspan(1)) {
    BLINKBERT_EXPECTS(member.size() == mean.size(), member.size(), mean.size());
    for (std::size_t i = 0; i < mean.size(); ++i) {
      BLINKBERT_EXPECTS(
          member[i].recording == mean[i].recording && member[i].posterior.size() == mean[i].posterior.size(), i,
          member[i].recording, mean[i].recording);
      mean[i].prediction += member[i].prediction;
      for (std::size_t k = 0; k < mean[i].posterior.size(); ++k) mean[i].posterior[k] += member[i].posterior[k];
    }
  }
  const auto count = static_cast<double>(members.size());
  for (ScoredWindow& window : mean) {
    window.prediction /= count;
    for (double& share : window.posterior) share /= count;
  }
  return mean;
}

/// Squared distance of a prediction to the band of the true level, in KSS^2: 0 where the level is right, else
/// (prediction - b)^2, b the nearest edge of that band. With `bands` b_0 < b_1 < ... the band of level k reaches from
/// b_{k-1} to b_k; the lowest and the highest level have one edge only.
inline double band_error(double prediction, int true_level, const LabelsConfig& labels) {
  if (level_of(prediction, labels.edges) == true_level) return 0;
  double nearest = std::numeric_limits<double>::infinity();
  const auto look_at = [&](int edge) {
    const double distance = prediction - labels.bands[static_cast<std::size_t>(edge)];
    nearest = std::min(nearest, distance * distance);
  };
  if (true_level > 0) look_at(true_level - 1);
  if (true_level < static_cast<int>(labels.bands.size())) look_at(true_level);
  return nearest;
}

/// Additive parts of every score. All predictions are clamped to labels.range before they are counted; levels and bands
/// are those of `class_prediction`.
struct ScoreSums {
  using Counts = std::vector<std::vector<double>>;

  double windows = 0;
  double absolute = 0, squared = 0;  // sums over windows of |error| in KSS, error^2 in KSS^2
  double band_squared = 0;           // sum over windows of band_error, for BSRE
  double recordings = 0;
  double recordings_right = 0;        // for VA
  double recording_band_squared = 0;  // sum over recordings of band_error of the mean, for VRE
  double means_right = 0;  // the same two of the mean over a recording (recording_means) in the place of votes
  double mean_band_squared = 0;
  Counts levels;  // [true level][predicted level], windows
  Counts kss;     // [true KSS][predicted KSS], both rounded, from the range's low end

  ScoreSums& operator+=(const ScoreSums& other) {
    windows += other.windows;
    absolute += other.absolute;
    squared += other.squared;
    band_squared += other.band_squared;
    recordings += other.recordings;
    recordings_right += other.recordings_right;
    recording_band_squared += other.recording_band_squared;
    means_right += other.means_right;
    mean_band_squared += other.mean_band_squared;
    add(levels, other.levels);
    add(kss, other.kss);
    return *this;
  }

  ScoreSums& operator*=(double factor) {
    for (double* sum : {&windows, &absolute, &squared, &band_squared, &recordings, &recordings_right,
                        &recording_band_squared, &means_right, &mean_band_squared}) {
      *sum *= factor;
    }
    for (Counts* counts : {&levels, &kss}) {
      for (auto& row : *counts) {
        for (double& count : row) count *= factor;
      }
    }
    return *this;
  }

 private:
  static void add(Counts& to, const Counts& from) {
    if (from.empty()) return;
    if (to.empty()) {
      to = from;
      return;
    }
    BLINKBERT_EXPECTS(to.size() == from.size(), to.size(), from.size());
    for (std::size_t i = 0; i < to.size(); ++i) {
      for (std::size_t j = 0; j < to[i].size(); ++j) to[i][j] += from[i][j];
    }
  }
};

namespace detail {

/// Level with the most votes; a tie is settled by the level of the mean.
inline int majority_level(const std::vector<int>& votes, double mean, const std::vector<double>& edges) {
  const auto most = std::max_element(votes.begin(), votes.end());
  const bool is_tied = std::count(votes.begin(), votes.end(), *most) > 1;
  return is_tied ? level_of(mean, edges) : static_cast<int>(most - votes.begin());
}

/// The windows of one recording, as far as VA and VRE need them.
struct RecordingVotes {
  std::vector<int> truth, prediction;  // windows per level
  double truth_sum = 0, prediction_sum = 0;
  int windows = 0;
};

}  // namespace detail

/// Sums over windows of any number of drivers; windows are grouped by (driver, recording) for VA and VRE, in any order.
/// Where the truth changes inside a recording, the recording's true level is found as its predicted one: the level of
/// most windows, a tie settled by the level of the mean.
/// Throws InputError for a label outside labels.range, Diverged for a prediction that is not finite.
inline ScoreSums score_sums(std::span<const ScoredWindow> windows, const LabelsConfig& labels) {
  BLINKBERT_EXPECTS(labels.range.size() == 2 && labels.bands.size() == labels.edges.size(), labels.range.size(),
                    labels.bands.size(), labels.edges.size());
  const double low = labels.range[0], high = labels.range[1];
  const std::size_t level_count = labels.edges.size() + 1;
  const auto kss_index = [low](double value) {
    return static_cast<std::size_t>(std::lround(value) - std::lround(low));
  };
  const std::size_t kss_count = kss_index(high) + 1;

  ScoreSums sums;
  sums.levels.assign(level_count, std::vector<double>(level_count, 0.0));
  sums.kss.assign(kss_count, std::vector<double>(kss_count, 0.0));
  std::map<std::pair<int, int>, detail::RecordingVotes> recordings;
  std::vector<ScoredWindow> clamped(windows.begin(), windows.end());
  for (ScoredWindow& window : clamped) window.prediction = std::clamp(window.prediction, low, high);
  for (const ScoredWindow& window : windows) {
    if (!(window.truth >= low && window.truth <= high)) {
      throw InputError(text("label ", window.truth, " of recording ", window.recording,
                            ": must lie in labels.range = [", low, ", ", high, "]"));
    }
    if (!std::isfinite(window.prediction)) {
      throw Diverged(text("prediction for recording ", window.recording, " is ", window.prediction));
    }
    const double prediction = std::clamp(window.prediction, low, high), error = prediction - window.truth;
    const double in_class = class_prediction(prediction, window.posterior, labels);
    const int true_level = level_of(window.truth, labels.edges), level = level_of(in_class, labels.edges);
    sums.windows += 1;
    sums.absolute += std::abs(error);
    sums.squared += error * error;
    sums.band_squared += band_error(in_class, true_level, labels);
    sums.levels[static_cast<std::size_t>(true_level)][static_cast<std::size_t>(level)] += 1;
    sums.kss[kss_index(window.truth)][kss_index(prediction)] += 1;

    detail::RecordingVotes& recording = recordings[{window.driver, window.recording}];
    recording.truth.resize(level_count);
    recording.prediction.resize(level_count);
    recording.truth[static_cast<std::size_t>(true_level)] += 1;
    recording.prediction[static_cast<std::size_t>(level)] += 1;
    recording.truth_sum += window.truth;
    recording.prediction_sum += in_class;
    recording.windows += 1;
  }
  const std::vector<ScoredRecording> means = recording_means(clamped);  // in the order of `recordings`
  auto mean_of = means.begin();
  for (const auto& [key, recording] : recordings) {
    const double mean = recording.prediction_sum / recording.windows;
    const int true_level =
        detail::majority_level(recording.truth, recording.truth_sum / recording.windows, labels.edges);
    sums.recordings += 1;
    sums.recordings_right += detail::majority_level(recording.prediction, mean, labels.edges) == true_level ? 1 : 0;
    sums.recording_band_squared += band_error(mean, true_level, labels);
    const double in_class = class_prediction(mean_of->prediction, mean_of->posterior, labels);
    sums.means_right += level_of(in_class, labels.edges) == true_level ? 1 : 0;
    sums.mean_band_squared += band_error(in_class, true_level, labels);
    ++mean_of;
  }
  return sums;
}

/// score_sums of each driver.
inline std::map<int, ScoreSums> sums_by_driver(std::span<const ScoredWindow> windows, const LabelsConfig& labels) {
  std::map<int, std::vector<ScoredWindow>> of_driver;
  for (const ScoredWindow& window : windows) of_driver[window.driver].push_back(window);
  std::map<int, ScoreSums> sums;
  for (const auto& [driver, own] : of_driver) sums[driver] = score_sums(own, labels);
  return sums;
}

/// Scores; every share is in [0, 1], every error in KSS or KSS^2. NaN where undefined (no window; QWK without spread).
struct ScoreMetrics {
  double mae = 0, rmse = 0;                    // KSS
  double accuracy = 0;                         // share of windows with the right level
  double kpi = 0;                              // balanced accuracy: mean recall over the true levels present
  double qwk = 0;                              // quadratic weighted kappa on values rounded to KSS
  double bsa = 0, va = 0;                      // share of windows (= accuracy), of recordings with the right level
  double bsre = 0, vre = 0;                    // KSS^2: mean band_error of windows, of the recordings' means
  double va_mean = 0, vre_mean = 0;            // as va and vre, by the mean prediction and posterior of a recording
  std::vector<std::vector<double>> confusion;  // [true level][predicted level], windows
  double windows = 0, recordings = 0;
};

/// Quadratic weighted kappa of a table of counts [truth][prediction]:
///   1 - sum_ij (i - j)^2 O_ij / sum_ij (i - j)^2 r_i c_j / n,   r, c = row and column sums, n = all counts.
/// NaN where the denominator is 0: everything in one and the same class.
/// Source: Cohen 1968, Psychological Bulletin 70(4).
inline double quadratic_weighted_kappa(const std::vector<std::vector<double>>& counts) {
  const std::size_t classes = counts.size();
  std::vector<double> truth(classes, 0.0), prediction(classes, 0.0);
  double all = 0;
  for (std::size_t i = 0; i < classes; ++i) {
    for (std::size_t j = 0; j < classes; ++j) {
      truth[i] += counts[i][j];
      prediction[j] += counts[i][j];
      all += counts[i][j];
    }
  }
  double observed = 0, expected = 0;
  for (std::size_t i = 0; i < classes; ++i) {
    for (std::size_t j = 0; j < classes; ++j) {
      const double distance = static_cast<double>(i) - static_cast<double>(j);
      observed += distance * distance * counts[i][j];
      expected += distance * distance * truth[i] * prediction[j];
    }
  }
  return expected > 0 ? 1 - observed * all / expected : std::numeric_limits<double>::quiet_NaN();
}

/// Metrics from sums.
inline ScoreMetrics score_metrics(const ScoreSums& sums) {
  const auto mean = [](double sum, double count) {
    return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
  };
  double right = 0, recall = 0, present = 0;
  for (std::size_t level = 0; level < sums.levels.size(); ++level) {
    double of_level = 0;
    for (const double count : sums.levels[level]) of_level += count;
    right += sums.levels[level][level];
    if (of_level > 0) {
      recall += sums.levels[level][level] / of_level;
      present += 1;
    }
  }
  const double accuracy = mean(right, sums.windows);
  return {.mae = mean(sums.absolute, sums.windows),
          .rmse = std::sqrt(mean(sums.squared, sums.windows)),
          .accuracy = accuracy,
          .kpi = mean(recall, present),
          .qwk = quadratic_weighted_kappa(sums.kss),
          .bsa = accuracy,
          .va = mean(sums.recordings_right, sums.recordings),
          .bsre = mean(sums.band_squared, sums.windows),
          .vre = mean(sums.recording_band_squared, sums.recordings),
          .va_mean = mean(sums.means_right, sums.recordings),
          .vre_mean = mean(sums.mean_band_squared, sums.recordings),
          .confusion = sums.levels,
          .windows = sums.windows,
          .recordings = sums.recordings};
}

/// A score with its name in reports.
struct NamedScore {
  std::string_view name;
  double ScoreMetrics::*value;
};

/// The one list of scores, in the order of reports and of `score_values`.
inline constexpr std::array<NamedScore, 11> named_scores{{{"mae", &ScoreMetrics::mae},
                                                          {"rmse", &ScoreMetrics::rmse},
                                                          {"accuracy", &ScoreMetrics::accuracy},
                                                          {"kpi", &ScoreMetrics::kpi},
                                                          {"qwk", &ScoreMetrics::qwk},
                                                          {"bsa", &ScoreMetrics::bsa},
                                                          {"va", &ScoreMetrics::va},
                                                          {"bsre", &ScoreMetrics::bsre},
                                                          {"vre", &ScoreMetrics::vre},
                                                          {"va_mean", &ScoreMetrics::va_mean},
                                                          {"vre_mean", &ScoreMetrics::vre_mean}}};

/// All scores in the order of `named_scores`.
inline std::vector<double> score_values(const ScoreSums& sums) {
  const ScoreMetrics metrics = score_metrics(sums);
  std::vector<double> values;
  for (const NamedScore& score : named_scores) values.push_back(metrics.*score.value);
  return values;
}

/// Per driver, the average of the sums of several seeds (one map per seed, all with the same drivers).
inline std::map<int, ScoreSums> mean_over_seeds(std::span<const std::map<int, ScoreSums>> seeds) {
  BLINKBERT_EXPECTS(!seeds.empty());
  std::map<int, ScoreSums> mean = seeds.front();
  for (const auto& seed : seeds.subspan(1)) {
    BLINKBERT_EXPECTS(seed.size() == mean.size(), seed.size(), mean.size());
    for (const auto& [driver, sums] : seed) {
      BLINKBERT_EXPECTS(mean.contains(driver), driver);
      mean[driver] += sums;
    }
  }
  for (auto& [driver, sums] : mean) sums *= 1.0 / static_cast<double>(seeds.size());
  return mean;
}

// Masked rows ---------------------------------------------------------------------------------------------------------

/// Additive errors on masked rows, per feature, in scaled units. Rows of different kinds (original and calibration
/// features, a driver's early rows under `append`) are kept in sums of their own by the caller.
struct MaskedSums {
  double rows = 0;
  std::vector<double> squared, absolute;  // [N]  against the tail-bounded target
  std::vector<double> squared_unbounded;  // [N]  against the target without the tail bound

  MaskedSums() = default;
  explicit MaskedSums(int features)
      : squared(static_cast<std::size_t>(features), 0.0), absolute(squared), squared_unbounded(squared) {}

  int features() const { return static_cast<int>(squared.size()); }

  /// Adds one row; the arguments are indexable and hold N values each, in scaled units.
  template <class Prediction, class Target, class UnboundedTarget>
  void add(const Prediction& prediction, const Target& target, const UnboundedTarget& unbounded_target) {
    const std::size_t N = squared.size();
    BLINKBERT_EXPECTS(prediction.size() == N && target.size() == N && unbounded_target.size() == N, prediction.size(),
                      target.size(), unbounded_target.size(), N);
    rows += 1;
    for (std::size_t n = 0; n < N; ++n) {
      const double error = static_cast<double>(prediction[n]) - static_cast<double>(target[n]);
      const double unbounded = static_cast<double>(prediction[n]) - static_cast<double>(unbounded_target[n]);
      squared[n] += error * error;
      absolute[n] += std::abs(error);
      squared_unbounded[n] += unbounded * unbounded;
    }
  }

  /// Empty sums (default-constructed) take on the width of the others.
  MaskedSums& operator+=(const MaskedSums& other) {
    if (other.squared.empty()) return *this;
    if (squared.empty()) return *this = other;
    BLINKBERT_EXPECTS(features() == other.features(), features(), other.features());
    rows += other.rows;
    for (std::size_t n = 0; n < squared.size(); ++n) {
      squared[n] += other.squared[n];
      absolute[n] += other.absolute[n];
      squared_unbounded[n] += other.squared_unbounded[n];
    }
    return *this;
  }
};

/// Mean errors per feature over the rows of the sums, in scaled units; NaN without rows.
struct MaskedMetrics {
  double rows = 0;
  std::vector<double> squared, absolute, squared_unbounded;  // [N]
};

inline MaskedMetrics masked_metrics(const MaskedSums& sums) {
  const auto means = [&](std::vector<double> values) {
    for (double& value : values) value = sums.rows > 0 ? value / sums.rows : std::numeric_limits<double>::quiet_NaN();
    return values;
  };
  return {.rows = sums.rows,
          .squared = means(sums.squared),
          .absolute = means(sums.absolute),
          .squared_unbounded = means(sums.squared_unbounded)};
}

/// Share of a feature's variance that is left: squared_n scale_n^2 / variance_n, with squared_n a mean squared error in
/// scaled units, scale_n the scaler's divisor and variance_n the feature's variance over the test rows, in raw units.
/// 1 = no better than the mean of the test rows. NaN where the feature does not vary.
inline std::vector<double> variance_shares(std::span<const double> squared, std::span<const double> scale,
                                           std::span<const double> variance) {
  BLINKBERT_EXPECTS(squared.size() == scale.size() && squared.size() == variance.size(), squared.size(), scale.size(),
                    variance.size());
  std::vector<double> shares;
  for (std::size_t n = 0; n < squared.size(); ++n) {
    shares.push_back(variance[n] > 0 ? squared[n] * scale[n] * scale[n] / variance[n]
                                     : std::numeric_limits<double>::quiet_NaN());
  }
  return shares;
}

// Intervals -----------------------------------------------------------------------------------------------------------

/// 95 % interval. NaN where there are too few drivers, or where the value is undefined.
struct Interval {
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
};

inline constexpr int bootstrap_resamples = 2000;
inline constexpr int bootstrap_min_drivers = 8;  // with fewer, resamples say little about other drivers

/// The `drivers` places (0 ... drivers - 1, with repetition) of one resample:
/// draw d = floor(drivers * word / 2^32), word 0 of index = d, sequence = resample.
inline std::vector<int> drawn_drivers(int drivers, std::uint64_t seed, int resample) {
  const RandomStream stream{.seed = seed, .purpose = Purpose::bootstrap};
  std::vector<int> drawn(static_cast<std::size_t>(drivers));
  for (int draw = 0; draw < drivers; ++draw) {
    const std::uint64_t word = stream.word(static_cast<std::uint32_t>(draw), static_cast<std::uint32_t>(resample));
    drawn[static_cast<std::size_t>(draw)] = static_cast<int>(word * static_cast<std::uint64_t>(drivers) >> 32);
  }
  return drawn;
}

/// Value below which the share `share` of `sorted` lies, linear between neighbours (Hyndman, Fan 1996, type 7).
inline double percentile(std::span<const double> sorted, double share) {
  BLINKBERT_EXPECTS(!sorted.empty() && share >= 0 && share <= 1, sorted.size(), share);
  const double position = share * static_cast<double>(sorted.size() - 1);
  const std::size_t below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

namespace detail {

/// Percentile intervals of statistic(drawn places) -> values. Resamples in which a value is undefined are left out of
/// its percentiles.
template <class Statistic>
std::vector<Interval> bootstrap_intervals(int drivers, std::uint64_t seed, Statistic statistic) {
  std::vector<int> everyone(static_cast<std::size_t>(drivers));
  for (int driver = 0; driver < drivers; ++driver) everyone[static_cast<std::size_t>(driver)] = driver;
  std::vector<Interval> intervals(statistic(everyone).size());
  if (drivers < bootstrap_min_drivers) return intervals;

  std::vector<std::vector<double>> resampled(intervals.size());
  for (int resample = 0; resample < bootstrap_resamples; ++resample) {
    const std::vector<double> values = statistic(drawn_drivers(drivers, seed, resample));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isnan(values[i])) resampled[i].push_back(values[i]);
    }
  }
  for (std::size_t i = 0; i < intervals.size(); ++i) {
    if (resampled[i].empty()) continue;
    std::sort(resampled[i].begin(), resampled[i].end());
    intervals[i] = {.low = percentile(resampled[i], 0.025), .high = percentile(resampled[i], 0.975)};
  }
  return intervals;
}

template <class Sums>
std::vector<const Sums*> places(const std::map<int, Sums>& by_driver) {
  std::vector<const Sums*> all;
  for (const auto& [driver, sums] : by_driver) all.push_back(&sums);
  return all;
}

template <class Sums>
Sums add_up(const std::vector<const Sums*>& all, const std::vector<int>& drawn) {
  Sums total;
  for (const int place : drawn) total += *all[static_cast<std::size_t>(place)];
  return total;
}

}  // namespace detail

/// Intervals of values(sums) -> std::vector<double>, by bootstrap over drivers: 2000 resamples seeded by
/// Purpose::bootstrap, sums added up over the drawn drivers, then the values, then their percentiles 2.5 and 97.5.
/// All NaN below 8 drivers. Sums: ScoreSums, MaskedSums or anything else with +=.
/// Source: Efron, Tibshirani 1993, An introduction to the bootstrap, chapter 13 (percentile interval).
template <class Sums, class Values>
std::vector<Interval> driver_intervals(const std::map<int, Sums>& by_driver, std::uint64_t seed, Values values) {
  const std::vector<const Sums*> all = detail::places(by_driver);
  return detail::bootstrap_intervals(static_cast<int>(all.size()), seed,
                                     [&](const std::vector<int>& drawn) { return values(detail::add_up(all, drawn)); });
}

/// Intervals of values(second) - values(first), both arms on the same drawn drivers. An interval over zero says "not
/// separable at this size", never "no difference".
template <class Sums, class Values>
std::vector<Interval> driver_difference_intervals(const std::map<int, Sums>& first, const std::map<int, Sums>& second,
                                                  std::uint64_t seed, Values values) {
  BLINKBERT_EXPECTS(std::equal(first.begin(), first.end(), second.begin(), second.end(),
                               [](const auto& one, const auto& other) { return one.first == other.first; }),
                    first.size(), second.size());
  const std::vector<const Sums*> all_first = detail::places(first), all_second = detail::places(second);
  return detail::bootstrap_intervals(static_cast<int>(all_first.size()), seed, [&](const std::vector<int>& drawn) {
    std::vector<double> difference = values(detail::add_up(all_second, drawn));
    const std::vector<double> subtracted = values(detail::add_up(all_first, drawn));
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= subtracted[i];
    return difference;
  });
}

/// Intervals of all scores, in the order of `named_scores`.
inline std::vector<Interval> score_intervals(const std::map<int, ScoreSums>& by_driver, std::uint64_t seed) {
  return driver_intervals(by_driver, seed, score_values);
}

/// Intervals of the differences second - first of all scores, in the order of `named_scores`.
inline std::vector<Interval> score_difference_intervals(const std::map<int, ScoreSums>& first,
                                                        const std::map<int, ScoreSums>& second, std::uint64_t seed) {
  return driver_difference_intervals(first, second, seed, score_values);
}

}  // namespace blinkbert
