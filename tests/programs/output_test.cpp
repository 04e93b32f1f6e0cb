// What the programs print: results on stdout, logs on stderr, one JSON object where asked, configurations that read
// back.

#include <catch2/catch.hpp>

#include <blinkbert/inference.hpp>
#include <blinkbert/io/npy.hpp>
#include <blinkbert/version.hpp>

#include "small_run.hpp"

namespace {

using namespace blinkbert::test;

const std::vector<std::string> programs{"simulate", "pretrain", "finetune", "score", "parity", "experiments"};

/// What is left to be read on a terminal, which obeys carriage returns and "erase to the end of the line". The last line is
/// the one that the cursor is in.
std::vector<std::string> lines_left(const std::string& bytes) {
  const std::string erase = "\r\033[K";
  std::vector<std::string> lines(1);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes.compare(i, erase.size(), erase) == 0) {
      lines.back().clear();
      i += erase.size() - 1;
    } else if (bytes.compare(i, 2, "\r\n") == 0) {
      lines.emplace_back();
      ++i;
    } else {
      lines.back() += bytes[i];
    }
  }
  return lines;
}

}  // namespace

TEST_CASE("Help and version") {
  for (const std::string& program : programs) {
    INFO(program);
    const Result version = run(program, {"--version"});
    CHECK(version.exit_code == 0);
    CHECK(version.out == "blinkbert " BLINKBERT_VERSION "\n");
    CHECK(version.err.empty());
    const Result help = run(program, {"--help"});
    CHECK(help.exit_code == 0);
    CHECK(help.err.empty());
    for (const std::string flag : {"--quiet", "--json", "--version", "--help"})
      CHECK_THAT(help.out, Catch::Contains(flag));
  }
  for (const std::string program : {"pretrain", "finetune"}) {
    const std::string help = run(program, {"--help"}).out;
    for (const std::string flag : {"--data", "--out", "--config", "--set", "--seed", "--split", "--resume", "--threads",
                                   "--device", "--print-config"}) {
      CHECK_THAT(help, Catch::Contains(flag));
    }
  }
}

TEST_CASE("A printed configuration reads back as itself") {
  const SmallRun small;
  for (const std::string program : {"pretrain", "finetune"}) {
    INFO(program);
    const Arguments overrides{"--config", small.config.string(), "--set",  "data.label=true",
                              "--set",    "train.rate=0.1",      "--seed", "18446744073709551615",
                              "--set",    "splits.column=fold",  "--set",  "splits.test=[1, 2]"};
    const Result printed = run(program, overrides + Arguments{"--print-config"});
    INFO(printed.err);
    REQUIRE(printed.exit_code == 0);
    CHECK(printed.err.empty());
    const Path file = small.folder.put(program + ".toml", printed.out);
    const Result again = run(program, {"--config", file.string(), "--print-config"});
    CHECK(again.exit_code == 0);
    CHECK(again.out == printed.out);
    // The command line wins over the file.
    CHECK_THAT(run(program, {"--config", file.string(), "--set", "train.epochs=77", "--print-config"}).out,
               Catch::Contains("epochs = 77\n"));
    CHECK(run(program, {"--print-config"}).exit_code == 0);
  }
}

