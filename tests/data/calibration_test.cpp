#include <blinkbert/data/calibration.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/core/random.hpp>

#include <tests/data/temporary_file.hpp>

using namespace blinkbert;
using tests::message_of;

namespace {

/// Two drivers that take turns over five recordings; values in [0, 1).
Frame two_drivers() {
  Frame frame;
  frame.features = {"x", "y"};
  frame.drivers = {"a", "b"};
  const std::vector<std::pair<int, int>> driver_and_rows{{0, 5}, {1, 7}, {0, 4}, {0, 9}, {1, 6}};
  const RandomStream stream{.seed = 5, .purpose = Purpose::simulator};
  for (const auto& [driver, rows] : driver_and_rows) {
    frame.recordings.push_back({.name = text(frame.recordings.size()),
                                .driver = driver,
                                .first_row = frame.rows(),
                                .rows = rows,
                                .is_high_quality = true,
                                .is_labelled = false});
    for (int row = 0; row < rows; ++row) {
      const RandomWords words = stream.words(static_cast<std::uint32_t>(frame.rows()), 0);
      frame.values.push_back(unit_interval(words[0]));
      frame.values.push_back(unit_interval(words[1]));
      frame.labels.push_back(std::numeric_limits<double>::quiet_NaN());
    }
  }
  return frame;
}

DataConfig config_for(Calibration calibration, int blinks) {
  DataConfig config;
  config.features = {"x", "y"};
  config.calibration = calibration;
  config.calibration_blinks = blinks;
  return config;
}

std::vector<int> rows_of(const Frame& frame, int driver) {
  std::vector<int> rows;
  for (const Recording& recording : frame.recordings) {
    for (int i = 0; recording.driver == driver && i < recording.rows; ++i) rows.push_back(recording.first_row + i);
  }
  return rows;
}

}  // namespace

TEST_CASE("increments undo a running mean, transforms are asinh, both by recording") {
  DataConfig config = config_for(Calibration::none, 3);
  config.increments = {"y"};
  CHECK(model_feature_names(config) == std::vector<std::string>{"x", "y", "increment_y"});
  config.calibration = Calibration::append;
  CHECK(model_feature_names(config) ==
        std::vector<std::string>{"x", "y", "increment_y", "calibration_x", "calibration_y", "calibration_increment_y"});
  CHECK(model_features(config) == 6);
  config.calibration = Calibration::none;

  // y becomes the running mean of `own` over each recording.
  Frame frame = two_drivers();
  std::vector<double> own;
  for (const Recording& recording : frame.recordings) {
    double sum = 0;
    for (int i = 0; i < recording.rows; ++i) {
      double& y = frame.values[static_cast<std::size_t>(2 * (recording.first_row + i) + 1)];
      own.push_back(y);
      sum += y;
      y = sum / (i + 1);
    }
  }
  const std::vector<double> values = calibrated_values(frame, config);
  config.transform = Transform::asinh;
  config.transform_scale = {0.5, 2, 0.25};
  const std::vector<double> transformed = calibrated_values(frame, config);
  config.transform_scale = {2};
  const std::vector<double> equally = calibrated_values(frame, config);
  for (std::size_t row = 0; row < own.size(); ++row) {
    CAPTURE(row);
    CHECK(values[3 * row] == frame.values[2 * row]);
    CHECK(values[3 * row + 1] == frame.values[2 * row + 1]);
    CHECK(values[3 * row + 2] == Approx(own[row]).margin(1e-14));
    CHECK(transformed[3 * row] == std::asinh(values[3 * row] / 0.5));
    CHECK(transformed[3 * row + 1] == std::asinh(values[3 * row + 1] / 2));
    CHECK(transformed[3 * row + 2] == std::asinh(values[3 * row + 2] / 0.25));
    CHECK(equally[3 * row + 2] == std::asinh(values[3 * row + 2] / 2));
  }

  config.increments = {"x"};
  config.features = {"x", "increment_x"};
  CHECK_THAT(message_of<InputError>([&] { model_feature_names(config); }),
             Catch::Contains("increment_x") && Catch::Contains("data.increments"));
}

