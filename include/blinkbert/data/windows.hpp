#pragma once

// Windows: pieces of recordings that become sequences. An index into the frame, no copies.

#include <limits>
#include <string>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/data/frame.hpp>

namespace blinkbert {

/// Rows [start, start + length) of a frame, all of one recording.
struct Window {
  int recording = 0;                                        // index into Frame::recordings
  int start = 0;                                            // row of the frame
  int length = 0;                                           // blinks
  double label = std::numeric_limits<double>::quiet_NaN();  // of the last row; NaN = unlabelled
  double weight = 1;                                        // in the loss of fine-tuning (weigh_by_recording)
};

/// What became of one recording.
struct RecordingReport {
  int recording = 0;
  int rows = 0;
  int windows = 0;
  int uncovered_rows = 0;   // rows in no window
  std::string reason = {};  // why rows are in no window; empty where all are in one
};

struct WindowIndex {
  std::vector<Window> windows;           // in file order: the number of a window is its place here
  std::vector<RecordingReport> reports;  // one per recording
};

/// Windows of `length` rows at rows 0, stride, 2 stride, ... of each recording; a recording shorter than that but at
/// least `min_length` rows long gives one short window. All recordings, whatever their labels or drivers.
inline WindowIndex index_windows(const Frame& frame, int length, int stride, int min_length) {
  BLINKBERT_EXPECTS(length >= 1 && stride >= 1 && min_length >= 1 && min_length <= length, length, stride, min_length);
  WindowIndex index;
  for (int r = 0; r < static_cast<int>(frame.recordings.size()); ++r) {
    const Recording& recording = frame.recordings[static_cast<std::size_t>(r)];
    RecordingReport report{.recording = r, .rows = recording.rows, .windows = 0, .uncovered_rows = 0, .reason = {}};
    const auto add = [&](int offset, int rows) {
      const int start = recording.first_row + offset;
      index.windows.push_back({.recording = r,
                               .start = start,
                               .length = rows,
                               .label = frame.labels[static_cast<std::size_t>(start + rows - 1)]});
    };
    if (recording.rows >= length) {
      report.windows = 1 + (recording.rows - length) / stride;
      for (int i = 0; i < report.windows; ++i) add(i * stride, length);
      const int last_end = (report.windows - 1) * stride + length;
      const int covered = stride < length ? last_end : report.windows * length;
      const int tail = recording.rows - last_end;
      report.uncovered_rows = recording.rows - covered;
      if (tail > 0) report.reason = text("the last ", tail, " rows fill no window at stride ", stride);
      if (report.uncovered_rows > tail) {
        report.reason += text(report.reason.empty() ? "" : "; ", report.uncovered_rows - tail,
                              " rows lie between windows of ", length, " at stride ", stride);
      }
    } else if (recording.rows >= min_length) {
      report.windows = 1;
      add(0, recording.rows);
    } else {
      report.uncovered_rows = recording.rows;
      report.reason = recording.rows == 0 ? std::string("every row was dropped for an empty feature")
                                          : text("shorter than the minimum length of ", min_length);
    }
    index.reports.push_back(report);
  }
  return index;
}

}  // namespace blinkbert
