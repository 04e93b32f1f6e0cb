// What training may depend on: the training and validation drivers' rows, the seed, nothing else.

#include <catch2/catch.hpp>

#include <blinkbert/io/safetensors.hpp>

#include "small_run.hpp"

namespace {

using namespace blinkbert::test;

/// Parameters and everything else of two checkpoints, the fingerprint of the data apart.
void check_same_training(const Path& left, const Path& right) {
  for (const std::string name : {"state", "last", "best"}) {
    INFO(name);
    auto a = blinkbert::read_safetensors(left / "checkpoints" / (name + ".safetensors"));
    auto b = blinkbert::read_safetensors(right / "checkpoints" / (name + ".safetensors"));
    REQUIRE(a.metadata.at("data") != b.metadata.at("data"));
    a.metadata.erase("data");
    b.metadata.erase("data");
    CHECK(a.metadata == b.metadata);
    CHECK(blinkbert::to_bytes(a) == blinkbert::to_bytes(b));
  }
}

}  // namespace

TEST_CASE("The rows and labels of test drivers do not move the training state") {
  const SmallRun small;
  REQUIRE(run("pretrain", small.flags("pretraining")).exit_code == 0);
  const Path split = small.path("pretraining") / "split.json";
  REQUIRE(
      run("finetune", small.flags("finetuning") + Arguments{"--from-scratch", "--split", split.string()}).exit_code ==
      0);

  const Json drivers = Json::parse(bytes_of(split));
  for (const auto& [program, stage, flags] : std::vector<std::tuple<std::string, std::string, Arguments>>{
           {"pretrain", "pretraining", {}}, {"finetune", "finetuning", {"--from-scratch"}}}) {
    INFO(program);
    const auto test = drivers[stage]["test"].get<std::set<std::string>>();
    REQUIRE_FALSE(test.empty());
    // Every feature of a test driver times 3, every label turned around.
    std::istringstream lines(small_csv());
    std::string csv, line;
    std::getline(lines, line);
    csv = line + "\n";
    int changed_rows = 0;
    while (std::getline(lines, line)) {
      std::vector<std::string> cells;
      std::istringstream row(line);
      for (std::string cell; std::getline(row, cell, ',');) cells.push_back(cell);
      REQUIRE(cells.size() == 13);
      if (test.contains(cells[1])) {
        for (std::size_t i = 2; i < 11; ++i) cells[i] = std::to_string(3 * std::stod(cells[i]));
        if (!cells[11].empty()) cells[11] = std::to_string(10 - std::stoi(cells[11]));
        ++changed_rows;
      }
      for (std::size_t i = 0; i < cells.size(); ++i) csv += (i == 0 ? "" : ",") + cells[i];
      csv += "\n";
    }
    REQUIRE(changed_rows > 50);
    const Path data = small.folder.put(program + ".csv", csv);
    Arguments other = small.flags(program + " other") + flags + Arguments{"--split", split.string()};
    *std::find(other.begin(), other.end(), small.data.string()) = data.string();
    REQUIRE(run(program, other).exit_code == 0);
    check_same_training(small.path(stage), small.path(program + " other"));
    CHECK(events_of(small.path(stage)) == events_of(small.path(program + " other")));
    // The test itself did read them.
    const auto result = [&](const std::string& run_name) {
      return without_time(Json::parse(bytes_of(small.path(run_name) / "report.json")))["test"];
    };
    CHECK(result(stage) != result(program + " other"));
  }
}

TEST_CASE("Frozen parts of a backbone keep the bits of the pre-training checkpoint") {
  const SmallRun small;
  REQUIRE(run("pretrain", small.flags("pretraining")).exit_code == 0);
  const auto pretrained = blinkbert::read_safetensors(small.checkpoint("pretraining"));
  const std::string top = "backbone.encoder.layers.1.", next = "backbone.encoder.layers.0.";
  struct Case {
    std::string unfreeze;
    int epochs;
    std::set<std::string> trained;  // beginnings of names
  };
  for (const Case& one :
       std::vector<Case>{{"[]", 3, {}}, {"[3, 4]", 2, {}}, {"[2, 4]", 3, {top}}, {"[2, 3]", 3, {top, next}}}) {
    INFO(one.unfreeze << ' ' << one.epochs);
    const std::string out = "unfreeze " + one.unfreeze;
    const Result result =
        run("finetune", small.flags(out) + Arguments{"--backbone", small.checkpoint("pretraining").string(), "--split",
                                                     (small.path("pretraining") / "split.json").string(), "--set",
                                                     "train.unfreeze=" + one.unfreeze, "--set",
                                                     "train.epochs=" + std::to_string(one.epochs)});
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    const auto last = blinkbert::read_safetensors(small.checkpoint(out, "last"));
    CHECK(last.metadata.at("scaler") == pretrained.metadata.at("scaler"));
    int backbone_tensors = 0;
    for (const auto& [name, tensor] : last.tensors) {
      if (!name.starts_with("backbone.")) continue;
      INFO(name);
      ++backbone_tensors;
      const bool is_trained = std::any_of(one.trained.begin(), one.trained.end(),
                                          [&](const std::string& start) { return name.starts_with(start); });
      CHECK((tensor.data == pretrained.at(name).data) == !is_trained);
    }
    CHECK(backbone_tensors == 2 + 1 + 2 * 12);
  }
}

TEST_CASE("The number of threads changes no random decision") {
  const SmallRun small;
  Arguments two = small.flags("two");
  *(std::find(two.begin(), two.end(), "--threads") + 1) = "2";
  REQUIRE(run("pretrain", small.flags("one")).exit_code == 0);
  REQUIRE(run("pretrain", two).exit_code == 0);
  CHECK(bytes_of(small.path("one") / "split.json") == bytes_of(small.path("two") / "split.json"));
  const auto one_events = events_of(small.path("one")), two_events = events_of(small.path("two"));
  REQUIRE(one_events.size() == two_events.size());
  for (std::size_t i = 0; i < one_events.size(); ++i) {
    if (one_events[i]["event"] != "epoch") continue;
    CAPTURE(one_events[i].dump(), two_events[i].dump());
    // Another row chosen or another window would move these by per cents; the order of sums moves a float by
    // parts in 10^7 per step, which some twenty steps of training at rate 0.01 may multiply.
    CHECK(two_events[i]["training_loss"].get<double>() ==
          Approx(one_events[i]["training_loss"].get<double>()).epsilon(1e-3));
    CHECK(two_events[i]["validation"]["masked_loss"].get<double>() ==
          Approx(one_events[i]["validation"]["masked_loss"].get<double>()).epsilon(1e-3));
    CHECK(two_events[i]["step"] == one_events[i]["step"]);
  }
  // The rows of the test are counted, not trained: exactly equal.
  const auto rows = [&](const std::string& name) {
    return Json::parse(bytes_of(small.path(name) / "report.json"))["test"]["rows"];
  };
  CHECK(rows("one") == rows("two"));

  // And with the same number, more than one gives the same bits too.
  Arguments again = two;
  *std::find(again.begin(), again.end(), small.path("two").string()) = small.path("again").string();
  REQUIRE(run("pretrain", again).exit_code == 0);
  CHECK(difference(small.path("two"), small.path("again")) == "");
}
