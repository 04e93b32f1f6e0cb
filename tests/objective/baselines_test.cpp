#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/core/random.hpp>
#include <blinkbert/objective/baselines.hpp>

#include <tests/objective/rldd_file.hpp>

using namespace blinkbert;

namespace {

// A standard normal number (Box, Muller 1958) that depends on (seed, index, sequence) alone.
double normal(std::uint64_t seed, int index, int sequence = 0) {
  const RandomWords words = RandomStream{.seed = seed, .purpose = Purpose::simulator}.words(
      static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(sequence));
  const double radius = std::sqrt(-2 * std::log((words[0] + 0.5) * 0x1p-32));
  return radius * std::cos(2 * std::numbers::pi * unit_interval(words[1]));
}

View<const float, 2> view(const std::vector<float>& values, int N) {
  return {values.data(), {static_cast<int>(values.size()) / N, N}};
}

View<const double, 2> view(const Eigen::Matrix<double, -1, -1, Eigen::RowMajor>& matrix) {
  return {matrix.data(), {static_cast<int>(matrix.rows()), static_cast<int>(matrix.cols())}};
}

using Matrix = Eigen::Matrix<double, -1, -1, Eigen::RowMajor>;

Matrix normal_matrix(std::uint64_t seed, int rows, int columns) {
  Matrix matrix(rows, columns);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) matrix(i, j) = normal(seed, j, i);
  }
  return matrix;
}

// The same regression from the textbook: standardise, try every lambda with an explicit hat matrix, solve the normal
// equations by LU. Returns predictions at `at`, one column per target.
struct Textbook {
  Eigen::MatrixXd predictions;
  std::vector<double> lambdas;
};

Textbook textbook_ridge(const Matrix& X, const Matrix& Y, const Matrix& at) {
  const double n = static_cast<double>(X.rows());
  const Eigen::RowVectorXd mean_x = X.colwise().mean(), mean_y = Y.colwise().mean();
  Eigen::MatrixXd Z = X.rowwise() - mean_x, Z_at = at.rowwise() - mean_x;
  const Eigen::RowVectorXd deviation = (Z.colwise().squaredNorm() / n).cwiseSqrt();
  for (int column = 0; column < X.cols(); ++column) {
    // A constant column is left at zero and so has no part in anything.
    const double factor = deviation(column) > 1e-9 ? 1 / deviation(column) : 0.0;
    Z.col(column) *= factor;
    Z_at.col(column) *= factor;
  }
  Textbook result{.predictions = Eigen::MatrixXd(at.rows(), Y.cols()), .lambdas = {}};
  for (int target = 0; target < Y.cols(); ++target) {
    const Eigen::VectorXd y = Y.col(target).array() - mean_y(target);
    double best = std::numeric_limits<double>::infinity();
    result.lambdas.push_back(0);
    for (int half_decade = 8; half_decade >= -8; --half_decade) {
      const double lambda = std::pow(10.0, half_decade / 2.0);
      const Eigen::MatrixXd gram = Z.transpose() * Z / n + lambda * Eigen::MatrixXd::Identity(X.cols(), X.cols());
      const Eigen::PartialPivLU<Eigen::MatrixXd> solver(gram);
      const Eigen::MatrixXd hat = Z * solver.solve(Eigen::MatrixXd(Z.transpose())) / n;
      const double left = 1 - (1 + hat.trace()) / n;
      const double score = (y - hat * y).squaredNorm() / n / (left * left);
      if (score < best * (1 - 1e-6)) {
        best = score;
        result.lambdas.back() = lambda;
        result.predictions.col(target) =
            (Z_at * solver.solve(Eigen::VectorXd(Z.transpose() * y)) / n).array() + mean_y(target);
      }
    }
  }
  return result;
}

std::vector<double> row_of(const Matrix& matrix, int row) {
  return {matrix.row(row).data(), matrix.row(row).data() + matrix.cols()};
}

void check_equal(const std::vector<double>& found, const std::vector<double>& expected, double tolerance = 1e-12) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i, found, expected);
    CHECK(std::abs(found[i] - expected[i]) <= tolerance);
  }
}

