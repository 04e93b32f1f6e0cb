#pragma once

// What simple predictors reach: for masked rows and for KSS. Host code in double; Eigen for the ridge.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include <Eigen/Dense>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/core/view.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

// Ridge regression ----------------------------------------------------------------------------------------------------

/// What ridge regression of q targets on p predictors needs of its training rows: their number, means and scatter, by
/// the updating formula of Welford 1962 (Technometrics 4(3)), which loses no digits to large means.
class RidgeSums {
 public:
  RidgeSums(int predictors, int targets)
      : predictors_(predictors),
        targets_(targets),
        mean_(Eigen::VectorXd::Zero(predictors + targets)),
        scatter_(Eigen::MatrixXd::Zero(predictors + targets, predictors + targets)) {
    BLINKBERT_EXPECTS(predictors > 0 && targets > 0, predictors, targets);
  }

  /// Adds one row: x [p], y [q].
  void add(std::span<const double> x, std::span<const double> y) {
    BLINKBERT_EXPECTS(static_cast<int>(x.size()) == predictors_ && static_cast<int>(y.size()) == targets_, x.size(),
                      y.size(), predictors_, targets_);
    Eigen::VectorXd deviation(predictors_ + targets_);
    deviation << Eigen::Map<const Eigen::VectorXd>(x.data(), predictors_),
        Eigen::Map<const Eigen::VectorXd>(y.data(), targets_);
    deviation -= mean_;
    const double before = rows_;
    rows_ += 1;
    mean_ += deviation / rows_;
    scatter_.selfadjointView<Eigen::Lower>().rankUpdate(deviation, before / rows_);
  }

  int predictors() const { return predictors_; }
  int targets() const { return targets_; }
  double rows() const { return rows_; }

 private:
  friend class Ridge;

  int predictors_, targets_;
  double rows_ = 0;
  Eigen::VectorXd mean_;     // [p + q]
  Eigen::MatrixXd scatter_;  // [p + q, p + q], lower half: sum (v - mean)(v - mean)^T
};

/// Ridge regression y = a + W x with an unpenalised intercept, one strength lambda per target:
///   minimise over w:  mean over rows of (y - mean_y - z . w)^2 + lambda |w|^2,   z = (x - mean_x) / deviation_x.
/// lambda is the one of a fixed grid (10^-4, 10^-3.5, ..., 10^4) that is best by generalised cross-validation,
///   GCV = (residual sum of squares / n) / (1 - d / n)^2,   d = 1 + sum_i s_i / (s_i + lambda),
/// s_i the eigenvalues of the predictors' correlation matrix; of strengths that score alike, to one part in 10^6, the
/// largest.
/// Constant predictors (deviation below 1e-9 max(1, |mean|): predictors are of order one) get weight 0. Fewer rows than
/// predictors and collinear predictors are fine: no lambda of the grid lets the condition number pass 10^4 p.
/// Sources: Hoerl, Kennard 1970, Technometrics 12(1); Golub, Heath, Wahba 1979, Technometrics 21(2).
class Ridge {
 public:
  /// Throws ContractViolation without rows. From one row on: the targets' means.
  static Ridge fit(const RidgeSums& sums) {
    BLINKBERT_EXPECTS(sums.rows_ > 0, sums.rows_);
    const int p = sums.predictors_, q = sums.targets_;
    const double n = sums.rows_;
    const Eigen::MatrixXd covariance = Eigen::MatrixXd(sums.scatter_.selfadjointView<Eigen::Lower>()) / n;
    const Eigen::VectorXd mean_x = sums.mean_.head(p), mean_y = sums.mean_.tail(q);

    // 0 for a constant predictor: its row and column of the correlation matrix vanish, and so does its weight.
    Eigen::VectorXd inverse_deviation = Eigen::VectorXd::Zero(p);
    for (int column = 0; column < p; ++column) {
      const double deviation = std::sqrt(covariance(column, column));
      if (deviation > 1e-9 * std::max(1.0, std::abs(mean_x(column)))) inverse_deviation(column) = 1 / deviation;
    }
    const Eigen::MatrixXd correlation =
        inverse_deviation.asDiagonal() * covariance.topLeftCorner(p, p) * inverse_deviation.asDiagonal();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(correlation);
    const Eigen::VectorXd eigenvalues = solver.eigenvalues().cwiseMax(0.0);
    const Eigen::MatrixXd rotated =
        solver.eigenvectors().transpose() * (inverse_deviation.asDiagonal() * covariance.topRightCorner(p, q));

    Ridge ridge;
    ridge.weights_.resize(q, p);
    for (int target = 0; target < q; ++target) {
      const double lambda = best_lambda(eigenvalues, rotated.col(target), covariance(p + target, p + target), n);
      const Eigen::VectorXd weights =
          solver.eigenvectors() * (rotated.col(target).array() / (eigenvalues.array() + lambda)).matrix();
      ridge.weights_.row(target) = weights.cwiseProduct(inverse_deviation).transpose();
      ridge.lambdas_.push_back(lambda);
    }
    ridge.intercept_ = mean_y - ridge.weights_ * mean_x;
    return ridge;
  }

