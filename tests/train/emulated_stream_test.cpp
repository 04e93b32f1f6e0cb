// Training on a device that works later, on two branches, and replays graphs: the same bits as where every call is done when it
// returns.

#include <catch2/catch.hpp>

#include <blinkbert/emulated.hpp>
#include <tests/train/recorded.hpp>
#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

static_assert(Backend<Recorded<Cpu<float>>> && CapturesGraphs<Recorded<Cpu<float>>>);
static_assert(FusesNarrowBlocks<Recorded<Emulated<bf16>>> && !CapturesGraphs<Cpu<float>>);

TEST_CASE("the recorder finds a host that does not wait", "[recorded]") {
  Recorded<Cpu<float>> device;
  device.seed = 3;
  const auto memory = device.allocate(64);
  const auto staging = device.stage(64);
  const View<float, 1> staged(reinterpret_cast<float*>(staging.data()), {2});
  const auto later = [&] { device.upload_later(memory.data(), staging.data(), 8); };
  typename Recorded<Cpu<float>>::Mark mark;
  device.wait(mark);

  staged(0) = staged(1) = 1;
  later();
  device.record(mark);
  device.wait(mark);
  staged(0) = 2;  // in order
  later();
  staged(0) = 3;  // too soon
  CHECK_THROWS_AS(device.download(staging.data() + 32, memory.data(), 4), std::logic_error);

  const View<float, 1> result(reinterpret_cast<float*>(staging.data() + 32), {1});
  device.zero(memory.data(), 8);
  device.download_later(staging.data() + 32, memory.data(), 4);
  CHECK(std::isnan(result(0)));
  device.record(mark);
  device.wait(mark);
  CHECK(result(0) == 0);
}

template <class Case>
void check_equal(Case& plain, auto& recorded) {
  CHECK(recorded.losses == plain.losses);
  CHECK(recorded.values() == plain.values());
  CHECK(recorded.statistics() == plain.statistics());
  CHECK(recorded.first_moment() == plain.first_moment());
  CHECK(recorded.second_moment() == plain.second_moment());
  CHECK(recorded.trainer.state().skipped == plain.trainer.state().skipped);
}

template <template <class> class Stage, class Inner>
void check_stream(const Config& config, const SmallData& data, std::optional<std::vector<int>> unfreeze = {},
                  std::uint64_t seeds = 3) {
  TrainingCase<Stage<Inner>> plain(config, data, 1, unfreeze);
  plain.train();
  for (const bool graph : {true, false}) {
    Config recorded_config = config;
    recorded_config.train.graph = graph;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      INFO((graph ? "graphs" : "op by op") << ", seed " << seed);
      TrainingCase<Stage<Recorded<Inner>>> recorded(recorded_config, data, 1, unfreeze);
      recorded.device.seed = seed;
      recorded.train();
      check_equal(plain, recorded);
      CHECK((recorded.device.replays() > 0) == graph);
    }
  }
}

TEST_CASE("pre-training on a stream has the bits of pre-training", "[recorded]") {
  Config config = small_config(Task::pretraining);
  for (const MaskCount count : {MaskCount::batch, MaskCount::sequence, MaskCount::bernoulli}) {
    config.mask.count = count;
    for (const int accumulate : {1, 3}) {
      INFO("accumulate " << accumulate << ", count " << static_cast<int>(count));
      config.train.accumulate = accumulate;
      check_stream<PretrainingStage, Cpu<float>>(config, SmallData(42));
    }
  }
  config.head.rows = HeadRows::masked;
  config.model.last_block = LastBlock::read;
  config.model.upscaling = Upscaling::attention_linear;
  check_stream<PretrainingStage, Cpu<float>>(config, SmallData(42));
}

TEST_CASE("fine-tuning with blocks that join on a stream has the bits of fine-tuning", "[recorded]") {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 5;
  check_stream<FinetuningStage, Cpu<float>>(config, SmallData(22), std::vector<int>{2, 4});
}

TEST_CASE("a step that is skipped on a stream keeps parameters and statistics", "[recorded]") {
  Config config = small_config(Task::finetuning);
  config.model.norm = NormOrder::pre;
  config.train.epochs = 2;
  SmallData data(22);
  data.table.x[static_cast<std::size_t>(data.windows[5].window.start) * 3] = 1e18f;
  TrainingCase<FinetuningStage<Cpu<float>>> plain(config, data);
  plain.train();
  INFO("skipped " << plain.trainer.state().skipped);
  check_stream<FinetuningStage, Cpu<float>>(config, data);
}

TEST_CASE("the kernels on a stream have the bits of the kernels", "[recorded]") {
  Config config = small_config(Task::pretraining);
  config.train.epochs = 2;
  config.model.width = 40;
  config.model.upscaling = Upscaling::attention_concatenation;
  check_stream<PretrainingStage, Emulated<bf16>>(config, SmallData(16), {}, 1);
  config = small_config(Task::finetuning);
  config.train.epochs = 3;
  check_stream<FinetuningStage, Emulated<float>>(config, SmallData(16), std::vector<int>{2, 3}, 1);
}

TEST_CASE("a run stopped on a stream goes on without one, and the other way round", "[recorded]") {
  Config config = small_config(Task::pretraining);
  const SmallData data(22);
  TrainingCase<PretrainingStage<Cpu<float>>> whole(config, data);
  whole.train();
  const auto stop_after = [](int steps) {
    TrainerHooks hooks;
    hooks.should_stop = [steps]() mutable { return --steps == 0; };
    return hooks;
  };
  const auto check = [&](auto& first, auto& second) {
    CHECK(first.train(stop_after(8)) == TrainerEnd::stopped);
    CHECK(first.losses.size() == 8);
    upload(second.device, second.model.parameters().values(), first.values().data());
    upload(second.device, second.model.parameters().statistics(), first.statistics().data());
    upload(second.device, second.trainer.first_moment(), first.first_moment().data());
    upload(second.device, second.trainer.second_moment(), first.second_moment().data());
    second.model.parameters().refresh_working(second.device);
    second.trainer.restore(first.trainer.state(), first.trainer.best_values(), first.trainer.best_statistics());
    second.train();
    CHECK(second.values() == whole.values());
    CHECK(second.statistics() == whole.statistics());
  };
  TrainingCase<PretrainingStage<Cpu<float>>> plain_first(config, data), plain_second(config, data);
  TrainingCase<PretrainingStage<Recorded<Cpu<float>>>> recorded_first(config, data), recorded_second(config, data);
  check(plain_first, recorded_second);
  check(recorded_first, plain_second);
}

TEST_CASE("a state is saved when all that was issued is done", "[recorded]") {
  Config config = small_config(Task::pretraining);
  TrainingCase<PretrainingStage<Recorded<Cpu<float>>>> run(config, SmallData(22));
  int saved = 0;
  TrainerHooks hooks;
  hooks.should_save = [] { return true; };
  hooks.save = [&] {
    ++saved;
    CHECK(run.losses.size() == static_cast<std::size_t>(run.trainer.state().step));
  };
  run.train(hooks);
  CHECK(saved == 3 * (6 - 1));
}

}  // namespace
}  // namespace blinkbert::test
