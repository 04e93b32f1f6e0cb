// Checkpoints: what is written is what is read, and what was not written by us is refused in one line.

#include <catch2/catch.hpp>

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/model/finetuning_model.hpp>
#include <blinkbert/model/pretraining_model.hpp>
#include <blinkbert/train/checkpoint.hpp>

#include "tests/io/temporary_folder.hpp"

namespace {

using namespace blinkbert;
using Device = Cpu<float>;

Config small_config(Task task) {
  Config config = Config::defaults(task);
  config.data.features = {"a", "b", "c"};
  config.data.window = 6;
  config.model.upscaling = Upscaling::attention_linear;
  config.model.width = 8;
  config.model.blocks = 2;
  config.model.heads = 2;
  config.head.hidden = {4};
  resolve(config);
  validate(config);
  return config;
}

CheckpointHeader small_header(Task task) {
  return {.config = small_config(task),
          // Numbers without a short decimal form: they must come back with all their bits.
          .scaler = {.center = {0.1, -1.0 / 3, 1e-300, 4e17, 0.3, 2},
                     .scale = {1, 0.1, 3, 1e9, 2.0 / 3, 7},
                     .tail_bound = 4.7},
          .data = "0123456789abcdef",
          .training_drivers = {"d1", "d\"2", "d,3"}};
}

/// A checkpoint whose values all differ, as a file.
template <class Model>
Safetensors small_checkpoint(Device& device, Model& model, const CheckpointHeader& header) {
  auto& set = model.parameters();
  auto values = to_host(device, set.values());
  auto statistics = to_host(device, set.statistics());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.01f * static_cast<float>(i) - 1;
  for (std::size_t i = 0; i < statistics.size(); ++i) statistics[i] = 0.5f + static_cast<float>(i);
  return make_checkpoint(set, values, statistics, header);
}

}  // namespace

TEST_CASE("The values of levels travel with a loss over levels") {
  CheckpointHeader header = small_header(Task::finetuning);
  header.config.train.loss = LossKind::ordinal;
  header.level_values = {1.0 / 3, 5, 7.9, 8.7};
  Device device(1);
  FinetuningModel<Device> model(device, header.config);
  CHECK(model.outputs() == 3);
  const Safetensors good = small_checkpoint(device, model, header);
  CHECK(read_header(good).level_values == header.level_values);
  for (const char* labels : {"{}", R"({"level_values": [1, 2, 3]})", R"({"level_values": "many"})"}) {
    Safetensors file = good;
    file.metadata["labels"] = labels;
    CHECK_THAT(message_of<InputError>([&] { read_header(file); }), Catch::Contains("level_values"));
  }
}

TEMPLATE_TEST_CASE("A checkpoint comes back bit for bit", "", PretrainingModel<Device>, FinetuningModel<Device>) {
  constexpr Task task = std::is_same_v<TestType, PretrainingModel<Device>> ? Task::pretraining : Task::finetuning;
  const TemporaryFolder folder;
  const CheckpointHeader header = small_header(task);
  Device device(1);
  TestType model(device, header.config), other(device, header.config);
  const Safetensors written = small_checkpoint(device, model, header);
  write_safetensors(folder / "a.safetensors", written);

  const Safetensors read = read_safetensors(folder / "a.safetensors");
  const CheckpointHeader same = read_header(read);
  CHECK(differing_keys(same.config, header.config).empty());
  CHECK(same.scaler.center == header.scaler.center);
  CHECK(same.scaler.scale == header.scaler.scale);
  CHECK(same.scaler.tail_bound == header.scaler.tail_bound);
  CHECK(same.data == header.data);
  CHECK(same.training_drivers == header.training_drivers);

  load_parameters(device, other.parameters(), read);
  const Safetensors again = make_checkpoint(other.parameters(), to_host(device, other.parameters().values()),
                                            to_host(device, other.parameters().statistics()), same);
  write_safetensors(folder / "b.safetensors", again);
  CHECK(read_file(folder / "a.safetensors") == read_file(folder / "b.safetensors"));
}