TEST_CASE("Results go to stdout, once, as tables or as one JSON object") {
  const SmallRun small;
  const auto json_of = [](const Result& result) {
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    CHECK(result.err.empty());
    CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 1);
    const Json json = Json::parse(result.out);
    CHECK(json.is_object());
    return json;
  };
  const Json pretraining = json_of(run("pretrain", small.flags("pretraining") + Arguments{"--json"}));
  CHECK(pretraining == Json::parse(bytes_of(small.path("pretraining") / "report.json")));
  CHECK(pretraining["task"] == "pretraining");
  CHECK(pretraining["backbone"] == "");
  CHECK(pretraining["test"]["features"].size() == 9);
  for (const std::string predictor :
       {"model", "visible_mean", "nearest_visible", "ridge", "sequence_mean", "next_row"}) {
    INFO(predictor);
    CHECK(pretraining["test"]["features"][0]["bounded"].contains(predictor));
    CHECK(pretraining["test"]["features"][0]["unbounded"].contains(predictor));
  }

  const Json finetuning =
      json_of(run("finetune", small.flags("finetuning") +
                                  Arguments{"--json", "--backbone", small.checkpoint("pretraining").string(), "--split",
                                            (small.path("pretraining") / "split.json").string()}));
  CHECK(finetuning == Json::parse(bytes_of(small.path("finetuning") / "report.json")));
  CHECK_FALSE(finetuning["backbone"].get<std::string>().empty());
  for (const std::string metric : {"kpi", "mae", "rmse", "bsa", "va", "bsre", "vre"}) {
    INFO(metric);
    for (const std::string predictor : {"model", "training_mean", "ridge"})
      CHECK(finetuning["test"][predictor].contains(metric));
  }

  const Path simulated = small.path("simulated.csv");
  const Json simulation =
      json_of(run("simulate", {"--drivers", "2", "--seed", "5", "--out", simulated.string(), "--json", "--quiet"}));
  CHECK(simulation["synthetic"] == true);
  CHECK(simulation["drivers"] == 2);
  const std::string csv = bytes_of(simulated);
  CHECK(simulation["blinks"].get<std::int64_t>() == std::count(csv.begin(), csv.end(), '\n') - 1);

  const Json scores = json_of(run("score", {"--checkpoint", small.checkpoint("finetuning").string(), "--data",
                                            simulated.string(), "--json", "--quiet"}));
  CHECK(scores["scores"].size() == scores["windows"].get<std::size_t>());

  const Path input = small.path("x.npy");
  blinkbert::write_npy(input, std::vector<int>{2, 10, 18}, std::span<const float>(std::vector<float>(360, 0.5f)));
  const Json parity =
      json_of(run("parity", {"--checkpoint", small.checkpoint("finetuning").string(), "--input", input.string(),
                             "--out", small.path("parity").string(), "--json", "--quiet"}));
  CHECK(parity["tensors"] == 1);
  CHECK(std::filesystem::exists(small.path("parity") / "parity.safetensors"));

  // --quiet keeps results and drops logs; without it there are logs.
  const Result tables = run("pretrain", small.flags("tables") + Arguments{"--set", "train.epochs=1"});
  CHECK(tables.err.empty());
  CHECK_THAT(tables.out, Catch::Contains("nearest visible") && Catch::Contains("run folder: "));
  const Result scored =
      run("score", {"--checkpoint", small.checkpoint("finetuning").string(), "--data", simulated.string()});
  CHECK_THAT(scored.err, Catch::Contains("windows of 6 recordings scored"));
  Arguments loud = small.flags("loud") + Arguments{"--from-scratch", "--set", "train.epochs=1"};
  loud.erase(std::find(loud.begin(), loud.end(), "--quiet"));
  const Result logged = run("finetune", loud);
  CHECK_THAT(logged.err, Catch::Contains("drivers: ") && Catch::Contains("epoch 1"));
  CHECK_THAT(logged.err,
             !Catch::Contains("\033") && !Catch::Contains("\r"));  // no progress line where stderr is a file
}

TEST_CASE("On a terminal a progress line comes and goes") {
  const SmallRun small;
  ::unsetenv("CI");
  const auto train = [&](const std::string& out, const char* terminal) {
    Arguments flags = small.flags(out);
    flags.erase(std::find(flags.begin(), flags.end(), "--quiet"));
    ::setenv("TERM", terminal, 1);
    return run("pretrain", flags, {.largest_file = {}, .standard_output = {}, .has_terminal = true});
  };
  const Result shown = train("shown", "xterm"), dumb = train("dumb", "dumb");
  REQUIRE(shown.exit_code == 0);
  REQUIRE(dumb.exit_code == 0);
  CHECK_THAT(shown.err, Catch::Contains("\r\033[K\033[?7lepoch 1/") && Catch::Contains(" left\033[?7h\r\033[K"));
  const std::vector<std::string> lines = lines_left(shown.err);
  CHECK(lines.back().empty());
  for (const std::string& line : lines) {
    CAPTURE(line);
    CHECK_THAT(line, !Catch::Contains("\033") && !Catch::Contains("rows/s"));
    if (line.starts_with("epoch")) CHECK(line.size() <= 80);
  }
  CHECK_THAT(dumb.err, Catch::Contains("epoch 1") && !Catch::Contains("\033"));
  CHECK(lines_left(dumb.err).size() == lines.size());
}

