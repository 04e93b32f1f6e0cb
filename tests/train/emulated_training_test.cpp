// Whole training runs through the CUDA kernels' own source on the emulator, beside the same runs on the CPU: equal counters,
// so equal masks, dropout and order of windows; only rounding differs.

#include <catch2/catch.hpp>

#include <blinkbert/emulated.hpp>
#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

constexpr std::size_t steps = 20;

/// Steps of 16 windows, so that the loss of a step is a mean over many rounded numbers; the last of an epoch is a tail.
/// Too wide for the kernel of narrow blocks.
Config run_config(Task task) {
  Config config = small_config(task);
  config.mask.rate = 0.4;
  config.model.width = 40;
  config.train.epochs = 4;
  config.train.batch = task == Task::finetuning ? 8 : 16;
  config.train.accumulate = task == Task::finetuning ? 2 : 1;
  config.train.rate = 3e-4;  // AdamW makes steps of the size of the rate from gradients that are rounding alone
  return config;
}

/// Twelve features, for models that normalise rows as wide as the features: over three, bf16's rounding is felt too much.
void widen(Config& config) { config.data.features = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}; }

template <template <class> class Stage, class Device>
std::vector<double> losses_of(const Config& config, std::optional<std::vector<int>> unfreeze) {
  TrainingCase<Stage<Device>> run(config, SmallData(75, static_cast<int>(config.data.features.size())), 1,
                                  std::move(unfreeze));
  run.train();
  return run.losses;
}

template <template <class> class Stage>
void check_follows_cpu(const Config& config, std::optional<std::vector<int>> unfreeze = {}) {
  const std::vector<double> cpu = losses_of<Stage, Cpu<float>>(config, unfreeze);
  const std::vector<double> wide = losses_of<Stage, Emulated<float>>(config, unfreeze);
  const std::vector<double> narrow = losses_of<Stage, Emulated<bf16>>(config, unfreeze);
  REQUIRE(cpu.size() >= steps);
  REQUIRE(wide.size() == cpu.size());
  REQUIRE(narrow.size() == cpu.size());
  double worst_wide = 0, worst_narrow = 0;
  for (std::size_t t = 0; t < steps; ++t) {
    worst_wide = std::max(worst_wide, std::abs(wide[t] / cpu[t] - 1));
    worst_narrow = std::max(worst_narrow, std::abs(narrow[t] / cpu[t] - 1));
  }
  WARN("largest relative difference of the loss to the CPU's over " << steps << " steps: float " << worst_wide
                                                                    << ", bf16 " << worst_narrow);
  CHECK(worst_wide <= 1e-5);
  CHECK(worst_narrow <= 2e-2);
}

TEST_CASE("pre-training on the kernels follows the CPU", "[emulated_training]") {
  check_follows_cpu<PretrainingStage>(run_config(Task::pretraining));
}

TEST_CASE("pre-training with an attention upscaling on the kernels follows the CPU", "[emulated_training]") {
  Config config = run_config(Task::pretraining);
  config.model.upscaling = Upscaling::attention_linear;
  check_follows_cpu<PretrainingStage>(config);
}

TEST_CASE("pre-norm pre-training with concatenation on the kernels follows the CPU", "[emulated_training]") {
  Config config = run_config(Task::pretraining);
  widen(config);
  config.model.upscaling = Upscaling::attention_concatenation;
  config.model.norm = NormOrder::pre;
  config.head.rows = HeadRows::masked;
  check_follows_cpu<PretrainingStage>(config);
}

TEST_CASE("pre-training without upscaling on the kernels follows the CPU", "[emulated_training]") {
  Config config = run_config(Task::pretraining);
  config.model.upscaling = Upscaling::none;
  config.model.width = 12;
  widen(config);
  check_follows_cpu<PretrainingStage>(config);
}

TEST_CASE("pre-training with a last block for the rows read on the kernels follows the CPU", "[emulated_training]") {
  Config config = run_config(Task::pretraining);
  config.model.upscaling = Upscaling::attention_concatenation;
  config.model.last_block = LastBlock::read;
  config.head.rows = HeadRows::masked;
  check_follows_cpu<PretrainingStage>(config);
}

TEST_CASE("fine-tuning with blocks that join on the kernels follows the CPU", "[emulated_training]") {
  check_follows_cpu<FinetuningStage>(run_config(Task::finetuning), std::vector<int>{2, 3});
}

}  // namespace
}  // namespace blinkbert::test
