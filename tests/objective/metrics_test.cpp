#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/objective/metrics.hpp>

#include <tests/objective/rldd_file.hpp>

using namespace blinkbert;

namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

// Sums of at most a few thousand numbers of order 10: 1e-12 is some thousand roundings of the largest of them.
constexpr double rounding = 1e-12;

LabelsConfig rldd_labels() { return {.range = {0, 10}, .edges = {3.34, 6.68}, .bands = {3.3, 6.6}}; }

LabelsConfig kss_labels() { return {.range = {1, 9}, .edges = {5.5, 7.5, 8.5}, .bands = {5.5, 7.5, 8.5}}; }

// A standard normal number (Box, Muller 1958) that depends on (seed, index, sequence) alone.
double normal(std::uint64_t seed, std::uint32_t index, std::uint32_t sequence) {
  const RandomWords words = RandomStream{.seed = seed, .purpose = Purpose::simulator}.words(index, sequence);
  const double radius = std::sqrt(-2 * std::log((words[0] + 0.5) * 0x1p-32));
  return radius * std::cos(2 * std::numbers::pi * unit_interval(words[1]));
}

// 12 drivers with 3 recordings each and a different number of windows per driver.
std::vector<ScoredWindow> made_up_windows(std::uint64_t seed, int drivers = 12) {
  std::vector<ScoredWindow> windows;
  for (int driver = 0; driver < drivers; ++driver) {
    for (int level = 0; level < 3; ++level) {
      for (int w = 0; w < 2 + driver % 5; ++w) {
        const double truth = 5.0 * level;
        const double error =
            3 * normal(seed, static_cast<std::uint32_t>(w + 16 * level), static_cast<std::uint32_t>(driver));
        windows.push_back(
            {.driver = driver, .recording = 3 * driver + level, .truth = truth, .prediction = truth + error});
      }
    }
  }
  return windows;
}

void check_equal(double found, double expected) {
  if (std::isnan(expected)) {
    CHECK(std::isnan(found));
  } else {
    CHECK(found == Approx(expected).epsilon(rounding).margin(rounding));
  }
}

}  // namespace

TEST_CASE("a level is the number of edges at or below the value") {
  const auto [edges, value, level] = GENERATE(table<std::vector<double>, double, int>({
      {{3.34, 6.68}, 0.0, 0},
      {{3.34, 6.68}, 3.3399, 0},
      {{3.34, 6.68}, 3.34, 1},
      {{3.34, 6.68}, 6.6799, 1},
      {{3.34, 6.68}, 6.68, 2},
      {{3.34, 6.68}, 10.0, 2},
      {{5.5, 7.5, 8.5}, 5.0, 0},
      {{5.5, 7.5, 8.5}, 6.0, 1},
      {{5.5, 7.5, 8.5}, 7.0, 1},
      {{5.5, 7.5, 8.5}, 8.0, 2},
      {{5.5, 7.5, 8.5}, 9.0, 3},
      {{2.0}, 2.0, 1},
  }));
  CAPTURE(edges, value);
  CHECK(level_of(value, edges) == level);
}

TEST_CASE("the band error is the squared distance to the nearest edge of the true level's band") {
  struct Case {
    LabelsConfig labels;
    double prediction;
    int true_level;
    double expected;
  };
  const auto [labels, prediction, true_level, expected] = GENERATE(values<Case>({
      {rldd_labels(), 2.0, 0, 0.0},
      {rldd_labels(), 3.32, 0, 0.0},    // above the band's edge, below the level's: the level is right
      {rldd_labels(), 5.0, 0, 2.89},    // 1.7^2
      {rldd_labels(), 10.0, 0, 44.89},  // 6.7^2
      {rldd_labels(), 3.0, 1, 0.09},    // nearest edge 3.3
      {rldd_labels(), 8.0, 1, 1.96},    // nearest edge 6.6
      {rldd_labels(), 5.0, 1, 0.0},
      {rldd_labels(), 5.0, 2, 2.56},     // 1.6^2
      {rldd_labels(), 6.65, 2, 0.0025},  // inside the band, but the level is wrong
      {kss_labels(), 9.0, 1, 2.25},      // four levels: 6-7 reaches from 5.5 to 7.5
      {kss_labels(), 1.0, 1, 20.25},
      {kss_labels(), 5.0, 2, 6.25},  // 8 reaches from 7.5 to 8.5
      {kss_labels(), 9.0, 2, 0.25},
      {kss_labels(), 1.0, 3, 56.25},
      {kss_labels(), 9.0, 0, 12.25},
  }));
  CAPTURE(prediction, true_level);
  check_equal(band_error(prediction, true_level, labels), expected);
}