TEST_CASE("Several checkpoints are averaged, and recordings have a line each") {
  const SmallRun small;
  const Arguments levels{"--from-scratch",
                         "--set",
                         "train.loss=softmax",
                         "--set",
                         "head.pool=mean",
                         "--set",
                         "data.window_statistics=true",
                         "--set",
                         "train.recording_weights=true",
                         "--set",
                         "labels.edges=[4.5,6.5]",
                         "--set",
                         "train.epochs=1"};
  for (const char* name : {"one", "two"}) {
    REQUIRE(run("finetune", small.flags(name) + levels + Arguments{"--seed", name[0] == 'o' ? "1" : "2"}).exit_code ==
            0);
  }
  const auto scores = [&](const Arguments& flags) {
    const Path out = small.path("scores.csv");
    const Result result = run("score", flags + Arguments{"--data", small.data.string(), "--out", out.string()});
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    return blinkbert::read_csv(out);
  };
  const Arguments one{"--checkpoint", small.checkpoint("one").string()},
      two{"--checkpoint", small.checkpoint("two").string()};
  const auto number = [](const blinkbert::CsvTable& table, int row, int column) {
    return std::stod(std::string(table.field(row, column)));
  };
  const blinkbert::CsvTable first = scores(one), second = scores(two), both = scores(one + two);
  CHECK(both.header == std::vector<std::string>{"recording", "driver", "first_blink", "last_blink", "kss", "p_level_0",
                                                "p_level_1", "p_level_2"});
  REQUIRE((both.rows() == first.rows() && both.rows() == second.rows() && both.rows() > 0));
  double apart = 0;
  std::map<std::string, std::pair<int, double>> recordings;
  for (int row = 0; row < both.rows(); ++row) {
    CAPTURE(row);
    double sum = 0;
    for (int column = 4; column < 8; ++column) {
      const double a = number(first, row, column), b = number(second, row, column);
      CHECK(number(both, row, column) == Approx((a + b) / 2).margin(1e-6));
      apart = std::max(apart, std::abs(a - b));
      if (column > 4) sum += number(both, row, column);
    }
    CHECK(sum == Approx(1).margin(1e-6));
    auto& [windows, kss] = recordings[std::string(both.field(row, 0))];
    ++windows;
    kss += number(both, row, 4);
  }
  CHECK(apart > 1e-3);

  const blinkbert::CsvTable by_recording = scores(one + two + Arguments{"--by-recording"});
  CHECK(by_recording.header ==
        std::vector<std::string>{"recording", "driver", "windows", "kss", "p_level_0", "p_level_1", "p_level_2"});
  REQUIRE(static_cast<std::size_t>(by_recording.rows()) == recordings.size());
  for (int row = 0; row < by_recording.rows(); ++row) {
    const auto& [windows, kss] = recordings.at(std::string(by_recording.field(row, 0)));
    CHECK(number(by_recording, row, 2) == windows);
    CHECK(number(by_recording, row, 3) == Approx(kss / windows).margin(1e-5));
  }

  // Models that cannot be averaged.
  REQUIRE(run("finetune", small.flags("other") + Arguments{"--from-scratch", "--set", "train.epochs=1"}).exit_code ==
          0);
  const Result refused =
      run("score", one + Arguments{"--checkpoint", small.checkpoint("other").string(), "--data", small.data.string()});
  CHECK(refused.exit_code == 2);
  CHECK_THAT(refused.err, Catch::Contains("labels.edges") && Catch::Contains("averaged"));
}

TEST_CASE("The program's scores are the library's") {
  const SmallRun small;
  REQUIRE(run("finetune", small.flags("run") + Arguments{"--from-scratch", "--set", "train.epochs=1", "--set",
                                                         "data.evaluation_stride=3"})
              .exit_code == 0);
  // Names that have to be quoted in a CSV.
  std::string csv = small_csv();
  for (std::size_t at = 0; (at = csv.find("simulated_1_1,simulated_1,", at)) != csv.npos;)
    csv.replace(at, 26, "\"first, \"\"a\"\"\",simulated_1,");
  const Path data = small.folder.put("quoted.csv", csv), out = small.path("scores.csv");
  const Arguments flags{"--checkpoint", small.checkpoint("run").string(), "--data", data.string(), "--threads", "1"};
  const Result printed = run("score", flags);
  REQUIRE(printed.exit_code == 0);
  const Result written = run("score", flags + Arguments{"--out", out.string()});
  CHECK(written.exit_code == 0);
  CHECK(written.out.empty());
  CHECK(bytes_of(out) == printed.out);

  const auto model = blinkbert::Model::load(small.checkpoint("run"));
  blinkbert::DataConfig columns = model.config().data;
  const blinkbert::Dataset dataset = model.dataset(blinkbert::read_frame(data, columns));
  const auto windows = blinkbert::index_windows(dataset.frame, 10, 3, 4).windows;
  const std::vector<float> scores = model.score(dataset.table, windows, 1);
  const blinkbert::CsvTable table = blinkbert::read_csv(out);
  CHECK(table.header == std::vector<std::string>{"recording", "driver", "first_blink", "last_blink", "kss"});
  REQUIRE(static_cast<std::size_t>(table.rows()) == windows.size());
  for (int row = 0; row < table.rows(); ++row) {
    CAPTURE(row);
    const blinkbert::Window& window = windows[static_cast<std::size_t>(row)];
    const blinkbert::Recording& recording = dataset.frame.recordings[static_cast<std::size_t>(window.recording)];
    CHECK(table.field(row, 0) == recording.name);
    CHECK(table.field(row, 1) == dataset.frame.drivers[static_cast<std::size_t>(recording.driver)]);
    CHECK(table.field(row, 2) == std::to_string(window.start - recording.first_row));
    CHECK(table.field(row, 3) == std::to_string(window.start - recording.first_row + window.length - 1));
    // Printed to the digits that bring the float back; the same code on one machine gives the same float, up to the
    // order of sums where the two were compiled differently.
    CHECK(std::abs(std::stof(std::string(table.field(row, 4))) - scores[static_cast<std::size_t>(row)]) < 1e-4f);
  }
  CHECK(table.field(0, 0) == "first, \"a\"");
}
