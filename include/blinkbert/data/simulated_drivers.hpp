#pragma once

// Simulated drivers: blink recordings with a known drowsiness, for trying things out. They are synthetic and say so in
// every name; no result on them says anything about people.
//
// A latent KSS (Karolinska Sleepiness Scale, 1 .. 9: Akerstedt & Gillberg 1990, Int J Neurosci 52) begins at the level
// of the recording and drifts upwards with time on task. It moves five features; the other four follow from those:
//
//   log x = log alert value + driver's offset + sensitivity * effect * (s + f) + wandering + noise
//   s = ((KSS - 1) / 8)^2   blinks change little at first and steeply at high KSS, and drivers differ much in level and
//                           slope (Ingre et al. 2006, J Sleep Res 15: quadratic trend, random intercepts)
//   f                       a fluctuation of minutes, shared by all features; "wandering" is each feature's own
//   duration = closing + closed + opening
//   peak velocity = 15/8 * amplitude / time, with scatter: a minimum-jerk movement (Flash & Hogan 1985, J Neurosci 5);
//                           amplitude and peak velocity of lids are proportional (Evinger et al. 1991, IOVS 32)
//   ratio = amplitude / closing velocity, rises when drowsy (Johns 2003, Sleep 26; Johns et al. 2007, Somnologie 11)
//
// Drowsiness also comes in episodes of a few long blinks: many but not all blinks slow down (Johns et al. 2007), and
// the share of long closures rises (Caffier et al. 2003, Eur J Appl Physiol 89). Sizes that no source gives are round
// numbers.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/core/random.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

struct SimulationConfig {
  int drivers = 24;
  std::uint64_t seed = 1;
  int recordings = 3;    // per driver, from rested to after a night awake, in an order drawn by driver
  int min_blinks = 300;  // per recording
  int max_blinks = 500;
  double unlabelled_share = 0.25;   // of the drivers: they report nothing, as in recordings for pre-training only
  double low_quality_share = 0.15;  // of the labelled drivers' recordings, at most one per driver, never the only one
};

/// Values are rounded as a file would hold them, so that written and read values are equal.
struct SimulatedBlink {
  std::array<double, 9> features{};  // in the order of simulated_features(); ms, mm, mm/s, s
  double latent_kss = 0;             // the truth, which no file holds
  int reported_kss = 0;              // the driver's report for these five minutes, 1 .. 9; 0 = none
};

struct SimulatedRecording {
  std::string name, driver;
  bool is_labelled = false, is_high_quality = false;
  std::vector<SimulatedBlink> blinks;
};

namespace detail {

/// How one of the five moved features behaves.
struct SimulatedFeature {
  double alert;            // median over alert drivers
  double effect;           // change of its logarithm from s = 0 to s = 1
  double between_drivers;  // standard deviations of its logarithm: of the drivers' offsets,
  double wandering;        //   of its own slow fluctuation,
  double noise;            //   and from blink to blink
};

enum SimulatedFeatureName : std::size_t { closing, closed, opening, amplitude, interval };

/// Alert blinks last about 200 ms, drowsy ones 260 to 300 ms, most of it in closed and opening time, closing about 60
/// to 70 ms (Caffier et al. 2003; Schleicher et al. 2008, Ergonomics 51, also for large differences between people).
/// Amplitudes of spontaneous blinks are 8 to 9 mm (Evinger et al. 1991) and shrink when lids sink. An awake driver
/// blinks 15 to 20 times a minute, a little oftener when tired, in skewed intervals (Schleicher et al. 2008).
inline constexpr std::array<SimulatedFeature, 5> simulated_feature_table{{
    {.alert = 62, .effect = 0.15, .between_drivers = 0.12, .wandering = 0.06, .noise = 0.10},    // closing, ms
    {.alert = 14, .effect = 1.00, .between_drivers = 0.35, .wandering = 0.20, .noise = 0.35},    // closed, ms
    {.alert = 120, .effect = 0.30, .between_drivers = 0.15, .wandering = 0.07, .noise = 0.12},   // opening, ms
    {.alert = 8.5, .effect = -0.18, .between_drivers = 0.15, .wandering = 0.06, .noise = 0.08},  // amplitude, mm
    {.alert = 2.9, .effect = -0.15, .between_drivers = 0.35, .wandering = 0.15, .noise = 0.55},  // interval, s
}};

/// What a random number is for: the `layer` of its counter; driver = `sequence`, recording = `step`.
enum class Draw : std::uint32_t { driver, recording, state, wandering, noise, velocity, event, report };

/// Random numbers of one driver's recording, each a function of its place.
struct SimulatorDraws {
  std::uint64_t seed = 0;
  std::uint32_t driver = 0, recording = 0;