  /// The same from tables: X [n, p], Y [n, q].
  static Ridge fit(View<const double, 2> X, View<const double, 2> Y) {
    BLINKBERT_EXPECTS(X.extent(0) == Y.extent(0), X.extent(0), Y.extent(0));
    RidgeSums sums(X.extent(1), Y.extent(1));
    for (int row = 0; row < X.extent(0); ++row) {
      sums.add({&X(row, 0), static_cast<std::size_t>(X.extent(1))},
               {&Y(row, 0), static_cast<std::size_t>(Y.extent(1))});
    }
    return fit(sums);
  }

  /// x [p] -> y [q].
  std::vector<double> predict(std::span<const double> x) const {
    BLINKBERT_EXPECTS(static_cast<Eigen::Index>(x.size()) == weights_.cols(), x.size(), weights_.cols());
    std::vector<double> y(static_cast<std::size_t>(weights_.rows()));
    Eigen::Map<Eigen::VectorXd>(y.data(), weights_.rows()) =
        intercept_ + weights_ * Eigen::Map<const Eigen::VectorXd>(x.data(), weights_.cols());
    return y;
  }

  /// The chosen strength of each target, [q].
  const std::vector<double>& lambdas() const { return lambdas_; }

  /// The strengths that are tried, the largest first.
  static std::vector<double> grid() {
    std::vector<double> lambdas;
    for (int half_decade = 8; half_decade >= -8; --half_decade) lambdas.push_back(std::pow(10.0, half_decade / 2.0));
    return lambdas;
  }

 private:
  Ridge() = default;

  /// With r = `rotated` the covariances of the target with the principal axes, the mean squared residual is
  /// variance - sum_i r_i^2 (s_i + 2 lambda) / (s_i + lambda)^2.
  static double best_lambda(const Eigen::VectorXd& eigenvalues, const Eigen::VectorXd& rotated, double variance,
                            double n) {
    double best = grid().front(), best_score = std::numeric_limits<double>::infinity();
    for (const double lambda : grid()) {
      const Eigen::ArrayXd shrunk = eigenvalues.array() + lambda;
      const double residual = variance - (rotated.array().square() * (shrunk + lambda) / shrunk.square()).sum();
      const double freedom = 1 + (eigenvalues.array() / shrunk).sum();
      const double left = 1 - freedom / n;
      const double score = std::max(0.0, residual) / (left * left);
      if (score < best_score * (1 - 1e-6)) {
        best = lambda;
        best_score = score;
      }
    }
    return best;
  }

  Eigen::MatrixXd weights_;      // [q, p]
  Eigen::VectorXd intercept_;    // [q]
  std::vector<double> lambdas_;  // [q]
};

// Masked rows ---------------------------------------------------------------------------------------------------------
//
// A row is visible if it is real and not chosen, whatever mask.hide says. A window is its real rows before masking,
// [length, N] in scaled units, with one flag per row: not 0 = chosen.

/// `sequence_mean` and `next_row` see unmasked data, as in the source work: more than the model does. The others see
/// visible rows only.
enum class MaskedBaseline {
  sequence_mean,    // mean of all rows of the sequence, the row itself included
  next_row,         // the next row; the row before for the last one; the training mean in a sequence of one row
  visible_mean,     // mean of the visible rows, else the training mean
  nearest_visible,  // nearest earlier visible row, else nearest later one, else the training mean
  ridge,            // MaskedRidge; the training mean where no row is visible
};
template <>
struct Spelling<MaskedBaseline> {
  static constexpr std::array names{"sequence_mean", "next_row", "visible_mean", "nearest_visible", "ridge"};
};
inline constexpr std::array all_masked_baselines{MaskedBaseline::sequence_mean, MaskedBaseline::next_row,
                                                 MaskedBaseline::visible_mean, MaskedBaseline::nearest_visible,
                                                 MaskedBaseline::ridge};

