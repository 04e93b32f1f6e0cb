// Runs that are killed, interrupted and resumed end with the bytes of a run that was never stopped.

#include <catch2/catch.hpp>

#include <blinkbert/core/random.hpp>

#include "small_run.hpp"

namespace {

using namespace blinkbert::test;

/// One way to train.
struct Arm {
  std::string name, program;
  Arguments flags;
};

/// The three arms; the pre-training run that the second one builds on is made here.
std::vector<Arm> arms(const SmallRun& small) {
  const Result backbone = run("pretrain", small.flags("backbone") + Arguments{"--set", "train.epochs=2"});
  INFO(backbone.err);
  REQUIRE(backbone.exit_code == 0);
  // The stages share no driver: the split of the backbone's run says which are left for fine-tuning.
  return {{"pretraining", "pretrain", {}},
          {"pre-trained backbone",
           "finetune",
           {"--backbone", small.checkpoint("backbone").string(), "--split",
            (small.path("backbone") / "split.json").string(), "--set", "train.epochs=4"}},
          {"from scratch", "finetune", {"--from-scratch", "--set", "train.epochs=4"}}};
}

/// The configuration names model keys too, which a backbone allows where they say what it was trained with.
Arguments flags_of(const Arm& arm, const SmallRun& small, const std::string& out) {
  return small.flags(out) + arm.flags;
}

}  // namespace

