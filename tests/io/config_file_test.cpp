#include <cfloat>
#include <limits>

#include <catch2/catch.hpp>

#include <blinkbert/core/random.hpp>
#include <blinkbert/io/config_file.hpp>
#include <blinkbert/io/jsonl.hpp>

#include <tests/io/temporary_folder.hpp>

using namespace blinkbert;
using namespace std::string_view_literals;

namespace {

std::vector<std::string> all_keys() {
  std::vector<std::string> keys;
  Config config;
  for_each_key(config, [&](std::string_view key, const auto&) { keys.emplace_back(key); });
  return keys;
}

/// Every field differs from both tasks' defaults, and the values are hard to print.
Config changed_config() {
  Config config;
  int i = 0;
  for_each_key(config, [&]<class Field>(std::string_view, Field& field) {
    ++i;
    if constexpr (std::same_as<Field, bool>) {
      field = !field;
    } else if constexpr (std::is_enum_v<Field>) {
      const auto values = Spelling<Field>::names.size();
      field = static_cast<Field>((static_cast<std::size_t>(field) + values - 1) % values);
    } else if constexpr (std::same_as<Field, int>) {
      field = std::numeric_limits<int>::min() + i;
    } else if constexpr (std::same_as<Field, std::uint64_t>) {
      field = std::numeric_limits<std::uint64_t>::max();
    } else if constexpr (std::same_as<Field, double>) {
      field = 0.1 + 1e-3 * i;
    } else if constexpr (std::same_as<Field, std::string>) {
      field =
          "a \"quoted\" \\ back\nslash\t\x01\x7f = # [x] M\xc3\xbc"
          "de " +
          std::to_string(i);
    } else if constexpr (std::same_as<Field, std::vector<int>>) {
      field = {i, -1, std::numeric_limits<int>::max()};
    } else if constexpr (std::same_as<Field, std::vector<double>>) {
      field = {1.0 / 3, -0.0, 1e5, DBL_MAX, DBL_MIN, 5e-324, 123456789012345680.0};
    } else {
      field = {"", "1", "true", "a, b", "]"};
    }
  });
  return config;
}

}  // namespace

TEST_CASE("without file and overrides the defaults of the task are loaded") {
  for (const Task task : {Task::pretraining, Task::finetuning}) {
    const ConfigSource source = load_config(task, {}, {});
    CHECK(differing_keys(source.config, Config::defaults(task)).empty());
    CHECK(source.explicit_keys.empty());
  }
  CHECK(differing_keys(Config::defaults(Task::pretraining), Config::defaults(Task::finetuning)) ==
        std::vector<std::string>{"task", "head.hidden", "head.dropout", "train.monitor", "train.accumulate"});
}

TEST_CASE("every key is printed and reads back to the same value") {
  const TemporaryFolder folder;
  for (const Config& config : {Config::defaults(Task::pretraining), changed_config()}) {
    const std::string toml = to_toml(config);
    const auto path = folder.put("config.toml", toml);
    const ConfigSource source = load_config(Task::pretraining, path, {});
    CHECK(differing_keys(source.config, config).empty());
    CHECK(to_toml(source.config) == toml);
    const auto keys = all_keys();
    CHECK(source.explicit_keys == std::set<std::string>(keys.begin(), keys.end()));
    CHECK(differing_keys(config_from_json(Task::pretraining, nlohmann::json(to_json(config))), config).empty());
    const std::string json = to_json(config).dump();
    CHECK(differing_keys(config_from_json(Task::pretraining, parse_json(json, "config")), config).empty());
  }
  CHECK(differing_keys(Config::defaults(Task::pretraining), changed_config()) == all_keys());
}

TEST_CASE("numbers of any size read back to the same bits") {
  const TemporaryFolder folder;
  const RandomStream stream{.seed = 7};
  std::vector<double> numbers;
  for (std::uint32_t i = 0; numbers.size() < 2000; ++i) {
    const auto words = stream.words(i, 0);
    const double number = std::bit_cast<double>(std::uint64_t{words[0]} << 32 | words[1]);
    if (std::isfinite(number)) numbers.push_back(number);
  }
  Config config;
  config.labels.edges = numbers;
  const auto bits_are_equal = [&](const std::vector<double>& found) {
    return std::ranges::equal(found, numbers, {}, std::bit_cast<std::uint64_t, double>,
                              std::bit_cast<std::uint64_t, double>);
  };
  const auto path = folder.put("config.toml", to_toml(config));
  CHECK(bits_are_equal(load_config(Task::pretraining, path, {}).config.labels.edges));
  const auto json = parse_json(to_json(config).dump(), "config");
  CHECK(bits_are_equal(config_from_json(Task::pretraining, json).labels.edges));
}

