// The program `experiments`: bad files are named, runs are shared and never repeated, a kill loses nothing, a failing arm
// leaves the others alone, results say what they are.

#include <catch2/catch.hpp>

#include <cmath>
#include <set>

#include "examples/experiments/experiment_file.hpp"
#include "markup.hpp"
#include "small_run.hpp"

namespace {

using namespace blinkbert::test;

/// Two stages, three arms, two seeds; the stages' files lie beside it.
const std::string experiment = R"(title = "A <small> experiment"
data = "blinks.csv"
seeds = [1, 2]
[pretraining]
config = "small.toml"
train.epochs = 2
[finetuning]
config = "small.toml"
train.epochs = 2
[[arm]]
name = "with calibration"
task = "pretraining"
[[arm]]
name = "without"
task = "pretraining"
data.calibration = "none"
[[arm]]
name = "better"
task = "pretraining"
better_of = ["with calibration", "without"]
[[arm]]
name = "pre-trained"
task = "finetuning"
backbone = "better"
[[arm]]
name = "scratch"
task = "finetuning"
like = "better"
[[comparison]]
title = "Does it help?"
arms = ["pre-trained"]
against = "scratch"
[[comparison]]
title = "Masked rows"
arms = ["with calibration"]
against = "without"
)";

struct SmallExperiment : SmallRun {
  Path file = folder.put("experiment.toml", experiment);

  Arguments call(const std::string& out, const Path& toml) const {
    return {"--config", toml.string(), "--out", path(out).string(), "--threads", "1", "--quiet"};
  }
  Arguments call(const std::string& out) const { return call(out, file); }
  Json results(const std::string& out) const { return Json::parse(bytes_of(path(out) / "results.json")); }
};

/// `text` with the first `from` replaced.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != text.npos);
  return text.replace(at, from.size(), to);
}

Json comparable(Json results) {
  results.erase("command");
  return without_time(std::move(results));
}

std::size_t runs_in(const Path& out) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(out / "runs")) count += entry.is_directory() ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("An experiment trains every run once, pools it, and writes results and report") {
  const SmallExperiment small;
  const Result first = run("experiments", small.call("out") + Arguments{"--jobs", "2"});
  INFO(first.err);
  REQUIRE(first.exit_code == 0);
  CHECK(first.err.empty());
  CHECK_THAT(first.out, Catch::Contains("Does it help?") && Catch::Contains("report.html"));

  // Two pre-training arms and two fine-tuning ones with two seeds each; "better" is one of the two and trains nothing.
  CHECK(runs_in(small.path("out")) == 8);
  const Json results = small.results("out");
  CHECK(results["runs"].size() == 8);
  CHECK(results["failed"].empty());
  REQUIRE(results["arms"].size() == 5);
  const Json& better = results["arms"][2];
  REQUIRE((better["chosen"] == "with calibration" || better["chosen"] == "without"));
  const Json& chosen = results["arms"][better["chosen"] == "without" ? 1 : 0];
  CHECK(better["runs"] == chosen["runs"]);
  // The choice looks at validation drivers: the mean share of the chosen arm is the smaller one.
  const auto validation_share = [&](const Json& arm) {
    double sum = 0;
    for (const Json& one : arm["runs"])
      sum += Json::parse(
                 bytes_of(small.path("out") / one["folder"].get<std::string>() / "report.json"))["validation"]["share"]
                 .get<double>();
    return sum;
  };
  CHECK(validation_share(chosen) ==
        std::min(validation_share(results["arms"][0]), validation_share(results["arms"][1])));

  // Pooled over two seeds: the value of means is the mean of the seeds' values where every seed has the same windows.
  for (std::size_t arm : {3u, 4u}) {
    const Json& mae = results["arms"][arm]["scores"]["mae"];
    REQUIRE(mae["seeds"].size() == 2);
    CHECK(mae["value"].get<double>() ==
          Approx((mae["seeds"][0].get<double>() + mae["seeds"][1].get<double>()) / 2).epsilon(1e-12));
    for (std::size_t seed = 0; seed < 2; ++seed) {
      const Json report = Json::parse(bytes_of(
          small.path("out") / results["arms"][arm]["runs"][seed]["folder"].get<std::string>() / "report.json"));
      CHECK(mae["seeds"][seed].get<double>() == Approx(report["test"]["model"]["mae"].get<double>()).epsilon(1e-12));
    }
  }
  const Json& difference = results["comparisons"][0]["differences"][0];
  CHECK(difference["scores"]["mae"]["value"].get<double>() ==
        Approx(results["arms"][3]["scores"]["mae"]["value"].get<double>() -
               results["arms"][4]["scores"]["mae"]["value"].get<double>())
            .margin(1e-12));
  // Below 8 drivers there is no interval, and that is said.
  CHECK_THAT(difference["scores"]["mae"]["verdict"].get<std::string>(), Catch::Contains("no interval"));
  CHECK(results["comparisons"][1]["rows"] == "later");

  const std::string page = bytes_of(small.path("out") / "report.html");
  CHECK(page_fault(page) == "");
  for (const std::string word :
       {"A &lt;small&gt; experiment", "Arms: kpi", "Paired differences: mae", "Training loss by epoch",
        "Error on masked rows", "nearest visible row", "Windows by level: pre-trained",
        "Predicted against true score: scratch", "Score over the recording", "By driver: scratch", "better_of",
        "arms are compared here", "fingerprint"}) {
    INFO(word);
    CHECK_THAT(page, Catch::Contains(word));
  }

  // Again: nothing is trained, the same results.
  std::map<std::string, std::filesystem::file_time_type> times;
  for (const Json& one : results["runs"]) {
    const std::string name = one["folder"];
    times[name] = std::filesystem::last_write_time(small.path("out") / name / "checkpoints" / "state.safetensors");
  }
  REQUIRE(run("experiments", small.call("out")).exit_code == 0);
  for (const auto& [name, time] : times)
    CHECK(std::filesystem::last_write_time(small.path("out") / name / "checkpoints" / "state.safetensors") == time);
  CHECK(comparable(small.results("out")) == comparable(results));

  // One more arm with the same backbone: one more run per seed.
  const Path more = small.folder.put("more.toml", experiment +
                                                      "[[arm]]\nname = \"frozen\"\ntask = \"finetuning\"\n"
                                                      "backbone = \"better\"\ntrain.unfreeze = []\n");
  REQUIRE(run("experiments", small.call("out", more)).exit_code == 0);
  CHECK(runs_in(small.path("out")) == 10);
}