TEST_CASE("a scaler may leave 0 in its place, and weigh rows") {
  DataConfig config;
  config.scaler = ScalerKind::uncentred;
  const Scaler uncentred = fit_scaler({3, 4, 100}, 1, {1, 1, 0}, config);
  CHECK(uncentred.center[0] == 0);
  CHECK(uncentred.scale[0] == std::sqrt(12.5));
  CHECK(fit_scaler({0, 0}, 1, {1, 1}, config).scale[0] == 1);

  // A weight of 3 is the row three times.
  config.scaler = ScalerKind::standard;
  const Scaler weighted = fit_scaler({1, 5, 2}, 1, {1, 1, 0}, config, {0.75, 0.25, 9});
  const Scaler repeated = fit_scaler({1, 1, 1, 5}, 1, {1, 1, 1, 1}, config);
  CHECK(weighted.center[0] == Approx(repeated.center[0]));
  CHECK(weighted.scale[0] == Approx(repeated.scale[0]));
  const Scaler equal = fit_scaler({1, 5, 2}, 1, {1, 1, 1}, config, {1, 1, 1}),
               plain = fit_scaler({1, 5, 2}, 1, {1, 1, 1}, config);
  CHECK((equal.center == plain.center && equal.scale == plain.scale));
}

TEST_CASE("names of the model's features") {
  using Names = std::vector<std::string>;
  CHECK(model_feature_names(config_for(Calibration::append, 3)) == Names{"x", "y", "calibration_x", "calibration_y"});
  CHECK(model_feature_names(config_for(Calibration::standardise, 3)) == Names{"x", "y"});
  CHECK(model_feature_names(config_for(Calibration::none, 3)) == Names{"x", "y"});
  DataConfig config = config_for(Calibration::append, 3);
  config.features = {"x", "calibration_x"};
  CHECK_THROWS_AS(model_feature_names(config), InputError);
}

TEST_CASE("the calibration feature is the mean of the driver's first blinks, across recordings") {
  const Frame frame = two_drivers();
  for (const int K : {1, 3, 6, 100}) {
    const std::vector<double> appended = calibrated_values(frame, config_for(Calibration::append, K));
    const std::vector<double> standardised = calibrated_values(frame, config_for(Calibration::standardise, K));
    CHECK(calibrated_values(frame, config_for(Calibration::none, K)) == frame.values);
    const std::vector<int> numbers = blinks_so_far(frame);
    // At most 18 sums and a quotient of values below 1, in two orders: each step is off by at most half an epsilon of
    // 18.
    const double tolerance = 2 * 20 * 18 * std::numeric_limits<double>::epsilon();
    for (const int driver : {0, 1}) {
      const std::vector<int> rows = rows_of(frame, driver);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto row = static_cast<std::size_t>(rows[i]);
        CHECK(numbers[row] == static_cast<int>(i) + 1);
        const std::size_t count = std::min(i + 1, static_cast<std::size_t>(K));
        for (std::size_t n = 0; n < 2; ++n) {
          double mean = 0;
          for (std::size_t j = 0; j < count; ++j) mean += frame.values[static_cast<std::size_t>(rows[j]) * 2 + n];
          mean /= static_cast<double>(count);
          CAPTURE(K, driver, i, n);
          CHECK(appended[row * 4 + n] == frame.values[row * 2 + n]);
          CHECK(std::abs(appended[row * 4 + 2 + n] - mean) <= tolerance);
          CHECK(std::abs(standardised[row * 2 + n] - (frame.values[row * 2 + n] - mean)) <= tolerance);
        }
      }
    }
  }
}