TEST_CASE("A checkpoint holds the documented tensors and metadata, and nothing of the machine") {
  const CheckpointHeader header = small_header(Task::pretraining);
  Device device(1);
  PretrainingModel<Device> model(device, header.config);
  const Safetensors file = small_checkpoint(device, model, header);

  std::set<std::string> keys;
  for (const auto& [key, value] : file.metadata) keys.insert(key);
  CHECK(keys == std::set<std::string>{"format_version", "blinkbert_version", "task", "config", "features", "scaler",
                                      "calibration", "labels", "data", "training_drivers"});
  CHECK(file.metadata.at("format_version") == "1");
  CHECK(file.metadata.at("blinkbert_version") == BLINKBERT_VERSION);
  CHECK(file.metadata.at("task") == "pretraining");
  CHECK(nlohmann::json::parse(file.metadata.at("features")) ==
        nlohmann::json({"a", "b", "c", "calibration_a", "calibration_b", "calibration_c"}));
  CHECK(nlohmann::json::parse(file.metadata.at("calibration")) == nlohmann::json{{"mode", "append"}, {"blinks", 30}});
  CHECK(nlohmann::json::parse(file.metadata.at("labels"))["range"] == nlohmann::json({1.0, 9.0}));

  // N = 6 features of the model, E = 8, H = 2, F = 4 E; the upscaling block is N wide with d = N / H.
  std::map<std::string, std::vector<std::int64_t>> wanted{{"backbone.upscaling.linear.weight", {8, 6}},
                                                          {"backbone.upscaling.linear.bias", {8}},
                                                          {"backbone.position.weight", {6, 8}},
                                                          {"head.hidden.0.weight", {4, 8}},
                                                          {"head.hidden.0.bias", {4}},
                                                          {"head.norm.0.weight", {4}},
                                                          {"head.norm.0.bias", {4}},
                                                          {"head.norm.0.running_mean", {4}},
                                                          {"head.norm.0.running_var", {4}},
                                                          {"head.output.weight", {6, 4}},
                                                          {"head.output.bias", {6}}};
  const auto add_block = [&](const std::string& prefix, std::int64_t width) {
    const std::map<std::string, std::vector<std::int64_t>> block{{"self_attn.in_proj_weight", {3 * width, width}},
                                                                 {"self_attn.in_proj_bias", {3 * width}},
                                                                 {"self_attn.out_proj.weight", {width, width}},
                                                                 {"self_attn.out_proj.bias", {width}},
                                                                 {"linear1.weight", {4 * width, width}},
                                                                 {"linear1.bias", {4 * width}},
                                                                 {"linear2.weight", {width, 4 * width}},
                                                                 {"linear2.bias", {width}},
                                                                 {"norm1.weight", {width}},
                                                                 {"norm1.bias", {width}},
                                                                 {"norm2.weight", {width}},
                                                                 {"norm2.bias", {width}}};
    for (const auto& [name, shape] : block) wanted[prefix + name] = shape;
  };
  add_block("backbone.upscaling.block.", 6);
  add_block("backbone.encoder.layers.0.", 8);
  add_block("backbone.encoder.layers.1.", 8);
  std::map<std::string, std::vector<std::int64_t>> found;
  for (const auto& [name, tensor] : file.tensors) {
    CHECK(tensor.dtype == DType::f32);
    found[name] = tensor.shape;
  }
  CHECK(found == wanted);

  const std::string bytes = to_bytes(file);
  for (const std::string word : {"/tmp", "/home", "threads", "hostname", "time\"", "seconds\":\"20", "device"}) {
    INFO(word);
    CHECK(bytes.find(word) == std::string::npos);
  }
}

