// Wrong usage, wrong input and failing disks: the exit code, one line that helps, and nothing half-written.

#include <catch2/catch.hpp>

#include <cmath>

#include <blinkbert/io/safetensors.hpp>

#include "small_run.hpp"

namespace {

using namespace blinkbert::test;
using blinkbert::Safetensors;
using blinkbert::Tensor;

/// One call that must fail.
struct Case {
  std::string what, program;
  Arguments arguments;
  std::vector<std::string> named;  // all stand in the message
  int exit_code = 2;
};

void check_all(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    INFO(one.program << ": " << one.what);
    const Result result = run(one.program, one.arguments);
    CAPTURE(result.err, result.out, result.signal);
    CHECK(result.exit_code == one.exit_code);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK_THAT(result.err, Catch::StartsWith(one.program + ": ") && Catch::EndsWith("\n"));
    for (const std::string& word : one.named) CHECK_THAT(result.err, Catch::Contains(word));
  }
}

/// `flags` with the values of some of them replaced, or the flag appended.
Arguments with(Arguments flags, const Arguments& changes) {
  for (std::size_t i = 0; i + 1 < changes.size(); i += 2) {
    const auto found = std::find(flags.begin(), flags.end(), changes[i]);
    if (changes[i] != "--set" && found != flags.end()) {
      *(found + 1) = changes[i + 1];
    } else {
      flags.push_back(changes[i]);
      flags.push_back(changes[i + 1]);
    }
  }
  return flags;
}

/// A folder with a pre-training and a fine-tuning run.
struct TrainedRuns : SmallRun {
  Path split = path("pretraining") / "split.json";
  Path backbone = checkpoint("pretraining"), finetuned = checkpoint("finetuning");

  TrainedRuns() {
    const Result first = run("pretrain", flags("pretraining") + Arguments{"--set", "train.epochs=1"});
    INFO(first.err);
    REQUIRE(first.exit_code == 0);
    const Result second = run("finetune", flags("finetuning") + Arguments{"--backbone", backbone.string(), "--split",
                                                                          split.string(), "--set", "train.epochs=1"});
    INFO(second.err);
    REQUIRE(second.exit_code == 0);
  }
};

/// The header of the CSV and its first row, with one cell of that row replaced.
std::string with_cell(const std::string& column, const std::string& value) {
  std::istringstream lines(small_csv());
  std::string header, row, cell, line;
  std::getline(lines, header);
  std::getline(lines, row);
  std::istringstream names(header), cells(row);
  for (std::string name; std::getline(names, name, ',');) {
    std::getline(cells, cell, ',');
    line += (line.empty() ? "" : ",") + (name == column ? value : cell);
  }
  return header + "\n" + line + small_csv().substr(header.size() + 1 + row.size());
}

}  // namespace