TEST_CASE("a file changes the keys it names, an override wins over it") {
  const TemporaryFolder folder;
  const auto path = folder.put("config.toml",
                               "\xef\xbb\xbf# a comment with dots ....\r\n"
                               "model.width = 64\r\n"
                               "[data]\r\nfeatures = [\"amplitude\", 'duration']\r\nwindow = 1_0 # blinks\r\n"
                               "[train]\r\nrate = 1\r\nseed = \"18446744073709551615\"\r\nclip = 1e+05");
  const ConfigSource source = load_config(
      Task::finetuning, path,
      {"data.window=20", " model.norm = pre ", "train.unfreeze=[2, 3]", "data.window=25", "head.batch_norm=false"});
  const Config& config = source.config;
  CHECK(config.task == Task::finetuning);
  CHECK(config.model.width == 64);
  CHECK(config.data.features == std::vector<std::string>{"amplitude", "duration"});
  CHECK(config.data.window == 25);
  CHECK(config.train.rate == 1.0);
  CHECK(config.train.seed == std::numeric_limits<std::uint64_t>::max());
  CHECK(config.train.clip == 100000.0);
  CHECK(config.model.norm == NormOrder::pre);
  CHECK(config.train.unfreeze == std::vector<int>{2, 3});
  CHECK_FALSE(config.head.batch_norm);
  CHECK(source.explicit_keys == std::set<std::string>{"data.features", "data.window", "head.batch_norm", "model.norm",
                                                      "model.width", "train.clip", "train.rate", "train.seed",
                                                      "train.unfreeze"});
  CHECK(differing_keys(config, Config::defaults(Task::finetuning)) ==
        std::vector<std::string>{"data.features", "data.window", "model.width", "model.norm", "head.batch_norm",
                                 "train.rate", "train.clip", "train.seed", "train.unfreeze"});
}

TEST_CASE("brackets, dots and signs of comments mean nothing inside strings and comments") {
  const TemporaryFolder folder;
  const auto path = folder.put("config.toml", "# ]}[ " + std::string(5000, '.') + R"TOML(
[data] # [ "
label = "]\"}#" # '
quality = '}\'
driver = """]
[\"""a""}"""""
recording = '''
}''b''''
features = [
  "", # ]
  '',
]
)TOML");
  const DataConfig data = load_config(Task::pretraining, path, {}).config.data;
  CHECK(data.label == "]\"}#");
  CHECK(data.quality == "}\\");
  CHECK(data.driver == "]\n[\"\"\"a\"\"}\"\"");
  CHECK(data.recording == "}''b'");
  CHECK(data.features == std::vector<std::string>{"", ""});
}

TEST_CASE("overrides take the values of TOML and bare words") {
  const struct {
    std::string assignment, value;
  } cases[] = {
      {"data.label=sleepiness", "\"sleepiness\""},
      {"data.label=\"two words\"", "\"two words\""},
      {"data.label=''", "\"\""},
      {"data.label=1", "\"1\""},
      {"data.label=true", "\"true\""},
      {"data.label=1979-05-27", "\"1979-05-27\""},
      {"data.label=M\xc3\xbc"
       "de",
       "\"M\xc3\xbc"
       "de\""},
      {"mask.count=bernoulli", "\"bernoulli\""},
      {"model.last_block=read", "\"read\""},
      {"mask.count=\"bernoulli\"", "\"bernoulli\""},
      {"mask.value=-2", "-2.0"},
      {"train.rate=1e-3", "0.001"},
      {"train.seed=18446744073709551615", "\"18446744073709551615\""},
      {"train.seed=9223372036854775807", "9223372036854775807"},
      {"train.graph=false", "false"},
      {"head.hidden=[]", "[]"},
      {"labels.range=[0, 10]", "[0.0, 10.0]"},
      {"splits.test=[1, 2.0, 2.5, -3, \"a\"]", "[\"1\", \"2\", \"2.5\", \"-3\", \"a\"]"},
      {"splits.validation=[100000.0]", "[\"100000\"]"},
  };
  for (const auto& [assignment, value] : cases) {
    CAPTURE(assignment);
    const Config config = load_config(Task::pretraining, {}, {assignment}).config;
    CHECK(value_of(config, assignment.substr(0, assignment.find('='))) == value);
  }
}

