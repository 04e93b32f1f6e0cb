#pragma once

// Frame: a table of blinks, one row per blink, recordings stacked one after another in the order of time.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/io/csv.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// One drive or one video: a run of rows of one driver.
struct Recording {
  std::string name;
  int driver = 0;               // index into Frame::drivers
  int first_row = 0, rows = 0;  // rows of the frame; 0 rows where every one was dropped
  bool is_high_quality = true;  // the label can be trusted
  bool is_labelled = false;     // at least one row has a label

  /// Fine-tuning and the evaluation of scores use nothing else.
  bool has_usable_label() const { return is_labelled && is_high_quality; }
};

/// What a CSV of blinks holds, checked and as numbers.
struct Frame {
  std::string path;
  std::vector<std::string> features;       // [N]     names of the original features
  std::vector<std::string> drivers;        // in order of appearance
  std::vector<std::string> driver_groups;  // value of `splits.column` per driver; empty without that column
  std::vector<Recording> recordings;       // in file order
  std::vector<double> values;              // [rows, N]
  std::vector<double> labels;              // [rows]  NaN = unlabelled
  std::int64_t dropped_rows = 0;           // left out by data.missing = drop_row

  int N() const { return static_cast<int>(features.size()); }
  int rows() const { return static_cast<int>(labels.size()); }
};

namespace detail {

/// Insertions, deletions and replacements that make one name of the other (Levenshtein 1966).
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> distance(b.size() + 1);
  std::iota(distance.begin(), distance.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = distance[0];
    distance[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = distance[j + 1];
      distance[j + 1] = std::min({replaced, distance[j] + 1, diagonal + 1});
    }
  }
  return distance[b.size()];
}

/// The file's columns for a message, those most like `name` first.
inline std::string columns_nearest_first(const CsvTable& table, std::string_view name) {
  std::vector<std::string> names = table.header;
  std::stable_sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(a, name) < edit_distance(b, name);
  });
  std::string list;
  for (const std::string& column : names) list += (list.empty() ? "" : ", ") + printable(column);
  return list;
}

inline int required_column(const CsvTable& table, const std::string& name, std::string_view key) {
  const std::optional<int> column = table.column(name);
  if (!column) {
    throw InputError(text(table.path, ":1: column ", name, " (", key,
                          ") is missing, the file has: ", columns_nearest_first(table, name)));
  }
  return *column;
}

[[noreturn]] inline void refuse_field(const CsvTable& table, int row, int column, std::string_view expected) {
  const std::string_view found = table.field(row, column);
  throw InputError(text(table.place(row, column), ": found ",
                        found.empty() ? std::string("an empty field") : shown(found), ", expected ", expected));
}

inline std::string required_text(const CsvTable& table, int row, int column, std::string_view expected) {
  const std::string_view found = table.field(row, column);
  if (found.empty()) refuse_field(table, row, column, expected);
  return std::string(found);
}

}  // namespace detail