TEST_CASE("a posterior counts as its most likely level, the score clipped into that level's band") {
  const std::vector<ScoredWindow> windows{
      // Level 0 by the posterior, the expected value 4 is not in it: right, and no error.
      {.driver = 0, .recording = 0, .truth = 0, .prediction = 4, .posterior = {0.5, 0.2, 0.3}},
      // Level 2 by the posterior, clipped to 6.68: wrong, 3.38 from the edge of level 0's band.
      {.driver = 0, .recording = 0, .truth = 0, .prediction = 5, .posterior = {0.4, 0.15, 0.45}},
      // Level 2, 9 as it is: wrong.
      {.driver = 0, .recording = 0, .truth = 0, .prediction = 9, .posterior = {0.05, 0.05, 0.9}},
      {.driver = 1, .recording = 1, .truth = 5, .prediction = 5, .posterior = {0, 1, 0}},
  };
  const ScoreMetrics metrics = score_metrics(score_sums(windows, rldd_labels()));
  check_equal(metrics.mae, (4 + 5 + 9 + 0) / 4.0);  // of the expected values
  check_equal(metrics.bsa, 0.5);
  CHECK(metrics.confusion == std::vector<std::vector<double>>{{1, 0, 2}, {0, 1, 0}, {0, 0, 0}});
  check_equal(metrics.bsre, (3.38 * 3.38 + 5.7 * 5.7) / 4);
  // Votes: level 2. The mean posterior of recording 0 is (.317, .133, .55), the mean prediction 6, clipped to 6.68.
  check_equal(metrics.va, 0.5);
  check_equal(metrics.va_mean, 0.5);
  check_equal(metrics.vre_mean, 3.38 * 3.38 / 2);

  const std::vector<ScoredRecording> means = recording_means(windows);
  REQUIRE(means.size() == 2);
  CHECK((means[0].recording == 0 && means[0].windows == 3));
  check_equal(means[0].prediction, 6);
  check_equal(means[0].posterior[2], 0.55);

  // The mean of the posteriors decides, not the votes.
  std::vector<ScoredWindow> sure = windows;
  sure[0].posterior = {1, 0, 0};
  sure[1].posterior = {0.49, 0, 0.51};
  sure[2].posterior = {0.45, 0, 0.55};
  const ScoreMetrics other = score_metrics(score_sums(sure, rldd_labels()));
  check_equal(other.va, 0.5);
  check_equal(other.va_mean, 1);
}

TEST_CASE("several models are averaged window by window") {
  const std::vector<std::vector<ScoredWindow>> members{
      {{.driver = 0, .recording = 3, .truth = 5, .prediction = 2, .posterior = {0.75, 0.25}}},
      {{.driver = 0, .recording = 3, .truth = 5, .prediction = 8, .posterior = {0.25, 0.75}}},
      {{.driver = 0, .recording = 3, .truth = 5, .prediction = 5, .posterior = {0.5, 0.5}}}};
  const std::vector<ScoredWindow> mean = mean_of_members(members);
  REQUIRE(mean.size() == 1);
  check_equal(mean[0].prediction, 5);
  check_equal(mean[0].truth, 5);
  check_equal(mean[0].posterior[0], 0.5);
  const std::vector<std::vector<ScoredWindow>> other_windows{members[0], {}};
  CHECK_THROWS_AS(mean_of_members(other_windows), ContractViolation);
}