namespace detail {

/// Mean and population deviation of each feature over the rows for which `takes(row)`; zeros without such a row.
template <class Takes>
std::pair<std::vector<double>, std::vector<double>> mean_and_deviation(View<const float, 2> rows, Takes takes) {
  const int length = rows.extent(0), N = rows.extent(1);
  std::vector<double> mean(static_cast<std::size_t>(N), 0.0), deviation(mean);
  int count = 0;
  for (int row = 0; row < length; ++row) count += takes(row) ? 1 : 0;
  if (count == 0) return {mean, deviation};
  for (int n = 0; n < N; ++n) {
    double sum = 0, squares = 0;
    for (int row = 0; row < length; ++row) sum += takes(row) ? static_cast<double>(rows(row, n)) : 0.0;
    const double centre = sum / count;
    for (int row = 0; row < length; ++row) {
      const double distance = takes(row) ? static_cast<double>(rows(row, n)) - centre : 0.0;
      squares += distance * distance;
    }
    mean[static_cast<std::size_t>(n)] = centre;
    deviation[static_cast<std::size_t>(n)] = std::sqrt(squares / count);
  }
  return {mean, deviation};
}

}  // namespace detail

/// The visible rows of a window, summed up.
struct VisibleRows {
  std::vector<double> mean, deviation;  // [N]
  std::vector<int> earlier, later;      // [length]  nearest visible row before and after each row, or -1
  bool any = false;                     // is there a visible row?
};

/// rows [length, N] before masking, chosen [length].
inline VisibleRows visible_rows(View<const float, 2> rows, std::span<const char> chosen) {
  const int length = rows.extent(0);
  BLINKBERT_EXPECTS(static_cast<int>(chosen.size()) == length, chosen.size(), length);
  const auto is_visible = [&](int row) { return chosen[static_cast<std::size_t>(row)] == 0; };
  VisibleRows visible;
  std::tie(visible.mean, visible.deviation) = detail::mean_and_deviation(rows, is_visible);
  visible.earlier.assign(static_cast<std::size_t>(length), -1);
  visible.later.assign(static_cast<std::size_t>(length), -1);
  int last = -1;
  for (int row = 0; row < length; ++row) {
    visible.earlier[static_cast<std::size_t>(row)] = last;
    if (is_visible(row)) last = row;
  }
  visible.any = last >= 0;
  last = -1;
  for (int row = length - 1; row >= 0; --row) {
    visible.later[static_cast<std::size_t>(row)] = last;
    if (is_visible(row)) last = row;
  }
  return visible;
}

/// Ridge regression of a chosen row's N features on statistics of the visible rows of its window, [5 N + 2]:
///   per feature: mean, population deviation, nearest earlier value, nearest later value, linear interpolation between
///   these two (a missing neighbour is replaced by the other one);
///   1 / distance in rows to the nearest earlier and to the nearest later visible row (0 where there is none).
/// Every target feature sees the statistics of all features and has a lambda of its own.
class MaskedRidge {
 public:
  /// Collects the chosen rows of training windows.
  class Sums {
   public:
    /// N features per row.
    explicit Sums(int features) : features_(features), sums_(5 * features + 2, features) {}

    /// Adds the chosen rows of one window; a window without a visible row teaches nothing and is left out.
    void add(View<const float, 2> rows, std::span<const char> chosen) {
      BLINKBERT_EXPECTS(rows.extent(1) == features_, rows.extent(1), features_);
      const VisibleRows visible = visible_rows(rows, chosen);
      if (!visible.any) return;
      std::vector<double> target(static_cast<std::size_t>(features_));
      for (int row = 0; row < rows.extent(0); ++row) {
        if (chosen[static_cast<std::size_t>(row)] == 0) continue;
        for (int n = 0; n < features_; ++n) target[static_cast<std::size_t>(n)] = static_cast<double>(rows(row, n));
        sums_.add(statistics(rows, visible, row), target);
      }
    }

    /// Chosen rows collected so far.
    double rows() const { return sums_.rows(); }

   private:
    friend class MaskedRidge;

    int features_;
    RidgeSums sums_;
  };

  /// Throws ContractViolation where no row was collected.
  static MaskedRidge fit(const Sums& sums) { return MaskedRidge(Ridge::fit(sums.sums_)); }

  /// Row `row` of a window with at least one visible row: [N].
  std::vector<double> predict(View<const float, 2> rows, const VisibleRows& visible, int row) const {
    BLINKBERT_EXPECTS(visible.any);
    return ridge_.predict(statistics(rows, visible, row));
  }

  /// The chosen strength of each target feature, [N].
  const std::vector<double>& lambdas() const { return ridge_.lambdas(); }

 private:
  explicit MaskedRidge(Ridge ridge) : ridge_(std::move(ridge)) {}