TEST_CASE("an override that cannot be used is a one-line InputError") {
  const std::string integer = "an integer from -2147483648 to 2147483647";
  const struct {
    std::string assignment, message;  // the message ends so, after "--set <assignment>: "
  } cases[] = {
      {"data.window", "found no '=', expected section.key=value"},
      {"data.windw=3", "unknown key data.windw; nearest is data.window"},
      {"windw=3", "unknown key windw; nearest is data.window"},
      {"data.epochs=3", "unknown key data.epochs; nearest is train.epochs"},
      {"=3", "unknown key ; nearest is mask.rate"},
      {"data.window=ten", "data.window: found the string \"ten\", expected " + integer},
      {"data.window=3.0", "data.window: found 3.0, expected " + integer},
      {"data.window=true", "data.window: found true, expected " + integer},
      {"data.window=2147483648", "data.window: found 2147483648, expected " + integer},
      {"data.window=[3]", "data.window: found a list, expected " + integer},
      {"data.window={a = 3}", "data.window: found a table, expected " + integer},
      {"data.window=1979-05-27", "data.window: found a date or time; no key takes one"},
      {"train.seed=-1", "train.seed: found -1, expected an integer from 0 to 18446744073709551615"},
      {"train.seed=18446744073709551616",
       "train.seed: found the string \"18446744073709551616\", expected an integer "
       "from 0 to 18446744073709551615"},
      {"train.rate=fast", "train.rate: found the string \"fast\", expected a finite number"},
      {"train.rate=inf", "train.rate: found inf, expected a finite number"},
      {"train.rate=nan", "train.rate: found nan, expected a finite number"},
      {"train.graph=1", "train.graph: found 1, expected true or false"},
      {"data.label=[1]", "data.label: found a list, expected a string"},
      {"data.features=amplitude", "data.features: found the string \"amplitude\", expected a list of strings"},
      {"data.features=[1]", "data.features[0]: found 1, expected a string"},
      {"labels.edges=[1, true]", "labels.edges[1]: found true, expected a finite number"},
      {"train.unfreeze=4", "train.unfreeze: found 4, expected a list of integers"},
      {"splits.test=[[1]]", "splits.test[0]: found a list, expected a string"},
      {"splits.test=[inf]", "splits.test[0]: found inf, expected a string"},
      {"model.norm=posst", "model.norm: found the string \"posst\", expected one of \"post\", \"pre\""},
      {"model.last_block=masked", "model.last_block: found the string \"masked\", expected one of \"all\", \"read\""},
      {"model.norm=[]", "model.norm: found a list, expected one of \"post\", \"pre\""},
  };
  for (const auto& [assignment, message] : cases) {
    CAPTURE(assignment);
    CHECK(message_of<InputError>([&, &one = assignment] { load_config(Task::pretraining, {}, {one}); }) ==
          "--set " + assignment + ": " + message);
  }

  // What TOML refuses, in the words of the library that reads it.
  for (const std::string& value :
       {std::string(), std::string("["), std::string("[a]"), std::string("#a"), std::string("\"a"), std::string("1 2"),
        std::string("\xff"), std::string("3\n[data]"), std::string("3\ntrain.epochs = 5"), std::string("[1\n]]"),
        std::string("\0", 1), std::string(100000, '['), std::string(2 << 20, '1'),
        "{" + std::string(100000, '.') + "}"}) {
    const auto message = message_of<InputError>([&] { load_config(Task::pretraining, {}, {"data.window=" + value}); });
    CAPTURE(value.substr(0, 20));
    CHECK_THAT(message, Catch::StartsWith("--set data.window=") && Catch::Contains(": "));
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 500);
  }
}