TEST_CASE("all scores of a case computed by hand") {
  const std::vector<ScoredWindow> windows{
      // levels 0 1 1: the majority is wrong; the mean 2.4467 is of the right level
      {0, 0, 0, -1},
      {0, 0, 0, 4},
      {0, 0, 0, 3.34},
      // levels 0 1, a tie: the mean 3.5 is of the right level
      {0, 1, 5, 2},
      {0, 1, 5, 5},
      // levels 2 1 1 2, a tie: the mean of the clamped values, 7.975, is of the right level
      {1, 2, 10, 12},
      {1, 2, 10, 6},
      {1, 2, 10, 6},
      {1, 2, 10, 9.9},
      // wrong altogether
      {1, 3, 10, 1},
  };
  const ScoreMetrics metrics = score_metrics(score_sums(windows, rldd_labels()));
  check_equal(metrics.windows, 10);
  check_equal(metrics.recordings, 4);
  check_equal(metrics.mae, (0 + 4 + 3.34 + 3 + 0 + 0 + 4 + 4 + 0.1 + 9) / 10);
  check_equal(metrics.rmse, std::sqrt((16 + 11.1556 + 9 + 16 + 16 + 0.01 + 81) / 10));
  CHECK(metrics.confusion == std::vector<std::vector<double>>{{1, 2, 0}, {1, 1, 0}, {1, 2, 2}});
  check_equal(metrics.accuracy, 0.4);
  check_equal(metrics.bsa, 0.4);
  check_equal(metrics.kpi, (1.0 / 3 + 1.0 / 2 + 2.0 / 5) / 3);
  check_equal(metrics.va, 0.5);
  check_equal(metrics.bsre, (0.49 + 0.0016 + 1.69 + 0.36 + 0.36 + 31.36) / 10);
  check_equal(metrics.vre, 31.36 / 4);
  check_equal(metrics.va_mean, 0.75);
  check_equal(metrics.vre_mean, 31.36 / 4);

  // Kappa from pairs of windows instead of tables: 1 - n sum_k (t_k - p_k)^2 / sum_kl (t_k - p_l)^2.
  const std::vector<double> truth{0, 0, 0, 5, 5, 10, 10, 10, 10, 10}, rounded{0, 4, 3, 2, 5, 10, 6, 6, 10, 1};
  double observed = 0, expected = 0;
  for (std::size_t k = 0; k < truth.size(); ++k) {
    observed += (truth[k] - rounded[k]) * (truth[k] - rounded[k]);
    for (const double other : rounded) expected += (truth[k] - other) * (truth[k] - other);
  }
  check_equal(metrics.qwk, 1 - static_cast<double>(truth.size()) * observed / expected);

  const auto by_driver = sums_by_driver(windows, rldd_labels());
  REQUIRE(by_driver.size() == 2);
  check_equal(score_metrics(by_driver.at(0)).accuracy, 0.4);
  check_equal(score_metrics(by_driver.at(0)).kpi, (1.0 / 3 + 1.0 / 2) / 2);  // level 2 is absent
  check_equal(score_metrics(by_driver.at(0)).va, 0.5);
  check_equal(score_metrics(by_driver.at(1)).kpi, 0.4);
  check_equal(score_metrics(by_driver.at(1)).vre, 31.36 / 2);
}

TEST_CASE("a recording's level") {
  struct Case {
    const char* what;
    std::vector<double> truth, prediction;
    double right, band;  // VA and VRE of this one recording
  };
  const auto [what, truth, prediction, right, band] = GENERATE(values<Case>({
      {"majority", {5, 5, 5}, {5, 5, 10}, 1, 0},
      {"majority against the mean", {0, 0, 0}, {3, 3, 10}, 1, (16.0 / 3 - 3.3) * (16.0 / 3 - 3.3)},
      {"tie, the mean in one of the two levels", {10, 10}, {10, 4}, 1, 0},
      {"tie, the mean in a level without votes", {5, 5}, {0, 10}, 1, 0},
      {"tie of all three", {0, 0, 0}, {0, 5, 10}, 0, 1.7 * 1.7},
      {"tie, the mean on the edge", {5, 5}, {2.68, 4}, 1, 0},
      {"tie, the mean of clamped values", {10, 10}, {30, 1}, 0, 1.1 * 1.1},
      {"truth that changes: majority", {0, 5, 5}, {5, 5, 5}, 1, 0},
      {"truth that changes: tie", {0, 10}, {5, 5}, 1, 0},
  }));
  CAPTURE(what);
  std::vector<ScoredWindow> windows;
  for (std::size_t w = 0; w < truth.size(); ++w) windows.push_back({7, 3, truth[w], prediction[w]});
  const ScoreMetrics metrics = score_metrics(score_sums(windows, rldd_labels()));
  check_equal(metrics.va, right);
  check_equal(metrics.vre, band);
}

