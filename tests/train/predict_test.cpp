// Predictions window by window: independent of the batch size, of the other windows where masks are per sequence, and
// equal to the model's own output on the same masked rows.

#include <map>

#include <catch2/catch.hpp>

#include <blinkbert/train/predict.hpp>
#include <tests/oracle/row_masks.hpp>
#include <tests/train/training_case.hpp>

namespace blinkbert::test {
namespace {

struct Prediction {
  std::vector<int> rows;
  std::vector<float> values;
};

template <class Case>
std::map<std::uint32_t, Prediction> predictions(Case& run, std::span<const NumberedWindow> windows, int batch_size) {
  std::map<std::uint32_t, Prediction> result;
  std::vector<std::uint32_t> order;
  predict(run.device, run.model, run.stage, run.buckets, run.loader, windows, batch_size,
          [&](const WindowPrediction& one) {
            order.push_back(one.window->number);
            result[one.window->number] = {.rows = {one.rows.begin(), one.rows.end()},
                                          .values = {one.values.begin(), one.values.end()}};
          });
  REQUIRE(order.size() == windows.size());
  for (std::size_t i = 0; i < order.size(); ++i) CHECK(order[i] == windows[i].number);
  return result;
}

/// Float's rounding through a model as small as this one: some 400 roundings of numbers of order 1, each half an ulp.
constexpr float rounding = 400 * std::numeric_limits<float>::epsilon() / 2;

void check_equal(const std::map<std::uint32_t, Prediction>& actual,
                 const std::map<std::uint32_t, Prediction>& expected) {
  for (const auto& [number, one] : actual) {
    INFO("window " << number);
    const Prediction& wanted = expected.at(number);
    CHECK(one.rows == wanted.rows);
    REQUIRE(one.values.size() == wanted.values.size());
    for (std::size_t i = 0; i < one.values.size(); ++i) CHECK(std::abs(one.values[i] - wanted.values[i]) <= rounding);
  }
}

TEST_CASE("pre-training: predictions do not depend on the batch size, nor on training steps drawn in between") {
  for (const auto& [rows, last_block] : {std::pair{HeadRows::all, LastBlock::all},
                                         {HeadRows::masked, LastBlock::all},
                                         {HeadRows::masked, LastBlock::read}}) {
    for (const MaskCount count : {MaskCount::batch, MaskCount::sequence, MaskCount::bernoulli}) {
      INFO("head on " << spell(rows) << " rows, last block for " << spell(last_block) << ", " << spell(count));
      Config config = small_config(Task::pretraining);
      config.train.batch = 13;
      config.head.rows = rows;
      config.model.last_block = last_block;
      config.mask.count = count;
      TrainingCase<PretrainingStage<Cpu<float>>> run(config, SmallData(13));
      const auto together = predictions(run, run.data.windows, 13);
      check_equal(predictions(run, run.data.windows, 1), together);
      check_equal(predictions(run, run.data.windows, 4), together);
      std::size_t chosen = 0;
      for (const auto& [number, one] : together) {
        chosen += one.rows.size();
        CHECK(one.values.size() == one.rows.size() * 3);
        CHECK(std::is_sorted(one.rows.begin(), one.rows.end()));
        for (const int row : one.rows) CHECK((row >= 0 && row < run.data.windows[number].window.length));
      }
      CHECK(chosen > 10);
      if (count == MaskCount::batch) continue;  // its counts are a matter of all windows
      check_equal(predictions(run, std::span<const NumberedWindow>(run.data.windows).subspan(5, 4), 4), together);
    }
  }
}

TEST_CASE("pre-training: rows and values are those of the contract's masks and the model") {
  Config config = small_config(Task::pretraining);
  config.mask.count = MaskCount::sequence;
  config.train.seed = 0x500000003ull;
  TrainingCase<PretrainingStage<Cpu<float>>> run(config, SmallData(6));
  const auto found = predictions(run, run.data.windows, 4);
  for (const NumberedWindow& one : run.data.windows) {
    INFO("window " << one.number);
    const int length = one.window.length;
    const int count = std::max(1, (250000 * length + 500000) / 1000000);
    const float* from = run.data.table.row(one.window.start);
    const oracle::RowMasksCase how{
        .seed = config.train.seed, .chosen_purpose = 13, .action_purpose = 14, .noise_purpose = 15};
    const auto masked =
        oracle::row_masks(std::vector<float>(from, from + length * 3), {length}, {count}, {one.number}, length, 3, how);
    CHECK(found.at(one.number).rows == masked.rows);

    // The model on the oracle's masked rows.
    auto& bucket = run.buckets(1, length);
    upload(run.device, bucket.batch.clean, masked.x.data());
    upload(run.device, bucket.batch.lengths, &length);
    upload(run.device, bucket.batch.visible, masked.visible.data());
    const Pass pass = bucket.batch.pass(Mode::evaluation, 0, 0, 0);
    const auto output = run.model.forward(run.device, pass, {.x = bucket.batch.clean}, bucket.saved);
    for (std::size_t m = 0; m < masked.rows.size(); ++m) {
      for (int n = 0; n < 3; ++n) {
        CHECK(std::abs(found.at(one.number).values[m * 3 + static_cast<std::size_t>(n)] - output(masked.rows[m], n)) <=
              rounding);
      }
    }
  }
}

TEST_CASE("fine-tuning: one score a window, whatever its batch") {
  TrainingCase<FinetuningStage<Cpu<float>>> run(small_config(Task::finetuning), SmallData(13));
  const auto together = predictions(run, run.data.windows, 13);
  check_equal(predictions(run, run.data.windows, 1), together);
  check_equal(predictions(run, run.data.windows, 5), together);
  check_equal(predictions(run, std::span<const NumberedWindow>(run.data.windows).last(3), 2), together);
  for (const auto& [number, one] : together) {
    CHECK(one.rows.empty());
    CHECK(one.values.size() == 1);
  }
  CHECK(together.at(0).values != together.at(1).values);
  CHECK(predictions(run, {}, 4).empty());
}

TEST_CASE("fine-tuning: a score is that of a model whose last block is computed for all rows") {
  const Config config = small_config(Task::finetuning);
  TrainingCase<FinetuningStage<Cpu<float>>> run(config, SmallData(13));
  run.train();
  const auto scores = predictions(run, run.data.windows, 5);
  EncoderWithHead<Cpu<float>> model(run.device, config, 1, HeadRows::masked, LastBlock::all);
  upload(run.device, model.parameters().values(), run.values().data());
  upload(run.device, model.parameters().statistics(), run.statistics().data());
  Buckets<EncoderWithHead<Cpu<float>>, Cpu<float>> buckets(run.device, model, 1, 8);
  for (const NumberedWindow& one : run.data.windows) {
    INFO("window " << one.number);
    const BatchItem item{.window = one.window};
    auto& bucket = buckets(1, one.window.length);
    run.loader.load(run.device, bucket.batch, {&item, 1});
    const auto input = run.stage.prepare(run.device, bucket.batch);
    const Pass pass = bucket.batch.pass(Mode::evaluation, 0, 0, 0);
    const float score = model.forward(run.device, pass, input, bucket.saved)(0, 0);
    CHECK(std::abs(scores.at(one.number).values[0] - score) <= 10 * rounding);  // scores are of order 10
  }
}

/// Holds the rows of two windows of 8, and part of a third.
class SmallCache : public Cpu<float> {
 public:
  using Cpu<float>::Cpu;
  int near_rows(int) const { return 23; }
};

TEST_CASE("passes that keep nothing are cut to what the device holds near, into equal parts") {
  const Config config = small_config(Task::finetuning);
  SmallCache device(1);
  const FinetuningModel<SmallCache> model(device, config);
  const FinetuningStage<SmallCache> stage(device, config);
  const SmallData data(13);
  BatchLoader<SmallCache> loader(data.table);
  const auto scores = [&](PassPlan passes, int batch_size) {
    Buckets<FinetuningModel<SmallCache>, SmallCache> buckets(device, model, 13, 8, passes);
    std::vector<float> values;
    predict(device, model, stage, buckets, loader, std::span(data.windows), batch_size,
            [&](const WindowPrediction& one) { values.push_back(one.values[0]); });
    return values;
  };
  const auto whole = scores(PassPlan::training, 13);
  REQUIRE(whole.size() == 13);
  for (const int batch_size : {1, 3, 13, 64}) {
    INFO("batches of " << batch_size);
    const auto cut = scores(PassPlan::inference, batch_size);
    REQUIRE(cut.size() == 13);
    for (std::size_t i = 0; i < cut.size(); ++i) CHECK(std::abs(cut[i] - whole[i]) <= rounding);
  }

  const Buckets<FinetuningModel<SmallCache>, SmallCache> near(device, model, 13, 8, PassPlan::inference);
  CHECK(near.windows_at_once(device, 13, 8) == 2);  // 7 passes
  CHECK(near.windows_at_once(device, 3, 8) == 2);   // 2 + 1
  CHECK(near.windows_at_once(device, 9, 4) == 5);   // at most 5: 5 + 4
  CHECK(near.windows_at_once(device, 11, 4) == 4);  // not 5 + 5 + 1
  CHECK(near.windows_at_once(device, 2, 64) == 1);  // one is more than there is room for
  const Buckets<FinetuningModel<SmallCache>, SmallCache> all(device, model, 13, 8, PassPlan::training);
  CHECK(all.windows_at_once(device, 13, 8) == 13);
}

TEST_CASE("prediction changes nothing of the model") {
  TrainingCase<FinetuningStage<Cpu<float>>> run(small_config(Task::finetuning), SmallData(9));
  const auto values = run.values(), statistics = run.statistics();
  predictions(run, run.data.windows, 4);
  CHECK(run.values() == values);
  CHECK(run.statistics() == statistics);
}

}  // namespace
}  // namespace blinkbert::test