TEST_CASE("a file that cannot be used is an InputError with file, line and column") {
  const TemporaryFolder folder;
  const std::string integer = "an integer from -2147483648 to 2147483647";
  std::string many_dots = "a";
  for (int i = 0; i < 5000; ++i) many_dots += ".a";
  const std::string deepest = many_dots.substr(0, 2 * 4096 + 1);
  const struct {
    std::string toml, message;  // the message ends so, after the path
  } cases[] = {
      {"[data]\nwindw = 3\n", ":2: unknown key data.windw; nearest is data.window"},
      {"[data]\n\n\n'a\\n' = 3\n", ":4: unknown key data.a\\n; nearest is data.label"},
      {"[dta]\nwindow = 3\n", ":1: unknown section dta; nearest is data"},
      {"\nepochs = 3\n", ":2: unknown key epochs; nearest is train.epochs"},
      {"[data]\nwindow = 5\ndata.window = 3\n", ":3: unknown key data.data; nearest is data.label"},
      {"data = 3\n", ":1:8: data: found 3, expected a section [data]"},
      {"[[data]]\nwindow = 3\n", ":1:1: data: found a list, expected a section [data]"},
      {"[data]\nwindow = \"x\"\n", ":2:10: data.window: found the string \"x\", expected " + integer},
      {"[data]\n  window = 3000000000\n", ":2:12: data.window: found 3000000000, expected " + integer},
      {"[data.window]\na = 1\n", ":1:1: data.window: found a table, expected " + integer},
      {"[model]\nnorm = \"posst\"\n",
       ":2:8: model.norm: found the string \"posst\", expected one of \"post\", \"pre\""},
      {"[labels]\nedges = [1, \"a\"]\n", ":2:9: labels.edges[1]: found the string \"a\", expected a finite number"},
      {"[data]\nlabel = 1979-05-27\n", ":2:9: data.label: found a date or time; no key takes one"},
      {deepest + " = 1\n", ":1: unknown section a; nearest is data"},
      {"[" + deepest + "]\n", ":1: unknown section a; nearest is data"},
      {many_dots + " = 1\n", ":1:8194: not TOML: more than 4096 dots, which no configuration has"},
      {"[" + many_dots + "]\n", ":1:8195: not TOML: more than 4096 dots, which no configuration has"},
      {"\"#\"." + many_dots + " = 1\n", ":1:8196: not TOML: more than 4096 dots, which no configuration has"},
      {"[data]\nfeatures = [\"a\", }\n", ":2:18: not TOML: found '}', which closes no '{'"},
      {"[labels]\nedges = [\n1,\n]\n]\n", ":5:1: not TOML: found ']', which closes no '['"},
      {"[data]\nlabel = {a = [}]}\n", ":2:15: not TOML: found '}', which closes no '{'"},
      {"[data]\n  [\n", ":2:3: not TOML: found '[' without a name, expected [section]"},
      {"[data]\n[", ":2:1: not TOML: found '[' without a name, expected [section]"},
      {"[data]\n[[ \t=\n", ":2:1: not TOML: found '[' without a name, expected [section]"},
      {"[data]\nlabel = \"\"\"\n]\n\"\"\"\"\"\n}", ":5:1: not TOML: found '}', which closes no '{'"},
      {std::string(2 << 20, ' '), ":1:1: not TOML: more than 1 MiB, which no configuration has"},
  };
  for (const auto& [toml, message] : cases) {
    CAPTURE(toml.substr(0, 60));
    const auto path = folder.put("bad.toml", toml);
    CHECK(message_of<InputError>([&] { load_config(Task::pretraining, path, {}); }) == path.string() + message);
  }

  const struct {
    std::string toml, position;
  } not_toml[] = {
      {"[model]\nnorm = \n", ":2:"},
      {"[model\n", ":1:"},
      {"[data]\nwindow = 3\nwindow = 4\n", ":3:"},
      {"[data]\n[data]\n", ":2:"},
      {"[data]\nwindow = 99999999999999999999\n", ":2:"},
      {"[data]\nlabel = \"\xff\"\n", ":2:"},
      {"[data]\nlabel = \"a\nb\"\n", ":2:"},
      {"[data]\nlabel = \"\"\"a\n", ":"},
      {"[data]\nlabel = " + std::string(100000, '[') + "\n", ":2:"},
      {"[data]\nlabel = " + std::string(100000, '{') + "\n", ":2:"},
      {std::string("[data]\nlabel = \0\n", 17), ":2:"},
      {"\x7f"
       "ELF",
       ":1:"},
  };
  for (const auto& [toml, position] : not_toml) {
    CAPTURE(toml.substr(0, 60));
    const auto path = folder.put("bad.toml", toml);
    const auto message = message_of<InputError>([&] { load_config(Task::pretraining, path, {}); });
    CHECK_THAT(message, Catch::StartsWith(path.string() + position) && Catch::Contains(": not TOML: "));
    CHECK(message.find('\n') == std::string::npos);
  }
  CHECK(message_of<InputError>([&] { load_config(Task::pretraining, folder.path(), {}); }) ==
        "cannot read " + folder.path().string() + ": Is a directory");
}

