#include <catch2/catch.hpp>

#include <blinkbert/train/schedule.hpp>

namespace blinkbert {
namespace {

TEST_CASE("the learning rate at hand-computed steps") {
  struct Case {
    double warmup;
    std::int64_t steps_per_epoch, step;
    int epoch;
    double wanted;  // of a rate of 1, decay .5
  };
  const std::vector<Case> cases{
      {0, 10, 0, 1, 1},                                   // no warm-up: from the first step on
      {0, 10, 9, 1, 1},         {0, 10, 10, 2, 0.5},      // e - 1 - 0 = 1
      {0, 10, 25, 3, 0.25},     {2, 10, 0, 1, 1.0 / 20},  // (t + 1) / (W n)
      {2, 10, 9, 1, 10.0 / 20}, {2, 10, 10, 2, 11.0 / 20},
      {2, 10, 19, 2, 1},        {2, 10, 20, 3, 1},  // e - 1 - W = 0
      {2, 10, 30, 4, 0.5},      {2, 10, 59, 6, 0.125},
      {0.5, 10, 0, 1, 1.0 / 5},                                         // half an epoch
      {0.5, 10, 4, 1, 1},       {0.5, 10, 10, 2, 0.70710678118654752},  // 2 - 1 - .5 = .5
      {3, 1, 0, 1, 1.0 / 3},                                            // one step per epoch
      {3, 1, 2, 3, 1},          {3, 1, 4, 5, 0.5},
  };
  TrainConfig train;
  train.decay = 0.5;
  for (const double rate : {1.0, 6.2e-4}) {
    train.rate = rate;
    for (const Case& one : cases) {
      train.warmup = one.warmup;
      INFO("warm-up " << one.warmup << ", step " << one.step << ", epoch " << one.epoch);
      CHECK(learning_rate(train, one.step, one.epoch, one.steps_per_epoch) == Approx(rate * one.wanted).epsilon(1e-14));
    }
  }
  train.decay = 1;
  CHECK(learning_rate(train, 10000, 1000, 10) == train.rate);
}

}  // namespace
}  // namespace blinkbert