// Windows of two features that drift slowly, with noise: neighbours tell more than the mean.
std::vector<float> drifting_window(std::uint64_t seed, int length) {
  std::vector<float> values;
  double slow = normal(seed, 0), other = normal(seed, 1);
  for (int row = 0; row < length; ++row) {
    slow = 0.9 * slow + 0.4 * normal(seed, 2, row);
    other = 0.5 * other + 0.3 * slow + 0.5 * normal(seed, 3, row);
    values.push_back(static_cast<float>(slow + 0.1 * normal(seed, 4, row)));
    values.push_back(static_cast<float>(other));
  }
  return values;
}

std::vector<char> chosen_rows(std::uint64_t seed, int length, double rate) {
  std::vector<char> chosen;
  const RandomStream stream{.seed = seed, .purpose = Purpose::chosen_rows};
  for (int row = 0; row < length; ++row) {
    chosen.push_back(unit_interval(stream.word(static_cast<std::uint32_t>(row), 0)) < rate ? 1 : 0);
  }
  return chosen;
}

// The statistics of one chosen row as the documentation of MaskedRidge words them, by searching outwards from the row.
std::vector<double> statistics_by_search(View<const float, 2> rows, const std::vector<char>& chosen, int row) {
  const int length = rows.extent(0);
  int before = row - 1, after = row + 1;
  while (before >= 0 && chosen[static_cast<std::size_t>(before)] != 0) --before;
  while (after < length && chosen[static_cast<std::size_t>(after)] != 0) ++after;
  const bool has_before = before >= 0, has_after = after < length;
  std::vector<double> values;
  for (int n = 0; n < rows.extent(1); ++n) {
    double sum = 0, sum_of_squares = 0, count = 0;
    for (int other = 0; other < length; ++other) {
      if (chosen[static_cast<std::size_t>(other)] != 0) continue;
      const double value = static_cast<double>(rows(other, n));
      sum += value;
      sum_of_squares += value * value;
      count += 1;
    }
    const double mean = sum / count;
    const double earlier = static_cast<double>(rows(has_before ? before : after, n));
    const double later = static_cast<double>(rows(has_after ? after : before, n));
    const double weight_of_later = has_before && has_after ? static_cast<double>(row - before) / (after - before) : 0.5;
    values.push_back(mean);
    values.push_back(std::sqrt(std::max(0.0, sum_of_squares / count - mean * mean)));
    values.push_back(earlier);
    values.push_back(later);
    values.push_back((1 - weight_of_later) * earlier + weight_of_later * later);
  }
  values.push_back(has_before ? 1.0 / (row - before) : 0);
  values.push_back(has_after ? 1.0 / (after - row) : 0);
  return values;
}

}  // namespace

TEST_CASE("ridge equals the normal equations with an explicit hat matrix") {
  struct Case {
    const char* what;
    int n, p;
    double noise, offset;
  };
  const auto [what, n, p, noise, offset] = GENERATE(values<Case>({
      {"many rows", 200, 5, 0.5, 0},
      {"one predictor", 40, 1, 1.0, 0},
      {"hardly any noise", 100, 4, 1e-3, 0},
      {"noise only", 60, 6, 100, 0},
      {"large means", 120, 4, 0.5, 1000},
      {"as many rows as predictors", 12, 12, 0.5, 0},
      {"fewer rows than predictors", 10, 30, 0.5, 0},
      {"two rows: every strength scores alike", 2, 3, 0.5, 0},
  }));
  CAPTURE(what);
  Matrix X = normal_matrix(1, n, p);
  X.array() += offset;
  Matrix Y(n, 2);
  for (int i = 0; i < n; ++i) {
    Y(i, 0) = 3 + X.row(i).sum() - offset * p + noise * normal(2, 0, i);
    Y(i, 1) = -7 + 0.5 * (X(i, 0) - offset) + noise * normal(2, 1, i);
  }
  Matrix at = normal_matrix(3, 7, p);
  at.array() += offset;
  const Textbook expected = textbook_ridge(X, Y, at);
  const Ridge ridge = Ridge::fit(view(X), view(Y));
  // Predictions of order 10 through matrices of condition below 1e4 p, from means with up to four digits in front: the
  // two ways may differ by about 1e6 roundings.
  const double tolerance = 1e6 * 10 * std::numeric_limits<double>::epsilon();
  CHECK(ridge.lambdas().size() == 2);
  for (std::size_t target = 0; target < 2; ++target) CHECK(ridge.lambdas()[target] == Approx(expected.lambdas[target]));
  for (int row = 0; row < at.rows(); ++row) {
    check_equal(ridge.predict(row_of(at, row)), {expected.predictions(row, 0), expected.predictions(row, 1)},
                tolerance);
  }
}

