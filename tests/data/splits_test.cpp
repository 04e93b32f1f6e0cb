#include <blinkbert/data/splits.hpp>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <tests/data/temporary_file.hpp>

using namespace blinkbert;
using tests::message_of;

namespace {

enum class Label { usable, low_quality, none };

/// One recording of one row per driver; groups go round: 1, 2, ..., groups, 1, ...
Frame frame_of(const std::vector<Label>& labels, int groups = 0) {
  Frame frame;
  frame.path = "blinks.csv";
  frame.features = {"x"};
  for (std::size_t d = 0; d < labels.size(); ++d) {
    frame.drivers.push_back(text("d", d));
    if (groups > 0) frame.driver_groups.push_back(text(d % static_cast<std::size_t>(groups) + 1));
    frame.recordings.push_back({.name = text("r", d),
                                .driver = static_cast<int>(d),
                                .first_row = static_cast<int>(d),
                                .rows = 1,
                                .is_high_quality = labels[d] != Label::low_quality,
                                .is_labelled = labels[d] != Label::none});
    frame.values.push_back(0);
    frame.labels.push_back(labels[d] == Label::none ? std::numeric_limits<double>::quiet_NaN() : 5);
  }
  return frame;
}

Frame frame_of(int usable, int low_quality, int unlabelled, int groups = 0) {
  std::vector<Label> labels;
  // Mixed, so that file order and label do not go together.
  for (int i = 0; i < std::max({usable, low_quality, unlabelled}); ++i) {
    if (i < unlabelled) labels.push_back(Label::none);
    if (i < usable) labels.push_back(Label::usable);
    if (i < low_quality) labels.push_back(Label::low_quality);
  }
  return frame_of(labels, groups);
}

using Set = std::set<std::string>;
Set as_set(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

Set together(const DriverSets& sets) {
  Set all = as_set(sets.training);
  all.insert(sets.validation.begin(), sets.validation.end());
  all.insert(sets.test.begin(), sets.test.end());
  return all;
}

bool are_apart(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  const Set first = as_set(a);
  return std::none_of(b.begin(), b.end(), [&](const std::string& name) { return first.contains(name); });
}

/// The promise of the contract, spelled out without the library.
void check_promise(const Split& split, const Frame& frame, bool is_shared) {
  for (const DriverSets* training : {&split.pretraining, &split.finetuning}) {
    for (const DriverSets* held_out : {&split.pretraining, &split.finetuning}) {
      CHECK(are_apart(training->training, held_out->validation));
      CHECK(are_apart(training->training, held_out->test));
      CHECK(are_apart(training->validation, held_out->test));
    }
  }
  if (!is_shared) CHECK(are_apart(split.pretraining.training, split.finetuning.training));
  for (const std::string& name : together(split.finetuning)) {
    const auto d = static_cast<std::size_t>(std::stoi(name.substr(1)));
    CHECK(frame.recordings[d].has_usable_label());
  }
  Set all = together(split.pretraining);
  all.merge(together(split.finetuning));
  CHECK(all.size() == frame.drivers.size());  // nobody is lost
}

}  // namespace

TEST_CASE("no driver is on both sides, over many seeds, sizes and modes") {
  struct Case {
    int usable, low_quality, unlabelled, groups;
    bool is_shared;
    std::vector<std::string> test, validation;
  };
  const std::vector<Case> cases{
      {6, 0, 0, 0, false, {}, {}},      {6, 0, 0, 0, true, {}, {}},        {3, 0, 0, 0, true, {}, {}},
      {4, 1, 2, 0, false, {}, {}},      {20, 3, 7, 0, false, {}, {}},      {20, 3, 7, 0, true, {}, {}},
      {58, 0, 0, 5, true, {"1"}, {}},   {58, 0, 0, 5, true, {"1"}, {"2"}}, {58, 0, 0, 5, false, {"1", "3"}, {}},
      {30, 5, 9, 4, false, {"2"}, {}},  {30, 5, 9, 4, true, {"2"}, {"1"}}, {30, 5, 9, 4, false, {"2"}, {"1", "4"}},
      {12, 0, 40, 4, false, {"2"}, {}},
  };
  for (const Case& known : cases) {
    const Frame frame = frame_of(known.usable, known.low_quality, known.unlabelled, known.groups);
    SplitsConfig config;
    config.shared_training = known.is_shared;
    config.column = known.groups > 0 ? "fold" : "";
    config.test = known.test;
    config.validation = known.validation;
    std::set<Set> drawn;
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
      CAPTURE(known.usable, known.unlabelled, known.groups, known.is_shared, seed);
      const Split split = make_split(frame, config, seed);
      check_promise(split, frame, known.is_shared);
      for (const DriverSets* stage : {&split.pretraining, &split.finetuning}) {
        CHECK_FALSE(stage->training.empty());
        CHECK_FALSE(stage->validation.empty());
        CHECK_FALSE(stage->test.empty());
      }
      if (known.is_shared) {
        CHECK(split.pretraining.test.size() >= split.finetuning.test.size());
        CHECK(std::includes(split.pretraining.training.begin(), split.pretraining.training.end(),
                            split.finetuning.training.begin(), split.finetuning.training.end(),
                            [](const std::string& a, const std::string& b) {
                              return std::stoi(a.substr(1)) < std::stoi(b.substr(1));  // both in file order
                            }));
      }
      CHECK(make_split(frame, config, seed).finetuning.training == split.finetuning.training);
      drawn.insert(as_set(split.finetuning.validation));
    }
    if (known.validation.empty()) CHECK(drawn.size() > 1);  // the seed decides
  }
}