TEST_CASE("recordings are told apart by driver and number, in any order of windows") {
  const std::vector<ScoredWindow> windows{{0, 0, 0, 0},  {1, 0, 10, 0},  {0, 1, 5, 5},
                                          {0, 0, 0, 10}, {1, 0, 10, 10}, {0, 0, 0, 0}};
  const ScoreMetrics metrics = score_metrics(score_sums(windows, rldd_labels()));
  check_equal(metrics.recordings, 3);
  check_equal(metrics.va, 2.0 / 3);  // driver 1: tie, the mean 5 is of the wrong level
}

TEST_CASE("quadratic weighted kappa of textbook tables") {
  using Table = std::vector<std::vector<double>>;
  struct Case {
    Table counts;
    double expected;
  };
  const auto [counts, expected] = GENERATE(values<Case>({
      {{{3, 0}, {0, 2}}, 1.0},
      {{{0, 2}, {2, 0}}, -1.0},
      {{{2, 1}, {1, 2}}, 1.0 / 3},  // two classes: Cohen's kappa, (4/6 - 1/2) / (1 - 1/2)
      {{{4, 0, 0}, {0, 4, 0}, {0, 0, 4}}, 1.0},
      {{{0, 3, 0}, {0, 4, 0}, {0, 5, 0}}, 0.0},   // a constant answer agrees by chance only
      {{{1, 1, 0}, {0, 1, 1}, {0, 0, 2}}, 0.75},  // r = 2 2 2, c = 1 2 3: 1 - 6 (1 + 1) / (2 (14 + 4 + 6))
      {{{0, 0}, {0, 7}}, undefined},
      {Table{}, undefined},
  }));
  CAPTURE(counts);
  check_equal(quadratic_weighted_kappa(counts), expected);
}

TEST_CASE("kappa rounds to KSS") {
  // 1.5 rounds to 2 and 8.4 to 8; 8.6 and 20 (clamped) to 9.
  const std::vector<ScoredWindow> windows{{0, 0, 2, 1.5}, {0, 0, 8, 8.4}, {0, 0, 9, 8.6}, {0, 0, 9, 20}};
  check_equal(score_metrics(score_sums(windows, kss_labels())).qwk, 1);
}

TEST_CASE("sums of parts are sums of the whole, and empty sums are neutral") {
  const std::vector<ScoredWindow> windows = made_up_windows(1);
  const ScoreMetrics whole = score_metrics(score_sums(windows, rldd_labels()));
  ScoreSums total;
  for (const auto& [driver, sums] : sums_by_driver(windows, rldd_labels())) total += sums;
  total += ScoreSums{};
  const ScoreMetrics parts = score_metrics(total);
  for (const NamedScore& score : named_scores) {
    CAPTURE(score.name);
    check_equal(parts.*score.value, whole.*score.value);
  }
  CHECK(parts.confusion == whole.confusion);
  CHECK(parts.windows == whole.windows);
  CHECK(parts.recordings == whole.recordings);
}

TEST_CASE("without windows every score is undefined") {
  for (const double value : score_values(ScoreSums{})) CHECK(std::isnan(value));
  for (const double value : score_values(score_sums({}, kss_labels()))) CHECK(std::isnan(value));
}

