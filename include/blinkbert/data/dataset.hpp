#pragma once

// A file of blinks, ready for a model: calibrated, scaled, cut into windows for the drivers that are asked for.

#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/data/batches.hpp>
#include <blinkbert/data/calibration.hpp>
#include <blinkbert/data/frame.hpp>
#include <blinkbert/data/splits.hpp>
#include <blinkbert/data/windows.hpp>

namespace blinkbert {

/// Which recordings of a driver may be used.
enum class Recordings {
  all,      // pre-training: any with blinks
  trusted,  // fine-tuning and its evaluation: labelled, of high quality
};

inline bool is_usable(const Recording& recording, Recordings wanted) {
  return wanted == Recordings::all || (recording.is_labelled && recording.is_high_quality);
}

struct Dataset {
  Frame frame;
  Scaler scaler;
  std::vector<double> values;      // [rows, N]  calibrated, unscaled
  RowTable table;                  // [rows, N]  what the model reads
  std::vector<int> blink_numbers;  // [rows]     number of each row among its driver's, from 1

  int N() const { return table.N; }
  int driver_of(const Window& window) const {
    return frame.recordings[static_cast<std::size_t>(window.recording)].driver;
  }
};

/// One flag per row: does it belong to one of the drivers, in a usable recording?
inline std::vector<char> rows_of(const Frame& frame, const std::vector<std::string>& drivers, Recordings wanted) {
  const std::set<std::string> names(drivers.begin(), drivers.end());
  std::vector<char> rows(static_cast<std::size_t>(frame.rows()), 0);
  for (const Recording& recording : frame.recordings) {
    if (!names.contains(frame.drivers[static_cast<std::size_t>(recording.driver)]) || !is_usable(recording, wanted))
      continue;
    std::fill_n(rows.begin() + recording.first_row, recording.rows, char{1});
  }
  return rows;
}

/// Scales the frame's rows with a scaler that is given, as from a checkpoint.
inline Dataset make_dataset(Frame frame, const DataConfig& config, Scaler scaler) {
  Dataset dataset;
  dataset.values = calibrated_values(frame, config);
  dataset.blink_numbers = blinks_so_far(frame);
  dataset.table.N = model_features(config);
  const auto N = static_cast<std::size_t>(dataset.table.N);
  BLINKBERT_EXPECTS(scaler.center.size() == N && scaler.scale.size() == N, scaler.center.size(), N);
  dataset.table.x.resize(dataset.values.size());
  for (std::size_t row = 0; row < static_cast<std::size_t>(frame.rows()); ++row) {
    scaler.apply(dataset.values.data() + row * N, dataset.table.x.data() + row * N);
  }
  dataset.frame = std::move(frame);
  dataset.scaler = std::move(scaler);
  return dataset;
}

/// Weights in the loss that make every recording weigh the same: 1 / (windows of its recording here), times a factor that
/// brings the mean over the windows to 1. The number of blinks can give the label away; without weights a long recording
/// counts as often as it has windows.
inline void weigh_by_recording(std::vector<NumberedWindow>& windows) {
  std::map<int, double> counts;
  for (const NumberedWindow& one : windows) counts[one.window.recording] += 1;
  for (NumberedWindow& one : windows) {
    one.window.weight =
        static_cast<double>(windows.size()) / (static_cast<double>(counts.size()) * counts[one.window.recording]);
  }
}

/// Scales the frame's rows with a scaler fitted on the training drivers' usable rows.
inline Dataset make_dataset(Frame frame, const DataConfig& config, const std::vector<std::string>& training_drivers,
                            Recordings wanted) {
  const std::vector<char> is_training_row = rows_of(frame, training_drivers, wanted);
  std::vector<double> weights;
  if (config.scaler_weight == ScalerWeight::recording) {
    weights.resize(is_training_row.size());
    for (const Recording& recording : frame.recordings)
      std::fill_n(weights.begin() + recording.first_row, recording.rows, 1.0 / recording.rows);
  }
  Scaler scaler =
      fit_scaler(calibrated_values(frame, config), model_features(config), is_training_row, config, weights);
  return make_dataset(std::move(frame), config, std::move(scaler));
}

/// The windows of the given drivers, in file order, numbered in the index of all windows. `trusted` takes labelled
/// windows of usable recordings only.
inline std::vector<NumberedWindow> windows_of(const Frame& frame, const WindowIndex& index,
                                              const std::vector<std::string>& drivers, Recordings wanted) {
  const std::set<std::string> names(drivers.begin(), drivers.end());
  std::vector<NumberedWindow> windows;
  for (std::size_t i = 0; i < index.windows.size(); ++i) {
    const Window& window = index.windows[i];
    const Recording& recording = frame.recordings[static_cast<std::size_t>(window.recording)];
    if (!names.contains(frame.drivers[static_cast<std::size_t>(recording.driver)]) || !is_usable(recording, wanted))
      continue;
    if (wanted == Recordings::trusted && std::isnan(window.label)) continue;
    windows.push_back({.window = window, .number = static_cast<std::uint32_t>(i)});
  }
  return windows;
}

}  // namespace blinkbert
