#include <blinkbert/data/frame.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <tests/data/temporary_file.hpp>

using namespace blinkbert;
using tests::message_of;
using tests::TemporaryFile;

namespace {

DataConfig two_features() {
  DataConfig config;
  config.features = {"duration", "amplitude"};
  return config;
}

const std::string good =
    "driver,recording,fold,amplitude,note,duration,kss,label_quality\n"
    "anna,r1,1,10,a,1,3,high\n"
    "anna,r1,1,20,b,2,,high\n"
    "bo,r2,2,30,c,3,5,low\n"
    "anna,r3,1,40,d,4,,high\n";

}  // namespace

TEST_CASE("columns are found by name, in any order, others are left alone") {
  const TemporaryFile file(good);
  const Frame frame = read_frame(file.path(), two_features(), "fold");
  CHECK(frame.N() == 2);
  CHECK(frame.rows() == 4);
  CHECK(frame.values == std::vector<double>{1, 10, 2, 20, 3, 30, 4, 40});
  CHECK(frame.drivers == std::vector<std::string>{"anna", "bo"});
  CHECK(frame.driver_groups == std::vector<std::string>{"1", "2"});
  CHECK(frame.labels[0] == 3);
  CHECK(std::isnan(frame.labels[1]));
  REQUIRE(frame.recordings.size() == 3);
  const Recording& first = frame.recordings[0];
  CHECK((first.name == "r1" && first.driver == 0 && first.first_row == 0 && first.rows == 2));
  CHECK((first.is_labelled && first.is_high_quality && first.has_usable_label()));
  const Recording& second = frame.recordings[1];
  CHECK((second.is_labelled && !second.is_high_quality && !second.has_usable_label()));
  const Recording& third = frame.recordings[2];
  CHECK((third.driver == 0 && third.first_row == 3 && !third.is_labelled && !third.has_usable_label()));
  CHECK(read_frame(file.path(), two_features()).driver_groups.empty());
}

TEST_CASE("label and quality columns may be absent") {
  const TemporaryFile file("driver,recording,amplitude,duration\na,1,1,2\n");
  const Frame frame = read_frame(file.path(), two_features());
  CHECK(std::isnan(frame.labels[0]));
  CHECK((!frame.recordings[0].is_labelled && frame.recordings[0].is_high_quality));

  const TemporaryFile labelled("driver,recording,amplitude,duration,kss\na,1,1,2,7\n");
  CHECK(read_frame(labelled.path(), two_features()).recordings[0].has_usable_label());
}

TEST_CASE("drop_row leaves rows with an empty feature out, and only those") {
  const TemporaryFile file(
      "driver,recording,amplitude,duration,kss\n"
      "a,1,1,2,7\n"
      "a,1,,2,8\n"
      "a,1,3,,9\n"
      "a,1,4,2,\n"
      "a,2,,,9\n"
      "b,3,5,2,\n");
  DataConfig config = two_features();
  CHECK(message_of<InputError>([&] { read_frame(file.path(), config); }) ==
        file.path().string() +
            ":3: column amplitude: found an empty field, expected a number, or data.missing = \"drop_row\"");
  config.missing = Missing::drop_row;
  const Frame frame = read_frame(file.path(), config);
  CHECK(frame.dropped_rows == 3);
  CHECK(frame.values == std::vector<double>{2, 1, 2, 4, 2, 5});
  REQUIRE(frame.recordings.size() == 3);
  CHECK((frame.recordings[0].rows == 2 && frame.recordings[1].rows == 0 && frame.recordings[2].rows == 1));
  CHECK((frame.recordings[1].first_row == 2 && frame.recordings[2].first_row == 2));
  CHECK_FALSE(frame.recordings[1].is_labelled);  // its only label went with its row
}

