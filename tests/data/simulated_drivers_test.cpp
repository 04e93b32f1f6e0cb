#include <blinkbert/data/simulated_drivers.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/data/frame.hpp>
#include <blinkbert/data/splits.hpp>
#include <blinkbert/data/windows.hpp>

#include <tests/data/temporary_file.hpp>

using namespace blinkbert;
using tests::TemporaryFile;

namespace {

enum Feature : std::size_t {
  duration_ms,
  closing_ms,
  closed_ms,
  opening_ms,
  amplitude,
  closing_velocity,
  opening_velocity,
  ratio,
  interval_s
};

double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  double sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sx += x[i], sy += y[i], sxx += x[i] * x[i], syy += y[i] * y[i], sxy += x[i] * y[i];
  }
  return (sxy - sx * sy / n) / std::sqrt((sxx - sx * sx / n) * (syy - sy * sy / n));
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace

TEST_CASE("the seed decides everything, and nothing else does") {
  SimulationConfig config;
  config.drivers = 3;
  const std::string first = simulated_csv(simulate(config));
  CHECK(simulated_csv(simulate(config)) == first);
  config.seed = 2;
  CHECK(simulated_csv(simulate(config)) != first);
  // A driver's blinks do not depend on how many others there are.
  config.seed = 1;
  const auto three = simulate(config);
  config.drivers = 5;
  const auto five = simulate(config);
  for (std::size_t r = 0; r < three.size(); ++r) {
    REQUIRE(three[r].blinks.size() == five[r].blinks.size());
    for (std::size_t i = 0; i < three[r].blinks.size(); ++i) {
      CHECK(three[r].blinks[i].features == five[r].blinks[i].features);
    }
  }
}

TEST_CASE("the file is read back value for value, says that it is synthetic, and can be split") {
  SimulationConfig config;
  config.drivers = 12;
  config.min_blinks = 60;
  config.max_blinks = 90;
  config.low_quality_share = 0.3;
  const std::vector<SimulatedRecording> recordings = simulate(config);
  const TemporaryFile file(simulated_csv(recordings));
  const Frame frame = read_frame(file.path(), DataConfig{});
  REQUIRE(frame.recordings.size() == 36);
  CHECK(frame.drivers.size() == 12);
  std::size_t row = 0;
  int silent = 0, low = 0;
  for (std::size_t r = 0; r < recordings.size(); ++r) {
    CHECK(frame.recordings[r].name == recordings[r].name);
    CHECK(recordings[r].name.starts_with("simulated_"));
    CHECK(recordings[r].driver.starts_with("simulated_"));
    CHECK(frame.recordings[r].is_labelled == recordings[r].is_labelled);
    CHECK(frame.recordings[r].has_usable_label() == recordings[r].is_high_quality);
    const auto blinks = static_cast<int>(recordings[r].blinks.size());
    CHECK((blinks >= 60 && blinks <= 90 && blinks == frame.recordings[r].rows));
    silent += recordings[r].is_labelled ? 0 : 1;
    low += recordings[r].is_labelled && !recordings[r].is_high_quality ? 1 : 0;
    for (const SimulatedBlink& blink : recordings[r].blinks) {
      CHECK(std::equal(blink.features.begin(), blink.features.end(),
                       frame.values.begin() + static_cast<std::ptrdiff_t>(9 * row)));
      if (recordings[r].is_labelled) {
        CHECK(frame.labels[row] == blink.reported_kss);
        CHECK((blink.reported_kss >= 1 && blink.reported_kss <= 9));
      } else {
        CHECK(std::isnan(frame.labels[row]));
      }
      ++row;
    }
  }
  CHECK(silent == 9);  // a quarter of 12 drivers, 3 recordings each
  CHECK((low >= 1 && low <= 9));
  const Split split = make_split(frame, SplitsConfig{}, 1);
  CHECK(split.pretraining.training.size() > split.finetuning.training.size());
  CHECK_FALSE(index_windows(frame, 30, 10, 5).windows.empty());
}