TEST_CASE("Wrong flags and keys") {
  const SmallRun small;
  const auto pretrain = [&](const Arguments& changes) { return with(small.flags("out"), changes); };
  const auto finetune = [&](const Arguments& changes) {
    return with(small.flags("out") + Arguments{"--from-scratch"}, changes);
  };
  const Path not_toml = small.folder.put("not.toml", "[data\nwindow = 3\n");
  const Path unknown_section = small.folder.put("section.toml", "[modle]\nwidth = 3\n");
  const Path unknown_key = small.folder.put("key.toml", "[train]\nbatch = 4\nlearning_rate = 3\n");
  std::vector<Case> cases{
      {"unknown key", "pretrain", pretrain({"--set", "model.widht=8"}), {"model.widht", "nearest", "model.width"}},
      {"key without a section", "pretrain", pretrain({"--set", "width=8"}), {"width", "model.width"}},
      {"no value", "pretrain", pretrain({"--set", "model.width"}), {"model.width", "="}},
      {"word for a number", "pretrain", pretrain({"--set", "model.width=wide"}), {"model.width", "wide"}},
      {"fraction for a count", "pretrain", pretrain({"--set", "model.width=8.5"}), {"model.width", "8.5"}},
      {"unknown word",
       "pretrain",
       pretrain({"--set", "model.upscaling=deconvolution"}),
       {"model.upscaling", "deconvolution", "attention_linear"}},
      {"rate 0", "pretrain", pretrain({"--set", "train.rate=0"}), {"train.rate", "above 0"}},
      {"mask rate 0", "pretrain", pretrain({"--set", "mask.rate=0"}), {"mask.rate"}},
      {"shares", "pretrain", pretrain({"--set", "splits.fractions=[0.5,0.2,0.2]"}), {"splits.fractions", "add up"}},
      {"more heads than width", "pretrain", pretrain({"--set", "model.heads=9"}), {"model.heads", "model.width"}},
      {"width is not N",
       "pretrain",
       pretrain({"--set", "model.upscaling=none"}),
       {"model.width", "18 features", "none"}},
      {"width is N",
       "pretrain",
       pretrain({"--set", "model.upscaling=attention_concatenation", "--set", "model.width=18"}),
       {"model.width", "above the 18"}},
      {"more parameters than an index counts",
       "pretrain",
       pretrain({"--set", "model.width=4096", "--set", "model.blocks=64"}),
       {"model.width", "model.blocks", "2^30"}},
      {"window longer than positions",
       "pretrain",
       pretrain({"--set", "model.max_length=9"}),
       {"model.max_length", "data.window"}},
      {"last block for the rows that a head on all rows reads",
       "pretrain",
       pretrain({"--set", "model.last_block=read"}),
       {"model.last_block = read", "head.rows = \"masked\""}},
      {"levels of masked rows", "pretrain", pretrain({"--set", "train.loss=softmax"}), {"train.loss", "fine-tuning"}},
      {"a pooled head in pre-training",
       "pretrain",
       pretrain({"--set", "head.pool=mean"}),
       {"head.pool", "fine-tuning"}},
      {"weights in pre-training",
       "pretrain",
       pretrain({"--set", "train.recording_weights=true"}),
       {"train.recording_weights", "fine-tuning"}},
      {"increments of no feature",
       "pretrain",
       pretrain({"--set", "data.increments=[\"rate\"]"}),
       {"data.increments", "rate"}},
      {"too few scales",
       "finetune",
       finetune({"--set", "data.transform_scale=[1,2]"}),
       {"data.transform_scale", "9 channels"}},
      {"a scale of 0",
       "finetune",
       finetune({"--set", "data.transform_scale=[0]"}),
       {"data.transform_scale", "above 0"}},
      {"weighted quantiles",
       "finetune",
       finetune({"--set", "data.scaler=robust", "--set", "data.scaler_weight=recording"}),
       {"data.scaler_weight", "standard"}},
      {"window too long", "pretrain", pretrain({"--set", "data.window=513"}), {"data.window", "512"}},
      {"minimum above the window",
       "pretrain",
       pretrain({"--set", "data.min_length=11"}),
       {"data.min_length", "data.window"}},
      {"epochs out of order", "finetune", finetune({"--set", "train.unfreeze=[3,2]"}), {"train.unfreeze", "ascending"}},
      {"monitor of the other task",
       "pretrain",
       pretrain({"--set", "train.monitor=kpi"}),
       {"train.monitor", "masked_loss"}},
      {"monitor of the other task",
       "finetune",
       finetune({"--set", "train.monitor=masked_loss"}),
       {"train.monitor", "kpi"}},
      {"tf32 on a CPU", "finetune", finetune({"--set", "train.precision=tf32"}), {"train.precision", "tf32", "fp32"}},
      {"no CUDA", "pretrain", pretrain({"--device", "cuda"}), {"--device cuda", "cpu"}},
      {"unknown device", "pretrain", pretrain({"--device", "tpu"}), {"--device", "tpu", "cpu"}},
      {"negative threads", "pretrain", pretrain({"--threads", "-1"}), {"--threads", "-1"}},
      {"negative seed", "pretrain", pretrain({"--seed", "-1"}), {"--seed", "-1"}},
      {"seed beyond 64 bits",
       "finetune",
       finetune({"--seed", "18446744073709551616"}),
       {"--seed", "18446744073709551616"}},
      {"negative seed", "simulate", {"--seed", "-1", "--out", small.path("x.csv").string()}, {"--seed", "-1"}},
      {"no configuration", "pretrain", pretrain({"--config", small.path("absent.toml").string()}), {"absent.toml"}},
      {"folder for a configuration",
       "pretrain",
       pretrain({"--config", small.folder.path().string()}),
       {small.folder.path().string()}},
      {"not TOML", "pretrain", pretrain({"--config", not_toml.string()}), {"not.toml:1", "not TOML"}},
      {"unknown section",
       "pretrain",
       pretrain({"--config", unknown_section.string()}),
       {"section.toml:1", "modle", "model"}},
      {"unknown key in a file",
       "pretrain",
       pretrain({"--config", unknown_key.string()}),
       {"key.toml:3", "train.learning_rate", "nearest"}},
      {"no --data", "pretrain", {"--out", small.path("out").string()}, {"--data is required"}},
      {"no --out", "pretrain", {"--data", small.data.string()}, {"--out is required"}},
      {"neither backbone nor scratch", "finetune", small.flags("out"), {"--backbone", "--from-scratch"}},
      {"backbone and scratch", "finetune", finetune({"--backbone", "x"}), {"--backbone", "--from-scratch"}},
      {"no --out", "simulate", {"--drivers", "2"}, {"--out"}},
      {"no drivers", "simulate", {"--drivers", "0", "--out", small.path("x.csv").string()}, {"drivers = 0"}},
      {"words for drivers",
       "simulate",
       {"--drivers", "many", "--out", small.path("x.csv").string()},
       {"--drivers", "many"}},
      {"no checkpoint", "score", {"--data", small.data.string()}, {"--checkpoint"}},
      {"no checkpoint", "parity", {"--input", "x.npy"}, {"--checkpoint"}},
  };
  for (const std::string program : {"simulate", "pretrain", "finetune", "score", "parity"}) {
    cases.push_back({"unknown flag", program, {"--wrong"}, {}});
    // A flag that is required may be missed before the unknown one is.
    if (program == "pretrain" || program == "finetune") cases.back().named = {"--wrong"};
    if (program == "simulate") cases.back().arguments = {"--out", small.path("x.csv").string(), "--wrong"};
    if (program == "score" || program == "parity") cases.back().arguments = {"--checkpoint", "x", "--wrong"};
    cases.push_back({"stray argument", program, cases.back().arguments, {"stray"}});
    cases.back().arguments.back() = "stray";
  }
  check_all(cases);
  CHECK_FALSE(std::filesystem::exists(small.path("out")));
  CHECK_FALSE(std::filesystem::exists(small.path("x.csv")));
}

