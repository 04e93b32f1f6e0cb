#include <sys/resource.h>
#include <sys/wait.h>
#include <csignal>
#include <limits>

#include <catch2/catch.hpp>

#include <blinkbert/io/jsonl.hpp>

#include <tests/io/temporary_folder.hpp>

using namespace blinkbert;
using OrderedJson = nlohmann::ordered_json;

namespace {
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
}  // namespace

TEST_CASE("each object is one line that is in the file when append returns") {
  const TemporaryFolder folder;
  JsonlWriter log(folder / "log.jsonl");
  CHECK(read_file(folder / "log.jsonl").empty());

  const struct {
    OrderedJson object;
    std::string line;
  } cases[] = {
      {{{"z", 1}, {"a", 2.5}}, R"({"z":1,"a":2.5})"},  // order of insertion
      {{{"loss", not_a_number}, {"low", -infinity}, {"list", {1.0, infinity}}},
       R"({"loss":null,"low":null,"list":[1.0,null]})"},
      {{{"text", "line\nbreak"}}, R"({"text":"line\nbreak"})"},
      {{{"text", "\xff"}}, "{\"text\":\"\xef\xbf\xbd\"}"},
      {OrderedJson::object(), "{}"},
  };
  std::string expected;
  for (const auto& [object, line] : cases) {
    log.append(object);
    expected += line + "\n";
    CHECK(read_file(folder / "log.jsonl") == expected);
    CHECK(log.bytes() == expected.size());
  }
  log.sync();
  CHECK_THROWS_AS(log.append(OrderedJson::array()), ContractViolation);
}

TEST_CASE("a log is cut to the length that was saved, and continued") {
  const TemporaryFolder folder;
  folder.put("log", "{\"a\":1}\n{\"a\":2}\n{\"a\":");
  {
    JsonlWriter log(folder / "log", 8);
    CHECK(log.bytes() == 8);
    CHECK(read_file(folder / "log") == "{\"a\":1}\n");
    log.append({{"b", 3}});
  }
  CHECK(read_file(folder / "log") == "{\"a\":1}\n{\"b\":3}\n");
  { const JsonlWriter same(folder / "log", 16); }
  CHECK(read_file(folder / "log") == "{\"a\":1}\n{\"b\":3}\n");
  { const JsonlWriter empty(folder / "log"); }
  CHECK(read_file(folder / "log").empty());
}

TEST_CASE("a log that cannot be continued keeps its bytes") {
  const TemporaryFolder folder;
  const auto path = folder.put("log", "{\"a\":1}\n{\"a\":2}\n");
  CHECK(message_of<InputError>([&] { JsonlWriter(path, 17); }) ==
        path.string() + ": holds 16 bytes, expected at least 17");
  CHECK(message_of<InputError>([&] { JsonlWriter(path, ~std::uint64_t{0}); }) ==
        path.string() + ": holds 16 bytes, expected at least 18446744073709551615");
  CHECK(message_of<InputError>([&] { JsonlWriter(path, 7); }) ==
        path.string() + ": no line ends at byte 7; this is another log");
  CHECK(message_of<InputError>([&] { JsonlWriter(folder / "none", 7); }) ==
        (folder / "none").string() + ": is missing, expected a log of at least 7 bytes");
  CHECK_FALSE(std::filesystem::exists(folder / "none"));
  CHECK(read_file(path) == "{\"a\":1}\n{\"a\":2}\n");
}

TEST_CASE("a log that cannot be opened is a RunError") {
  const TemporaryFolder folder;
  folder.put("file", "");
  CHECK(message_of<RunError>([&] { JsonlWriter(folder.path()); }) ==
        "cannot write " + folder.path().string() + ": Is a directory");
  CHECK(message_of<RunError>([&] { JsonlWriter(folder / "file/log"); }) ==
        "cannot write " + (folder / "file/log").string() + ": Not a directory");
}

TEST_CASE("a full disk leaves whole lines") {
  const TemporaryFolder folder;
  const pid_t process = ::fork();
  if (process == 0) {
    const rlimit limit{1000, 1000};
    std::signal(SIGXFSZ, SIG_IGN);  // so that write(2) reports the limit as an error
    ::setrlimit(RLIMIT_FSIZE, &limit);
    JsonlWriter log(folder / "log");
    log.append({{"text", std::string(500, 'a')}});
    const std::uint64_t before = log.bytes();
    const auto message = message_of<RunError>([&] { log.append({{"text", std::string(600, 'b')}}); });
    bool good = message == "cannot write " + (folder / "log").string() + ": File too large" && log.bytes() == before;
    log.append({{"c", 1}});
    ::_exit(good ? 0 : 1);
  }
  int status = -1;
  ::waitpid(process, &status, 0);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(read_file(folder / "log") == "{\"text\":\"" + std::string(500, 'a') + "\"}\n{\"c\":1}\n");
}

TEST_CASE("JSON documents are read strictly") {
  CHECK(parse_json(R"({"a": {"x": 1}, "b": {"x": [1, 2.5, null]}})", "f") ==
        nlohmann::json({{"a", {{"x", 1}}}, {"b", {{"x", {1, 2.5, nullptr}}}}}));
  CHECK(parse_json(std::string(64, '[') + std::string(64, ']'), "f").is_array());

  const struct {
    std::string bytes, message;  // how the message begins
  } cases[] = {
      {"", "f: not JSON: "},
      {"{\"a\": 1", "f: not JSON: "},
      {"{\"a\": 1} x", "f: not JSON: "},
      {"{\"a\": NaN}", "f: not JSON: "},
      {"{'a': 1}", "f: not JSON: "},
      {"\"\xff\"", "f: not JSON: "},
      {std::string("{\"a\": \0}", 8), "f: not JSON: found a byte 0"},
      {std::string("{}\0 more", 8), "f: not JSON: found a byte 0"},
      {"1e999", "f: not JSON: "},
      {"\"" + std::string(100000, 'x'), "f: not JSON: "},
      {R"({"a": 1, "b": 2, "a": 3})", "f: the name \"a\" stands twice in one JSON object"},
      {R"([{"a": {"b": 1, "b\n": 2, "b\n": 3}}])", "f: the name \"b\\x0a\" stands twice in one JSON object"},
      {std::string(65, '[') + std::string(65, ']'), "f: JSON nested deeper than 64"},
      {std::string(5000000, '['), "f: JSON nested deeper than 64"},
  };
  for (const auto& [bytes, message] : cases) {
    const auto found = message_of<InputError>([&, &document = bytes] { parse_json(document, "f"); });
    CAPTURE(bytes.substr(0, 40));
    CHECK_THAT(found, Catch::StartsWith(message));
    CHECK(found.size() < 300);
    CHECK(found.find('\n') == std::string::npos);
  }
}
