// Whole training runs on a card: beside the CPU's, replayed and issued op by op, on one branch and on two, twice, stopped and gone
// on with.

#include <catch2/catch.hpp>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/cuda.hpp>
#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

/// The published size: 512 wide, 4 blocks, 4 heads, windows of 30 blinks of 18 features, 64 of them a step.
Config published_config(Task task) {
  Config config = small_config(task);
  config.data.features.clear();
  for (int n = 0; n < 18; ++n) config.data.features.push_back(text("f", n));
  config.data.window = 30;
  config.mask.rate = 0.15;
  config.model = Config::defaults(task).model;
  config.model.max_length = 30;
  config.head = Config::defaults(task).head;
  config.train.batch = 64;
  config.train.rate = 1e-4;
  config.train.epochs = 25;
  return config;
}

/// Windows of 30 rows, 8 steps of 64 an epoch.
SmallData published_data() {
  SmallData data(8 * 64, 18);
  data.table.x.clear();
  for (int w = 0; w < 8 * 64; ++w) {
    data.windows[static_cast<std::size_t>(w)].window.start = 30 * w;
    data.windows[static_cast<std::size_t>(w)].window.length = 30;
    for (int l = 0; l < 30; ++l) {
      for (int n = 0; n < 18; ++n) data.table.x.push_back(static_cast<float>(std::sin(2.1 * w + 0.2 * l + 0.7 * n)));
    }
  }
  return data;
}

template <class Case>
auto bits_of(Case& run) {
  return std::tuple(run.losses, run.values(), run.statistics(), run.first_moment(), run.second_moment());
}

/// The fastest way to multiply may be another one when it is timed again: the same bits need the same plans.
template <class Case>
void take_plans(Case& run, Case& from) {
  matrix_products(run.device).use(matrix_products(from.device).plans());
}

template <template <class> class Stage, class Real>
void check_branches(Config config, const SmallData& data, std::optional<std::vector<int>> unfreeze = {}) {
  TrainingCase<Stage<Cuda<Real>>> two(config, data, 1, unfreeze), one(config, data, 1, unfreeze);
  two.train();
  one.device.use_one_branch();
  take_plans(one, two);
  one.train();
  CHECK((bits_of(one) == bits_of(two)));
  config.train.graph = false;
  TrainingCase<Stage<Cuda<Real>>> issued(config, data, 1, unfreeze);
  take_plans(issued, two);
  issued.train();
  CHECK((bits_of(issued) == bits_of(two)));
}

TEST_CASE("one branch and two have the same bits", "[gpu_training]") {
  Config config = published_config(Task::pretraining);
  config.train.epochs = 2;
  config.train.accumulate = 2;
  check_branches<PretrainingStage, bf16>(config, published_data());
  check_branches<PretrainingStage, float>(config, published_data());
  config = published_config(Task::finetuning);
  config.train.epochs = 3;
  check_branches<FinetuningStage, bf16>(config, published_data(), std::vector<int>{2, 3});
}

template <template <class> class Stage, class Real>
void check_bits(Config config, const SmallData& data, std::optional<std::vector<int>> unfreeze) {
  TrainingCase<Stage<Cuda<Real>>> replayed(config, data, 1, unfreeze), again(config, data, 1, unfreeze);
  replayed.train();
  take_plans(again, replayed);
  again.train();
  CHECK((bits_of(replayed) == bits_of(again)));
  config.train.graph = false;
  TrainingCase<Stage<Cuda<Real>>> issued(config, data, 1, unfreeze), first(config, data, 1, unfreeze);
  take_plans(issued, replayed);
  take_plans(first, replayed);
  issued.train();
  CHECK((bits_of(replayed) == bits_of(issued)));

  int left = 5;
  TrainerHooks hooks;
  hooks.should_stop = [&] { return --left == 0; };
  CHECK(first.train(hooks) == TrainerEnd::stopped);
  config.train.graph = true;
  TrainingCase<Stage<Cuda<Real>>> second(config, data, 1, unfreeze);
  take_plans(second, replayed);
  second.restore_from(first);
  second.train();
  CHECK(second.values() == replayed.values());
  CHECK(second.second_moment() == replayed.second_moment());
}

TEST_CASE("graphs, single ops, a second run and a resumed one have the same bits", "[gpu_training]") {
  Config config = small_config(Task::pretraining);
  config.train.accumulate = 2;
  config.model.upscaling = Upscaling::attention_concatenation;
  check_bits<PretrainingStage, bf16>(config, SmallData(42), {});
  check_bits<PretrainingStage, float>(config, SmallData(42), {});
  config = small_config(Task::finetuning);
  config.train.epochs = 5;
  check_bits<FinetuningStage, bf16>(config, SmallData(22), std::vector<int>{2, 4});
  config = published_config(Task::pretraining);
  config.train.epochs = 2;
  check_bits<PretrainingStage, bf16>(config, published_data(), {});
}

TEST_CASE("200 steps of the published size follow the CPU's", "[gpu_training]") {
  const Config config = published_config(Task::pretraining);
  const SmallData data = published_data();
  TrainingCase<PretrainingStage<Cpu<float>>> cpu(config, data, 0);
  TrainingCase<PretrainingStage<Cuda<float>>> wide(config, data);
  TrainingCase<PretrainingStage<Cuda<bf16>>> narrow(config, data);
  cpu.train();
  wide.train();
  narrow.train();
  REQUIRE(cpu.losses.size() == 200);
  double worst_wide = 0, worst_narrow = 0;
  for (std::size_t t = 0; t < 200; ++t) {
    worst_wide = std::max(worst_wide, std::abs(wide.losses[t] / cpu.losses[t] - 1));
    worst_narrow = std::max(worst_narrow, std::abs(narrow.losses[t] / cpu.losses[t] - 1));
  }
  WARN("largest relative difference of the loss to the CPU's over 200 steps: float " << worst_wide << ", bf16 "
                                                                                     << worst_narrow);
  CHECK(worst_wide <= 1e-3);
  CHECK(worst_narrow <= 5e-2);
}

}  // namespace
}  // namespace blinkbert::test