TEST_CASE("sizes follow shares and fractions") {
  struct Case {
    int usable, unlabelled;
    double share;
    std::vector<double> fractions;
    std::vector<std::size_t> pretraining, finetuning;  // training, validation, test
  };
  const std::vector<double> usual{0.7, 0.15, 0.15};
  const std::vector<Case> cases{
      {40, 0, 0.5, usual, {14, 3, 3}, {14, 3, 3}},
      {40, 20, 0.5, usual, {28, 6, 6}, {14, 3, 3}},
      {6, 0, 0.5, usual, {1, 1, 1}, {1, 1, 1}},
      {7, 0, 0.5, usual, {2, 1, 1}, {1, 1, 1}},
      {4, 3, 0.5, usual, {2, 1, 1}, {1, 1, 1}},     // moved: fine-tuning needs three of the four
      {20, 0, 0.05, usual, {1, 1, 1}, {11, 3, 3}},  // moved: pre-training needs three
      {20, 0, 0, usual, {0, 0, 0}, {14, 3, 3}},
      {20, 0, 1, usual, {14, 3, 3}, {0, 0, 0}},
      {0, 20, 0.5, usual, {14, 3, 3}, {0, 0, 0}},
      {20, 0, 0.5, {0.8, 0.2, 0}, {8, 2, 0}, {8, 2, 0}},
      {10, 0, 0.5, {0.1, 0.45, 0.45}, {1, 2, 2}, {1, 2, 2}},
      {6, 0, 0.5, {0.01, 0.01, 0.98}, {1, 1, 1}, {1, 1, 1}},
  };
  for (const Case& known : cases) {
    SplitsConfig config;
    config.pretraining_share = known.share;
    config.fractions = known.fractions;
    const Split split = make_split(frame_of(known.usable, 0, known.unlabelled), config, 3);
    const auto sizes = [](const DriverSets& sets) {
      return std::vector<std::size_t>{sets.training.size(), sets.validation.size(), sets.test.size()};
    };
    CAPTURE(known.usable, known.unlabelled, known.share);
    CHECK(sizes(split.pretraining) == known.pretraining);
    CHECK(sizes(split.finetuning) == known.finetuning);
    CHECK(split.finetuning.is_empty() == (known.finetuning == std::vector<std::size_t>{0, 0, 0}));
  }
}