TEST_CASE("Wrong data") {
  const TrainedRuns runs;
  const auto data = [&](const std::string& name, const std::string& bytes) {
    return runs.folder.put(name, bytes).string();
  };
  const std::string header = small_csv().substr(0, small_csv().find('\n') + 1);
  struct BadFile {
    std::string what, path;
    std::vector<std::string> named;
  };
  std::string renamed = small_csv();
  renamed.replace(renamed.find("amplitude"), 9, "amplitudo");
  const std::vector<BadFile> files{
      {"absent", runs.path("absent.csv").string(), {"absent.csv"}},
      {"a folder", runs.folder.path().string(), {runs.folder.path().string()}},
      {"empty", data("empty.csv", ""), {"empty.csv"}},
      {"header only", data("header.csv", header), {"header.csv", "no row"}},
      {"binary", data("binary.csv", std::string("\x89PNG\r\n\x1a\n\0\0\0\xff", 12)), {"binary.csv"}},
      {"a feature is missing", data("renamed.csv", renamed), {"renamed.csv:1", "amplitude", "amplitudo"}},
      {"text for a number", data("text.csv", with_cell("closed_ms", "slow")), {"text.csv:2", "closed_ms", "slow"}},
      {"NaN", data("nan.csv", with_cell("closed_ms", "nan")), {"nan.csv:2", "closed_ms", "nan"}},
      {"infinity", data("inf.csv", with_cell("interval_s", "-inf")), {"inf.csv:2", "interval_s", "-inf"}},
      {"an empty cell", data("hole.csv", with_cell("closed_ms", "")), {"hole.csv:2", "closed_ms", "drop_row"}},
      {"a ragged row", data("ragged.csv", small_csv() + "one,two\n"), {"ragged.csv:"}},
      {"a recording that comes back",
       data("back.csv",
            small_csv() + small_csv().substr(header.size(), small_csv().find('\n', header.size()) + 1 - header.size())),
       {"back.csv:", "began on line"}},
      {"a driver that changes",
       data("driver.csv", with_cell("driver", "someone else")),
       {"driver.csv:", "someone else"}},
  };
  std::vector<Case> cases;
  for (const BadFile& file : files) {
    cases.push_back({file.what, "pretrain", with(runs.flags("out"), {"--data", file.path}), file.named});
    cases.push_back({file.what, "finetune",
                     with(runs.flags("out") + Arguments{"--from-scratch"}, {"--data", file.path}), file.named});
    cases.push_back({file.what,
                     "score",
                     {"--checkpoint", runs.finetuned.string(), "--data", file.path, "--out", runs.path("out").string()},
                     file.named});
  }
  const std::string bad_quality = data("quality.csv", with_cell("label_quality", "middling"));
  const std::string bad_label = data("label.csv", with_cell("kss", "tired"));
  for (const std::string program : {"pretrain", "finetune"}) {
    Arguments flags = runs.flags("out");
    if (program == "finetune") flags.push_back("--from-scratch");
    cases.push_back({"label quality",
                     program,
                     with(flags, {"--data", bad_quality}),
                     {"quality.csv:2", "label_quality", "middling"}});
    cases.push_back({"label", program, with(flags, {"--data", bad_label}), {"label.csv:2", "kss", "tired"}});
    cases.push_back({"split column",
                     program,
                     with(flags, {"--set", "splits.column=fold", "--set", "splits.test=[1]"}),
                     {"fold", "splits.column"}});
    cases.push_back(
        {"no validation share", program, with(flags, {"--set", "splits.fractions=[0.8,0,0.2]"}), {"validation"}});
  }
  // Scoring reads no labels.
  for (const std::string& file : {bad_quality, bad_label}) {
    CHECK(run("score",
              {"--checkpoint", runs.finetuned.string(), "--data", file, "--out", runs.path("scores.csv").string()})
              .exit_code == 0);
  }

  Json split = Json::parse(bytes_of(runs.split));
  const auto split_file = [&](const std::string& name, const std::function<void(Json&)>& change) {
    Json changed = split;
    change(changed);
    return runs.folder.put(name, changed.dump()).string();
  };
  const std::string test_driver = split["pretraining"]["test"][0];
  const std::string validation_driver = split["finetuning"]["validation"][0];
  const std::vector<BadFile> splits{
      {"absent", runs.path("absent.json").string(), {"absent.json"}},
      {"a folder", runs.folder.path().string(), {runs.folder.path().string()}},
      {"not JSON", runs.folder.put("text.json", "drivers").string(), {"text.json", "not JSON"}},
      {"a stage is missing",
       split_file("stage.json", [](Json& json) { json.erase("finetuning"); }),
       {"stage.json", "finetuning"}},
      {"a test driver trains",
       split_file("test.json", [&](Json& json) { json["pretraining"]["training"].push_back(test_driver); }),
       {"pretraining.training", "pretraining.test", test_driver}},
      {"the other stage's validation driver trains",
       split_file("validation.json", [&](Json& json) { json["pretraining"]["training"].push_back(validation_driver); }),
       {"pretraining.training", "finetuning.validation", validation_driver}},
      {"a driver trains both stages",
       split_file("both.json",
                  [&](Json& json) { json["finetuning"]["training"].push_back(json["pretraining"]["training"][0]); }),
       {"splits.shared_training", split["pretraining"]["training"][0]}},
      {"nobody trains",
       split_file("nobody.json",
                  [](Json& json) { json["pretraining"]["training"] = json["finetuning"]["training"] = Json::array(); }),
       {"training"}},
      {"an unknown driver",
       split_file("unknown.json", [](Json& json) { json["pretraining"]["test"].push_back("nobody"); }),
       {"pretraining.test", "nobody"}},
      {"a driver twice",
       split_file("twice.json", [&](Json& json) { json["pretraining"]["test"].push_back(test_driver); }),
       {"pretraining.test", "twice", test_driver}},
  };
  for (const BadFile& file : splits) {
    cases.push_back({"split: " + file.what, "pretrain", with(runs.flags("out"), {"--split", file.path}), file.named});
    cases.push_back({"split: " + file.what, "finetune",
                     with(runs.flags("out") + Arguments{"--from-scratch"}, {"--split", file.path}), file.named});
  }
  check_all(cases);
  CHECK_FALSE(std::filesystem::exists(runs.path("out")));
}

