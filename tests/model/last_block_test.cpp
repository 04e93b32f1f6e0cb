// The last block computed for the rows read against the same model with a last block for all rows: the same outputs,
// statistics and gradients, with the same dropout, but for rounding.

#include <tests/model/model_case.hpp>

namespace blinkbert::test {
namespace {

using BatchNorm = ModelCase::BatchNorm;

/// Both orders of the norms, all upscalings, one block and several, both tasks; dropout everywhere.
std::vector<ModelCase> cases() {
  std::vector<ModelCase> table;
  for (const NormOrder norm : {NormOrder::post, NormOrder::pre}) {
    for (const Upscaling upscaling :
         {Upscaling::none, Upscaling::linear, Upscaling::attention_linear, Upscaling::attention_concatenation}) {
      for (const int blocks : {1, 3}) {
        for (const Task task : {Task::pretraining, Task::finetuning}) {
          table.push_back({.name = "",
                           .N = 9,
                           .E = upscaling == Upscaling::none ? 9 : 12,
                           .heads = 2,
                           .blocks = blocks,
                           .upscaling = upscaling,
                           .norm = norm,
                           .batch_norm = blocks == 1 ? BatchNorm::yes : BatchNorm::no,
                           .rows = HeadRows::masked,
                           .task = task,
                           .dropout = 0.2,
                           .head_dropout = 0.1,
                           .lengths = {20, 13, 0, 18, 1},
                           .L = 20});
        }
      }
    }
  }
  return table;
}

std::string described(const ModelCase& one) {
  return text(spell(one.task), ", ", spell(one.norm), ", ", spell(one.upscaling), ", blocks ", one.blocks);
}

TEMPLATE_TEST_CASE("a last block for the rows read is that of all rows", "", Cpu<float>, Cpu<double>) {
  using Real = typename TestType::Real;
  for (ModelCase one : cases()) {
    INFO(described(one));
    const oracle::Parameters<double> parameters = random_parameters(one);
    const HostBatch host = make_batch(one, 80);
    const std::vector<double> doutput = random_doutput(one, host, 81);
    ModelBench<TestType> all(one);
    one.last_block = LastBlock::read;
    ModelBench<TestType> read(one, 2);
    for (auto* bench : {&all, &read}) {
      bench->set_parameters(parameters);
      bench->load(host);
    }
    for (const Mode mode : {Mode::evaluation, Mode::training}) {
      const std::vector<double> expected = all.forward(all.pass(mode));
      check_close("output", read.forward(read.pass(mode)), expected, rounding_tolerance<Real>(one, largest(expected)));
      for (const auto& [name, values] : all.statistics()) {
        check_close(name, read.statistics().at(name), values, rounding_tolerance<Real>(one, largest(values)));
      }
      for (int lowest = 0; lowest <= one.blocks + 1; ++lowest) {
        INFO("lowest trained group " << lowest);
        for (auto* bench : {&all, &read}) {
          bench->zero_gradients();
          bench->backward(bench->pass(mode), doutput, lowest);
        }
        const oracle::Parameters<double> wanted = all.gradients(), found = read.gradients();
        double scale = 0;
        for (const auto& [name, values] : wanted) scale = std::max(scale, largest(values));
        CHECK(scale > 1e-3);
        for (const auto& [name, values] : wanted) {
          check_close(name, found.at(name), values, rounding_tolerance<Real>(one, scale));
        }
      }
    }
  }
}

TEST_CASE("where no row is read, the last block gives nothing and takes no gradient") {
  for (const NormOrder norm : {NormOrder::post, NormOrder::pre}) {
    INFO(spell(norm));
    const ModelCase one{.name = "",
                        .N = 4,
                        .E = 8,
                        .heads = 2,
                        .blocks = 2,
                        .norm = norm,
                        .rows = HeadRows::masked,
                        .last_block = LastBlock::read,
                        .dropout = 0.1};
    HostBatch host = make_batch(one, 82);
    host.selected.clear();
    ModelBench<Cpu<float>> bench(one);
    bench.load(host);
    CHECK(bench.forward(bench.pass(Mode::training)).empty());
    bench.backward(bench.pass(Mode::training), {});
    for (const auto& [name, values] : bench.gradients()) {
      INFO(name);
      CHECK(largest(values) == 0);
      CHECK(std::none_of(values.begin(), values.end(), [](double value) { return std::isnan(value); }));
    }
  }
}

}  // namespace
}  // namespace blinkbert::test