TEST_CASE("by column: test values test both stages, validation is drawn from the rest") {
  const Frame frame = frame_of(50, 0, 0, 5);
  SplitsConfig config;
  config.column = "fold";
  config.test = {"1"};
  config.shared_training = true;
  const Split split = make_split(frame, config, 1);
  Set first_fold;
  for (std::size_t d = 0; d < 50; ++d) {
    if (frame.driver_groups[d] == "1") first_fold.insert(frame.drivers[d]);
  }
  CHECK(as_set(split.pretraining.test) == first_fold);
  CHECK(as_set(split.finetuning.test) == first_fold);
  CHECK(split.finetuning.validation.size() == 7);  // round(.15 / .85 * 40) = round(7.06)
  CHECK(split.pretraining.validation == split.finetuning.validation);
  CHECK(split.finetuning.training.size() == 33);
  CHECK(split.pretraining.training == split.finetuning.training);

  config.shared_training = false;
  const Split apart = make_split(frame, config, 1);
  CHECK(apart.pretraining.training.size() == 17);  // round(.5 * 33) = round(16.5)
  CHECK(apart.finetuning.training.size() == 16);
  CHECK(apart.finetuning.validation == split.finetuning.validation);

  config.pretraining_share = 0;
  CHECK(make_split(frame, config, 1).pretraining.is_empty());
  config.pretraining_share = 1;
  CHECK(make_split(frame, config, 1).finetuning.is_empty());
}

TEST_CASE("an order of drivers by their words") {
  // With one driver in each held-out set, the two with the smallest words validate and test.
  const Frame frame = frame_of(5, 0, 0);
  SplitsConfig config;
  config.shared_training = true;
  const std::uint64_t seed = 77;
  const RandomStream stream{.seed = seed, .purpose = Purpose::split};
  std::vector<std::pair<std::uint32_t, std::string>> order;
  for (std::uint32_t d = 0; d < 5; ++d) order.emplace_back(stream.word(d, 0), text("d", d));
  std::sort(order.begin(), order.end());
  const Split split = make_split(frame, config, seed);
  CHECK(split.finetuning.validation == std::vector<std::string>{order[0].second});
  CHECK(split.finetuning.test == std::vector<std::string>{order[1].second});
}

TEST_CASE("a driver whose rows were all dropped is in no set") {
  Frame frame = frame_of(8, 0, 0);
  frame.recordings[3].rows = 0;
  frame.recordings[3].is_labelled = false;
  Set all;
  const Split split = make_split(frame, SplitsConfig{}, 1);
  all.merge(together(split.pretraining));
  all.merge(together(split.finetuning));
  CHECK(all.size() == 7);
  CHECK_FALSE(all.contains("d3"));
}

TEST_CASE("what cannot be split is refused") {
  const auto message = [](const Frame& frame, const SplitsConfig& config) {
    return message_of<InputError>([&] { make_split(frame, config, 1); });
  };
  CHECK(message(frame_of(5, 0, 0), SplitsConfig{})
            .find("split leaves no drivers for finetuning.training: the stage has 2") == 0);
  CHECK(message(frame_of(0, 0, 2), SplitsConfig{})
            .find("split leaves no drivers for pretraining.training: the stage has 2") == 0);
  SplitsConfig no_training;
  no_training.fractions = {0, 0.5, 0.5};
  CHECK(message(frame_of(20, 0, 0), no_training).find("splits.fractions begins with 0") == 0);

  SplitsConfig column;
  column.column = "fold";
  column.test = {"9"};
  CHECK(message(frame_of(20, 0, 0, 3), column) ==
        "splits.test names \"9\", expected values of the column fold: 1, 2, 3");
  column.test = {"1"};
  column.validation = {"4"};
  CHECK(message(frame_of(20, 0, 0, 3), column).find("splits.validation names \"4\"") == 0);
  column.validation = {"1"};
  CHECK(message(frame_of(20, 0, 0, 3), column).find("splits.validation names \"1\", which is in splits.test too") == 0);
  column.validation = {};
  column.test = {"1", "2", "3"};
  CHECK(message(frame_of(20, 0, 0, 3), column).find("split leaves no drivers for pretraining.training") == 0);
}

