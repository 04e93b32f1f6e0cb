// split.json: what is written is what is read, and nothing else is.

#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include <blinkbert/io/split_file.hpp>

#include "temporary_folder.hpp"

using namespace blinkbert;

TEST_CASE("A split comes back from its file, whatever the drivers are called") {
  const TemporaryFolder folder;
  const Split split{
      .pretraining = {.training = {"7", "d\"1", "a,b"}, .validation = {"\\"}, .test = {"Åsa", "new\nline"}},
      .finetuning = {.training = {}, .validation = {""}, .test = {"{", "null"}}};
  write_split(folder / "split.json", split);
  const Split read = read_split(folder / "split.json");
  CHECK(read.pretraining.training == split.pretraining.training);
  CHECK(read.pretraining.validation == split.pretraining.validation);
  CHECK(read.pretraining.test == split.pretraining.test);
  CHECK(read.finetuning.training == split.finetuning.training);
  CHECK(read.finetuning.validation == split.finetuning.validation);
  CHECK(read.finetuning.test == split.finetuning.test);

  const std::string bytes = read_file(folder / "split.json");
  write_split(folder / "again.json", read);
  CHECK(read_file(folder / "again.json") == bytes);
}

TEST_CASE("A file that is no split is refused in one line") {
  const TemporaryFolder folder;
  const std::string stage = R"({"training": [], "validation": [], "test": []})";
  const auto both = [&](const std::string& pretraining) {
    return R"({"pretraining": )" + pretraining + R"(, "finetuning": )" + stage + "}";
  };
  struct Case {
    std::string what, bytes;
    std::vector<std::string> named;
  };
  const std::vector<Case> cases{
      {"empty", "", {"not JSON"}},
      {"text", "drivers", {"not JSON"}},
      {"cut", both(stage).substr(0, 40), {"not JSON"}},
      {"more behind it", both(stage) + "{}", {"not JSON"}},
      {"list", "[]", {"pretraining", "missing"}},
      {"number", "1", {"pretraining", "missing"}},
      {"null", "null", {"pretraining", "missing"}},
      {"one stage", R"({"pretraining": )" + stage + "}", {"finetuning", "missing"}},
      {"stage is a list", both("[]"), {"pretraining", "missing"}},
      {"set missing", both(R"({"training": [], "validation": []})"), {"pretraining.test", "missing"}},
      {"set is a name",
       both(R"({"training": "a", "validation": [], "test": []})"),
       {"pretraining.training", "no list"}},
      {"set is an object",
       both(R"({"training": [], "validation": {"a": 1}, "test": []})"),
       {"pretraining.validation", "no list"}},
      {"driver is a number",
       both(R"({"training": ["a", 1], "validation": [], "test": []})"),
       {"pretraining.training", "no name"}},
      {"driver is null",
       both(R"({"training": [], "validation": [], "test": [null]})"),
       {"pretraining.test", "no name"}},
      {"set named twice",
       both(R"({"training": [], "training": ["a"], "validation": [], "test": []})"),
       {"training", "twice"}},
      {"deep", std::string(100000, '['), {"nested"}},
      {"byte 0", both(stage) + std::string(1, '\0'), {"byte 0"}},
  };
  for (const Case& one : cases) {
    INFO(one.what);
    const auto path = folder.put("split.json", one.bytes);
    const std::string message = message_of<InputError>([&] { read_split(path); });
    CHECK_THAT(message, Catch::StartsWith(path.string()));
    CHECK(message.find('\n') == std::string::npos);
    for (const std::string& word : one.named) CHECK_THAT(message, Catch::Contains(word));
  }
  CHECK_THAT(message_of<InputError>([&] { read_split(folder / "absent.json"); }), Catch::Contains("absent.json"));
  CHECK_THAT(message_of<InputError>([&] { read_split(folder.path()); }), Catch::Contains(folder.path().string()));
  CHECK_NOTHROW(read_split(folder.put("split.json", both(stage))));
}