TEST_CASE("Wrong checkpoints") {
  const TrainedRuns runs;
  const Safetensors good = blinkbert::read_safetensors(runs.finetuned),
                    pretrained = blinkbert::read_safetensors(runs.backbone);
  const auto changed = [&](const std::string& name, const Safetensors& from,
                           const std::function<void(Safetensors&)>& change) {
    Safetensors file = from;
    change(file);
    return runs.folder.put(name, blinkbert::to_bytes(file)).string();
  };
  const auto sized = [](int width, int blocks) {
    return [=](Safetensors& file) {
      Json config = Json::parse(file.metadata["config"]);
      config["model"]["width"] = width;
      config["model"]["blocks"] = blocks;
      file.metadata["config"] = config.dump();
    };
  };
  struct BadFile {
    std::string what, finetuned, backbone;
    std::vector<std::string> named;
  };
  const auto both = [&](const std::string& what, const std::string& name,
                        const std::function<void(Safetensors&)>& change, std::vector<std::string> named) {
    named.push_back(name);
    return BadFile{what, changed("scored_" + name, good, change), changed("backbone_" + name, pretrained, change),
                   std::move(named)};
  };
  const auto bytes = [&](const std::string& what, const std::string& name, const std::string& content) {
    const std::string path = runs.folder.put(name, content).string();
    return BadFile{what, path, path, {name}};
  };
  const std::string whole = bytes_of(runs.finetuned);
  const std::string norm = "backbone.encoder.layers.0.norm1.weight";
  std::vector<BadFile> files{
      bytes("empty", "empty.st", ""),
      bytes("text", "text.st", "this is no checkpoint"),
      bytes("truncated header", "header.st", whole.substr(0, 50)),
      bytes("truncated numbers", "numbers.st", whole.substr(0, whole.size() - 4)),
      bytes("more behind it", "more.st", whole + "more"),
      bytes("huge header", "huge_header.st", std::string(8, '\xff') + whole.substr(8)),
      both("future format", "future.st", [](Safetensors& file) { file.metadata["format_version"] = "2"; },
           {"format_version 2", "newer"}),
      both("no metadata", "bare.st", [](Safetensors& file) { file.metadata.clear(); }, {"format_version"}),
      both("missing tensor", "missing.st", [&](Safetensors& file) { file.tensors.erase(norm); }, {norm, "missing"}),
      both("wrong shape", "shape.st",
           [&](Safetensors& file) {
             file.tensors[norm] = Tensor::of<float>({2, 4}, std::vector<float>(8));
           },
           {norm, "shape"}),
      both("wrong type", "type.st",
           [&](Safetensors& file) { file.tensors[norm] = Tensor::of<double>({8}, std::vector<double>(8)); },
           {norm, "F64"}),
      both("NaN", "nan.st",
           [&](Safetensors& file) { file.tensors[norm] = Tensor::of<float>({8}, std::vector<float>(8, NAN)); },
           {norm, "not finite"}),
      both("a configuration beyond all limits", "huge.st", sized(4096, 64), {"2^30"}),
      both("a configuration beyond its tensors", "large.st", sized(4096, 4), {"far fewer"}),
      {"absent", runs.path("absent.st").string(), runs.path("absent.st").string(), {"absent.st"}},
      {"a folder", runs.folder.path().string(), runs.folder.path().string(), {runs.folder.path().string()}},
  };
  files[9].named[1] = "[2, 4]";  // scoring names the shapes; see below for the backbone
  std::vector<Case> cases;
  for (const BadFile& file : files) {
    std::vector<std::string> named = file.named;
    cases.push_back({file.what,
                     "score",
                     {"--checkpoint", file.finetuned, "--data", runs.data.string(), "--out", runs.path("out").string()},
                     named});
    if (file.what == "wrong shape") named = {norm, "another shape"};
    cases.push_back({file.what, "finetune",
                     runs.flags("out") + Arguments{"--backbone", file.backbone, "--split", runs.split.string()},
                     named});
    cases.push_back(
        {file.what,
         "parity",
         {"--checkpoint", file.finetuned, "--input", runs.path("x.npy").string(), "--out", runs.path("out").string()},
         {}});
  }
  cases.push_back(
      {"extra tensor",
       "score",
       {"--checkpoint",
        changed("extra.st", good,
                [](Safetensors& file) { file.tensors["head.extra"] = Tensor::of<float>({1}, std::vector<float>(1)); }),
        "--data", runs.data.string()},
       {"extra.st", "head.extra"}});
  cases.push_back({"pre-training checkpoint",
                   "score",
                   {"--checkpoint", runs.backbone.string(), "--data", runs.data.string()},
                   {"pre-training checkpoint", "fine-tune"}});
  cases.push_back({"other features",
                   "score",
                   {"--checkpoint", runs.finetuned.string(), "--data",
                    runs.folder.put("few.csv", "recording,driver,amplitude\nr,d,1\n").string()},
                   {"few.csv:1", "duration_ms"}});
  for (const auto& [key, value, saved] :
       std::vector<std::array<std::string, 3>>{{"model.width", "16", "8"},
                                               {"data.window", "12", "10"},
                                               {"data.calibration", "none", "append"},
                                               {"data.features", "[\"amplitude\"]", "duration_ms"},
                                               {"model.dropout", "0.5", "0.01"},
                                               {"data.scaler", "robust", "standard"}}) {
    cases.push_back({"another " + key,
                     "finetune",
                     runs.flags("out") + Arguments{"--backbone", runs.backbone.string(), "--split", runs.split.string(),
                                                   "--set", key + "=" + value},
                     {key, saved, "leave the key out"}});
  }
  // A split by another seed puts drivers that trained the backbone among those that judge it.
  Json split = Json::parse(bytes_of(runs.split));
  std::swap(split["pretraining"]["training"], split["finetuning"]["test"]);
  const Path swapped = runs.folder.put("swapped.json", split.dump());
  cases.push_back({"drivers that trained the backbone test",
                   "finetune",
                   runs.flags("out") + Arguments{"--backbone", runs.backbone.string(), "--split", swapped.string()},
                   {"trained the backbone", "--split"}});
  check_all(cases);
  CHECK_FALSE(std::filesystem::exists(runs.path("out")));
}