TEST_CASE("A checkpoint that is not ours is refused in one line that names the file and the reason") {
  const CheckpointHeader header = small_header(Task::finetuning);
  Device device(1);
  FinetuningModel<Device> model(device, header.config);
  Safetensors good = small_checkpoint(device, model, header);
  good.path = "some.safetensors";
  const auto metadata = [](const std::string& key, const std::string& value) {
    return [=](Safetensors& file) { file.metadata[key] = value; };
  };
  const auto without = [](const std::string& key) { return [=](Safetensors& file) { file.metadata.erase(key); }; };
  const auto in_config = [](const std::string& section, const std::string& key, const nlohmann::json& value) {
    return [=](Safetensors& file) {
      auto config = nlohmann::json::parse(file.metadata["config"]);
      config[section][key] = value;
      file.metadata["config"] = config.dump();
    };
  };
  const auto tensor = [](const std::string& name, std::vector<std::int64_t> shape, float value) {
    return [=](Safetensors& file) {
      std::int64_t count = 1;
      for (const std::int64_t extent : shape) count *= extent;
      file.tensors[name] = Tensor::of<float>(shape, std::vector<float>(static_cast<std::size_t>(count), value));
    };
  };
  struct Case {
    std::string what;
    std::function<void(Safetensors&)> change;
    std::vector<std::string> named;
  };
  const std::vector<Case> cases{
      {"no format", without("format_version"), {"format_version", "missing", "no checkpoint"}},
      {"no metadata", [](Safetensors& file) { file.metadata.clear(); }, {"format_version", "missing"}},
      {"future format", metadata("format_version", "2"), {"format_version 2", "newer"}},
      {"far future", metadata("format_version", "999999"), {"newer"}},
      {"format beyond int", metadata("format_version", "99999999999999999999"), {"format_version", "not a number"}},
      {"format before the first", metadata("format_version", "0"), {"format_version 0"}},
      {"negative format", metadata("format_version", "-1"), {"not a number"}},
      {"format is a word", metadata("format_version", "one"), {"not a number"}},
      {"empty format", metadata("format_version", ""), {"not a number"}},
      {"no task", without("task"), {"task", "missing"}},
      {"unknown task", metadata("task", "dreaming"), {"dreaming", "pretraining", "finetuning"}},
      {"no config", without("config"), {"config", "missing"}},
      {"config is no JSON", metadata("config", "{"), {"not JSON"}},
      {"config is a list", metadata("config", "[]"), {"config"}},
      {"unknown key", in_config("model", "widht", 8), {"model.widht", "model.width"}},
      {"wrong type", in_config("model", "width", "wide"), {"model.width"}},
      {"out of range", in_config("model", "width", 0), {"model.width = 0"}},
      {"huge", in_config("model", "width", 1e18), {"model.width"}},
      {"more heads than width", in_config("model", "heads", 9), {"model.heads"}},
      {"no scaler", without("scaler"), {"scaler", "missing"}},
      {"scaler without scale", metadata("scaler", R"({"center": [0], "tail_bound": 5})"), {"scaler"}},
      {"short scaler",
       metadata("scaler", R"({"center": [0], "scale": [1], "tail_bound": 5})"),
       {"scaler", "6 features"}},
      {"scale 0",
       metadata("scaler", R"({"center": [0,0,0,0,0,0], "scale": [1,1,0,1,1,1], "tail_bound": 5})"),
       {"scale", "above 0"}},
      {"tail bound 0",
       metadata("scaler", R"({"center": [0,0,0,0,0,0], "scale": [1,1,1,1,1,1], "tail_bound": 0})"),
       {"tail_bound"}},
      {"scaler of words", metadata("scaler", R"({"center": ["a"], "scale": [1], "tail_bound": 5})"), {"scaler"}},
      {"scaler is no JSON", metadata("scaler", "center"), {"scaler", "not JSON"}},
      {"no features", without("features"), {"features", "missing"}},
      {"other features", metadata("features", R"(["a","b"])"), {"features"}},
      {"no data", without("data"), {"data", "missing"}},
      {"no training drivers", without("training_drivers"), {"training_drivers", "missing"}},
      {"drivers are numbers", metadata("training_drivers", "[1]"), {"training_drivers", "names"}},
      {"missing tensor",
       [](Safetensors& file) { file.tensors.erase("head.output.bias"); },
       {"head.output.bias", "missing"}},
      {"missing statistic",
       [](Safetensors& file) { file.tensors.erase("head.norm.0.running_var"); },
       {"head.norm.0.running_var", "missing"}},
      {"extra tensor", tensor("head.extra", {2}, 0), {"head.extra", "does not belong"}},
      {"another shape", tensor("head.output.weight", {4, 1}, 0), {"head.output.weight", "[4, 1]", "[1, 4]"}},
      {"another rank", tensor("head.output.bias", {}, 0), {"head.output.bias", "[]", "[1]"}},
      {"another type",
       [](Safetensors& file) { file.tensors["head.output.bias"] = Tensor::of<double>({1}, std::vector<double>{0}); },
       {"head.output.bias", "F64", "F32"}},
      {"NaN",
       tensor("head.output.bias", {1}, std::numeric_limits<float>::quiet_NaN()),
       {"head.output.bias", "not finite"}},
      {"infinity",
       tensor("backbone.encoder.layers.1.norm2.bias", {8}, std::numeric_limits<float>::infinity()),
       {"backbone.encoder.layers.1.norm2.bias", "not finite"}},
      {"wider than its tensors", in_config("model", "width", 10), {"[", "expected F32"}},
  };
  const auto values_before = to_host(device, model.parameters().values());
  for (const Case& one : cases) {
    INFO(one.what);
    Safetensors file = good;
    one.change(file);
    const std::string message = message_of<InputError>([&] {
      const CheckpointHeader read = read_header(file);
      FinetuningModel<Device> fresh(device, read.config);
      const auto before = to_host(device, fresh.parameters().values());
      try {
        load_parameters(device, fresh.parameters(), file);
      } catch (...) {
        CHECK(to_host(device, fresh.parameters().values()) == before);  // nothing half-loaded
        throw;
      }
    });
    CHECK_THAT(message, Catch::StartsWith("some.safetensors"));
    CHECK(message.find('\n') == std::string::npos);
    for (const std::string& word : one.named) CHECK_THAT(message, Catch::Contains(word));
  }
  CHECK(to_host(device, model.parameters().values()) == values_before);
  CHECK_NOTHROW(read_header(good));
  CHECK_NOTHROW(load_parameters(device, model.parameters(), good));
}