TEST_CASE("no row depends on a later one, nor on another driver") {
  const Frame frame = two_drivers();
  for (const Calibration mode : {Calibration::append, Calibration::standardise, Calibration::none}) {
    const DataConfig config = config_for(mode, 8);
    const auto width = static_cast<std::size_t>(model_features(config));
    const std::vector<double> before = calibrated_values(frame, config);
    for (int changed = 0; changed < frame.rows(); ++changed) {
      Frame other = frame;
      other.values[static_cast<std::size_t>(changed) * 2] += 1000;
      const std::vector<double> after = calibrated_values(other, config);
      std::vector<char> may_change(static_cast<std::size_t>(frame.rows()), 0);
      for (const int driver : {0, 1}) {
        const std::vector<int> rows = rows_of(frame, driver);
        const auto at = std::find(rows.begin(), rows.end(), changed);
        for (auto row = at; row != rows.end(); ++row) may_change[static_cast<std::size_t>(*row)] = 1;
      }
      for (std::size_t row = 0; row < may_change.size(); ++row) {
        const auto begin = static_cast<std::ptrdiff_t>(row * width), end = begin + static_cast<std::ptrdiff_t>(width);
        const bool is_same = std::equal(before.begin() + begin, before.begin() + end, after.begin() + begin);
        if (may_change[row] == 0) CHECK(is_same);
        if (static_cast<int>(row) == changed && mode != Calibration::standardise) CHECK_FALSE(is_same);
      }
    }
  }
}

TEST_CASE("blink by blink gives the bits of the whole table") {
  const Frame frame = two_drivers();
  for (const Calibration mode : {Calibration::append, Calibration::standardise, Calibration::none}) {
    const DataConfig config = config_for(mode, 8);
    const auto width = static_cast<std::size_t>(model_features(config));
    const std::vector<double> table = calibrated_values(frame, config);
    for (const int driver : {0, 1}) {
      DriverCalibration calibration(config);
      std::vector<double> out(width);
      int pushed = 0;
      for (const int row : rows_of(frame, driver)) {
        const auto place = static_cast<std::size_t>(row);
        calibration.push(std::span(frame.values).subspan(place * 2, 2), out);
        CHECK(calibration.blinks() == std::min(++pushed, 8));
        CHECK(std::equal(out.begin(), out.end(), table.begin() + static_cast<std::ptrdiff_t>(place * width)));
      }
    }
  }
  DriverCalibration calibration(config_for(Calibration::append, 8));
  std::vector<double> out(2);
  CHECK_THROWS_AS(calibration.push(std::span(frame.values).first(2), out), ContractViolation);
}

TEST_CASE("standard scaler: mean and population deviation of the training rows") {
  const std::vector<double> values{1, 100, 3, 200, 5, 300, 99, 1e9};
  const Scaler scaler = fit_scaler(values, 2, {1, 1, 1, 0}, DataConfig{});
  CHECK(scaler.center == std::vector<double>{3, 200});
  CHECK(scaler.scale[0] == std::sqrt(8.0 / 3));
  CHECK(scaler.scale[1] == std::sqrt(20000.0 / 3));
  CHECK(scaler.tail_bound == 5);

  std::vector<float> out(2);
  const std::vector<double> row{3 + std::sqrt(8.0 / 3), 1e9};
  scaler.apply(row.data(), out.data());
  CHECK(out[0] == 1.0f);
  CHECK(out[1] == 5.0f);
  std::vector<double> unbounded(2);
  scaler.apply_unbounded(row.data(), unbounded.data());
  CHECK(unbounded[1] == (1e9 - 200) / std::sqrt(20000.0 / 3));
  const std::vector<double> low{-1e9, 200};
  scaler.apply(low.data(), out.data());
  CHECK(out == std::vector<float>{-5.0f, 0.0f});
}