TEST_CASE("Folders and disks that cannot be written to") {
  const TrainedRuns runs;
  const Path file = runs.folder.put("file", "a regular file");
  const std::string below = (file / "run").string();
  check_all({
      {"below a file", "pretrain", with(runs.flags("x"), {"--out", below}), {below}, 1},
      {"below a file", "finetune", with(runs.flags("x") + Arguments{"--from-scratch"}, {"--out", below}), {below}, 1},
      {"below a file", "simulate", {"--drivers", "1", "--out", below}, {below}, 1},
      {"below a file",
       "score",
       {"--checkpoint", runs.finetuned.string(), "--data", runs.data.string(), "--out", below, "--quiet"},
       {below},
       1},
      {"a folder",
       "simulate",
       {"--drivers", "1", "--out", runs.folder.path().string()},
       {runs.folder.path().string()},
       1},
      {"full device", "simulate", {"--drivers", "1", "--out", "/dev/full"}, {"/dev/full", "No space left"}, 1},
      {"full device",
       "score",
       {"--checkpoint", runs.finetuned.string(), "--data", runs.data.string(), "--out", "/dev/full", "--quiet"},
       {"/dev/full", "No space left"},
       1},
  });
  CHECK(bytes_of(file) == "a regular file");

  const auto onto_full_device = [&](const std::string& program, const Arguments& arguments) {
    const Result result = run(program, arguments, {.largest_file = {}, .standard_output = "/dev/full"});
    CAPTURE(program, result.err);
    CHECK(result.exit_code == 1);
    CHECK_THAT(result.err, Catch::Contains("stdout"));
  };
  onto_full_device("score", {"--checkpoint", runs.finetuned.string(), "--data", runs.data.string(), "--quiet"});
  onto_full_device("simulate", {"--drivers", "1", "--out", runs.path("simulated.csv").string()});
  onto_full_device("pretrain", {"--print-config"});

  // A disk that is full for checkpoints but not for small files.
  const auto nothing_half_written = [](const Path& folder) {
    for (const auto& [name, bytes] : files_of(folder)) {
      INFO(name);
      CHECK(name.find(".tmp") == std::string::npos);
      if (name.ends_with(".safetensors")) CHECK_NOTHROW(blinkbert::read_safetensors(folder / name));
    }
  };
  const Surroundings full{.largest_file = 8192, .standard_output = {}};
  const Result first = run("pretrain", runs.flags("full"), full);
  CAPTURE(first.err);
  CHECK(first.exit_code == 1);
  CHECK_THAT(first.err, Catch::Contains("cannot write") && Catch::Contains("state.safetensors"));
  nothing_half_written(runs.path("full"));
  const Result again = run("pretrain", runs.flags("full") + Arguments{"--resume"});
  CHECK(again.exit_code == 0);

  // The disk fills up in the middle of a run: what was saved stays whole, and the run goes on once there is room.
  {
    Program program("pretrain", runs.flags("stopped"));
    REQUIRE(wait_for_replacements(program, runs.checkpoint("stopped", "state"), 3));
    program.send(SIGINT);
    REQUIRE(program.wait().exit_code == 130);
  }
  const auto before = files_of(runs.path("stopped"));
  const Result failed = run("pretrain", runs.flags("stopped") + Arguments{"--resume"}, full);
  CAPTURE(failed.err);
  CHECK(failed.exit_code == 1);
  CHECK_THAT(failed.err, Catch::Contains("cannot write"));
  CHECK(std::count(failed.err.begin(), failed.err.end(), '\n') == 1);
  nothing_half_written(runs.path("stopped"));
  CHECK(files_of(runs.path("stopped")) == before);
  CHECK(run("pretrain", runs.flags("stopped") + Arguments{"--resume"}).exit_code == 0);
  CHECK(difference(runs.path("full"), runs.path("stopped")) == "");
}

