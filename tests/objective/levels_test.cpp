#include <blinkbert/objective/levels.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <catch2/catch.hpp>

using namespace blinkbert;

namespace {

using Numbers = std::vector<double>;

LabelsConfig rldd_labels() { return {.range = {0, 10}, .edges = {3.34, 6.68}, .bands = {3.3, 6.6}}; }

Config config_for(LossKind loss) {
  Config config = Config::defaults(Task::finetuning);
  config.labels = rldd_labels();
  config.train.loss = loss;
  return config;
}

}  // namespace

TEST_CASE("a value is clipped into a level's band and not beyond") {
  const Numbers edges{3.34, 6.68};
  for (const double value : {-3.0, 0.0, 3.34, 5.0, 6.68, 12.0}) {
    for (int level = 0; level < 3; ++level) {
      CAPTURE(value, level);
      const double clipped = into_level(value, level, edges);
      CHECK(level_of(clipped, edges) == level);
      if (level_of(value, edges) == level) CHECK(clipped == value);
      // Nothing of the band lies nearer, but for one step to the open end.
      constexpr double infinity = std::numeric_limits<double>::infinity();
      const double low = level == 0 ? -infinity : edges[static_cast<std::size_t>(level - 1)];
      const double high = level == 2 ? infinity : edges[static_cast<std::size_t>(level)];
      CHECK(std::abs(clipped - std::clamp(value, low, high)) < 1e-14);
    }
  }
}

TEST_CASE("outputs become posteriors and posteriors scores") {
  const ScoreReading softmax{.loss = LossKind::softmax, .level_values = {0, 5, 10}};
  const std::vector<float> z{0, std::log(2.0f), std::log(5.0f)};
  const Numbers shares = softmax.posterior(z);
  REQUIRE(shares.size() == 3);
  CHECK(shares[0] == Approx(0.125));
  CHECK(shares[1] == Approx(0.25));
  CHECK(shares[2] == Approx(0.625));
  CHECK(softmax.score(z, shares) == Approx(0.25 * 5 + 0.625 * 10));
  CHECK(most_likely_level(shares) == 2);
  CHECK(most_likely_level(Numbers{0.4, 0.4, 0.2}) == 0);

  // Up from level 0 with 3/4, from there with 1/3.
  const ScoreReading ordinal{.loss = LossKind::ordinal, .level_values = {1, 6, 9}};
  const std::vector<float> steps{std::log(3.0f), std::log(0.5f)};
  const Numbers ordered = ordinal.posterior(steps);
  REQUIRE(ordered.size() == 3);
  CHECK(ordered[0] == Approx(0.25));
  CHECK(ordered[1] == Approx(0.5));
  CHECK(ordered[2] == Approx(0.25));
  CHECK(ordinal.score(steps, ordered) == Approx(0.25 + 3 + 2.25));

  for (const float large : {100.0f, -100.0f}) {
    const Numbers extreme = softmax.posterior(std::vector<float>{0, large, 0});
    CHECK(std::accumulate(extreme.begin(), extreme.end(), 0.0) == Approx(1));
    const Numbers far = ordinal.posterior(std::vector<float>{large, -large});
    CHECK(std::accumulate(far.begin(), far.end(), 0.0) == Approx(1));
  }

  const ScoreReading plain;
  CHECK(plain.posterior(std::vector<float>{4.5f}).empty());
  CHECK(plain.score(std::vector<float>{4.5f}, {}) == 4.5);
}

TEST_CASE("a level is worth the mean of its training labels, or the middle of its band") {
  CHECK(level_means(Numbers{0, 1, 4, 5, 6, 10}, rldd_labels()) == Numbers{0.5, 5, 10});
  const Numbers means = level_means(Numbers{4, 6}, rldd_labels());
  CHECK(means[0] == Approx(1.67));
  CHECK(means[1] == 5);
  CHECK(means[2] == Approx(8.34));
  CHECK(level_means(Numbers{3.34}, rldd_labels())[1] == 3.34);  // the edge belongs to the level above
}

TEST_CASE("the first prediction is that of the labels alone") {
  const Numbers labels{0, 0, 0, 5, 10}, ones(5, 1.0), weights{1, 1, 1, 3, 3};
  CHECK(starting_outputs(labels, ones, config_for(LossKind::squared)) == Numbers{3});
  CHECK(starting_outputs(labels, weights, config_for(LossKind::huber)) == Numbers{5});
  for (const LossKind loss : {LossKind::softmax, LossKind::ordinal}) {
    const Numbers outputs = starting_outputs(labels, weights, config_for(loss));
    const std::vector<float> z(outputs.begin(), outputs.end());
    const Numbers shares = ScoreReading{.loss = loss, .level_values = {0, 5, 10}}.posterior(z);
    CHECK(shares[0] == Approx(3.5 / 10.5));
    CHECK(shares[1] == Approx(3.5 / 10.5));
    CHECK(shares[2] == Approx(3.5 / 10.5));
  }
}