TEST_CASE("labels outside the range and predictions that are not finite are errors") {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto sums_of = [](double truth, double prediction) {
    const std::vector<ScoredWindow> windows{{0, 4, truth, prediction}};
    return score_sums(windows, kss_labels());
  };
  CHECK_THROWS_AS(sums_of(0, 5), InputError);
  CHECK_THROWS_AS(sums_of(9.5, 5), InputError);
  CHECK_THROWS_AS(sums_of(undefined, 5), InputError);
  CHECK_THROWS_AS(sums_of(5, undefined), Diverged);
  CHECK_THROWS_AS(sums_of(5, infinity), Diverged);
  CHECK_THROWS_WITH(sums_of(0, 5), Catch::Contains("recording 4") && Catch::Contains("[1, 9]"));
  LabelsConfig without_bands = kss_labels();
  without_bands.bands.clear();
  CHECK_THROWS_AS(score_sums({}, without_bands), ContractViolation);
}

TEST_CASE("sums averaged over seeds") {
  const std::vector<ScoredWindow> first{{0, 0, 0, 1}, {0, 0, 0, 6}}, second{{0, 0, 0, 2}, {0, 0, 0, 3}};
  const std::vector<std::map<int, ScoreSums>> seeds{sums_by_driver(first, rldd_labels()),
                                                    sums_by_driver(second, rldd_labels())};
  const auto mean = mean_over_seeds(seeds);
  const ScoreMetrics metrics = score_metrics(mean.at(0));
  check_equal(metrics.windows, 2);
  check_equal(metrics.mae, (3.5 + 2.5) / 2);
  check_equal(metrics.accuracy, 0.75);
  check_equal(metrics.bsre, (2.7 * 2.7 / 2 + 0) / 2);
  check_equal(metrics.va, 0.5);  // seed 1: a tie, the mean 3.5 is of level 1

  const std::vector<ScoredWindow> other{{5, 0, 0, 1}};
  const std::vector<std::map<int, ScoreSums>> unlike{seeds[0], sums_by_driver(other, rldd_labels())};
  CHECK_THROWS_AS(mean_over_seeds(unlike), ContractViolation);
}

TEST_CASE("masked errors per feature") {
  MaskedSums sums(2);
  sums.add(std::vector<float>{1, 0}, std::vector<float>{3, 5}, std::vector<double>{3, 9});
  MaskedSums more;
  MaskedSums row(2);
  row.add(std::vector<double>{-1, 2}, std::vector<float>{0, 2}, std::vector<double>{-4, 2});
  more += row;
  sums += more;
  sums += MaskedSums{};
  const MaskedMetrics metrics = masked_metrics(sums);
  CHECK(metrics.rows == 2);
  CHECK(metrics.squared == std::vector<double>{(4.0 + 1) / 2, 25.0 / 2});
  CHECK(metrics.absolute == std::vector<double>{(2.0 + 1) / 2, 5.0 / 2});
  CHECK(metrics.squared_unbounded == std::vector<double>{(4.0 + 9) / 2, 81.0 / 2});
  CHECK(std::isnan(masked_metrics(MaskedSums(1)).squared[0]));

  const std::vector<double> scale{2, 1}, variance{20, 0};
  const std::vector<double> shares = variance_shares(metrics.squared, scale, variance);
  check_equal(shares[0], 2.5 * 4 / 20);
  CHECK(std::isnan(shares[1]));

  CHECK_THROWS_AS(sums += MaskedSums(3), ContractViolation);
  CHECK_THROWS_AS(sums.add(std::vector<float>{1}, std::vector<float>{3, 5}, std::vector<double>{3, 9}),
                  ContractViolation);
}

TEST_CASE("percentiles between order statistics") {
  const std::vector<double> sorted{1, 2, 3, 4, 5};
  const auto [share, expected] =
      GENERATE(table<double, double>({{0.0, 1.0}, {0.025, 1.1}, {0.5, 3.0}, {0.6, 3.4}, {0.975, 4.9}, {1.0, 5.0}}));
  check_equal(percentile(sorted, share), expected);
  check_equal(percentile(std::vector<double>{7}, share), 7);
}