TEST_CASE("ridge chooses its strength by the data") {
  const Matrix X = normal_matrix(4, 300, 3);
  Matrix Y(300, 2);
  for (int i = 0; i < 300; ++i) {
    Y(i, 0) = X(i, 0) + 1e-6 * normal(5, 0, i);  // almost exact
    Y(i, 1) = normal(5, 1, i);                   // nothing to learn
  }
  const Ridge ridge = Ridge::fit(view(X), view(Y));
  CHECK(ridge.lambdas()[0] == Approx(1e-4));
  CHECK(ridge.lambdas()[1] >= 1);
}

TEST_CASE("constant and repeated predictors change nothing") {
  const int n = 80;
  const Matrix X = normal_matrix(6, n, 3);
  Matrix Y(n, 1), wide(n, 6);
  for (int i = 0; i < n; ++i) {
    Y(i, 0) = X(i, 0) - 2 * X(i, 1) + 0.3 * normal(7, 0, i);
    wide.row(i) << X.row(i), 0.1, -1e4, 0.1 + 1e-13 * normal(8, 0, i);  // constant, also up to rounding
  }
  const Ridge narrow = Ridge::fit(view(X), view(Y)), padded = Ridge::fit(view(wide), view(Y));
  CHECK(padded.lambdas() == narrow.lambdas());
  for (int i = 0; i < n; ++i) {
    std::vector<double> row = row_of(wide, i);
    row[3] = row[4] = row[5] = 5;  // a value never seen in training must not matter
    check_equal(padded.predict(row), narrow.predict(row_of(X, i)), 1e-10);
  }

  Matrix twice(n, 6);
  twice << X, X;
  const Ridge repeated = Ridge::fit(view(twice), view(Y));
  const Textbook expected = textbook_ridge(twice, Y, twice);
  for (int i = 0; i < n; ++i) {
    check_equal(repeated.predict(row_of(twice, i)), {expected.predictions(i, 0)}, 1e-10);
  }
}

TEST_CASE("ridge without anything to learn from gives the targets' mean") {
  struct Case {
    const char* what;
    Matrix X, Y;
    std::vector<double> expected;
  };
  const Matrix constant_x = Matrix::Constant(3, 2, 4.0);
  Matrix y(3, 2), one_x(1, 2), one_y(1, 2), varied_x(3, 2), constant_y(3, 2);
  y << 1, 2, 3, 4, 5, 9;
  one_x << 1, 2;
  one_y << 8, 9;
  varied_x << 1, 2, 3, -4, 5, 9;
  constant_y << 6, 7, 6, 7, 6, 7;
  const std::vector<Case> cases{{"constant predictors", constant_x, y, {3, 5}},
                                {"one row", one_x, one_y, {8, 9}},
                                {"constant targets", varied_x, constant_y, {6, 7}}};
  for (const auto& [what, X, Y, expected] : cases) {
    CAPTURE(what);
    check_equal(Ridge::fit(view(X), view(Y)).predict(std::vector<double>{-3, 11}), expected);
  }
  CHECK_THROWS_AS(Ridge::fit(RidgeSums(2, 1)), ContractViolation);
  RidgeSums sums(2, 1);
  CHECK_THROWS_AS(sums.add(std::vector<double>{1}, std::vector<double>{1}), ContractViolation);
}