TEST_CASE("features fit each other and lie where people's do") {
  SimulationConfig config;
  config.drivers = 60;
  const std::vector<SimulatedRecording> recordings = simulate(config);
  std::vector<double> alert, drowsy, alert_closing, alert_opening, alert_ratio, drowsy_ratio, all_kss;
  double blinks = 0, minutes = 0, long_alert = 0, long_drowsy = 0;
  for (const SimulatedRecording& recording : recordings) {
    for (const SimulatedBlink& blink : recording.blinks) {
      const auto& x = blink.features;
      REQUIRE(std::all_of(x.begin(), x.end(), [](double value) { return std::isfinite(value) && value >= 0; }));
      CHECK(x[duration_ms] == Approx(x[closing_ms] + x[closed_ms] + x[opening_ms]).epsilon(1e-12));
      CHECK(std::abs(x[ratio] - x[amplitude] / x[closing_velocity]) <= 0.5e-6 * (1 + 1e-9));  // rounded to 6 digits
      CHECK((blink.latent_kss >= 1 && blink.latent_kss <= 9));
      all_kss.push_back(blink.latent_kss);
      ++blinks;
      minutes += (x[interval_s] + x[duration_ms] / 1000) / 60;
      if (blink.latent_kss <= 3) {
        alert.push_back(x[duration_ms]);
        alert_closing.push_back(x[closing_ms]);
        alert_opening.push_back(x[opening_ms]);
        alert_ratio.push_back(x[ratio]);
        long_alert += x[closed_ms] > 150 ? 1 : 0;
      }
      if (blink.latent_kss >= 8) {
        drowsy.push_back(x[duration_ms]);
        drowsy_ratio.push_back(x[ratio]);
        long_drowsy += x[closed_ms] > 150 ? 1 : 0;
      }
    }
  }
  REQUIRE(alert.size() > 1000);
  REQUIRE(drowsy.size() > 1000);
  // The ranges of the sources named in the header.
  CHECK((median(alert) > 180 && median(alert) < 225));
  CHECK((median(drowsy) > 240 && median(drowsy) < 320));
  CHECK((median(alert_closing) > 55 && median(alert_closing) < 75));
  CHECK((median(alert_opening) > 105 && median(alert_opening) < 145));
  CHECK(median(drowsy_ratio) > 1.05 * median(alert_ratio));
  CHECK((blinks / minutes > 14 && blinks / minutes < 21));
  const double share_alert = long_alert / static_cast<double>(alert.size());
  const double share_drowsy = long_drowsy / static_cast<double>(drowsy.size());
  CHECK(share_drowsy > 3 * share_alert);
  CHECK(share_alert < 0.02);
}

TEST_CASE("the scale of reports is covered, and drowsiness shows, noisily and differently by driver") {
  SimulationConfig config;
  config.drivers = 60;
  const std::vector<SimulatedRecording> recordings = simulate(config);
  std::map<std::string, std::vector<double>> kss, closed;
  std::map<int, int> reports;
  for (const SimulatedRecording& recording : recordings) {
    if (!recording.is_high_quality) continue;
    double time_s = 0;
    int changes = 0;
    for (std::size_t i = 0; i < recording.blinks.size(); ++i) {
      const SimulatedBlink& blink = recording.blinks[i];
      kss[recording.driver].push_back(blink.reported_kss);
      closed[recording.driver].push_back(std::log1p(blink.features[closed_ms]));
      ++reports[blink.reported_kss];
      changes += i > 0 && blink.reported_kss != recording.blinks[i - 1].reported_kss ? 1 : 0;
      time_s += blink.features[interval_s] + blink.features[duration_ms] / 1000;
    }
    CHECK(changes <= time_s / 300 + 1e-9);  // at most one change every five minutes
  }
  for (int level = 1; level <= 9; ++level) {
    CAPTURE(level);
    CHECK(reports[level] > 0);
  }
  std::vector<double> by_driver;
  for (const auto& [driver, values] : kss) {
    if (std::set<double>(values.begin(), values.end()).size() > 3)
      by_driver.push_back(correlation(values, closed[driver]));
  }
  REQUIRE(by_driver.size() > 30);
  CHECK((median(by_driver) > 0.2 && median(by_driver) < 0.8));
  std::sort(by_driver.begin(), by_driver.end());
  CHECK(by_driver[by_driver.size() * 9 / 10] - by_driver[by_driver.size() / 10] > 0.2);
}

TEST_CASE("neighbouring blinks tell about each other, beyond what a window's mean tells") {
  SimulationConfig config;
  config.drivers = 40;
  std::map<std::size_t, std::vector<double>> here, next;
  for (const SimulatedRecording& recording : simulate(config)) {
    constexpr std::size_t length = 30;
    for (std::size_t start = 0; start + length <= recording.blinks.size(); start += length) {
      for (const std::size_t feature : {closed_ms, opening_ms, amplitude}) {
        double mean = 0;
        for (std::size_t i = 0; i < length; ++i)
          mean += std::log1p(recording.blinks[start + i].features[feature]) / length;
        for (std::size_t i = 0; i + 1 < length; ++i) {
          here[feature].push_back(std::log1p(recording.blinks[start + i].features[feature]) - mean);
          next[feature].push_back(std::log1p(recording.blinks[start + i + 1].features[feature]) - mean);
        }
      }
    }
  }
  // Independent rows would give about -1 / 30.
  CHECK(correlation(here[closed_ms], next[closed_ms]) > 0.1);
  CHECK(correlation(here[opening_ms], next[opening_ms]) > 0.05);
  CHECK(correlation(here[amplitude], next[amplitude]) > 0.02);
}

TEST_CASE("a simulation that makes no sense is refused") {
  const auto refuses = [](auto&& change) {
    SimulationConfig config;
    change(config);
    CHECK_THROWS_AS(simulate(config), InputError);
  };
  refuses([](SimulationConfig& c) { c.drivers = 0; });
  refuses([](SimulationConfig& c) { c.recordings = 0; });
  refuses([](SimulationConfig& c) { c.min_blinks = 0; });
  refuses([](SimulationConfig& c) { c.max_blinks = c.min_blinks - 1; });
  refuses([](SimulationConfig& c) { c.unlabelled_share = 1.5; });
  refuses([](SimulationConfig& c) { c.low_quality_share = -0.1; });
}