TEST_CASE("the drivers of a resample") {
  const int drivers = 10;
  const RandomStream stream{.seed = 3, .purpose = Purpose::bootstrap};
  std::vector<double> drawn(drivers, 0.0);
  for (int resample = 0; resample < bootstrap_resamples; ++resample) {
    const std::vector<int> places = drawn_drivers(drivers, 3, resample);
    REQUIRE(places.size() == drivers);
    for (int draw = 0; draw < drivers; ++draw) {
      const double u =
          unit_interval(stream.word(static_cast<std::uint32_t>(draw), static_cast<std::uint32_t>(resample)));
      REQUIRE(places[static_cast<std::size_t>(draw)] == static_cast<int>(u * drivers));
      drawn[static_cast<std::size_t>(places[static_cast<std::size_t>(draw)])] += 1;
    }
  }
  // 20000 draws, 2000 expected each: chi-square with 9 degrees of freedom is below 33.7 in all but 1e-4 of cases.
  double chi_square = 0;
  for (const double count : drawn) chi_square += (count - 2000) * (count - 2000) / 2000;
  CHECK(chi_square < 33.7);
}

TEST_CASE("intervals are percentiles of metrics of added-up sums") {
  const auto by_driver = sums_by_driver(made_up_windows(2), rldd_labels());
  const std::vector<Interval> intervals = score_intervals(by_driver, 11);
  REQUIRE(intervals.size() == named_scores.size());
  std::vector<std::vector<double>> values(named_scores.size());
  for (int resample = 0; resample < bootstrap_resamples; ++resample) {
    ScoreSums total;
    for (const int driver : drawn_drivers(12, 11, resample)) total += by_driver.at(driver);
    const std::vector<double> scores = score_values(total);
    for (std::size_t i = 0; i < scores.size(); ++i) values[i].push_back(scores[i]);
  }
  const ScoreMetrics whole = score_metrics(score_sums(made_up_windows(2), rldd_labels()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(named_scores[i].name);
    std::sort(values[i].begin(), values[i].end());
    // 2000 values: positions 49.975 and 1949.025.
    check_equal(intervals[i].low, 0.025 * values[i][49] + 0.975 * values[i][50]);
    check_equal(intervals[i].high, 0.975 * values[i][1949] + 0.025 * values[i][1950]);
    CHECK(intervals[i].low <= whole.*named_scores[i].value);
    CHECK(intervals[i].high >= whole.*named_scores[i].value);
  }

  const std::vector<Interval> again = score_intervals(by_driver, 11), other = score_intervals(by_driver, 12);
  for (std::size_t i = 0; i < intervals.size(); ++i) {
    CHECK(intervals[i].low == again[i].low);
    CHECK(intervals[i].high == again[i].high);
  }
  CHECK(intervals[0].low != other[0].low);
}

TEST_CASE("no interval below eight drivers") {
  const auto [drivers, is_there] = GENERATE(table<int, bool>({{0, false}, {1, false}, {7, false}, {8, true}}));
  CAPTURE(drivers);
  const auto by_driver = sums_by_driver(made_up_windows(3, drivers), rldd_labels());
  for (const auto& intervals : {score_intervals(by_driver, 1), score_difference_intervals(by_driver, by_driver, 1)}) {
    REQUIRE(intervals.size() == named_scores.size());
    for (const Interval& interval : intervals) {
      CHECK(std::isfinite(interval.low) == is_there);
      CHECK(std::isfinite(interval.high) == is_there);
    }
  }
}

TEST_CASE("arms are compared on the same drawn drivers") {
  std::vector<ScoredWindow> first = made_up_windows(4), second = first;
  for (std::size_t w = 0; w < first.size(); ++w) {
    first[w].truth = second[w].truth = 5;
    first[w].prediction = 5 + 0.5 * static_cast<double>(first[w].driver % 4);  // drivers differ much, the arms by .25
    second[w].prediction = first[w].prediction + 0.25;
  }
  const auto one = sums_by_driver(first, rldd_labels()), other = sums_by_driver(second, rldd_labels());
  const Interval difference = score_difference_intervals(one, other, 5)[0];
  check_equal(difference.low, 0.25);
  check_equal(difference.high, 0.25);
  const Interval own = score_intervals(one, 5)[0];
  CHECK(own.high - own.low > 0.3);
  const Interval none = score_difference_intervals(one, one, 5)[0];
  CHECK(none.low == 0);
  CHECK(none.high == 0);

  std::map<int, ScoreSums> fewer = other;
  fewer.erase(fewer.begin());
  CHECK_THROWS_AS(score_difference_intervals(one, fewer, 5), ContractViolation);
}

TEST_CASE("intervals of any sums, undefined resamples left out") {
  std::map<int, MaskedSums> by_driver;
  for (int driver = 0; driver < 9; ++driver) {
    by_driver[driver] = MaskedSums(1);
    if (driver == 0) continue;  // a driver without chosen rows
    by_driver[driver].add(std::vector<double>{0}, std::vector<double>{2}, std::vector<double>{3});
  }
  const auto intervals = driver_intervals(by_driver, 1, [](const MaskedSums& sums) {
    const MaskedMetrics metrics = masked_metrics(sums);
    // Without the driver that has no rows, in 35 % of resamples, there are 9 rows.
    const double rows = metrics.rows < 9 ? metrics.rows : undefined;
    return std::vector<double>{metrics.squared[0], metrics.squared_unbounded[0], rows, undefined};
  });
  REQUIRE(intervals.size() == 4);
  CHECK(intervals[0].low == 4);
  CHECK(intervals[0].high == 4);
  CHECK(intervals[1].low == 9);
  CHECK(intervals[2].high == 8);
  CHECK(std::isnan(intervals[3].low));
}

TEST_CASE("coverage of the bootstrap interval of a mean") {
  // 20 normal drivers: the interval is about mean +- 1.96 sqrt(19/20) s / sqrt(20), so it covers when |t_19| < 1.910,
  // in 92.9 % of data sets. Over 1000 data sets the share has a deviation of .0081; 4 of them are allowed. Percentiles
  // 5 and 95 (87.5 %) or 1 and 99 (96.5 %) would fail.
  struct Mean {
    double sum = 0, count = 0;
    Mean& operator+=(const Mean& other) {
      sum += other.sum;
      count += other.count;
      return *this;
    }
  };
  int covered = 0;
  for (std::uint32_t data_set = 0; data_set < 1000; ++data_set) {
    std::map<int, Mean> by_driver;
    for (std::uint32_t driver = 0; driver < 20; ++driver) {
      by_driver[static_cast<int>(driver)] = {.sum = 6 + normal(1, driver, data_set), .count = 1};
    }
    const Interval interval =
        driver_intervals(by_driver, data_set, [](const Mean& m) { return std::vector<double>{m.sum / m.count}; })[0];
    covered += interval.low <= 6 && 6 <= interval.high ? 1 : 0;
  }
  CHECK(covered / 1000.0 == Approx(0.929).margin(4 * 0.0081));
}

TEST_CASE("always answering 5 on the real recordings") {
  const std::vector<rldd::Recording> recordings = rldd::recordings();
  if (recordings.empty()) {
    WARN("skipped: ../shared/data/rldd_blinks.csv is not there");
    return;
  }
  std::vector<ScoredWindow> windows;
  for (const rldd::Recording& recording : recordings) {
    const int last_start = std::max(0, recording.rows() - 30);  // a shorter recording gives one short window
    for (int start = 0; start <= last_start; start += 2) {
      windows.push_back({recording.driver, recording.number, recording.label, 5});
    }
  }
  REQUIRE(windows.size() == 8661);
  const ScoreMetrics metrics = score_metrics(score_sums(windows, rldd_labels()));
  CHECK(metrics.recordings == 174);
  CHECK(metrics.bsre == Approx(1.59).margin(0.005));
  CHECK(metrics.vre == Approx(1.82).margin(0.005));
  CHECK(metrics.bsa == Approx(0.40).margin(0.005));
  CHECK(metrics.va == Approx(1.0 / 3));
  CHECK(metrics.kpi == Approx(1.0 / 3));
  CHECK(metrics.qwk == 0);
}