TEST_CASE("baselines of masked rows by hand") {
  // One feature at rows 0 ... 4 and a second one ten times as large.
  const std::vector<float> five{1, 10, 2, 20, 4, 40, 8, 80, 16, 160}, one{3, 30};
  const std::vector<double> training_mean{-1, -2};
  using enum MaskedBaseline;
  struct Case {
    const char* what;
    MaskedBaseline baseline;
    std::vector<float> rows;
    std::vector<char> chosen;
    std::vector<double> expected;  // of the first feature
  };
  const auto [what, baseline, rows, chosen, expected] = GENERATE_COPY(values<Case>({
      {"mean of all rows, chosen or not", sequence_mean, five, {1, 0, 0, 1, 0}, {6.2, 6.2}},
      {"mean of all rows, all chosen", sequence_mean, five, {1, 1, 1, 1, 1}, {6.2, 6.2, 6.2, 6.2, 6.2}},
      {"mean of one row is the row", sequence_mean, one, {1}, {3}},
      {"next row, chosen or not", next_row, five, {1, 1, 0, 1, 0}, {2, 4, 16}},
      {"the row before for the last one", next_row, five, {0, 0, 0, 0, 1}, {8}},
      {"no neighbour", next_row, one, {1}, {-1}},
      {"mean of the others", visible_mean, five, {1, 0, 0, 1, 0}, {22.0 / 3, 22.0 / 3}},
      {"nothing visible", visible_mean, five, {1, 1, 1, 1, 1}, {-1, -1, -1, -1, -1}},
      {"nothing visible, one row", visible_mean, one, {1}, {-1}},
      {"earlier before later", nearest_visible, five, {0, 1, 0, 1, 1}, {1, 4, 4}},
      {"later where there is no earlier", nearest_visible, five, {1, 1, 0, 0, 1}, {4, 4, 8}},
      {"nothing visible", nearest_visible, five, {1, 1, 1, 1, 1}, {-1, -1, -1, -1, -1}},
      {"nothing chosen", visible_mean, five, {0, 0, 0, 0, 0}, {}},
  }));
  CAPTURE(what, spell(baseline));
  std::vector<double> both;
  for (const double value : expected) {
    both.push_back(value);
    both.push_back(value == -1 ? -2 : 10 * value);
  }
  std::vector<double> found{99};
  predict(baseline, view(rows, 2), chosen, training_mean, nullptr, found);
  check_equal(found, both);
}

TEST_CASE("the names of the baselines") {
  CHECK(spell(MaskedBaseline::sequence_mean) == "sequence_mean");
  CHECK(spell(MaskedBaseline::ridge) == "ridge");
  CHECK(spell(ScoreBaseline::ridge) == "ridge");
  CHECK(all_masked_baselines.size() == Spelling<MaskedBaseline>::names.size());
}

TEST_CASE("calls that do not fit are refused") {
  const std::vector<float> rows{1, 2, 3, 4};
  const std::vector<double> mean{0, 0}, short_mean{0};
  const std::vector<char> chosen{1, 0}, short_chosen{1};
  std::vector<double> out;
  CHECK_THROWS_AS(predict(MaskedBaseline::ridge, view(rows, 2), chosen, mean, nullptr, out), ContractViolation);
  CHECK_THROWS_AS(predict(MaskedBaseline::next_row, view(rows, 2), chosen, short_mean, nullptr, out),
                  ContractViolation);
  CHECK_THROWS_AS(predict(MaskedBaseline::next_row, view(rows, 2), short_chosen, mean, nullptr, out),
                  ContractViolation);
  CHECK_THROWS_AS(MaskedRidge::fit(MaskedRidge::Sums(2)), ContractViolation);
  CHECK_THROWS_AS(MaskedRidge::Sums(3).add(view(rows, 2), chosen), ContractViolation);
}

