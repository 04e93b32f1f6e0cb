// Whole training runs with products in bf16 on the CPU, beside the same runs in float: equal counters, so equal masks, dropout
// and order of windows; only rounding differs.

#include <catch2/catch.hpp>

#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

struct CpuInBf16 : Cpu<float> {
  explicit CpuInBf16(int threads) : Cpu<float>(threads) { multiply_in_bf16(); }
};

template <template <class> class Stage, class Device>
std::vector<double> losses_of(const Config& config) {
  TrainingCase<Stage<Device>> run(config, SmallData(75), 2);
  run.train();
  return run.losses;
}

/// Each of some 20 roundings on the way from a row to the loss moves a number by 2^-9 of itself at most, and they do not all
/// point the same way: the loss stays within 2 %, and not within float's rounding.
template <template <class> class Stage>
void check_follows_float(Task task) {
  if (const std::string obstacle = Cpu<float>::bf16_obstacle(); !obstacle.empty()) {
    WARN("skipped: " << obstacle);
    return;
  }
  Config config = small_config(task);
  config.model.width = 64;  // narrower products are left to float
  config.mask.rate = 0.4;
  config.train.epochs = 4;
  config.train.batch = task == Task::finetuning ? 8 : 16;  // the loss of a step is a mean over many rounded numbers
  config.train.accumulate = task == Task::finetuning ? 2 : 1;
  config.train.rate = 3e-4;
  const std::vector<double> in_float = losses_of<Stage, Cpu<float>>(config);
  const std::vector<double> in_bf16 = losses_of<Stage, CpuInBf16>(config);
  REQUIRE(in_float.size() >= 8);
  REQUIRE(in_bf16.size() == in_float.size());
  double worst = 0;
  for (std::size_t t = 0; t < in_float.size(); ++t) worst = std::max(worst, std::abs(in_bf16[t] / in_float[t] - 1));
  INFO("largest relative difference of the loss over " << in_float.size() << " steps: " << worst);
  CHECK(worst < 2e-2);
  CHECK(worst > 1e-5);
  CHECK(losses_of<Stage, CpuInBf16>(config) == in_bf16);
}

TEST_CASE("pre-training in bf16 follows float") { check_follows_float<PretrainingStage>(Task::pretraining); }
TEST_CASE("fine-tuning in bf16 follows float") { check_follows_float<FinetuningStage>(Task::finetuning); }

}  // namespace
}  // namespace blinkbert::test
