#pragma once

// predictions.csv of fine-tuning runs: read, and averaged over runs.

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/io/csv.hpp>

namespace programs {

/// One test window. Blinks count from 0 in their recording.
struct Prediction {
  std::string recording, driver;
  int first_blink = 0, last_blink = 0;
  double truth = 0, prediction = 0;
};

inline std::vector<Prediction> read_predictions(const std::filesystem::path& path) {
  const blinkbert::CsvTable csv = blinkbert::read_csv(path);
  const auto column = [&](std::string_view name) {
    const auto found = csv.column(name);
    if (!found) throw blinkbert::InputError(blinkbert::text(path.string(), ":1: column ", name, " is missing"));
    return *found;
  };
  const int recording = column("recording"), driver = column("driver"), first = column("first_blink"),
            last = column("last_blink"), truth = column("truth"), prediction = column("prediction");
  const auto number_at = [&](int row, int at) {
    const auto value = blinkbert::parse_number(csv.field(row, at));
    if (!value) throw blinkbert::InputError(blinkbert::text(csv.place(row, at), ": expected a number"));
    return *value;
  };
  std::vector<Prediction> all;
  for (int row = 0; row < csv.rows(); ++row) {
    all.push_back({.recording = std::string(csv.field(row, recording)),
                   .driver = std::string(csv.field(row, driver)),
                   .first_blink = static_cast<int>(number_at(row, first)),
                   .last_blink = static_cast<int>(number_at(row, last)),
                   .truth = number_at(row, truth),
                   .prediction = number_at(row, prediction)});
  }
  return all;
}

/// Every window's mean prediction over the runs; windows that not all runs have are left out.
inline std::vector<Prediction> mean_predictions(std::span<const std::vector<Prediction>> runs) {
  std::map<std::pair<std::string, int>, std::pair<double, int>> sums;
  for (const auto& run : runs) {
    for (const Prediction& one : run) {
      auto& [sum, count] = sums[{one.recording, one.last_blink}];
      sum += one.prediction, ++count;
    }
  }
  std::vector<Prediction> mean;
  for (const Prediction& one : runs.empty() ? std::vector<Prediction>{} : runs.front()) {
    const auto& [sum, count] = sums.at({one.recording, one.last_blink});
    if (count != static_cast<int>(runs.size())) continue;
    mean.push_back(one);
    mean.back().prediction = sum / count;
  }
  return mean;
}

}  // namespace programs