TEST_CASE("the masked ridge is a ridge on the documented statistics") {
  MaskedRidge::Sums sums(2);
  RidgeSums by_search(12, 2);
  const std::vector<double> training_mean{0.5, -0.5};
  for (std::uint64_t w = 0; w < 60; ++w) {
    const int length = 1 + static_cast<int>(w % 13);
    const std::vector<float> rows = drifting_window(100 + w, length);
    const std::vector<char> chosen = chosen_rows(w, length, 0.4);
    sums.add(view(rows, 2), chosen);
    if (std::count(chosen.begin(), chosen.end(), 0) == 0) continue;
    for (int row = 0; row < length; ++row) {
      if (chosen[static_cast<std::size_t>(row)] == 0) continue;
      const std::size_t place = static_cast<std::size_t>(2 * row);
      by_search.add(statistics_by_search(view(rows, 2), chosen, row),
                    std::vector<double>{rows[place], rows[place + 1]});
    }
  }
  REQUIRE(sums.rows() == by_search.rows());
  REQUIRE(sums.rows() > 100);
  const MaskedRidge masked = MaskedRidge::fit(sums);
  const Ridge ridge = Ridge::fit(by_search);
  CHECK(masked.lambdas() == ridge.lambdas());

  for (std::uint64_t w = 0; w < 20; ++w) {
    const int length = 1 + static_cast<int>(w);
    const std::vector<float> rows = drifting_window(500 + w, length);
    const std::vector<char> chosen = chosen_rows(900 + w, length, w % 5 == 4 ? 1.0 : 0.5);
    std::vector<double> found, expected;
    predict(MaskedBaseline::ridge, view(rows, 2), chosen, training_mean, &masked, found);
    const bool any_visible = std::count(chosen.begin(), chosen.end(), 0) > 0;
    for (int row = 0; row < length; ++row) {
      if (chosen[static_cast<std::size_t>(row)] == 0) continue;
      const std::vector<double> values =
          any_visible ? ridge.predict(statistics_by_search(view(rows, 2), chosen, row)) : training_mean;
      expected.insert(expected.end(), values.begin(), values.end());
    }
    // Statistics are of order one and come out equal to some 1e-15; sqrt(E[x^2] - mean^2) of a single visible row is
    // off by up to 1e-8, and condition numbers stay below 1e4 * 12.
    check_equal(found, expected, 1e-6);
  }
}

TEST_CASE("chosen rows are not seen by the honest baselines") {
  std::vector<float> rows = drifting_window(1, 20);
  const std::vector<char> chosen = chosen_rows(1, 20, 0.3);
  REQUIRE(std::count(chosen.begin(), chosen.end(), 1) > 2);
  MaskedRidge::Sums sums(2);
  for (std::uint64_t w = 0; w < 10; ++w) {
    const std::vector<float> training = drifting_window(w, 20);
    sums.add(view(training, 2), chosen_rows(50 + w, 20, 0.3));
  }
  const MaskedRidge ridge = MaskedRidge::fit(sums);
  std::vector<float> poisoned = rows;
  for (std::size_t row = 0; row < 20; ++row) {
    if (chosen[row] != 0) poisoned[2 * row] = poisoned[2 * row + 1] = 1e30f;
  }
  const std::vector<double> training_mean{0, 0};
  for (const MaskedBaseline baseline : all_masked_baselines) {
    CAPTURE(spell(baseline));
    std::vector<double> clean, other;
    predict(baseline, view(rows, 2), chosen, training_mean, &ridge, clean);
    predict(baseline, view(poisoned, 2), chosen, training_mean, &ridge, other);
    const bool sees_everything = baseline == MaskedBaseline::sequence_mean || baseline == MaskedBaseline::next_row;
    CHECK((clean == other) == !sees_everything);
  }
}

TEST_CASE("the masked ridge learns what neighbours tell") {
  MaskedRidge::Sums sums(2);
  for (std::uint64_t w = 0; w < 300; ++w) {
    const std::vector<float> rows = drifting_window(1000 + w, 30);
    sums.add(view(rows, 2), chosen_rows(w, 30, 0.15));
  }
  const MaskedRidge ridge = MaskedRidge::fit(sums);
  const std::vector<double> training_mean{0, 0};
  std::vector<double> errors;
  for (const MaskedBaseline baseline :
       {MaskedBaseline::ridge, MaskedBaseline::nearest_visible, MaskedBaseline::visible_mean}) {
    double squared = 0;
    for (std::uint64_t w = 0; w < 200; ++w) {
      const std::vector<float> rows = drifting_window(5000 + w, 30);
      const std::vector<char> chosen = chosen_rows(7000 + w, 30, 0.15);
      std::vector<double> found;
      predict(baseline, view(rows, 2), chosen, training_mean, &ridge, found);
      std::size_t place = 0;
      for (std::size_t row = 0; row < 30; ++row) {
        if (chosen[row] == 0) continue;
        const double error = found[place] - static_cast<double>(rows[2 * row]);
        squared += error * error;
        place += 2;
      }
      REQUIRE(place == found.size());
    }
    errors.push_back(squared);
  }
  CHECK(errors[0] < errors[1]);
  CHECK(errors[0] < errors[2]);
}

