// The weight gradients of a training step on the second branch: the events between the branches are enough, and none is there
// for nothing. What is recorded is the step itself, issued op by op or replayed as a graph; whether an event is missing does not
// depend on the schedule (access_log.hpp), and schedules of many seeds have the bits of one branch (emulated_stream_test.cpp).

#include <catch2/catch.hpp>

#include <tests/train/recorded.hpp>
#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

using Device = Recorded<Cpu<float>>;
using Event = Device::Event;

static_assert(HasSecondBranch<Device> && !HasSecondBranch<Cpu<float>>);

/// Weight gradients of a block, and of the head of small_config.
constexpr std::int64_t of_block = 4, of_head = 2;

template <template <class> class Stage>
struct Run : TrainingCase<Stage<Device>> {
  using TrainingCase<Stage<Device>>::TrainingCase;
  std::int64_t forks() const { return this->device.events(Event::fork); }
  std::int64_t joins() const { return this->device.events(Event::join); }
};

/// Trains; `leaves_out` says which events are missing.
template <template <class> class Stage>
void train(const Config& config, const std::function<bool(Event, std::int64_t)>& leaves_out,
           std::optional<std::vector<int>> unfreeze = {}) {
  Run<Stage> run(config, SmallData(22), 1, std::move(unfreeze));
  run.device.leaves_out = leaves_out;
  run.train();
}

TEST_CASE("every weight gradient of a linear layer runs beside, and each block joins once", "[branches]") {
  for (const bool graph : {true, false}) {
    Config config = small_config(Task::pretraining);
    config.train.graph = graph;
    Run<PretrainingStage> run(config, SmallData(22));
    run.train();
    const auto steps = static_cast<std::int64_t>(run.losses.size());
    CHECK(steps == 18);
    CHECK(run.device.works_beside() == steps * (2 * of_block + of_head));
    CHECK(run.forks() == run.device.works_beside());
    CHECK(run.joins() == steps * 2);
    CHECK((run.device.replays() > 0) == graph);
  }
}

TEST_CASE("frozen blocks have no weight gradients, and the head joins by itself", "[branches]") {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 3;
  Run<FinetuningStage> run(config, SmallData(22), 1, std::vector<int>{2, 3});
  run.train();
  const auto steps = static_cast<std::int64_t>(run.losses.size()) / 3;
  // The head alone in the first epoch, then with it the last block, then both; the last block reads queries and keys apart.
  CHECK(run.device.works_beside() == steps * (of_head + (of_head + 5) + (of_head + 5 + 4)));
  CHECK(run.joins() == steps * (1 + 1 + 2));
}

TEST_CASE("the events are enough for every kind of model", "[branches]") {
  for (const NormOrder norm : {NormOrder::post, NormOrder::pre}) {
    for (const double dropout : {0.0, 0.05}) {
      for (const Upscaling upscaling :
           {Upscaling::linear, Upscaling::attention_linear, Upscaling::attention_concatenation}) {
        for (const HeadRows rows : {HeadRows::all, HeadRows::masked}) {
          Config config = small_config(Task::pretraining);
          config.train.epochs = 1;
          config.model.norm = norm;
          config.model.dropout = dropout;
          config.model.upscaling = upscaling;
          config.head.rows = rows;
          config.train.accumulate = 2;
          if (rows == HeadRows::masked && dropout > 0) config.model.last_block = LastBlock::read;
          INFO("norm " << static_cast<int>(norm) << ", dropout " << dropout << ", upscaling "
                       << static_cast<int>(upscaling) << ", rows " << static_cast<int>(rows));
          CHECK_NOTHROW(train<PretrainingStage>(config, [](Event, std::int64_t) { return false; }));
        }
      }
    }
  }
  for (const Pool pool : {Pool::last, Pool::mean}) {
    Config config = small_config(Task::finetuning);
    config.head.pool = pool;
    config.train.epochs = 3;
    CHECK_NOTHROW(train<FinetuningStage>(
        config, [](Event, std::int64_t) { return false; }, std::vector<int>{2, 3}));
  }
}

TEST_CASE("a fork that is left out is found, whichever", "[branches]") {
  for (const NormOrder norm : {NormOrder::post, NormOrder::pre}) {
    for (const bool graph : {true, false}) {
      Config config = small_config(Task::pretraining);
      config.model.norm = norm;
      config.train.graph = graph;
      for (const std::int64_t step : {0, 17}) {  // the first, and the last, when most are replayed
        for (std::int64_t fork = 0; fork < 2 * of_block + of_head; ++fork) {
          INFO("fork " << fork << " of step " << step << (graph ? ", graphs" : ", op by op"));
          const std::int64_t missing = step * (2 * of_block + of_head) + fork;
          CHECK_THROWS_WITH(
              train<PretrainingStage>(config,
                                      [&](Event kind, std::int64_t n) { return kind == Event::fork && n == missing; }),
              Catch::Contains("LinearWeightGradient<float> on branch 1 reads what") &&
                  Catch::Contains("on branch 0 writes, without an event between them"));
        }
      }
    }
  }
}

TEST_CASE("a join that is left out is found, whichever", "[branches]") {
  const auto leave_out = [](std::int64_t missing) {
    return [missing](Event kind, std::int64_t n) { return kind == Event::join && n == missing; };
  };
  for (const double dropout : {0.0, 0.05}) {
    for (const bool graph : {true, false}) {
      for (const std::int64_t step : {0, 8}) {
        Config config = small_config(Task::pretraining);
        config.train.graph = graph;
        config.model.dropout = dropout;
        INFO("step " << step << (graph ? ", graphs" : ", op by op") << ", dropout " << dropout);
        // The upper block's: the lower one takes its scratch memory.
        CHECK_THROWS_WITH(train<PretrainingStage>(config, leave_out(2 * step)),
                          Catch::Contains("ResidualNormBackward<float> on branch 0 writes what") &&
                              Catch::Contains("LinearWeightGradient<float> on branch 1 reads"));
        // The last one: the optimizer reads the gradients.
        CHECK_THROWS_WITH(train<PretrainingStage>(config, leave_out(2 * step + 1)),
                          Catch::Contains("SumOfSquares<float> on branch 0 reads what") &&
                              Catch::Contains("LinearWeightGradient<float> on branch 1 writes"));
        // The next micro-batch overwrites what is still read.
        config.train.accumulate = 2;
        CHECK_THROWS_WITH(train<PretrainingStage>(config, leave_out(4 * step + 1)),
                          Catch::Contains(" on branch 0 writes what") &&
                              Catch::Contains("LinearWeightGradient<float> on branch 1 reads"));
      }
    }
  }
  // The head's, where nothing below it trains.
  Config config = small_config(Task::finetuning);
  config.train.epochs = 1;
  CHECK_THROWS_WITH(train<FinetuningStage>(config, leave_out(0), std::vector<int>{2, 3}),
                    Catch::Contains("SumOfSquares<float> on branch 0 reads what"));
}

TEST_CASE("a device that joins too late cannot capture", "[branches]") {
  Device device;
  const auto memory = device.allocate(8);
  const auto fork = [&] { device.beside([&] { device.zero(memory.data(), 8); }); };
  CHECK_THROWS_AS(device.capture(fork), ContractViolation);
}

}  // namespace
}  // namespace blinkbert::test