  RandomWords words(Draw draw, std::size_t index) const {
    return RandomStream{
        .seed = seed, .purpose = Purpose::simulator, .layer = static_cast<std::uint32_t>(draw), .step = recording}
        .words(static_cast<std::uint32_t>(index), driver);
  }
  double uniform(Draw draw, std::size_t index) const { return unit_interval(words(draw, index)[0]); }
  /// Standard normal (Box & Muller 1958).
  double normal(Draw draw, std::size_t index) const {
    const RandomWords bits = words(draw, index);
    const double radius = std::sqrt(-2 * std::log((bits[0] + 0.5) * 0x1p-32));  // never the logarithm of 0
    return radius * std::cos(2 * std::numbers::pi * unit_interval(bits[1]));
  }
};

/// A fluctuation around 0 with standard deviation `deviation` and correlation `memory` between neighbouring blinks.
struct Fluctuation {
  double memory = 0, deviation = 0, value = 0;

  Fluctuation(double correlation, double spread, double start_normal)
      : memory(correlation), deviation(spread), value(spread * start_normal) {}
  double next(double normal) {
    value = memory * value + std::sqrt(1 - memory * memory) * deviation * normal;
    return value;
  }
};

inline double rounded(double value, double steps_per_unit) {
  return std::round(value * steps_per_unit) / steps_per_unit;
}

}  // namespace detail