TEST_CASE("statistics of a window by hand") {
  struct Case {
    const char* what;
    std::vector<float> rows;
    int N;
    std::vector<double> expected;  // per feature: mean, deviation, slope, minimum, maximum, last row
  };
  const auto [what, rows, N, expected] = GENERATE(values<Case>({
      {"one row", {5, -2}, 2, {5, 0, 0, 5, 5, 5, -2, 0, 0, -2, -2, -2}},
      {"a line", {1, 3, 5, 7}, 1, {4, std::sqrt(5.0), 2, 1, 7, 7}},
      {"up and down", {0, 3, 0}, 1, {1, std::sqrt(2.0), 0, 0, 3, 0}},
      {"two features", {0, 4, 2, -4}, 2, {1, 1, 2, 0, 2, 2, 0, 4, -8, -4, 4, -4}},
  }));
  CAPTURE(what);
  check_equal(window_statistics(view(rows, N)), expected);
}

TEST_CASE("statistics of a window do not tell its length") {
  // The same rows once and three times over; the slope is 0 in both.
  const std::vector<float> once{1, 2, 2, 1};
  std::vector<float> thrice;
  for (int repeat = 0; repeat < 3; ++repeat) thrice.insert(thrice.end(), once.begin(), once.end());
  check_equal(window_statistics(view(thrice, 1)), window_statistics(view(once, 1)));
}

TEST_CASE("variance left by simple predictors on the real recordings") {
  const std::vector<rldd::Recording> recordings = rldd::recordings();
  if (recordings.empty()) {
    WARN("skipped: ../shared/data/rldd_blinks.csv is not there");
    return;
  }
  std::vector<View<const float, 2>> windows;
  for (const rldd::Recording& recording : recordings) {
    const View<const float, 2> rows = view(recording.values, 4);
    for (int start = 0; start + 30 <= recording.rows(); start += 30) windows.push_back(rows.rows(start, 30));
  }
  REQUIRE(windows.size() == 649);

  // Variances over all rows of the file, the ones in no window included.
  std::vector<double> mean(4, 0.0), variance(4, 0.0);
  for (std::size_t n = 0; n < 4; ++n) {
    double count = 0, sum = 0, squares = 0;
    for (const rldd::Recording& recording : recordings) {
      for (std::size_t i = n; i < recording.values.size(); i += 4) {
        const double value = static_cast<double>(recording.values[i]);
        count += 1;
        sum += value;
        squares += value * value;
      }
    }
    REQUIRE(count == 21983);
    mean[n] = sum / count;
    variance[n] = squares / count - mean[n] * mean[n];
  }

  // Each row is chosen alone, in turn; for the next row those that have one in their window.
  struct Case {
    MaskedBaseline baseline;
    int rows;
    std::vector<double> shares;  // frequency, amplitude, duration, velocity
  };
  const std::vector<Case> cases{{MaskedBaseline::sequence_mean, 30, {.082, .474, .922, .566}},
                                {MaskedBaseline::visible_mean, 30, {.088, .507, .986, .606}},
                                {MaskedBaseline::next_row, 29, {.020, .765, 1.841, 1.026}}};
  for (const auto& [baseline, rows_per_window, shares] : cases) {
    std::vector<double> squared(4, 0.0), found;
    for (const auto& rows : windows) {
      for (int row = 0; row < rows_per_window; ++row) {
        std::vector<char> chosen(30, 0);
        chosen[static_cast<std::size_t>(row)] = 1;
        predict(baseline, rows, chosen, mean, nullptr, found);
        for (std::size_t n = 0; n < 4; ++n) {
          const double error = found[n] - static_cast<double>(rows(row, static_cast<int>(n)));
          squared[n] += error * error / (649.0 * rows_per_window);
        }
      }
    }
    for (std::size_t n = 0; n < 4; ++n) {
      CAPTURE(spell(baseline), n);
      CHECK(squared[n] / variance[n] == Approx(shares[n]).margin(0.0005).epsilon(0));
    }
  }
}