TEST_CASE("A diverging run exits 3, names the step and keeps the last good checkpoint") {
  const SmallRun small;
  struct Diverging {
    std::string what, program;
    Arguments flags;
  };
  // The first step's values are finite; the update of the second epoch's steps is what explodes.
  const std::vector<Diverging> cases{
      {"rate", "pretrain", {"--set", "train.rate=1e30", "--set", "train.epochs=50", "--set", "train.patience=50"}},
      {"rate",
       "finetune",
       {"--from-scratch", "--set", "train.rate=1e30", "--set", "train.epochs=50", "--set", "train.patience=50"}},
  };
  for (const Diverging& one : cases) {
    const std::string out = one.program + " " + one.what;
    INFO(out);
    const Result result = run(one.program, small.flags(out) + one.flags);
    CAPTURE(result.err);
    CHECK(result.exit_code == 3);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK_THAT(result.err, Catch::Contains("step ") && Catch::Contains("not finite"));
    CHECK_FALSE(std::filesystem::exists(small.path(out) / "report.json"));
    for (const auto& [name, bytes] : files_of(small.path(out))) {
      INFO(name);
      CHECK(name.find(".tmp") == std::string::npos);
      if (name.ends_with(".safetensors")) {
        for (const auto& [tensor, values] : blinkbert::read_safetensors(small.path(out) / name).tensors) {
          INFO(tensor);
          const auto numbers = values.as<float>();
          CHECK(std::all_of(numbers.begin(), numbers.end(), [](float number) { return std::isfinite(number); }));
        }
      }
    }
    if (one.program == "finetune" && std::filesystem::exists(small.checkpoint(out))) {
      CHECK(run("score", {"--checkpoint", small.checkpoint(out).string(), "--data", small.data.string(), "--quiet"})
                .exit_code == 0);
    }
  }
}