/// The recordings of all drivers, driver by driver. Equal configurations give equal values. Throws InputError where a
/// number is out of its range.
inline std::vector<SimulatedRecording> simulate(const SimulationConfig& config) {
  const auto demand = [](bool holds, const char* what, auto found, const char* wanted) {
    if (!holds) throw InputError(text("simulation: ", what, " = ", found, ": ", wanted));
  };
  demand(config.drivers >= 1 && config.drivers <= 100000, "drivers", config.drivers, "must be between 1 and 100000");
  demand(config.recordings >= 1 && config.recordings <= 1000, "recordings", config.recordings,
         "must be between 1 and 1000");
  demand(config.min_blinks >= 1 && config.min_blinks <= config.max_blinks, "min_blinks", config.min_blinks,
         "must be between 1 and max_blinks");
  demand(config.max_blinks <= 1000000, "max_blinks", config.max_blinks, "must be at most 1000000");
  demand(config.unlabelled_share >= 0 && config.unlabelled_share <= 1, "unlabelled_share", config.unlabelled_share,
         "must be between 0 and 1");
  demand(config.low_quality_share >= 0 && config.low_quality_share <= 1, "low_quality_share", config.low_quality_share,
         "must be between 0 and 1");

  using detail::Draw;
  using detail::Fluctuation;
  using detail::rounded;
  using detail::SimulatorDraws;
  constexpr auto& table = detail::simulated_feature_table;
  constexpr std::size_t moved = table.size();
  const auto drivers = static_cast<std::size_t>(config.drivers);
  const auto recordings = static_cast<std::size_t>(config.recordings);

  // Places of a driver's own draws: features first, [0, moved) offsets, [moved, 2 moved) sensitivities.
  constexpr std::size_t shared_sensitivity = 2 * moved, report_bias = 2 * moved + 1, label_order = 2 * moved + 2,
                        low_quality = 2 * moved + 3, which_low_quality = 2 * moved + 4, level_order = 2 * moved + 5;

  std::vector<std::pair<double, std::size_t>> by_word;
  for (std::size_t d = 0; d < drivers; ++d) {
    by_word.emplace_back(
        SimulatorDraws{.seed = config.seed, .driver = static_cast<std::uint32_t>(d)}.uniform(Draw::driver, label_order),
        d);
  }
  std::sort(by_word.begin(), by_word.end());
  std::vector<char> reports_kss(drivers, 1);
  const auto silent = static_cast<std::size_t>(std::lround(config.unlabelled_share * config.drivers));
  for (std::size_t i = 0; i < silent; ++i) reports_kss[by_word[i].second] = 0;

  std::vector<SimulatedRecording> all;
  for (std::size_t d = 0; d < drivers; ++d) {
    const SimulatorDraws own{.seed = config.seed, .driver = static_cast<std::uint32_t>(d)};
    std::array<double, moved> offset{}, sensitivity{};
    const double shared = std::exp(0.25 * own.normal(Draw::driver, shared_sensitivity));
    for (std::size_t i = 0; i < moved; ++i) {
      offset[i] = table[i].between_drivers * own.normal(Draw::driver, i);
      sensitivity[i] = shared * (1 + 0.3 * own.normal(Draw::driver, moved + i));
    }
    const double bias = 0.5 * own.normal(Draw::driver, report_bias);
    const bool has_low_quality =
        recordings > 1 && own.uniform(Draw::driver, low_quality) < config.low_quality_share * config.recordings;
    const auto low_quality_recording =
        static_cast<std::size_t>(own.uniform(Draw::driver, which_low_quality) * config.recordings);
    std::vector<std::pair<double, std::size_t>> levels;
    for (std::size_t r = 0; r < recordings; ++r) levels.emplace_back(own.uniform(Draw::driver, level_order + r), r);
    std::sort(levels.begin(), levels.end());

    for (std::size_t r = 0; r < recordings; ++r) {
      const SimulatorDraws draws{
          .seed = config.seed, .driver = static_cast<std::uint32_t>(d), .recording = static_cast<std::uint32_t>(r)};
      SimulatedRecording recording{
          .name = text("simulated_", d + 1, "_", r + 1),
          .driver = text("simulated_", d + 1),
          .is_labelled = reports_kss[d] != 0,
          .is_high_quality = reports_kss[d] != 0 && !(has_low_quality && r == low_quality_recording),
          .blinks = {}};

      // Rested drives begin near KSS 2.5, drives after a night awake near 6.5; the drift is steep, as on a dull road at
      // night (Ingre et al. 2006: reports rise over a drive of two hours), so that short recordings cover a range.
      const double tiredness = recordings > 1 ? static_cast<double>(levels[r].second) / (config.recordings - 1.0) : 0.5;
      const double first_kss = 2.5 + 4 * tiredness + 0.6 * draws.normal(Draw::recording, 0);
      const double kss_per_hour = std::max(0.0, 4 + 2 * draws.normal(Draw::recording, 1));
      const int count = config.min_blinks + static_cast<int>(draws.uniform(Draw::recording, 2) *
                                                             (config.max_blinks - config.min_blinks + 1));

      Fluctuation kss_fluctuation(0.985, 0.5, draws.normal(Draw::recording, 3));  // some 4 minutes
      Fluctuation state(0.92, 0.25, draws.normal(Draw::recording, 4));            // some 40 s
      std::vector<Fluctuation> wandering;
      for (std::size_t i = 0; i < moved; ++i) {
        wandering.emplace_back(0.8, table[i].wandering, draws.normal(Draw::recording, 5 + i));
      }

      bool is_episode = false;
      double time_s = 0;
      std::vector<int> report_of_blink;
      std::vector<double> report_sum;
      std::vector<int> report_count;
      for (int blink = 0; blink < count; ++blink) {
        const auto index = static_cast<std::size_t>(blink);
        const double kss = std::clamp(
            first_kss + kss_per_hour * time_s / 3600 + kss_fluctuation.next(draws.normal(Draw::state, 2 * index)), 1.0,
            9.0);
        const double s = (kss - 1) / 8 * ((kss - 1) / 8);
        const double f = state.next(draws.normal(Draw::state, 2 * index + 1));

        std::array<double, moved> x{};
        for (std::size_t i = 0; i < moved; ++i) {
          x[i] = table[i].alert * std::exp(offset[i] + sensitivity[i] * table[i].effect * (s + f) +
                                           wandering[i].next(draws.normal(Draw::wandering, moved * index + i)) +
                                           table[i].noise * draws.normal(Draw::noise, moved * index + i));
        }

        using enum detail::SimulatedFeatureName;
        const auto happens = [&](std::size_t event, double probability) {
          return draws.uniform(Draw::event, 8 * index + event) < probability;
        };
        is_episode = happens(0, is_episode ? 0.85 : 0.004 + 0.06 * s);  // 7 blinks on average
        if (is_episode) {
          x[closing] *= 1.15;
          x[closed] *= 2.2;
          x[opening] *= 1.25;
          x[amplitude] *= 0.85;
          x[interval] *= 0.8;
        }
        if (happens(1, 0.001 + 0.02 * s)) {  // a long closure: 0.6 s on average, 0.2 s at least
          x[closed] += 200 - 400 * std::log(1 - draws.uniform(Draw::event, 8 * index + 5));
        }
        if (happens(2, 0.02)) {  // an incomplete blink
          x[amplitude] *= 0.4;
          x[closing] *= 0.7;
          x[closed] *= 0.3;
          x[opening] *= 0.7;
        }
        if (happens(3, 0.02)) x[interval] *= 2;  // the camera missed a blink
        if (happens(4, 0.003)) x[opening] *= 4;  // or lost the lid on its way up

        const double closing_ms = rounded(x[closing], 10), closed_ms = rounded(x[closed], 10),
                     opening_ms = rounded(x[opening], 10), amplitude_mm = rounded(x[amplitude], 1000),
                     interval_s = rounded(x[interval], 1000);
        const double duration_ms = rounded(closing_ms + closed_ms + opening_ms, 10);
        const auto peak_velocity = [&](double movement_ms, std::size_t which) {
          const double scatter = std::exp(0.06 * draws.normal(Draw::velocity, 2 * index + which));
          return rounded(15.0 / 8.0 * amplitude_mm / (movement_ms / 1000) * scatter, 100);
        };
        const double closing_velocity = peak_velocity(closing_ms, 0), opening_velocity = peak_velocity(opening_ms, 1);
        recording.blinks.push_back(
            {.features = {duration_ms, closing_ms, closed_ms, opening_ms, amplitude_mm, closing_velocity,
                          opening_velocity, rounded(amplitude_mm / closing_velocity, 1e6), interval_s},
             .latent_kss = kss});

        time_s += interval_s + duration_ms / 1000;
        const auto report = static_cast<std::size_t>(time_s / 300);  // one report every five minutes
        report_sum.resize(std::max(report_sum.size(), report + 1));
        report_count.resize(report_sum.size());
        report_sum[report] += kss;
        ++report_count[report];
        report_of_blink.push_back(static_cast<int>(report));
      }

      // A report sums up its five minutes, with the driver's bias and an error that is large where quality is low.
      for (std::size_t i = 0; recording.is_labelled && i < recording.blinks.size(); ++i) {
        const auto report = static_cast<std::size_t>(report_of_blink[i]);
        const double error = (recording.is_high_quality ? 0.4 : 2.0) * draws.normal(Draw::report, report);
        const double felt = report_sum[report] / report_count[report] + bias + error;
        recording.blinks[i].reported_kss = static_cast<int>(std::clamp(std::round(felt), 1.0, 9.0));
      }
      all.push_back(std::move(recording));
    }
  }
  return all;
}

/// The recordings as a CSV: recording, driver, the nine features, kss (empty where unlabelled), label_quality.
inline std::string simulated_csv(const std::vector<SimulatedRecording>& recordings) {
  std::string csv = "recording,driver";
  for (const std::string& feature : simulated_features()) csv += "," + feature;
  csv += ",kss,label_quality\n";
  for (const SimulatedRecording& recording : recordings) {
    for (const SimulatedBlink& blink : recording.blinks) {
      csv += recording.name + "," + recording.driver;
      for (const double value : blink.features) {
        std::array<char, 32> digits{};
        const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
        csv += ',';
        csv.append(digits.data(), end);
      }
      csv += ',';
      if (recording.is_labelled) csv += std::to_string(blink.reported_kss);
      csv += recording.is_high_quality ? ",high\n" : ",low\n";
    }
  }
  return csv;
}

}  // namespace blinkbert