TEST_CASE("Loading a backbone takes its parameters, leaves the head and says what became of each tensor") {
  const CheckpointHeader header = small_header(Task::pretraining);
  Device device(1);
  PretrainingModel<Device> pretrained(device, header.config);
  const Safetensors good = small_checkpoint(device, pretrained, header);
  const std::size_t in_backbone = static_cast<std::size_t>(std::count_if(
      good.tensors.begin(), good.tensors.end(), [](const auto& one) { return one.first.starts_with("backbone."); }));

  struct Case {
    std::string what;
    std::function<void(Safetensors&)> change;
    std::vector<std::string> missing, other_shape, more_unexpected;
  };
  const std::vector<Case> cases{
      {"whole", [](Safetensors&) {}, {}, {}, {}},
      {"without one",
       [](Safetensors& file) { file.tensors.erase("backbone.position.weight"); },
       {"backbone.position.weight"},
       {},
       {}},
      {"another shape",
       [](Safetensors& file) {
         file.tensors["backbone.position.weight"] = Tensor::of<float>({7, 8}, std::vector<float>(56));
       },
       {},
       {"backbone.position.weight"},
       {}},
      {"one more",
       [](Safetensors& file) { file.tensors["backbone.extra"] = Tensor::of<float>({1}, std::vector<float>(1)); },
       {},
       {},
       {"backbone.extra"}},
  };
  for (const Case& one : cases) {
    INFO(one.what);
    Safetensors file = good;
    one.change(file);
    FinetuningModel<Device> model(device, small_config(Task::finetuning));
    auto& set = model.parameters();
    const auto before = to_host(device, set.values());
    const LoadReport report = load_backbone(device, set, file);
    CHECK(report.missing == one.missing);
    CHECK(report.other_shape == one.other_shape);
    CHECK(report.loaded.size() == in_backbone - one.missing.size() - one.other_shape.size());
    for (const std::string& name : one.more_unexpected) {
      CHECK(std::count(report.unexpected.begin(), report.unexpected.end(), name) == 1);
    }
    // All of the pre-training head: its output has another shape, and none of it is a backbone's.
    CHECK(report.unexpected.size() == good.tensors.size() - in_backbone + one.more_unexpected.size());

    const auto after = to_host(device, set.values());
    for (const auto& entry : set.entries()) {
      INFO(entry.name);
      const auto begin = static_cast<std::ptrdiff_t>(entry.begin),
                 end = begin + static_cast<std::ptrdiff_t>(entry.count);
      const std::vector<float> now(after.begin() + begin, after.begin() + end),
          then(before.begin() + begin, before.begin() + end);
      const bool is_loaded = std::count(report.loaded.begin(), report.loaded.end(), entry.name) == 1;
      if (is_loaded) {
        const auto stored = good.tensors.at(entry.name).as<float>();
        CHECK(now == std::vector<float>(stored.begin(), stored.end()));
      } else {
        CHECK(now == then);
      }
    }
  }
}
