// The run folder without the programs: what is committed comes back, and what cannot be resumed changes nothing.

#include <catch2/catch.hpp>

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <blinkbert/train/run_folder.hpp>

#include "tests/io/temporary_folder.hpp"
#include "training_case.hpp"

namespace {

using namespace blinkbert;
using Case = test::TrainingCase<FinetuningStage<Cpu<float>>>;

Config small_config() {
  Config config = test::small_config(Task::finetuning);
  config.train.epochs = 4;
  config.train.unfreeze = {2, 3};
  resolve(config);
  validate(config);
  return config;
}

const test::SmallData& small_data() {
  static const test::SmallData data(14);
  return data;
}

CheckpointHeader header_of(const Config& config) {
  return {.config = config,
          .scaler = {.center = {0, 0, 0}, .scale = {1, 1, 1}},
          .data = "data",
          .training_drivers = {"a", "b"}};
}

std::unique_ptr<Case> new_case() {
  return std::make_unique<Case>(small_config(), small_data(), 1, std::vector<int>{2, 3});
}

/// Trains to the end or for `steps` steps with a metric that changes by epoch, one event per epoch in the log.
void train(Case& one, RunFolder& folder, int steps) {
  const auto save = [&] {
    folder.save(one.device, one.trainer, one.model.parameters(), header_of(one.config), "backbone");
  };
  const TrainerEnd end = one.train({.evaluate =
                                        [&] {
                                          return Metrics{{"mae", one.trainer.state().epoch == 2 ? 1.0 : 2.0}};
                                        },
                                    .after_step = {},
                                    .after_epoch =
                                        [&](const EpochReport& report) {
                                          // Lines of lengths that no other run has, as times make them.
                                          static int lines = 0;
                                          folder.log({{"event", "epoch"},
                                                      {"epoch", report.epoch},
                                                      {"time", std::string(static_cast<std::size_t>(++lines), 'x')}});
                                          save();
                                        },
                                    .should_stop = [&] { return --steps == 0; },
                                    .should_save = [] { return true; },
                                    .save = save});
  if (end == TrainerEnd::stopped) save();
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("A fingerprint is FNV-1a") {
  // Test vectors of the authors: http://www.isthe.com/chongo/tech/comp/fnv/
  CHECK(fingerprint("") == "cbf29ce484222325");
  CHECK(fingerprint("a") == "af63dc4c8601ec8c");
  CHECK(fingerprint("foobar") == "85944171f73967e8");
}

TEST_CASE("A run saved after any step and resumed in another object ends with the same files") {
  const TemporaryFolder folder;
  const Config config = small_config();
  RunFolder whole(folder / "whole");
  CHECK_FALSE(whole.holds_run());
  whole.begin(config, {});
  CHECK(whole.holds_run());
  CHECK_FALSE(whole.holds_state());
  CHECK(differing_keys(load_config(Task::finetuning, whole.path() / "config.toml", {}).config, config).empty());
  const auto reference = new_case();
  train(*reference, whole, -1);
  CHECK(whole.holds_state());
  CHECK_FALSE(whole.holds_report());
  CHECK(names_in(whole.path() / "checkpoints") ==
        std::vector<std::string>{"best.safetensors", "last.safetensors", "state.safetensors"});
  const auto total = static_cast<int>(reference->trainer.state().step);
  REQUIRE(total == 4 * 4);

  // In the first epoch, before and after its border, in the epoch of the best, where a block joins, before the end.
  for (const int steps : {1, 4, 5, 8, 11, total - 1}) {
    INFO(steps);
    RunFolder stopped(folder / std::to_string(steps));
    stopped.begin(config, {});
    train(*new_case(), stopped, steps);
    RunFolder resumed(stopped.path());
    const auto continued = new_case();
    resumed.resume(continued->device, continued->trainer, continued->model.parameters(), header_of(config), "backbone");
    CHECK(continued->trainer.state().step == steps);
    train(*continued, resumed, -1);
    for (const std::string name : {"state", "last", "best"}) {
      INFO(name);
      CHECK(read_file(resumed.checkpoint(name)) == read_file(whole.checkpoint(name)));
    }
  }
}

TEST_CASE("A state that cannot be resumed is refused, and nothing changes") {
  const TemporaryFolder folder;
  const Config config = small_config();
  RunFolder run_folder(folder / "run");
  run_folder.begin(config, {});
  train(*new_case(), run_folder, 10);
  const Safetensors good = read_safetensors(run_folder.checkpoint("state"));
  const std::string log = read_file(run_folder.path() / "metrics.jsonl"),
                    last = read_file(run_folder.checkpoint("last"));
  REQUIRE(good.metadata.at("log_lines") == "2");

  const auto in_trainer = [](const std::string& key, const nlohmann::json& value) {
    return [=](Safetensors& file) {
      auto state = nlohmann::json::parse(file.metadata["trainer"]);
      state[key] = value;
      file.metadata["trainer"] = state.dump();
    };
  };
  const auto metadata = [](const std::string& key, const std::string& value) {
    return [=](Safetensors& file) { file.metadata[key] = value; };
  };
  const auto without = [](const std::string& key) { return [=](Safetensors& file) { file.metadata.erase(key); }; };
  const auto without_tensor = [](const std::string& name) {
    return [=](Safetensors& file) { file.tensors.erase(name); };
  };
  struct Row {
    std::string what;
    std::function<void(Safetensors&)> change;
    std::string named;
  };
  const std::vector<Row> rows{
      {"no trainer", without("trainer"), "\"trainer\" is missing"},
      {"trainer is no JSON", metadata("trainer", "{"), "not JSON"},
      {"trainer is a list", metadata("trainer", "[]"), "trainer"},
      {"a key is missing", metadata("trainer", R"({"epoch": 1})"), "trainer"},
      {"a word for a number", in_trainer("step", "many"), "trainer"},
      {"null for a number", in_trainer("best", nullptr), "trainer"},
      {"another number of blocks", in_trainer("skips_before", {0, 0}), "does not fit the model"},
      {"no lines", without("log_lines"), "\"log_lines\" is missing"},
      {"lines is a word", metadata("log_lines", "two"), "log_lines"},
      {"more lines than the log has", metadata("log_lines", "3"), "metrics.jsonl"},
      {"very many lines", metadata("log_lines", "18446744073709551615"), "metrics.jsonl"},
      {"no backbone", without("backbone"), "\"backbone\" is missing"},
      {"another backbone", metadata("backbone", "other"), "another backbone"},
      {"other data", metadata("data", "other"), "other data"},
      {"other drivers", metadata("training_drivers", R"(["a"])"), "another split"},
      {"a value is missing", without_tensor("values.head.output.bias"), "values.head.output.bias"},
      {"a moment is missing", without_tensor("second_moment.head.output.bias"), "second_moment.head.output.bias"},
      {"a statistic is missing", without_tensor("statistics.head.norm.0.running_var"),
       "statistics.head.norm.0.running_var"},
      {"a best value is missing", without_tensor("best_values.head.output.bias"), "best_values.head.output.bias"},
      {"NaN in a moment",
       [](Safetensors& file) {
         file.tensors["first_moment.head.output.bias"] =
             Tensor::of<float>({1}, std::vector<float>{std::numeric_limits<float>::quiet_NaN()});
       },
       "first_moment.head.output.bias"},
  };
  for (const Row& row : rows) {
    INFO(row.what);
    Safetensors file = good;
    row.change(file);
    const std::string bytes = to_bytes(file);
    write_file_atomically(run_folder.checkpoint("state"), bytes);
    const auto fresh = new_case();
    const auto before = fresh->values();
    const std::string message = message_of<InputError>([&] {
      RunFolder(run_folder.path())
          .resume(fresh->device, fresh->trainer, fresh->model.parameters(), header_of(config), "backbone");
    });
    CHECK_THAT(message, Catch::Contains(row.named));
    CHECK_THAT(message, Catch::Contains(run_folder.path().string()));
    CHECK(message.find('\n') == std::string::npos);
    CHECK(fresh->values() == before);
    CHECK(fresh->trainer.state().step == 0);
    CHECK(read_file(run_folder.path() / "metrics.jsonl") == log);
    CHECK(read_file(run_folder.checkpoint("last")) == last);
    CHECK(read_file(run_folder.checkpoint("state")) == bytes);
  }

  // Other settings: all differing keys, with both values.
  write_file_atomically(run_folder.checkpoint("state"), to_bytes(good));
  Config other = config;
  other.train.rate = 0.5;
  other.head.hidden = {7};
  const auto fresh = new_case();
  const std::string message = message_of<InputError>([&] {
    RunFolder(run_folder.path())
        .resume(fresh->device, fresh->trainer, fresh->model.parameters(), header_of(other), "backbone");
  });
  for (const std::string word : {"train.rate (0.003 there, 0.5 here)", "head.hidden ([6] there, [7] here)"})
    CHECK_THAT(message, Catch::Contains(word));
}

TEST_CASE("The saved state is the commit point: last and best follow from it, and the log is cut to it") {
  const TemporaryFolder folder;
  const Config config = small_config();
  RunFolder run_folder(folder / "run");
  run_folder.begin(config, {});
  train(*new_case(), run_folder, 10);
  const std::string log = read_file(run_folder.path() / "metrics.jsonl");
  std::map<std::string, std::string> checkpoints;
  for (const std::string name : {"state", "last", "best"}) checkpoints[name] = read_file(run_folder.checkpoint(name));

  // As a kill between the commit and what follows from it would leave them, and as an event after the commit would.
  std::filesystem::remove(run_folder.checkpoint("best"));
  folder.put("run/checkpoints/last.safetensors", "older");
  folder.put("run/checkpoints/state.safetensors.tmp", "half of the next");
  folder.put("run/metrics.jsonl", log + "{\"event\": \"epoch\", \"epoch\": 3}\n{\"ev");
  const auto resumed = new_case();
  RunFolder(run_folder.path())
      .resume(resumed->device, resumed->trainer, resumed->model.parameters(), header_of(config), "backbone");
  for (const auto& [name, bytes] : checkpoints) {
    INFO(name);
    CHECK(read_file(run_folder.checkpoint(name)) == bytes);
  }
  CHECK(read_file(run_folder.path() / "metrics.jsonl") == log);
}

TEST_CASE("A report comes back as it was written") {
  const TemporaryFolder folder;
  RunFolder run_folder(folder / "run");
  run_folder.begin(small_config(), {});
  const nlohmann::ordered_json report{{"z", 0.1}, {"a", nullptr}, {"text", "\"\n"}};
  run_folder.write_report(report);
  CHECK(run_folder.holds_report());
  CHECK(run_folder.read_report() == report);
  run_folder.begin(small_config(), {});
  CHECK_FALSE(run_folder.holds_report());
  folder.put("run/report.json", "{");
  CHECK_THAT(message_of<InputError>([&] { run_folder.read_report(); }), Catch::Contains("report.json"));
  CHECK_THAT(message_of<RunError>([&] { RunFolder(folder.put("file", "") / "run").begin(small_config(), {}); }),
             Catch::Contains("file/run"));
}