TEST_CASE("A run killed again and again ends with the bytes of one never stopped") {
  const SmallRun small;
  constexpr std::uint64_t seed = 20240229;
  WARN("moments of kills are drawn with seed " << seed);
  std::uint32_t draw = 0;
  const auto below = [&](std::uint32_t limit) {
    return blinkbert::RandomStream{.seed = seed, .purpose = blinkbert::Purpose::bootstrap}.word(draw++, 0) % limit;
  };

  for (const Arm& arm : arms(small)) {
    INFO(arm.name);
    const Result whole = run(arm.program, flags_of(arm, small, arm.name + " whole"));
    INFO(whole.err);
    REQUIRE(whole.exit_code == 0);
    REQUIRE(whole.err.empty());

    const std::string out = arm.name + " killed";
    int kills_after_commit = 0;
    for (int attempt = 0; attempt < 5; ++attempt) {
      Program program(arm.program, flags_of(arm, small, out) + Arguments{"--resume"});
      // Some commits later (once before the first), plus a part of a step's time: writing is a large part of it.
      const int commits = attempt == 0 ? 0 : 1 + static_cast<int>(below(3));
      const auto delay = std::chrono::microseconds(below(20'000));
      wait_for_replacements(program, small.checkpoint(out, "state"), commits);
      std::this_thread::sleep_for(delay);
      program.send(SIGKILL);
      const Result killed = program.wait();
      CAPTURE(attempt, commits, delay.count(), killed.err);
      // A fast machine may have finished before the last kills; the bytes count either way.
      CHECK((killed.signal == SIGKILL || killed.exit_code == 0));
      if (killed.signal == SIGKILL && std::filesystem::exists(small.checkpoint(out, "state"))) ++kills_after_commit;
    }
    CHECK(kills_after_commit >= 2);

    const Result resumed = run(arm.program, flags_of(arm, small, out) + Arguments{"--resume"});
    INFO(resumed.err);
    REQUIRE(resumed.exit_code == 0);
    CHECK(difference(small.path(arm.name + " whole"), small.path(out)) == "");
  }
}

TEST_CASE("An interrupted run saves, says so, and resumes to the same bytes") {
  const SmallRun small;
  struct Case {
    std::string name;
    int signal;
    Arguments extra;
  };
  // With one step per epoch every interruption falls between the last step of an epoch and its evaluation.
  const std::vector<Case> cases{
      {"SIGINT", SIGINT, {}},
      {"SIGTERM", SIGTERM, {"--threads", "2"}},
      {"SIGINT, one step per epoch", SIGINT, {"--set", "train.batch=4096", "--set", "train.epochs=30"}}};
  for (const Case& one : cases) {
    INFO(one.name);
    Arguments flags = small.flags(one.name + " whole");
    Arguments stopped_flags = small.flags(one.name);
    for (Arguments* both : {&flags, &stopped_flags}) {
      both->erase(std::find(both->begin(), both->end(), "--quiet"));
      if (!one.extra.empty() && one.extra[0] == "--threads") both->resize(both->size() - 2);
      both->insert(both->end(), one.extra.begin(), one.extra.end());
    }
    REQUIRE(run("pretrain", flags).exit_code == 0);

    Program program("pretrain", stopped_flags);
    REQUIRE(wait_for_replacements(program, small.checkpoint(one.name, "state"), 1));
    program.send(one.signal);
    const Result stopped = program.wait();
    CAPTURE(stopped.err);
    REQUIRE(stopped.exit_code == 130);
    CHECK(stopped.out.empty());
    CHECK_THAT(stopped.err, Catch::Contains("interrupted after step "));
    CHECK_THAT(stopped.err, Catch::EndsWith(", saved in " + small.path(one.name).string() +
                                            "; the same call with --resume goes on\n"));
    CHECK_FALSE(std::filesystem::exists(small.path(one.name) / "report.json"));

    const Result resumed = run("pretrain", stopped_flags + Arguments{"--resume"});
    CAPTURE(resumed.err);
    REQUIRE(resumed.exit_code == 0);
    CHECK(difference(small.path(one.name + " whole"), small.path(one.name)) == "");
  }
}

TEST_CASE("The same run twice gives the same bytes, and resuming a finished one only prints its result") {
  const SmallRun small;
  for (const auto& [program, flags] :
       std::vector<std::pair<std::string, Arguments>>{{"pretrain", {}}, {"finetune", {"--from-scratch"}}}) {
    INFO(program);
    const std::string first = program + " first", second = program + " second";
    REQUIRE(run(program, small.flags(first) + flags).exit_code == 0);
    // Nothing is saved there yet: --resume starts anew.
    const Result again = run(program, small.flags(second) + flags + Arguments{"--resume", "--json"});
    REQUIRE(again.exit_code == 0);
    CHECK(difference(small.path(first), small.path(second)) == "");

    const auto files = files_of(small.path(second));
    const auto time_of_state = std::filesystem::last_write_time(small.checkpoint(second, "state"));
    const Result finished = run(program, small.flags(second) + flags + Arguments{"--resume", "--json"});
    CAPTURE(finished.err);
    CHECK(finished.exit_code == 0);
    CHECK(finished.out == again.out);
    CHECK(finished.err.empty());
    CHECK(files_of(small.path(second)) == files);
    CHECK(std::filesystem::last_write_time(small.checkpoint(second, "state")) == time_of_state);
  }
}

TEST_CASE("What was logged after the last commit is cut on resume, a log that is too short or broken is refused") {
  const SmallRun small;
  REQUIRE(run("pretrain", small.flags("whole")).exit_code == 0);
  {
    Program program("pretrain", small.flags("stopped"));
    // Far enough for the first epoch's event to be in the log.
    while (!program.has_ended()) {
      const Path log = small.path("stopped") / "metrics.jsonl";
      if (std::filesystem::exists(log) && std::filesystem::file_size(log) > 0) break;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    REQUIRE(wait_for_replacements(program, small.checkpoint("stopped", "state"), 2));
    program.send(SIGINT);
    REQUIRE(program.wait().exit_code == 130);
  }
  struct Case {
    std::string name;
    std::function<std::string(const std::string&)> change;
    int exit_code;
  };
  const std::string line = R"({"event": "epoch", "epoch": 99, "validation": {}})";
  const std::vector<Case> cases{
      {"unchanged", [&](const std::string& log) { return log; }, 0},
      {"half a line", [&](const std::string& log) { return log + line.substr(0, 20); }, 0},
      {"whole lines", [&](const std::string& log) { return log + line + "\n" + line + "\n"; }, 0},
      {"bytes that are no text", [&](const std::string& log) { return log + std::string("\0\xff\n\0", 4); }, 0},
      {"shorter", [&](const std::string& log) { return log.substr(0, log.size() - 1); }, 2},
      {"another log", [&](const std::string& log) { return std::string(log.size() + 10, 'x'); }, 2},
  };
  for (const Case& one : cases) {
    INFO(one.name);
    std::filesystem::copy(small.path("stopped"), small.path(one.name), std::filesystem::copy_options::recursive);
    const Path log = small.path(one.name) / "metrics.jsonl";
    put(log, one.change(bytes_of(log)));
    const auto before = files_of(small.path(one.name));
    const Result resumed = run("pretrain", small.flags(one.name) + Arguments{"--resume"});
    CAPTURE(resumed.err);
    REQUIRE(resumed.exit_code == one.exit_code);
    if (one.exit_code == 0) {
      CHECK(difference(small.path("whole"), small.path(one.name)) == "");
    } else {
      CHECK_THAT(resumed.err, Catch::Contains("metrics.jsonl"));
      CHECK(files_of(small.path(one.name)) == before);
    }
  }
}

TEST_CASE("A resumed run must be the same run") {
  const SmallRun small;
  const std::vector<Arm> all = arms(small);
  const auto interrupted = [&](const Arm& arm, const std::string& out) {
    Program program(arm.program, flags_of(arm, small, out) +
                                     Arguments{"--set", "train.epochs=100000", "--set", "train.patience=100000"});
    REQUIRE(wait_for_replacements(program, small.checkpoint(out, "state"), 1));
    program.send(SIGINT);
    REQUIRE(program.wait().exit_code == 130);
  };
  interrupted(all[0], "pretraining");
  interrupted(all[1], "finetuning");
  const Result other_backbone =
      run("pretrain", small.flags("other") + Arguments{"--seed", "2", "--set", "train.epochs=1", "--split",
                                                       (small.path("backbone") / "split.json").string()});
  REQUIRE(other_backbone.exit_code == 0);

  // The same values written otherwise are other bytes, and so other data.
  const Path other_data = small.folder.put("other.csv", small_csv() + "one_more,one_more,1,1,1,1,1,1,1,1,1,,low\n");
  Json split = Json::parse(bytes_of(small.path("pretraining") / "split.json"));
  auto& training = split["pretraining"]["training"];
  training.erase(training.begin());
  const Path other_split = small.folder.put("split.json", split.dump());

  struct Case {
    std::string what;
    int arm;
    std::string out;
    Arguments flags;
    std::vector<std::string> named;
  };
  const Arguments base{"--set", "train.epochs=100000", "--set", "train.patience=100000", "--resume"};
  const std::vector<Case> cases{
      {"one key",
       0,
       "pretraining",
       {"--set", "train.rate=0.02"},
       {"another configuration", "train.rate", "0.02", "0.01"}},
      {"two keys", 0, "pretraining", {"--set", "train.decay=0.5", "--seed", "7"}, {"train.decay", "train.seed"}},
      {"another model", 0, "pretraining", {"--set", "model.width=16"}, {"model.width"}},
      {"other data", 0, "pretraining", {"--data", other_data.string()}, {"other data"}},
      {"another split", 0, "pretraining", {"--split", other_split.string()}, {"another split"}},
      {"another backbone", 1, "finetuning", {"--backbone", small.checkpoint("other").string()}, {"another backbone"}},
      {"no backbone", 2, "finetuning", {}, {"another backbone"}},
      {"the other program's run", 2, "pretraining", {}, {"other program"}},
      {"the other program's run", 0, "finetuning", {}, {"other program"}},
  };
  for (const Case& one : cases) {
    INFO(one.what);
    const auto before = files_of(small.path(one.out));
    Arguments flags = flags_of(all[static_cast<std::size_t>(one.arm)], small, one.out) + base;
    for (std::size_t i = 0; i + 1 < one.flags.size(); i += 2) {
      // A single-valued flag may stand once: replace it.
      const auto found = one.flags[i] == "--set" ? flags.end() : std::find(flags.begin(), flags.end(), one.flags[i]);
      if (found != flags.end()) {
        *(found + 1) = one.flags[i + 1];
      } else {
        flags.push_back(one.flags[i]);
        flags.push_back(one.flags[i + 1]);
      }
    }
    const Result refused = run(all[static_cast<std::size_t>(one.arm)].program, flags);
    CAPTURE(refused.err);
    CHECK(refused.exit_code == 2);
    CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
    for (const std::string& word : one.named) CHECK_THAT(refused.err, Catch::Contains(word));
    CHECK(files_of(small.path(one.out)) == before);
  }
  // Without --resume a folder that holds a run is left alone.
  for (const std::string out : {"pretraining", "backbone"}) {
    const auto before = files_of(small.path(out));
    const Result refused = run("pretrain", small.flags(out));
    CHECK(refused.exit_code == 2);
    CHECK_THAT(refused.err, Catch::Contains("holds a run") && Catch::Contains("--resume"));
    CHECK(files_of(small.path(out)) == before);
  }
}
