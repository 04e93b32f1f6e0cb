// Bank conflicts of the kernels themselves: none where their design says so, few elsewhere.

#include <catch2/catch.hpp>

#include <blinkbert/emulated.hpp>
#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/visible_keys.hpp>
#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

/// Turns and conflicts of each file; "masked_attention.cuh" and so on.
using Counts = std::map<std::string, dev::emulator::BankCount>;

template <class Device>
void add_counts(Counts& counts, Device& device) {
  for (const auto& [where, count] : device.machine().bank_counts()) {
    auto& file = counts[where.substr(0, where.find(':'))];
    file.turns += count.turns;
    file.conflicts += count.conflicts;
    INFO(where << ": " << count.turns << " turns, " << count.conflicts << " conflicts");
    // Whatever a kernel does in shared memory, a warp's access does not fall apart.
    CHECK(count.conflicts <= 3 * count.turns);
  }
}

template <class Real>
void count_attention(Counts& counts, int L, int D) {
  const int B = 2, H = 2;
  Stage<Emulated<Real>> stage(1);
  stage.device.machine().options().counts_bank_conflicts = true;
  const std::vector<int> lengths = {L, L - 3};
  const VisibleKeys keys(Keys::half, lengths, L);
  const auto qkv = stage.input(narrowed<Real>(random_values<Real>(B * L * 3 * H * D, 1)), B, L, 3, H, D);
  const auto visible = stage.input(keys.bits, B, visible_words(L));
  const auto length = stage.input(lengths, B);
  const Dropout dropout = library_dropout({.drop_probability = .1});
  run(stage.device, MaskedAttentionForward<Real>{.o = stage.template output<Real>(B, L, H, D),
                                                 .qkv = qkv,
                                                 .visible = visible,
                                                 .lengths = length,
                                                 .dropout = dropout});
  run(stage.device,
      MaskedAttentionBackward<Real>{
          .dqkv = stage.template output<Real>(B, L, 3, H, D),
          .output_gradient = stage.input(narrowed<Real>(random_values<Real>(B * L * H * D, 2)), B, L, H, D),
          .qkv = qkv,
          .visible = visible,
          .lengths = length,
          .dropout = dropout});
  add_counts(counts, stage.device);
}

TEMPLATE_TEST_CASE("attention meets in no bank", "[kernel_banks]", bf16, float) {
  Counts counts;
  for (const int D : {2, 9, 16, 32, 64, 128, 256}) {
    for (const int L : {16, 30, 64, 100, 128, 200}) {
      if (L * D <= 64 * 128) count_attention<TestType>(counts, L, D);
    }
  }
  count_attention<TestType>(counts, 30, 256);
  for (const char* file : {"strip_product.cuh", "masked_attention.cuh", "masked_attention_long.cuh"}) {
    INFO(file << ": " << counts[file].turns << " turns, " << counts[file].conflicts << " conflicts");
    CHECK(counts[file].turns > 0);
    CHECK(counts[file].conflicts == 0);
  }
}

template <template <class> class StageOf, class Real>
void count_training(Counts& counts, Config config) {
  config.train.epochs = 1;
  config.model.width = 64;
  config.head.hidden = {64};
  TrainingCase<StageOf<Emulated<Real>>> run(config, SmallData(12));
  run.device.machine().options().counts_bank_conflicts = true;
  run.train();
  add_counts(counts, run.device);
}

TEMPLATE_TEST_CASE("the other kernels meet in few banks", "[kernel_banks]", bf16, float) {
  Counts counts;
  Config config = small_config(Task::pretraining);
  config.model.upscaling = Upscaling::attention_concatenation;
  count_training<PretrainingStage, TestType>(counts, config);
  config.model.upscaling = Upscaling::linear;
  config.head.rows = HeadRows::masked;
  config.model.last_block = LastBlock::read;
  count_training<PretrainingStage, TestType>(counts, config);
  count_training<FinetuningStage, TestType>(counts, small_config(Task::finetuning));

  // Conflicts for each turn. Rows at odd distances leave those of lanes on both sides of the end of a row; what a block
  // reads or adds up once, or fills once, may meet.
  const std::map<std::string, double> most = {
      {"strip_product.cuh", 0}, {"masked_attention.cuh", 0}, {"column_sums.cuh", 0}, {"linear.cuh", 0},
      {"warp.hpp", 0},          {"masked_loss.cuh", 0},      {"row_masks.cuh", 0},   {"narrow_block.cuh", .1},
      {"embed_rows.cuh", .1},   {"batch_norm.cuh", 1. / 3},  {"row_norm.cuh", 1}};
  for (const auto& [file, count] : counts) {
    WARN(file << ": " << count.turns << " turns, " << count.conflicts << " conflicts");
    INFO(file);
    REQUIRE(most.contains(file));
    CHECK(static_cast<double>(count.conflicts) <= most.at(file) * static_cast<double>(count.turns));
  }
  for (const auto& [file, share] : most) CHECK(counts[file].turns > 0);
}

}  // namespace
}  // namespace blinkbert::test
