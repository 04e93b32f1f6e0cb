// Where models start: names, shapes and order of the parameters, bounds of their values, groups and decay.

#include <set>

#include <blinkbert/model/finetuning_model.hpp>
#include <blinkbert/model/pretraining_model.hpp>
#include <tests/model/model_case.hpp>

namespace blinkbert::test {
namespace {

using Set = ParameterSet<Cpu<float>>;

std::vector<float> values_of(const Set& set, const Set::Entry& entry) {
  const View<float, 1> values = Set::slice(set.values(), entry);
  return {values.data(), values.data() + values.size()};
}

/// A row of the contract: where a parameter is, and how it starts.
struct Start {
  std::string name;
  std::vector<int> shape;
  enum class Kind { constant, uniform, normal } kind;
  double amount;  // the constant, the bound, the deviation
  int group;
  Decay decay;
};

double fan_in(int in) { return 1 / std::sqrt(static_cast<double>(in)); }

/// The entries of one block in the order in which torch.nn.TransformerEncoderLayer lists its own, at width w.
void add_block(std::vector<Start>& starts, const std::string& name, int w, int heads, int group) {
  const int inner = heads * ((w + heads - 1) / heads);
  const double xavier = std::sqrt(6.0 / (w + 3 * inner));
  const auto norm = [&](const std::string& which) {
    starts.push_back({name + which + ".weight", {w}, Start::Kind::constant, 1, group, Decay::no});
    starts.push_back({name + which + ".bias", {w}, Start::Kind::constant, 0, group, Decay::no});
  };
  starts.push_back(
      {name + ".self_attn.in_proj_weight", {3 * inner, w}, Start::Kind::uniform, xavier, group, Decay::yes});
  starts.push_back({name + ".self_attn.in_proj_bias", {3 * inner}, Start::Kind::constant, 0, group, Decay::no});
  starts.push_back(
      {name + ".self_attn.out_proj.weight", {w, inner}, Start::Kind::uniform, fan_in(inner), group, Decay::yes});
  starts.push_back({name + ".self_attn.out_proj.bias", {w}, Start::Kind::constant, 0, group, Decay::no});
  starts.push_back({name + ".linear1.weight", {4 * w, w}, Start::Kind::uniform, fan_in(w), group, Decay::yes});
  starts.push_back({name + ".linear1.bias", {4 * w}, Start::Kind::uniform, fan_in(w), group, Decay::no});
  starts.push_back({name + ".linear2.weight", {w, 4 * w}, Start::Kind::uniform, fan_in(4 * w), group, Decay::yes});
  starts.push_back({name + ".linear2.bias", {w}, Start::Kind::uniform, fan_in(4 * w), group, Decay::no});
  norm(".norm1");
  norm(".norm2");
}

std::vector<Start> contract(const ModelCase& one, int outputs) {
  std::vector<Start> starts;
  const bool has_block =
      one.upscaling == Upscaling::attention_linear || one.upscaling == Upscaling::attention_concatenation;
  if (has_block) add_block(starts, "backbone.upscaling.block", one.N, one.heads, 0);
  if (one.upscaling != Upscaling::none) {
    const int out = one.upscaling == Upscaling::attention_concatenation ? one.E - one.N : one.E;
    starts.push_back(
        {"backbone.upscaling.linear.weight", {out, one.N}, Start::Kind::uniform, fan_in(one.N), 0, Decay::yes});
    starts.push_back({"backbone.upscaling.linear.bias", {out}, Start::Kind::uniform, fan_in(one.N), 0, Decay::no});
  }
  if (one.position == Position::learned) {
    starts.push_back({"backbone.position.weight", {one.L + 1, one.E}, Start::Kind::normal, 0.02, 0, Decay::no});
  }
  for (int i = 0; i < one.blocks; ++i) {
    add_block(starts, "backbone.encoder.layers." + std::to_string(i), one.E, one.heads, i + 1);
  }
  int in = one.E;
  const int group = one.blocks + 1;
  for (std::size_t i = 0; i < one.hidden.size(); ++i) {
    const std::string number = std::to_string(i);
    const int out = one.hidden[i];
    starts.push_back(
        {"head.hidden." + number + ".weight", {out, in}, Start::Kind::uniform, fan_in(in), group, Decay::yes});
    starts.push_back({"head.hidden." + number + ".bias", {out}, Start::Kind::uniform, fan_in(in), group, Decay::no});
    if (one.batch_norm == ModelCase::BatchNorm::yes) {
      starts.push_back({"head.norm." + number + ".weight", {out}, Start::Kind::constant, 1, group, Decay::no});
      starts.push_back({"head.norm." + number + ".bias", {out}, Start::Kind::constant, 0, group, Decay::no});
    }
    in = out;
  }
  starts.push_back({"head.output.weight", {outputs, in}, Start::Kind::uniform, fan_in(in), group, Decay::yes});
  starts.push_back({"head.output.bias", {outputs}, Start::Kind::uniform, fan_in(in), group, Decay::no});
  return starts;
}

TEST_CASE("parameters have the contract's names, shapes, order, groups and starting values") {
  const std::vector<ModelCase> cases{
      {.name = "none", .N = 9, .E = 9, .heads = 2, .blocks = 1, .upscaling = Upscaling::none},
      {.name = "linear, sinusoidal",
       .N = 9,
       .E = 16,
       .heads = 3,
       .blocks = 2,
       .position = Position::sinusoidal,
       .hidden = {}},
      {.name = "attention linear",
       .N = 18,
       .E = 32,
       .heads = 4,
       .blocks = 2,
       .upscaling = Upscaling::attention_linear,
       .hidden = {12, 7},
       .batch_norm = ModelCase::BatchNorm::yes},
      {.name = "attention concatenation, score",
       .N = 9,
       .E = 24,
       .heads = 8,
       .blocks = 1,
       .upscaling = Upscaling::attention_concatenation,
       .batch_norm = ModelCase::BatchNorm::yes,
       .task = Task::finetuning},
  };
  for (const ModelCase& one : cases) {
    INFO(one.name);
    const ModelBench<Cpu<float>> bench(one);
    const Set& set = bench.model.parameters();
    const std::vector<Start> wanted = contract(one, bench.outputs());
    REQUIRE(set.entries().size() == wanted.size());
    REQUIRE(set.segments().size() == wanted.size());
    std::int64_t end_before = 0;
    std::set<std::vector<float>> seen;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const Set::Entry& entry = set.entries()[i];
      const Segment& segment = set.segments()[i];
      const Start& start = wanted[i];
      INFO(start.name);
      CHECK(entry.name == start.name);
      CHECK(entry.shape == start.shape);
      CHECK(segment.group == start.group);
      CHECK(segment.decays == (start.decay == Decay::yes));
      CHECK(segment.begin == entry.begin);
      CHECK(segment.end == entry.begin + entry.count);
      CHECK(entry.begin >= end_before);
      CHECK(entry.begin * static_cast<std::int64_t>(sizeof(float)) % 256 == 0);
      end_before = segment.end;

      const std::vector<float> values = values_of(set, entry);
      double low = 1e9, high = -1e9, sum = 0, squares = 0;
      for (const float value : values) {
        const auto wide = static_cast<double>(value);
        low = std::min(low, wide);
        high = std::max(high, wide);
        sum += wide;
        squares += wide * wide;
      }
      const auto n = static_cast<double>(values.size());
      // A mean of n draws strays by deviation / sqrt(n), a mean square of uniform (normal) ones by 0.9 (1.5)
      // deviation^2 / sqrt(n); five times that is passed once in two million draws, and the seed is fixed.
      switch (start.kind) {
        case Start::Kind::constant:
          CHECK(low == start.amount);
          CHECK(high == start.amount);
          break;
        case Start::Kind::uniform: {
          const double deviation = start.amount / std::sqrt(3.0);
          CHECK(low >= -start.amount * (1 + 1e-6));
          CHECK(high <= start.amount * (1 + 1e-6));
          CHECK(std::abs(sum / n) <= 5 * deviation / std::sqrt(n));
          CHECK(std::abs(squares / n / (deviation * deviation) - 1) <= 5 * 0.9 / std::sqrt(n));
          if (n >= 100) CHECK(std::max(high, -low) >= 0.9 * start.amount);
          break;
        }
        case Start::Kind::normal:
          CHECK(std::abs(sum / n) <= 5 * start.amount / std::sqrt(n));
          CHECK(std::abs(squares / n / (start.amount * start.amount) - 1) <= 5 * 1.5 / std::sqrt(n));
          CHECK(std::max(high, -low) <=
                start.amount * std::sqrt(2 * 33 * std::log(2.0)));  // the smallest word gives this
          break;
      }
      if (start.kind != Start::Kind::constant)
        CHECK(seen.insert(values).second);  // no parameter repeats another's numbers
    }
    std::vector<std::string> statistics;
    for (const auto& entry : set.statistic_entries()) {
      statistics.push_back(entry.name);
      const float value = entry.name.ends_with("running_var") ? 1.0f : 0.0f;
      for (std::int64_t i = 0; i < entry.count; ++i) CHECK(set.statistics().data()[entry.begin + i] == value);
    }
    std::vector<std::string> wanted_statistics;
    for (std::size_t i = 0; i < one.hidden.size() && one.batch_norm == ModelCase::BatchNorm::yes; ++i) {
      wanted_statistics.push_back(text("head.norm.", i, ".running_mean"));
      wanted_statistics.push_back(text("head.norm.", i, ".running_var"));
    }
    CHECK(statistics == wanted_statistics);
  }
}

TEST_CASE("an encoder's names are those of torch.nn.TransformerEncoder") {
  // From the state_dict of torch.nn.TransformerEncoder(TransformerEncoderLayer(8, 2, 32), 2), sorted.
  const std::set<std::string> torch_names{"linear1.bias",
                                          "linear1.weight",
                                          "linear2.bias",
                                          "linear2.weight",
                                          "norm1.bias",
                                          "norm1.weight",
                                          "norm2.bias",
                                          "norm2.weight",
                                          "self_attn.in_proj_bias",
                                          "self_attn.in_proj_weight",
                                          "self_attn.out_proj.bias",
                                          "self_attn.out_proj.weight"};
  const ModelBench<Cpu<float>> bench({.name = "", .N = 4, .E = 8, .heads = 2, .blocks = 2});
  std::map<std::string, std::set<std::string>> by_layer;
  const std::string prefix = "backbone.encoder.layers.";
  for (const auto& entry : bench.model.parameters().entries()) {
    if (!entry.name.starts_with(prefix)) continue;
    const std::string rest = entry.name.substr(prefix.size());
    by_layer[rest.substr(0, rest.find('.'))].insert(rest.substr(rest.find('.') + 1));
  }
  REQUIRE(by_layer.size() == 2);
  CHECK(by_layer.at("0") == torch_names);
  CHECK(by_layer.at("1") == torch_names);
}

TEST_CASE("starting values are a function of the seed") {
  const ModelCase one{.name = "", .N = 4, .E = 8, .heads = 2, .blocks = 1};
  const auto start = [&](std::uint64_t seed, int threads) {
    Config config = config_of(one);
    config.train.seed = seed;
    Cpu<float> device(threads);
    const EncoderWithHead<Cpu<float>> model(device, config, one.N, HeadRows::all, LastBlock::all);
    const View<float, 1> values = model.parameters().values();
    return std::vector<float>(values.data(), values.data() + values.size());
  };
  CHECK(start(1, 1) == start(1, 2));
  CHECK(start(1, 1) != start(2, 1));
  CHECK(start(1, 1) != start(1 + (std::uint64_t{1} << 32), 1));  // the high half counts
}

TEST_CASE("both models have the head that their task needs") {
  Config config = config_of({.name = "", .N = 4, .E = 8, .heads = 2, .blocks = 1});
  Cpu<float> device(1);
  const auto output_shape = [](const auto& model) { return model.parameters().entries().end()[-2].shape; };
  for (const HeadRows rows : {HeadRows::all, HeadRows::masked}) {
    config.head.rows = rows;
    const PretrainingModel<Cpu<float>> pretraining(device, config);
    CHECK(pretraining.rows() == rows);
    CHECK(output_shape(pretraining) == std::vector<int>{4, 5});
    const FinetuningModel<Cpu<float>> finetuning(device, config);
    CHECK(finetuning.rows() == HeadRows::masked);
    CHECK(output_shape(finetuning) == std::vector<int>{1, 5});
    CHECK(pretraining.last_block() == LastBlock::all);
    CHECK(finetuning.last_block() == LastBlock::read);  // whatever the configuration says
  }
  config.model.last_block = LastBlock::read;
  CHECK(PretrainingModel<Cpu<float>>(device, config).last_block() == LastBlock::read);
  CHECK(FinetuningModel<Cpu<float>>(device, config).last_block() == LastBlock::read);
  config.head.rows = HeadRows::all;
  CHECK_THROWS_AS(PretrainingModel<Cpu<float>>(device, config), ContractViolation);
}

}  // namespace
}  // namespace blinkbert::test