TEST_CASE("robust scaler: median and interquartile range") {
  DataConfig config;
  config.scaler = ScalerKind::robust;
  struct Case {
    std::vector<double> column;
    double center, scale;
  };
  // Quartiles lie at places (n - 1) / 4 and 3 (n - 1) / 4 of the sorted values.
  const std::vector<Case> cases{
      {{5, 1, 3, 2, 4}, 3, (4 - 2) / 1.349},
      {{4, 1, 3, 2}, 2.5, (3.25 - 1.75) / 1.349},
      {{1, 2, 3, 4, 1e6}, 3, (4 - 2) / 1.349},        // an outlier moves nothing
      {{0, 0, 0, 0, 0, 0, 0, 8}, 0, std::sqrt(7.0)},  // no range between the quartiles, though not constant
      {{7, 7, 7}, 7, 1},
      {{7}, 7, 1},
  };
  for (const Case& known : cases) {
    const Scaler scaler = fit_scaler(known.column, 1, std::vector<char>(known.column.size(), 1), config);
    CHECK(scaler.center[0] == Approx(known.center).epsilon(1e-15));
    CHECK(scaler.scale[0] == Approx(known.scale).epsilon(1e-15));
  }
}

TEST_CASE("a constant feature gets scale 1, also where it cannot be written exactly and after calibration") {
  Frame frame = two_drivers();
  for (std::size_t row = 0; row < static_cast<std::size_t>(frame.rows()); ++row) frame.values[2 * row] = 0.1;
  for (const ScalerKind kind : {ScalerKind::standard, ScalerKind::robust}) {
    for (const Calibration mode : {Calibration::append, Calibration::standardise, Calibration::none}) {
      DataConfig config = config_for(mode, 30);
      config.scaler = kind;
      const int N = model_features(config);
      const std::vector<double> values = calibrated_values(frame, config);
      const Scaler scaler = fit_scaler(values, N, std::vector<char>(static_cast<std::size_t>(frame.rows()), 1), config);
      CHECK(scaler.scale[0] == 1);
      if (mode == Calibration::append) CHECK(scaler.scale[2] == 1);
      std::vector<float> out(static_cast<std::size_t>(N));
      scaler.apply(values.data(), out.data());
      CHECK(out[0] == 0);
    }
  }
}

TEST_CASE("a large offset costs the deviation no digits") {
  const std::vector<double> values{1e9 + 1, 1e9 + 2, 1e9 + 3, 1e9 + 4};
  CHECK(fit_scaler(values, 1, {1, 1, 1, 1}, DataConfig{}).scale[0] == std::sqrt(1.25));
}

TEST_CASE("rows that do not train move nothing, not even by being poison") {
  const Frame frame = two_drivers();
  for (const ScalerKind kind : {ScalerKind::standard, ScalerKind::robust}) {
    DataConfig config = config_for(Calibration::append, 4);
    config.scaler = kind;
    std::vector<char> is_training(static_cast<std::size_t>(frame.rows()), 0);
    for (const int row : rows_of(frame, 0)) is_training[static_cast<std::size_t>(row)] = 1;
    const Scaler before = fit_scaler(calibrated_values(frame, config), 4, is_training, config);

    Frame other = frame;
    for (const int row : rows_of(frame, 1)) {
      other.values[static_cast<std::size_t>(row) * 2] = std::numeric_limits<double>::quiet_NaN();
      other.values[static_cast<std::size_t>(row) * 2 + 1] = 1e30;
    }
    const Scaler after = fit_scaler(calibrated_values(other, config), 4, is_training, config);
    CHECK(before.center == after.center);
    CHECK(before.scale == after.scale);

    other = frame;
    other.values[0] += 1;  // a training row does move it
    CHECK(fit_scaler(calibrated_values(other, config), 4, is_training, config).center != before.center);
  }
  CHECK_THROWS_AS(fit_scaler({1, 2}, 1, {0, 0}, DataConfig{}), InputError);
  CHECK_THROWS_AS(fit_scaler({1, 2, 3}, 2, {1, 1}, DataConfig{}), ContractViolation);
}