TEST_CASE("changed bytes end in an InputError or in a configuration that can be printed") {
  const TemporaryFolder folder;
  const std::string bytes = to_toml(Config{});
  constexpr std::string_view alphabet = "0123456789{}[]\"'=,:-+._eTZ#\\ \t\n\r\x00\x7f\xff"sv;
  const RandomStream stream{.seed = 13};
  int refused = 0, accepted = 0;
  for (std::uint32_t round = 0; round < 2000; ++round) {
    std::string changed = bytes;
    const std::uint32_t changes = 1 + round % 3;
    for (std::uint32_t i = 0; i < changes; ++i) {
      const auto words = stream.words(i, round);
      char& byte = changed[words[0] % changed.size()];
      byte = words[1] % 2 == 0 ? alphabet[words[2] % alphabet.size()] : static_cast<char>(byte ^ (1 << (words[2] % 8)));
    }
    const auto path = folder.put("config.toml", changed);
    try {
      const Config config = load_config(Task::pretraining, path, {}).config;
      ++accepted;
      const Config again = load_config(Task::pretraining, folder.put("config.toml", to_toml(config)), {}).config;
      CHECK(differing_keys(config, again).empty());
    } catch (const InputError& error) {
      ++refused;
      CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    }
  }
  CHECK(refused > 500);
  CHECK(accepted > 100);
}

TEST_CASE("a configuration in JSON is read strictly, absent keys keep their defaults") {
  CHECK(differing_keys(config_from_json(Task::finetuning, nlohmann::json::object()), Config::defaults(Task::finetuning))
            .empty());
  CHECK(config_from_json(Task::pretraining, {{"data", {{"window", 12}}}}).data.window == 12);

  const struct {
    std::string json, message;
  } cases[] = {
      {"[]", "document: found a list, expected a table of sections"},
      {"null", "document: found null, expected a table of sections"},
      {R"({"data": 3})", "data: found 3, expected a table of keys"},
      {R"({"dta": {}})", "unknown section dta; nearest is data"},
      {R"({"data": {"windw": 3}})", "unknown key data.windw; nearest is data.window"},
      {R"({"data": {"label": null}})", "data.label: found null, expected a string"},
      {R"({"train": {"rate": null}})", "train.rate: found null, expected a finite number"},
      {R"({"data": {"window": 99999999999}})",
       "data.window: found 99999999999, expected an integer from -2147483648 to 2147483647"},
      {R"({"data": {"window": 18446744073709551615}})",
       "data.window: found 18446744073709551615, expected an integer from -2147483648 to 2147483647"},
      {R"({"data": {"features": ["a", {"b": 1}]}})", "data.features[1]: found a table, expected a string"},
  };
  for (const auto& [json, message] : cases) {
    CHECK(message_of<InputError>([&, &document = json] {
            config_from_json(Task::pretraining, parse_json(document, "config"), "x.safetensors: config");
          }) == "x.safetensors: config: " + message);
  }
}

TEST_CASE("the nearest word has the smallest edit distance") {
  const struct {
    std::string word;
    std::vector<std::string> candidates;
    std::string nearest;
  } cases[] = {
      {"windw", {"window", "wind"}, "window"},  // one insertion each: the first
      {"windw", {"wind", "window"}, "wind"},
      {"", {"abc", "ab"}, "ab"},
      {"abc", {""}, ""},
      {"kitten", {"sitting", "mittens"}, "mittens"},  // 3 and 2
      {"same", {"sane", "same"}, "same"},
  };
  for (const auto& [word, candidates, expected] : cases) CHECK(nearest(word, candidates) == expected);
  CHECK_THROWS_AS(nearest("word", {}), ContractViolation);
}

TEST_CASE("a value is asked for by a key that exists") {
  CHECK(value_of(Config{}, "train.rate") == "0.00062");
  CHECK(value_of(Config{}, "head.hidden") == "[64]");
  CHECK_THROWS_AS(value_of(Config{}, "train.rat"), ContractViolation);
}