TEST_CASE("Killed and interrupted calls go on to the results of one that was never stopped") {
  const SmallExperiment small;
  REQUIRE(run("experiments", small.call("whole")).exit_code == 0);
  const auto wait_for_runs = [&](Program& program, std::size_t count) {
    while (!program.has_ended()) {
      if (std::filesystem::exists(small.path("stopped") / "runs") && runs_in(small.path("stopped")) >= count)
        return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  };
  {
    Program program("experiments", small.call("stopped"));
    REQUIRE(wait_for_runs(program, 2));
    program.send(SIGKILL);
    CHECK(program.wait().signal == SIGKILL);
  }
  {
    Program program("experiments", small.call("stopped"));
    REQUIRE(wait_for_runs(program, 4));
    program.send(SIGINT);
    const Result stopped = program.wait();
    INFO(stopped.err);
    CHECK(stopped.exit_code == 130);
    CHECK_FALSE(std::filesystem::exists(small.path("stopped") / "results.json"));
  }
  const Result resumed = run("experiments", small.call("stopped"));
  INFO(resumed.err);
  REQUIRE(resumed.exit_code == 0);
  CHECK(comparable(small.results("stopped")) == comparable(small.results("whole")));
}

TEST_CASE("A failing arm is named, what needs it fails with it, the others go on, and it can be mended") {
  const SmallExperiment small;
  // Labels lie outside of this range: fine-tuning refuses it when it reads the data.
  const std::string bad = experiment +
                          "[[arm]]\nname = \"broken\"\ntask = \"finetuning\"\nbackbone = \"without\"\n"
                          "labels.range = [1, 2]\nlabels.edges = [1.5]\n";
  const Path file = small.folder.put("bad.toml", bad);
  const Result result = run("experiments", small.call("out", file));
  INFO(result.err);
  CHECK(result.exit_code == 1);
  CHECK_THAT(result.err,
             Catch::Contains("\"broken\" seed 1") && Catch::Contains("labels.range") && Catch::Contains("logs/"));
  const Json results = small.results("out");
  CHECK(results["failed"].size() == 2);
  CHECK(results["runs"].size() == 8);
  CHECK(results["arms"][3].contains("scores"));
  CHECK_THAT(bytes_of(small.path("out") / "report.html"), Catch::Contains("labels.range"));
  CHECK(page_fault(bytes_of(small.path("out") / "report.html")) == "");

  // A pre-training run whose folder cannot be made takes its fine-tuning with it.
  const std::string id = results["arms"][0]["runs"][0]["folder"];
  const std::string other = small.path("blocked").string();
  std::filesystem::create_directories(other + "/runs");
  put(Path(other) / id, "in the way");
  const Result blocked = run("experiments", small.call("blocked"));
  INFO(blocked.err);
  CHECK(blocked.exit_code == 1);
  CHECK_THAT(blocked.err, Catch::Contains("\"with calibration\" seed 1"));
  const Json left = small.results("blocked");
  CHECK(left["arms"][1]["finished_seeds"].size() == 2);  // the other pre-training arm
  CHECK_FALSE(left["arms"][3].contains("scores"));       // waits for a choice that cannot be made
  bool is_named = false;
  for (const Json& one : left["failed"]) is_named = is_named || one["run"] == "better";
  CHECK(is_named);

  std::filesystem::remove(Path(other) / id);
  REQUIRE(run("experiments", small.call("blocked")).exit_code == 0);
  CHECK(small.results("blocked")["failed"].empty());
}

TEST_CASE("Folds: every driver is tested once, by models that did not see it") {
  const SmallExperiment small;
  // A column of folds for the drivers of the small file.
  std::istringstream lines(small_csv());
  std::string csv, line;
  std::getline(lines, line);
  csv = line + ",fold\n";
  std::map<std::string, int> folds;
  while (std::getline(lines, line)) {
    const std::size_t begin = line.find(',') + 1;
    const std::string driver = line.substr(begin, line.find(',', begin) - begin);
    const auto entry = folds.try_emplace(driver, static_cast<int>(folds.size() % 2) + 1).first;
    csv += line + "," + std::to_string(entry->second) + "\n";
  }
  const Path data = small.folder.put("folds.csv", csv);
  const std::string with_folds =
      replaced(replaced(experiment, "seeds = [1, 2]", "seeds = [1]\nfolds = [1, 2]"), "[finetuning]",
               "splits.column = \"fold\"\n[finetuning]\nsplits.column = \"fold\"");
  const Path file = small.folder.put("folds.toml", with_folds);
  const Result result = run("experiments", small.call("out", file) + Arguments{"--data", data.string()});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const Json results = small.results("out");
  const Json& arm = results["arms"][3];
  CHECK(arm["runs"].size() == 2);
  std::set<std::string> tested;
  for (const Json& one : arm["drivers"]) CHECK(tested.insert(one["driver"]).second);
  for (const Json& one : arm["runs"]) {
    const Json split = Json::parse(bytes_of(small.path("out") / one["folder"].get<std::string>() / "split.json"));
    for (const Json& driver : split["finetuning"]["test"]) {
      CHECK(std::to_string(folds.at(driver)) == one["fold"].get<std::string>());
      CHECK(tested.contains(driver));
    }
  }

  const Result missing = run("experiments", small.call("missing", file));
  CHECK(missing.exit_code == 2);
  CHECK_THAT(missing.err,
             Catch::Contains("column fold (splits.column) is missing") && Catch::Contains("arm \"with calibration\""));
  CHECK_FALSE(std::filesystem::exists(small.path("missing") / "runs"));
}

TEST_CASE("Mistakes in an experiment's file are named with their line") {
  const SmallExperiment small;
  struct Case {
    std::string what, file;
    std::vector<std::string> named;
  };
  const std::vector<Case> cases{
      {"broken TOML", "title = \"a\n", {"experiment.toml:1", "not TOML"}},
      {"no arms", "seeds = [1]\n", {"no [[arm]]"}},
      {"unknown key", "sedes = [1]\n" + experiment, {":1:", "sedes", "seeds"}},
      {"unknown backbone",
       replaced(experiment, "backbone = \"better\"", "backbone = \"beter\""),
       {"unknown arm \"beter\"", "\"better\"", "\"pre-trained\""}},
      {"unknown arm compared",
       replaced(experiment, "arms = [\"pre-trained\"]", "arms = [\"pretrained\"]"),
       {"unknown arm \"pretrained\"", "\"pre-trained\""}},
      {"unknown arm against",
       replaced(experiment, "against = \"scratch\"", "against = \"scrap\""),
       {"against", "\"scratch\""}},
      {"a backbone that is no pre-training",
       replaced(experiment, "backbone = \"better\"", "backbone = \"scratch\""),
       {"not for pretraining"}},
      {"two of a name", replaced(experiment, "name = \"without\"", "name = \"with calibration\""), {"two arms"}},
      {"no task", replaced(experiment, "task = \"pretraining\"\n", ""), {"task"}},
      {"unknown configuration key",
       replaced(experiment, "data.calibration", "data.calibratoin"),
       {"arm \"without\"", "data.calibratoin", "data.calibration"}},
      {"value that does not fit",
       replaced(experiment, "data.calibration = \"none\"", "model.width = -3"),
       {"arm \"without\"", "model.width"}},
      {"another model than the backbone's",
       replaced(experiment, "backbone = \"better\"", "backbone = \"better\"\nmodel.width = 16"),
       {"arm \"pre-trained\"", "model.width", "backbone"}},
      {"share",
       replaced(experiment, "like = \"better\"", "like = \"better\"\ndrivers = 1.5"),
       {"drivers", "at most 1"}},
      {"seeds", replaced(experiment, "seeds = [1, 2]", "seeds = [1, 1]"), {"seeds"}},
      {"seed that the backbone lacks",
       replaced(experiment, "backbone = \"better\"", "backbone = \"better\"\nseeds = [3]"),
       {"no seed 3"}},
      {"range without sample",
       replaced(experiment, "data.calibration = \"none\"", "model.width = {any_of = [8, 16]}"),
       {"sample"}},
      {"unknown score", experiment + "scores = [\"kip\"]\n", {"kip", "kpi"}},
      {"missing configuration", replaced(experiment, "small.toml", "smal.toml"), {"smal.toml"}},
      {"missing data", replaced(experiment, "blinks.csv", "blink.csv"), {"blink.csv"}},
      {"no data", replaced(experiment, "data = \"blinks.csv\"\n", ""), {"--data"}},
  };
  for (const Case& one : cases) {
    INFO(one.what);
    put(small.file, one.file);
    const Result result = run("experiments", small.call("out"));
    CAPTURE(result.err);
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    for (const std::string& word : one.named) CHECK_THAT(result.err, Catch::Contains(word));
    CHECK_FALSE(std::filesystem::exists(small.path("out") / "runs"));
  }
}

TEST_CASE("Random search: trials are drawn by seed, and more trials do not change the first") {
  const SmallExperiment small;
  const auto read = [&](int count) {
    const std::string file =
        "[[arm]]\nname = \"search\"\ntask = \"pretraining\"\nsample = " + std::to_string(count) +
        "\nmodel.width = {any_of = [8, 16, 32]}\nmodel.dropout = {from = 0.0, to = 0.2, step = 0.01}\n"
        "[[comparison]]\narms = [\"search\"]\n";
    return programs::read_experiment(small.folder.put("search.toml", file));
  };
  const auto few = read(3), many = read(40);
  REQUIRE(many.arms.size() == 40);
  REQUIRE(many.comparisons[0].arms.size() == 40);
  std::set<std::string> widths, dropouts;
  for (std::size_t i = 0; i < many.arms.size(); ++i) {
    CHECK(many.arms[i].name == "search " + std::to_string(i + 1));
    REQUIRE(many.arms[i].part.overrides.size() == 2);
    for (const std::string& one : many.arms[i].part.overrides)
      (one.starts_with("model.width") ? widths : dropouts).insert(one);
  }
  for (std::size_t i = 0; i < few.arms.size(); ++i) CHECK(few.arms[i].part.overrides == many.arms[i].part.overrides);
  CHECK(widths == std::set<std::string>{"model.width=8", "model.width=16", "model.width=32"});
  CHECK(dropouts.size() > 10);
  for (const std::string& one : dropouts) CHECK(one.size() <= std::string("model.dropout=0.19").size());
}

TEST_CASE("The committed experiments can be read") {
  for (const std::string name : {"thesis", "thesis_large", "rldd"}) {
    INFO(name);
    CHECK(
        programs::read_experiment(Path(BLINKBERT_SOURCE_DIR) / "examples/experiments" / (name + ".toml")).arms.size() >=
        3);
  }
}