  static std::vector<double> statistics(View<const float, 2> rows, const VisibleRows& visible, int row) {
    const int earlier = visible.earlier[static_cast<std::size_t>(row)];
    const int later = visible.later[static_cast<std::size_t>(row)];
    const int left = earlier >= 0 ? earlier : later, right = later >= 0 ? later : earlier;
    const double step = right > left ? static_cast<double>(row - left) / (right - left) : 0.0;
    std::vector<double> values;
    for (int n = 0; n < rows.extent(1); ++n) {
      const double before = static_cast<double>(rows(left, n)), after = static_cast<double>(rows(right, n));
      values.push_back(visible.mean[static_cast<std::size_t>(n)]);
      values.push_back(visible.deviation[static_cast<std::size_t>(n)]);
      values.push_back(before);
      values.push_back(after);
      values.push_back(before + step * (after - before));
    }
    values.push_back(earlier >= 0 ? 1.0 / (row - earlier) : 0.0);
    values.push_back(later >= 0 ? 1.0 / (later - row) : 0.0);
    return values;
  }

  Ridge ridge_;
};

/// Predictions of one baseline for the M chosen rows of a window, in ascending order: out [M, N], resized.
/// rows [length, N] before masking, in scaled units; chosen [length]; training_mean [N], of the scaled training rows.
/// `ridge` is needed for MaskedBaseline::ridge only.
inline void predict(MaskedBaseline baseline, View<const float, 2> rows, std::span<const char> chosen,
                    std::span<const double> training_mean, const MaskedRidge* ridge, std::vector<double>& out) {
  const int length = rows.extent(0), N = rows.extent(1);
  BLINKBERT_EXPECTS(static_cast<int>(training_mean.size()) == N, training_mean.size(), N);
  BLINKBERT_EXPECTS(baseline != MaskedBaseline::ridge || ridge != nullptr);
  const VisibleRows visible = visible_rows(rows, chosen);
  out.clear();
  const auto append = [&](const auto& values) { out.insert(out.end(), values.begin(), values.end()); };
  const auto append_row = [&](int row) {
    for (int n = 0; n < N; ++n) out.push_back(static_cast<double>(rows(row, n)));
  };

  for (int row = 0; row < length; ++row) {
    if (chosen[static_cast<std::size_t>(row)] == 0) continue;
    const int earlier = visible.earlier[static_cast<std::size_t>(row)];
    const int later = visible.later[static_cast<std::size_t>(row)];
    switch (baseline) {
      case MaskedBaseline::sequence_mean:
        append(detail::mean_and_deviation(rows, [](int) { return true; }).first);
        break;
      case MaskedBaseline::next_row:
        if (length == 1) {
          append(training_mean);
        } else {
          append_row(row + 1 < length ? row + 1 : row - 1);
        }
        break;
      case MaskedBaseline::visible_mean:
        if (visible.any) {
          append(visible.mean);
        } else {
          append(training_mean);
        }
        break;
      case MaskedBaseline::nearest_visible:
        if (visible.any) {
          append_row(earlier >= 0 ? earlier : later);
        } else {
          append(training_mean);
        }
        break;
      case MaskedBaseline::ridge:
        if (visible.any) {
          append(ridge->predict(rows, visible, row));
        } else {
          append(training_mean);
        }
        break;
    }
  }
}

// KSS -----------------------------------------------------------------------------------------------------------------

/// Baselines of a window's KSS.
enum class ScoreBaseline {
  training_mean,  // mean label of the training windows
  ridge,          // Ridge on window_statistics
};
template <>
struct Spelling<ScoreBaseline> {
  static constexpr std::array names{"training_mean", "ridge"};
};

/// Statistics of each feature of a window, [6 N]: mean, population deviation, least-squares slope per row (0 for one
/// row), minimum, maximum, last row. Never the length: the number of blinks can give the label away.
inline std::vector<double> window_statistics(View<const float, 2> rows) {
  const int length = rows.extent(0), N = rows.extent(1);
  BLINKBERT_EXPECTS(length > 0, length);
  const auto [mean, deviation] = detail::mean_and_deviation(rows, [](int) { return true; });
  const double middle = (length - 1) / 2.0;
  std::vector<double> values;
  for (int n = 0; n < N; ++n) {
    double product = 0, squares = 0;
    double low = static_cast<double>(rows(0, n)), high = low;
    for (int row = 0; row < length; ++row) {
      const double value = static_cast<double>(rows(row, n));
      product += (row - middle) * (value - mean[static_cast<std::size_t>(n)]);
      squares += (row - middle) * (row - middle);
      low = std::min(low, value);
      high = std::max(high, value);
    }
    values.push_back(mean[static_cast<std::size_t>(n)]);
    values.push_back(deviation[static_cast<std::size_t>(n)]);
    values.push_back(squares > 0 ? product / squares : 0.0);
    values.push_back(low);
    values.push_back(high);
    values.push_back(static_cast<double>(rows(length - 1, n)));
  }
  return values;
}

}  // namespace blinkbert