TEST_CASE("a split that is given back is checked against the data") {
  const Frame frame = frame_of({Label::usable, Label::usable, Label::usable, Label::usable, Label::usable,
                                Label::usable, Label::none, Label::low_quality});
  const Split good{.pretraining = {.training = {"d0", "d6", "d7"}, .validation = {"d1"}, .test = {"d2"}},
                   .finetuning = {.training = {"d3"}, .validation = {"d4"}, .test = {"d5"}}};
  SplitsConfig apart;
  SplitsConfig shared;
  shared.shared_training = true;
  CHECK_NOTHROW(check_split(good, frame, apart));

  struct Case {
    Split split;
    SplitsConfig config;
    std::string message;  // empty: fine
  };
  std::vector<Case> cases;
  const auto add = [&](const SplitsConfig& config, const std::string& message, auto&& change) {
    Split split = good;
    change(split);
    cases.push_back({split, config, message});
  };
  add(apart, "split: finetuning.training names drivers that blinks.csv lacks: x, y", [](Split& s) {
    s.finetuning.training = {"x", "d3", "y"};
  });
  add(apart, "split: pretraining.training lists drivers twice: d0", [](Split& s) {
    s.pretraining.training = {"d0", "d0"};
  });
  add(apart, "split: pretraining.training and pretraining.test may not share drivers: d0",
      [](Split& s) { s.pretraining.test = {"d0"}; });
  add(apart, "split: pretraining.training and finetuning.test may not share drivers: d0", [](Split& s) {
    s.finetuning.test = {"d5", "d0"};
  });
  add(shared, "split: pretraining.training and finetuning.validation may not share drivers: d0",
      [](Split& s) { s.finetuning.validation = {"d0"}; });
  add(apart, "split: pretraining.validation and finetuning.training may not share drivers: d1", [](Split& s) {
    s.finetuning.training = {"d1", "d3"};
  });
  add(apart, "split: pretraining.validation and finetuning.test may not share drivers: d1",
      [](Split& s) { s.finetuning.test = {"d1"}; });
  add(apart,
      "split: pretraining.training and finetuning.training may not share drivers unless splits.shared_training = "
      "true: d0",
      [](Split& s) { s.finetuning.training = {"d0"}; });
  add(shared, "", [](Split& s) { s.finetuning.training = {"d0"}; });
  add(apart, "", [](Split& s) { s.finetuning.test = {"d2"}; });
  add(apart, "", [](Split& s) { s.finetuning = {}; });
  add(apart, "split leaves no drivers for finetuning.test: the stage has 2", [](Split& s) { s.finetuning.test = {}; });
  add(apart, "split leaves no drivers for pretraining.training: the stage has 2",
      [](Split& s) { s.pretraining.training = {}; });
  SplitsConfig untested = apart;
  untested.fractions = {0.8, 0.2, 0};
  add(untested, "", [](Split& s) { s.finetuning.test = {}; });
  add(apart, "split: finetuning.training has no labelled recording of high quality, its drivers are: d6, d7",
      [](Split& s) {
        s.pretraining.training = {"d0"};
        s.finetuning.training = {"d6", "d7"};
      });
  for (const Case& known : cases) {
    const std::string message = message_of<InputError>([&] { check_split(known.split, frame, known.config); });
    CAPTURE(message, known.message);
    CHECK((known.message.empty() ? message.empty() : message.starts_with(known.message)));
  }
}

TEST_CASE("a stage without drivers cannot be trained") {
  CHECK_NOTHROW(
      check_stage({.training = {"a"}, .validation = {"b"}, .test = {}}, Task::pretraining, Monitor::masked_loss));
  CHECK_NOTHROW(check_stage({.training = {"a"}, .validation = {}, .test = {}}, Task::finetuning, Monitor::none));
  CHECK(message_of<InputError>([] {
          check_stage({}, Task::finetuning, Monitor::kpi);
        }).find("split leaves no training drivers for finetuning: have 0 training, 0 validation and 0 test drivers") ==
        0);
  CHECK(message_of<InputError>([] {
          check_stage({.training = {"a"}, .validation = {}, .test = {"b"}}, Task::pretraining, Monitor::masked_loss);
        }).find("split leaves no validation drivers for pretraining") == 0);
}
