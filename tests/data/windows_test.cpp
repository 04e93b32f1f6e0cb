#include <blinkbert/data/windows.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

using namespace blinkbert;

namespace {

/// Recordings of the given lengths; the label of a row is its number.
Frame frame_of(const std::vector<int>& lengths) {
  Frame frame;
  frame.features = {"x"};
  frame.drivers = {"a"};
  for (const int length : lengths) {
    frame.recordings.push_back({.name = text(frame.recordings.size()),
                                .driver = 0,
                                .first_row = frame.rows(),
                                .rows = length,
                                .is_high_quality = true,
                                .is_labelled = true});
    for (int row = 0; row < length; ++row) {
      frame.labels.push_back(frame.rows());
      frame.values.push_back(0);
    }
  }
  return frame;
}

}  // namespace

TEST_CASE("windows stay inside recordings, begin at multiples of the stride and cover what they can") {
  const Frame frame = frame_of({0, 1, 4, 5, 6, 7, 9, 10, 11, 14, 15, 23, 2, 50});
  for (const int length : {1, 5, 7}) {
    for (const int stride : {1, 2, 5, 8, 1 << 30}) {
      for (int min_length = 1; min_length <= length; min_length += 2) {
        CAPTURE(length, stride, min_length);
        const WindowIndex index = index_windows(frame, length, stride, min_length);
        REQUIRE(index.reports.size() == frame.recordings.size());
        std::vector<char> is_covered(static_cast<std::size_t>(frame.rows()), 0);
        std::vector<int> windows(frame.recordings.size(), 0);
        for (const Window& window : index.windows) {
          const Recording& recording = frame.recordings[static_cast<std::size_t>(window.recording)];
          const int offset = window.start - recording.first_row;
          const int number = windows[static_cast<std::size_t>(window.recording)]++;
          CHECK(offset == static_cast<long long>(number) * stride);
          CHECK(offset + window.length <= recording.rows);
          CHECK(window.length == std::min(length, recording.rows));
          CHECK(window.length >= min_length);
          CHECK(window.label == window.start + window.length - 1);
          for (int row = 0; row < window.length; ++row) is_covered[static_cast<std::size_t>(window.start + row)] = 1;
        }
        CHECK(std::is_sorted(index.windows.begin(), index.windows.end(),
                             [](const Window& a, const Window& b) { return a.start < b.start; }));
        for (std::size_t r = 0; r < frame.recordings.size(); ++r) {
          const Recording& recording = frame.recordings[r];
          const RecordingReport& report = index.reports[r];
          CHECK(report.windows == windows[r]);
          // One more window would not have fitted, and a recording without windows was too short.
          if (windows[r] == 0) {
            CHECK(recording.rows < std::min(length, min_length));
          } else {
            CHECK(static_cast<long long>(windows[r]) * stride + length > recording.rows);
          }
          const auto first = is_covered.begin() + recording.first_row;
          const auto uncovered = std::count(first, first + recording.rows, 0);
          CHECK(report.uncovered_rows == uncovered);
          CHECK(report.reason.empty() == (uncovered == 0 && recording.rows > 0));
        }
      }
    }
  }
}

TEST_CASE("reports say why rows are in no window") {
  const WindowIndex index = index_windows(frame_of({3, 12, 26, 0, 21}), 5, 7, 4);
  CHECK(index.reports[0].reason == "shorter than the minimum length of 4");
  CHECK(index.reports[1].reason == "2 rows lie between windows of 5 at stride 7");
  CHECK(index.reports[2].reason == "6 rows lie between windows of 5 at stride 7");
  CHECK(index.reports[3].reason == "every row was dropped for an empty feature");
  CHECK(index.reports[4].reason ==
        "the last 2 rows fill no window at stride 7; 4 rows lie between windows of 5 at stride 7");
  CHECK(index_windows(frame_of({13}), 5, 5, 1).reports[0].reason == "the last 3 rows fill no window at stride 5");
}

TEST_CASE("sizes that make no sense are a mistake of the caller") {
  const Frame frame = frame_of({5});
  CHECK_THROWS_AS(index_windows(frame, 0, 1, 1), ContractViolation);
  CHECK_THROWS_AS(index_windows(frame, 5, 0, 1), ContractViolation);
  CHECK_THROWS_AS(index_windows(frame, 5, 1, 6), ContractViolation);
  CHECK_THROWS_AS(index_windows(frame, 5, 1, 0), ContractViolation);
}

TEST_CASE("the real recordings give the agreed numbers of windows") {
  const std::filesystem::path path = BLINKBERT_SOURCE_DIR "/../shared/data/rldd_blinks.csv";
  if (!std::filesystem::exists(path)) {
    WARN("skipped: the real recordings are not beside this checkout");
    return;
  }
  DataConfig config;
  config.features = {"amplitude", "duration", "velocity"};
  config.label = "drowsiness";
  const Frame frame = read_frame(path, config);
  const auto full = [](const WindowIndex& index) {
    return std::count_if(index.windows.begin(), index.windows.end(), [](const Window& w) { return w.length == 30; });
  };
  const WindowIndex apart = index_windows(frame, 30, 30, 1);
  CHECK(full(apart) == 649);
  const WindowIndex overlapping = index_windows(frame, 30, 2, 1);
  CHECK(overlapping.windows.size() == 8661);
  CHECK(full(overlapping) == 8661 - 19);
  for (const Window& window : overlapping.windows) CHECK_FALSE(std::isnan(window.label));
}