/// Reads the columns that the configuration names. `split_column` is `splits.column`, or empty.
///
/// Throws InputError that names file, line and column: a missing column (label and quality may be absent); a feature
/// that is also the recording, driver, label, quality or split column; text, NaN, infinity or a number beyond float
/// where a number belongs; an empty feature under `data.missing = refuse` (under `drop_row` its row is left out and
/// counted, after the rest of the row was checked); a recording that comes back after another began; a driver, quality
/// or split value that changes where it must not; no rows left.
inline Frame read_frame(const std::filesystem::path& path, const DataConfig& config,
                        const std::string& split_column = {}) {
  const CsvTable table = read_csv(path);

  const int recording_column = detail::required_column(table, config.recording, "data.recording");
  const int driver_column = detail::required_column(table, config.driver, "data.driver");
  const std::optional<int> label_column = table.column(config.label);
  const std::optional<int> quality_column = table.column(config.quality);
  std::optional<int> group_column;
  if (!split_column.empty()) group_column = detail::required_column(table, split_column, "splits.column");

  std::vector<int> feature_columns;
  for (const std::string& feature : config.features) {
    // Any of these as a feature would hand the answer, or the identity, to the model.
    const auto refuse_role = [&](const std::string& name, std::string_view key) {
      if (!name.empty() && feature == name) {
        throw InputError(text("data.features names ", feature, ", which is ", key, ": expected a column of its own"));
      }
    };
    refuse_role(config.recording, "data.recording");
    refuse_role(config.driver, "data.driver");
    refuse_role(config.label, "data.label");
    refuse_role(config.quality, "data.quality");
    refuse_role(split_column, "splits.column");
    feature_columns.push_back(detail::required_column(table, feature, "data.features"));
  }
  if (feature_columns.empty()) throw InputError("data.features = []: name at least one column");

  Frame frame;
  frame.path = table.path;
  frame.features = config.features;
  const std::size_t N = feature_columns.size();
  frame.values.reserve(static_cast<std::size_t>(table.rows()) * N);
  frame.labels.reserve(static_cast<std::size_t>(table.rows()));

  std::map<std::string, int> driver_index;
  std::map<std::string, int> recording_line;  // line on which each recording began
  std::vector<int> driver_line;               // line on which each driver began
  std::vector<double> row_values(N);

  for (int row = 0; row < table.rows(); ++row) {
    const int line = table.lines[static_cast<std::size_t>(row)];
    const std::string name = detail::required_text(table, row, recording_column, "the recording's name");
    const std::string driver_name = detail::required_text(table, row, driver_column, "the driver's name");

    const auto [driver, is_new_driver] = driver_index.try_emplace(driver_name, static_cast<int>(frame.drivers.size()));
    if (is_new_driver) {
      frame.drivers.push_back(driver_name);
      driver_line.push_back(line);
    }

    bool is_high_quality = true;
    if (quality_column) {
      const std::string_view quality = table.field(row, *quality_column);
      if (quality != "high" && quality != "low") {
        detail::refuse_field(table, row, *quality_column, "\"high\" or \"low\"");
      }
      is_high_quality = quality == "high";
    }

    const bool begins = frame.recordings.empty() || frame.recordings.back().name != name;
    if (begins) {
      const auto [began, is_new] = recording_line.try_emplace(name, line);
      if (!is_new) {
        detail::refuse_field(table, row, recording_column,
                             text("a recording in one piece: it began on line ", began->second, " and recording ",
                                  detail::shown(frame.recordings.back().name), " came in between"));
      }
      frame.recordings.push_back({.name = name,
                                  .driver = driver->second,
                                  .first_row = frame.rows(),
                                  .rows = 0,
                                  .is_high_quality = is_high_quality,
                                  .is_labelled = false});
    }
    Recording& recording = frame.recordings.back();
    if (driver->second != recording.driver) {
      detail::refuse_field(
          table, row, driver_column,
          text(detail::shown(frame.drivers[static_cast<std::size_t>(recording.driver)]),
               ", the driver with whom recording ", detail::shown(name), " began on line ", recording_line[name]));
    }
    if (is_high_quality != recording.is_high_quality) {
      detail::refuse_field(table, row, *quality_column,
                           text("\"", recording.is_high_quality ? "high" : "low", "\" as on line ",
                                recording_line[name], ": one quality for recording ", detail::shown(name)));
    }
    if (group_column) {
      const std::string group = detail::required_text(table, row, *group_column, "a value to split by");
      if (is_new_driver) frame.driver_groups.push_back(group);
      const std::string& known = frame.driver_groups[static_cast<std::size_t>(driver->second)];
      if (group != known) {
        detail::refuse_field(
            table, row, *group_column,
            text(detail::shown(known), " as on line ", driver_line[static_cast<std::size_t>(driver->second)],
                 ": one value for driver ", detail::shown(driver_name)));
      }
    }

    double label = std::numeric_limits<double>::quiet_NaN();
    if (label_column && !table.field(row, *label_column).empty()) {
      const std::optional<double> number = parse_number(table.field(row, *label_column));
      if (!number) detail::refuse_field(table, row, *label_column, "a finite number, or nothing where unlabelled");
      label = *number;
    }

    bool is_complete = true;
    for (std::size_t n = 0; n < N; ++n) {
      const std::string_view field = table.field(row, feature_columns[n]);
      if (field.empty() && config.missing == Missing::drop_row) {
        is_complete = false;
        continue;
      }
      const std::optional<double> number = parse_number(field);
      if (!number) {
        detail::refuse_field(table, row, feature_columns[n],
                             field.empty() ? "a number, or data.missing = \"drop_row\"" : "a finite number");
      }
      row_values[n] = *number;
    }
    if (!is_complete) {
      ++frame.dropped_rows;
      continue;
    }
    frame.values.insert(frame.values.end(), row_values.begin(), row_values.end());
    frame.labels.push_back(label);
    ++recording.rows;
    recording.is_labelled = recording.is_labelled || !std::isnan(label);
  }

  if (frame.rows() == 0) {
    throw InputError(table.rows() == 0
                         ? text(table.path, ":2: found no row, expected at least one blink after the header")
                         : text(table.path, ": data.missing = \"drop_row\" dropped all ", table.rows(),
                                " rows, expected at least one without an empty feature"));
  }
  return frame;
}

}  // namespace blinkbert