TEST_CASE("bad input is refused with file, line, column and what was found") {
  const std::string header = "driver,recording,amplitude,duration,kss,label_quality,fold\n";
  struct Case {
    std::string rows, message;  // the message after the file's name
  };
  const std::vector<Case> cases{
      {"a,1,x,2,7,high,1\n", ":2: column amplitude: found \"x\", expected a finite number"},
      {"a,1,1,2,7,high,1\na,1,1,\"1,5\",7,high,1\n", ":3: column duration: found \"1,5\", expected a finite number"},
      {"a,1,1,\"2\n3\",7,high,1\n", ":2: column duration: found \"2\\x0a3\", expected a finite number"},
      {"a,1,1,nan,7,high,1\n", ":2: column duration: found \"nan\", expected a finite number"},
      {"a,1,1,-inf,7,high,1\n", ":2: column duration: found \"-inf\", expected a finite number"},
      {"a,1,1,1e300,7,high,1\n", ":2: column duration: found \"1e300\", expected a finite number"},
      {"a,1,1,,7,high,1\n",
       ":2: column duration: found an empty field, expected a number, or data.missing = \"drop_row\""},
      {"a,1,1,2,sleepy,high,1\n",
       ":2: column kss: found \"sleepy\", expected a finite number, or nothing where unlabelled"},
      {"a,1,1,2,nan,high,1\n", ":2: column kss: found \"nan\", expected a finite number, or nothing where unlabelled"},
      {"a,1,1,2,7,,1\n", ":2: column label_quality: found an empty field, expected \"high\" or \"low\""},
      {"a,1,1,2,7,High,1\n", ":2: column label_quality: found \"High\", expected \"high\" or \"low\""},
      {"a,1,1,2,7,high,1\na,1,1,2,7,low,1\n",
       ":3: column label_quality: found \"low\", expected \"high\" as on line 2: one quality for recording \"1\""},
      {"a,,1,2,7,high,1\n", ":2: column recording: found an empty field, expected the recording's name"},
      {",1,1,2,7,high,1\n", ":2: column driver: found an empty field, expected the driver's name"},
      {"a,1,1,2,7,high,1\nb,1,1,2,7,high,1\n",
       ":3: column driver: found \"b\", expected \"a\", the driver with whom recording \"1\" began on line 2"},
      {"a,1,1,2,7,high,1\na,2,1,2,7,high,1\na,1,1,2,7,high,1\n",
       ":4: column recording: found \"1\", expected a recording in one piece: it began on line 2 and recording \"2\" "
       "came in "
       "between"},
      {"a,1,1,2,7,high,1\na,2,1,2,7,high,2\n",
       ":3: column fold: found \"2\", expected \"1\" as on line 2: one value for driver \"a\""},
      {"a,1,1,2,7,high,\n", ":2: column fold: found an empty field, expected a value to split by"},
      {"a,1,1,2,7,high\n", ":2: column fold: found a row that ends after 6 fields, expected 7 fields as in the header"},
      {"", ":2: found no row, expected at least one blink after the header"},
  };
  for (const Case& wrong : cases) {
    const TemporaryFile file(header + wrong.rows);
    CHECK(message_of<InputError>([&] { read_frame(file.path(), two_features(), "fold"); }) ==
          file.path().string() + wrong.message);
  }
}

TEST_CASE("a dropped row is still checked") {
  DataConfig config = two_features();
  config.missing = Missing::drop_row;
  for (const std::string row :
       {"a,1,,x,7,high\n", "a,1,,nan,7,high\n", "a,1,,1,seven,high\n", "b,1,,1,7,high\n", "a,1,,1,7,low\n"}) {
    CAPTURE(row);
    const TemporaryFile file("driver,recording,amplitude,duration,kss,label_quality\na,1,1,2,7,high\n" + row);
    CHECK(message_of<InputError>([&] {
            read_frame(file.path(), config);
          }).starts_with(file.path().string() + ":3: column"));
  }
  const TemporaryFile file("driver,recording,amplitude,duration\na,1,,2\n");
  CHECK(message_of<InputError>([&] { read_frame(file.path(), config); }).find("dropped all 1 rows") !=
        std::string::npos);
}

TEST_CASE("a missing column is named with the key and the file's columns, nearest first") {
  const TemporaryFile file(good);
  const auto message = [&](const DataConfig& config, const std::string& column = {}) {
    return message_of<InputError>([&] { read_frame(file.path(), config, column); });
  };
  DataConfig config = two_features();
  config.features = {"duration", "amplitud"};
  CHECK(message(config).starts_with(file.path().string() +
                                    ":1: column amplitud (data.features) is missing, the file has: amplitude, "));
  config = two_features();
  config.driver = "drivers";
  CHECK(message(config).find("column drivers (data.driver) is missing, the file has: driver, ") != std::string::npos);
  config = two_features();
  config.recording = "video";
  CHECK(message(config).find("column video (data.recording) is missing") != std::string::npos);
  CHECK(message(two_features(), "group").find("column group (splits.column) is missing") != std::string::npos);
}

TEST_CASE("no column with another role is a feature") {
  const TemporaryFile file("driver,recording,amplitude,duration,kss,label_quality,fold\n1,1,1,2,7,high,1\n");
  for (const std::string feature : {"driver", "recording", "kss", "label_quality", "fold"}) {
    CAPTURE(feature);
    DataConfig config = two_features();
    config.features.push_back(feature);
    const std::string message = message_of<InputError>([&] { read_frame(file.path(), config, "fold"); });
    CHECK(message.find("data.features names " + feature + ", which is ") == 0);
  }
}

TEST_CASE("the real recordings are read whole") {
  const std::filesystem::path path = BLINKBERT_SOURCE_DIR "/../shared/data/rldd_blinks.csv";
  if (!std::filesystem::exists(path)) {
    WARN("skipped: the real recordings are not beside this checkout");
    return;
  }
  DataConfig config;
  config.features = {"amplitude", "duration", "velocity"};
  config.label = "drowsiness";
  const Frame frame = read_frame(path, config, "fold");
  CHECK(frame.rows() == 21983);
  CHECK(frame.recordings.size() == 174);
  CHECK(frame.drivers.size() == 58);
  CHECK(frame.driver_groups.size() == 58);
  CHECK(frame.values[0] == -0.11922937);
  for (const Recording& recording : frame.recordings) CHECK(recording.has_usable_label());
}
