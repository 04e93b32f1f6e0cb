// The training loop: it learns, accumulates, unfreezes, skips what is not finite, stops early, continues where it
// stopped, and allocates nothing in its steps.

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

#include <catch2/catch.hpp>

#include <tests/train/training_case.hpp>

// Every operator new of this program is counted. The array and nothrow forms would end in the plain ones by themselves, but
// AddressSanitizer has some of its own, whose memory these deletes may not free. Not seen is malloc: OpenMP's start of its
// threads, and Eigen, which takes the scratch of large products from malloc. Not inlined, or the compiler sees malloc where
// it expects operator new.
namespace {
std::atomic<long> allocations{0};

void* counted(void* memory) {
  ++allocations;
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) { return counted(std::malloc(bytes == 0 ? 1 : bytes)); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto to = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(to, (bytes + to) / to * to));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return ::operator new(bytes);
}
[[gnu::noinline]] void* operator new[](std::size_t bytes) { return ::operator new(bytes); }
[[gnu::noinline]] void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return ::operator new(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace blinkbert::test {
namespace {

template <class Real>
using Pretraining = TrainingCase<PretrainingStage<Cpu<Real>>>;
template <class Real>
using Finetuning = TrainingCase<FinetuningStage<Cpu<Real>>>;

/// Fine-tuning whose steps can be spoilt.
enum class Fault { none, gradient, loss };

template <class Device>
class FaultyScore : public Score<Device> {
 public:
  using Real = typename Device::Real;
  using Score<Device>::Score;

  Fault fault = Fault::none;

  void run_loss(Device& device, const DeviceBatch<Device>& batch, HeadRows rows, View<Real, 2> doutput,
                View<const Real, 2> output) const {
    Score<Device>::run_loss(device, batch, rows, doutput, output);
    if (fault == Fault::gradient) doutput(0, 0) = std::numeric_limits<Real>::infinity();
  }
  double loss(const Wide<Real>* sums, std::int64_t sequences) const {
    const double value = Score<Device>::loss(sums, sequences);
    return fault == Fault::loss ? std::numeric_limits<double>::quiet_NaN() : value;
  }
};

template <class DeviceType>
class FaultyStage {
 public:
  using Device = DeviceType;
  using Real = typename Device::Real;
  using Model = FinetuningModel<Device>;
  using Objective = FaultyScore<Device>;

  std::function<Fault(std::uint32_t)> fault = [](std::uint32_t) { return Fault::none; };  // of an optimizer step

  FaultyStage(Device& device, const Config& config) : base_(device, config), objective_(device, config) {}

  Objective& objective() { return objective_; }
  void chosen_rows(std::vector<int>& counts, std::span<const int> lengths, std::span<const std::uint32_t> sequences,
                   Draw draw, std::uint32_t step) const {
    base_.chosen_rows(counts, lengths, sequences, draw, step);
  }
  static std::int64_t normaliser(std::span<const int> chosen) { return FinetuningStage<Device>::normaliser(chosen); }
  ModelInput<Real> prepare(Device& device, DeviceBatch<Device>& batch, View<const StepValues, 1> now = {}) {
    objective_.fault = now ? fault(static_cast<std::uint32_t>(now(0).step)) : Fault::none;
    return base_.prepare(device, batch, now);
  }

 private:
  FinetuningStage<Device> base_;
  Objective objective_;
};

TEMPLATE_TEST_CASE("pre-training learns to fill in rows", "", float, double) {
  Config config = small_config(Task::pretraining);
  config.train.epochs = 60;
  config.train.rate = 1e-2;
  config.train.decay = 0.98;
  config.train.batch = 16;
  config.model.dropout = config.head.dropout = 0;
  config.train.patience = 1000;
  Pretraining<TestType> run(config, SmallData(48));
  double last = 0;
  run.train({.evaluate = {},
             .after_step = {},
             .after_epoch = [&](const EpochReport& report) { last = report.training_loss; },
             .should_stop = {}});
  // The mean of every feature is near 0; predicting it costs the features' variance.
  double variance = 0;
  for (const float x : run.data.table.x) variance += static_cast<double>(x) * static_cast<double>(x);
  variance /= static_cast<double>(run.data.table.x.size());
  CHECK(last < 0.5 * variance);
}

TEMPLATE_TEST_CASE("fine-tuning learns a score", "", float, double) {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 80;
  config.train.rate = 1e-2;
  config.train.decay = 0.98;
  config.train.batch = 16;
  config.model.dropout = config.head.dropout = 0;
  config.train.patience = 1000;
  Finetuning<TestType> run(config, SmallData(48));
  double last = 0;
  run.train({.evaluate = {},
             .after_step = {},
             .after_epoch = [&](const EpochReport& report) { last = report.training_loss; },
             .should_stop = {}});
  double variance = 0;  // about 5, the labels' middle
  for (const NumberedWindow& one : run.data.windows) variance += (one.window.label - 5) * (one.window.label - 5) / 48;
  CHECK(last < 0.5 * variance);
}

/// What two sums in another order may do to a double run: gradients of order 1 move by some 1e-14, and AdamW divides by
/// at least its epsilon of 1e-8, so that a step moves a parameter by at most rate * 1e-6.
double order_tolerance(const Config& config, std::size_t steps) {
  return static_cast<double>(steps) * config.train.rate * 1e-6;
}

template <class Case>
void check_same_run(const Case& a, const Case& b, double tolerance) {
  REQUIRE(a.losses.size() == b.losses.size());
  for (std::size_t step = 0; step < a.losses.size(); ++step) {
    INFO("step " << step);
    CHECK(std::abs(a.losses[step] - b.losses[step]) <= tolerance * std::max(1.0, std::abs(a.losses[step])));
  }
}

TEST_CASE("accumulated micro-batches train as one large batch does") {
  const auto compare = [](auto& large, auto& small) {
    large.train();
    small.train();
    REQUIRE(large.losses.size() == 9);  // 26 windows are two steps of 12 and a tail of 2
    const double tolerance = order_tolerance(large.config, large.losses.size());
    check_same_run(large, small, 100 * tolerance);  // a loss gathers what some hundred parameters do
    const auto a = large.values(), b = small.values();
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    CHECK(worst <= tolerance);
  };
  for (const MaskCount count : {MaskCount::batch, MaskCount::sequence, MaskCount::bernoulli}) {
    for (const HeadRows rows : {HeadRows::all, HeadRows::masked}) {
      INFO(spell(count) << ", head on " << spell(rows) << " rows");
      Config config = small_config(Task::pretraining);
      config.mask.count = count;
      config.head.rows = rows;
      config.head.batch_norm = false;
      config.train.batch = 12;
      Pretraining<double> large(config, SmallData(26));
      config.train.batch = 4;
      config.train.accumulate = 3;
      Pretraining<double> small(config, SmallData(26));
      compare(large, small);
    }
  }
  Config config = small_config(Task::finetuning);
  config.head.batch_norm = false;
  config.train.batch = 12;
  Finetuning<double> large(config, SmallData(26));
  config.train.batch = 4;
  config.train.accumulate = 3;
  Finetuning<double> small(config, SmallData(26));
  compare(large, small);
}

TEST_CASE("a last block for the rows read trains as one for all rows does") {
  for (const NormOrder norm : {NormOrder::post, NormOrder::pre}) {
    for (const MaskCount count : {MaskCount::batch, MaskCount::bernoulli}) {
      INFO(spell(norm) << ", " << spell(count));
      Config config = small_config(Task::pretraining);
      config.model.norm = norm;
      config.model.dropout = 0.1;
      config.mask.count = count;
      config.head.rows = HeadRows::masked;
      Pretraining<double> all(config, SmallData(26));
      config.model.last_block = LastBlock::read;
      Pretraining<double> read(config, SmallData(26));
      all.train();
      read.train();
      REQUIRE(all.losses.size() == 21);
      check_same_run(all, read, 100 * order_tolerance(config, all.losses.size()));
    }
  }
}

TEST_CASE("two threads choose the same rows and actions as one, and the losses are close") {
  Config config = small_config(Task::pretraining);
  config.model.width = 64;  // large enough that the threads really share the work
  config.train.batch = 16;
  std::vector<std::vector<int>> decisions[2];
  std::vector<double> losses[2];
  for (const int threads : {1, 2}) {
    Pretraining<double> run(config, SmallData(40), threads);
    auto& here = decisions[threads - 1];
    run.train({.evaluate = {},
               .after_step =
                   [&](const StepReport& report) {
                     // The step's only micro-batch is still in its bucket; lengths are 5 to 8, sorted.
                     const int B = report.step_in_epoch == 3 ? 8 : 16;
                     const auto& batch = run.buckets(B, 8).batch;
                     std::vector<int> decision(batch.rows.data(), batch.rows.data() + batch.M);
                     for (int m = 0; m < batch.M; ++m) decision.push_back(static_cast<int>(batch.actions(m)));
                     here.push_back(decision);
                   },
               .after_epoch = {},
               .should_stop = {}});
    losses[threads - 1] = run.losses;
  }
  REQUIRE(decisions[0].size() == 9);
  CHECK(decisions[0][0].size() > 20);
  CHECK(decisions[0] == decisions[1]);
  for (std::size_t step = 0; step < losses[0].size(); ++step) {
    CHECK(std::abs(losses[0][step] - losses[1][step]) <= 1000 * order_tolerance(config, losses[0].size()));
  }
}

TEST_CASE("the tail of an epoch makes a step of its own") {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 2;
  Finetuning<float> run(config, SmallData(10));
  CHECK(run.trainer.steps_per_epoch() == 3);
  std::vector<std::int64_t> rows;
  std::vector<float> before = run.values();
  run.train({.evaluate = {},
             .after_step =
                 [&](const StepReport& report) {
                   rows.push_back(report.rows);
                   CHECK(report.steps_per_epoch == 3);
                   CHECK(report.step + 1 == static_cast<std::int64_t>(rows.size()));
                   CHECK_FALSE(report.was_skipped);
                   CHECK(report.gradient_norm > 0);
                   CHECK(report.rate == learning_rate(config.train, report.step, report.epoch, 3));
                   CHECK(run.values() != before);
                   before = run.values();
                 },
             .after_epoch = {},
             .should_stop = {}});
  REQUIRE(rows.size() == 6);
  std::int64_t all = 0;
  for (const NumberedWindow& one : run.data.windows) all += one.window.length;
  CHECK(rows[0] + rows[1] + rows[2] == all);
  CHECK(rows[3] + rows[4] + rows[5] == all);
  CHECK(rows[2] <= 16);  // two windows
}

TEST_CASE("the training loss of an epoch is the mean over its rows, not over its steps") {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 1;
  Finetuning<double> run(config, SmallData(10));
  double epoch_loss = 0;
  run.train({.evaluate = {},
             .after_step = {},
             .after_epoch = [&](const EpochReport& report) { epoch_loss = report.training_loss; },
             .should_stop = {}});
  CHECK(epoch_loss == Approx((4 * run.losses[0] + 4 * run.losses[1] + 2 * run.losses[2]) / 10).epsilon(1e-12));
}

/// Elements of each group that changed between two copies of the values.
template <class Case, class Numbers>
std::vector<int> changed_by_group(const Case& run, const Numbers& before, const Numbers& after) {
  std::vector<int> changed(static_cast<std::size_t>(run.model.blocks()) + 2, 0);
  for (const Segment& segment : run.model.parameters().segments()) {
    for (std::int64_t i = segment.begin; i < segment.end; ++i) {
      changed[static_cast<std::size_t>(segment.group)] +=
          before[static_cast<std::size_t>(i)] != after[static_cast<std::size_t>(i)] ? 1 : 0;
    }
  }
  return changed;
}

TEST_CASE("frozen parts keep their bits until their epoch, then start as if it were the first step") {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 4;
  config.train.warmup = 0;
  config.train.weight_decay = 0.01;
  config.head.batch_norm = false;  // it takes away every shift below it, so that some gradients would be 0
  TrainingCase<FaultyStage<Cpu<double>>> run(config, SmallData(12), 1, std::vector<int>{2, 3});
  // Steps 0 to 2 are epoch 1. A skipped step before the top block trains, one at its first step and one later.
  run.stage.fault = [](std::uint32_t step) {
    return step == 1 || step == 3 || step == 7 ? Fault::gradient : Fault::none;
  };
  auto before = run.values();
  // n of AdamW's bias correction = steps of the block that were not skipped.
  const std::vector<bool> is_first_of_top{false, false, false, false, true,  false,
                                          false, false, false, false, false, false};
  const std::vector<bool> is_first_of_lower{false, false, false, false, false, false,
                                            true,  false, false, false, false, false};
  run.train({.evaluate = {},
             .after_step =
                 [&](const StepReport& report) {
                   const auto t = static_cast<std::size_t>(report.step);
                   INFO("step " << t);
                   const auto after = run.values();
                   const std::vector<int> changed = changed_by_group(run, before, after);
                   const bool is_skipped = t == 1 || t == 3 || t == 7;
                   CHECK(report.was_skipped == is_skipped);
                   CHECK(changed[0] == 0);  // two epochs listed: the embedding stays frozen
                   CHECK((changed[1] > 0) == (t >= 6 && !is_skipped));
                   CHECK((changed[2] > 0) == (t >= 3 && !is_skipped));
                   CHECK((changed[3] > 0) == !is_skipped);
                   // The first step of Adam moves by the whole rate, whatever the gradient (1e-8 of epsilon aside);
                   // where decay takes no part, that is all.
                   const auto moments = run.first_moment();
                   for (const Segment& segment : run.model.parameters().segments()) {
                     const bool is_first =
                         (segment.group == 2 && is_first_of_top[t]) || (segment.group == 1 && is_first_of_lower[t]);
                     if (!is_first || segment.decays) continue;
                     int compared = 0;
                     for (auto i = static_cast<std::size_t>(segment.begin); i < static_cast<std::size_t>(segment.end);
                          ++i) {
                       const double gradient = std::abs(moments[i]) / 0.1;
                       if (gradient < 1e-5) continue;  // there epsilon is felt
                       CHECK(std::abs(after[i] - before[i]) == Approx(report.rate).epsilon(1e-8 / gradient + 1e-6));
                       ++compared;
                     }
                     CHECK(compared > 0);
                   }
                   before = after;
                 },
             .after_epoch = {},
             .should_stop = {}});
  CHECK(run.losses.size() == 12);
  const auto& segments = run.model.parameters().segments();
  for (const Segment& segment : segments) {
    const std::int64_t first[]{never_trains, 6, 3, 0}, skips[]{0, 2, 1, 0};
    CHECK(segment.first_trainable == first[segment.group]);
    CHECK(segment.skips_before == skips[segment.group]);
  }
  CHECK(run.trainer.state().skipped == 3);
}

TEST_CASE("without a list everything trains from the first step, with one the embedding never does") {
  const Config config = small_config(Task::finetuning);
  for (const bool is_scratch : {true, false}) {
    Finetuning<float> run(config, SmallData(12), 1,
                          is_scratch ? std::optional<std::vector<int>>{} : std::optional<std::vector<int>>{{1, 1}});
    const auto before = run.values();
    run.train();
    const std::vector<int> changed = changed_by_group(run, before, run.values());
    CHECK((changed[0] > 0) == is_scratch);
    for (std::size_t group = 1; group < changed.size(); ++group) CHECK(changed[group] > 0);
  }
}

TEMPLATE_TEST_CASE("a gradient that is not finite skips the step", "", float, double) {
  Config config = small_config(Task::finetuning);
  TrainingCase<FaultyStage<Cpu<TestType>>> run(config, SmallData(12));
  run.stage.fault = [](std::uint32_t step) { return step >= 2 && step < 5 ? Fault::gradient : Fault::none; };
  auto values = run.values(), statistics = run.statistics(), first = run.first_moment(), second = run.second_moment();
  run.train({.evaluate = {},
             .after_step =
                 [&](const StepReport& report) {
                   const std::int64_t t = report.step;
                   INFO("step " << t);
                   const bool is_skipped = t >= 2 && t < 5;
                   CHECK(report.was_skipped == is_skipped);
                   CHECK(std::isfinite(report.gradient_norm) == !is_skipped);
                   CHECK((run.values() == values) == is_skipped);
                   CHECK((run.statistics() == statistics) == is_skipped);
                   CHECK((run.first_moment() == first) == is_skipped);
                   CHECK((run.second_moment() == second) == is_skipped);
                   CHECK(run.trainer.state().skips_in_row == (is_skipped ? t - 1 : 0));
                   values = run.values();
                   statistics = run.statistics();
                   first = run.first_moment();
                   second = run.second_moment();
                   for (const TestType value : values) CHECK(std::isfinite(value));
                 },
             .after_epoch = {},
             .should_stop = {}});
  CHECK(run.trainer.state().skipped == 3);
  CHECK(run.trainer.state().step == 9);
}

TEST_CASE("a window with a huge feature overflows the gradient, not the loss: the step is skipped") {
  // Without norms between the row and the output (pre-norm), the output is w . h of a huge h: with a small w its square
  // is a float, and the gradient of w, twice the error times h, is not.
  Config config = small_config(Task::finetuning);
  config.model.norm = NormOrder::pre;
  config.head.hidden = {};
  config.train.epochs = 1;
  config.train.rate = 1e-6;  // the weights stay small until the window comes
  SmallData data(12);
  const Window& window = data.windows[5].window;
  data.table.x[static_cast<std::size_t>(window.start + window.length - 1) * 3] = 1e22f;
  Finetuning<float> run(config, data);
  const auto& set = run.model.parameters();
  for (const auto& entry : set.entries()) {
    if (entry.name != "head.output.weight") continue;
    const auto weights = ParameterSet<Cpu<float>>::slice(set.values(), entry);
    for (int i = 0; i < weights.extent(0); ++i) weights(i) = 1e-4f;
  }
  int skipped = 0;
  run.train({.evaluate = {},
             .after_step = [&](const StepReport& report) { skipped += report.was_skipped ? 1 : 0; },
             .after_epoch = {},
             .should_stop = {}});
  CHECK(skipped == 1);
  CHECK(run.trainer.state().skipped == 1);
  for (const float value : run.values()) CHECK(std::isfinite(value));
}

template <class Case>
std::string divergence(Case& run) {
  try {
    run.train();
  } catch (const Diverged& error) {
    return error.what();
  }
  return "trained to the end";
}

TEST_CASE("ten skipped steps in a row, or a loss that is not finite, end the run and name the step") {
  Config config = small_config(Task::finetuning);
  config.train.epochs = 8;  // 3 steps each
  SECTION("ten in a row") {
    TrainingCase<FaultyStage<Cpu<float>>> run(config, SmallData(12));
    run.stage.fault = [](std::uint32_t step) { return step >= 4 ? Fault::gradient : Fault::none; };
    const std::string message = divergence(run);
    INFO(message);
    CHECK(message.find("step 4 ") != std::string::npos);
    CHECK(message.find("(epoch 2)") != std::string::npos);  // of the first of them
    CHECK(run.losses.size() == 13);                         // steps 0 to 12; the tenth skip, step 13, ends it
  }
  SECTION("nine in a row, twice") {
    TrainingCase<FaultyStage<Cpu<float>>> run(config, SmallData(12));
    run.stage.fault = [](std::uint32_t step) {
      return step == 0 || step == 10 || step > 19 ? Fault::none : Fault::gradient;
    };
    CHECK(divergence(run) == "trained to the end");
    CHECK(run.trainer.state().skipped == 18);
  }
  SECTION("the loss") {
    TrainingCase<FaultyStage<Cpu<float>>> run(config, SmallData(12));
    run.stage.fault = [](std::uint32_t step) { return step == 5 ? Fault::loss : Fault::none; };
    const std::string message = divergence(run);
    INFO(message);
    CHECK(message.find("step 5 (epoch 2)") != std::string::npos);
  }
  SECTION("a label whose square is no float") {
    SmallData data(12);
    data.windows[3].window.label = 1e30;
    Finetuning<float> run(config, data);
    CHECK(divergence(run).find("the loss of step ") != std::string::npos);
  }
  SECTION("a feature that is not a number") {
    SmallData data(12);
    data.table.x[10] = std::numeric_limits<float>::quiet_NaN();
    Finetuning<float> run(config, data);
    CHECK(divergence(run).find("the loss of step ") != std::string::npos);
  }
}

TEST_CASE("no window is an input error") {
  const Config config = small_config(Task::finetuning);
  CHECK_THROWS_AS(Finetuning<float>(config, SmallData(0)), InputError);
}

TEST_CASE("early stopping keeps the best epoch") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    const char* name;
    Monitor monitor;
    int patience;
    std::vector<double> metrics;  // of epochs 1, 2, ...; the run has 6 epochs
    int epochs_run, best_epoch;
  };
  const std::vector<Case> cases{
      {"less is better", Monitor::mae, 2, {3, 2, 2.5, 2.1, 1, 1}, 4, 2},
      {"rmse as well", Monitor::rmse, 3, {3, 2, 2.5, 2.1, 1, 1}, 6, 5},
      {"more is better", Monitor::kpi, 2, {.3, .5, .4, .5, .9, .9}, 4, 2},
      {"equal is no gain", Monitor::mae, 3, {1, 1, 1, 1, 0, 0}, 4, 1},
      {"not a number is no gain", Monitor::kpi, 2, {nan, .5, nan, .6, nan, nan}, 6, 4},
      {"never a number", Monitor::mae, 3, {nan, nan, nan, nan, nan, nan}, 3, 0},
      {"nothing is monitored", Monitor::none, 1, {0, 0, 0, 0, 0, 0}, 6, 6},
      {"always better", Monitor::mae, 1, {6, 5, 4, 3, 2, 1}, 6, 6},
  };
  for (const Case& one : cases) {
    INFO(one.name);
    Config config = small_config(Task::finetuning);
    config.train.monitor = one.monitor;
    config.train.patience = one.patience;
    config.train.epochs = 6;
    Finetuning<float> run(config, SmallData(9));
    std::vector<std::vector<float>> values, statistics;
    std::vector<int> best;
    const TrainerEnd end = run.train({.evaluate =
                                          [&] {
                                            const double metric = one.metrics[values.size()];
                                            values.push_back(run.values());
                                            statistics.push_back(run.statistics());
                                            return Metrics{{"other", 100.0}, {spell(one.monitor), metric}};
                                          },
                                      .after_step = {},
                                      .after_epoch =
                                          [&](const EpochReport& report) {
                                            CHECK(report.epoch == static_cast<int>(values.size()));
                                            CHECK(report.validation.size() == 2);
                                            if (report.is_best) best.push_back(report.epoch);
                                          },
                                      .should_stop = {}});
    CHECK(end == TrainerEnd::finished);
    CHECK(static_cast<int>(values.size()) == one.epochs_run);
    CHECK(run.trainer.state().is_finished);
    CHECK(run.trainer.state().best_epoch == one.best_epoch);
    CHECK((best.empty() ? 0 : best.back()) == one.best_epoch);
    if (one.best_epoch > 0) {
      const auto at = static_cast<std::size_t>(one.best_epoch - 1);
      CHECK(run.trainer.state().best == one.metrics[at]);
      CHECK(run.trainer.best_values() == values[at]);
      CHECK(run.trainer.best_statistics() == statistics[at]);
    } else {
      CHECK(run.trainer.best_values().empty());
    }
  }
  Config config = small_config(Task::finetuning);
  Finetuning<float> run(config, SmallData(9));
  CHECK_THROWS_AS(run.train({.evaluate =
                                 [] {
                                   return Metrics{{"kpi", 1.0}};
                                 },
                             .after_step = {},
                             .after_epoch = {},
                             .should_stop = {}}),
                  ContractViolation);
}

/// Runs to the end with a scripted metric and should_stop after `steps` more steps; the metric is that of the epoch.
template <class Case>
TrainerEnd train_steps(Case& run, int steps) {
  int left = steps;
  return run.train({.evaluate =
                        [&run] {
                          const double metrics[]{3, 1, 2, 4};
                          return Metrics{{spell(run.config.train.monitor), metrics[run.trainer.state().epoch - 1]}};
                        },
                    .after_step = {},
                    .after_epoch = {},
                    .should_stop = [&left] { return --left == 0; }});
}

template <class Case, class Spoil>
void check_resume(const Config& config, std::optional<std::vector<int>> unfreeze, Spoil spoil) {
  const SmallData data(14);  // four steps an epoch, the last of them short
  Case whole(config, data, 1, unfreeze);
  spoil(whole);
  CHECK(train_steps(whole, -1) == TrainerEnd::finished);
  const auto steps = static_cast<int>(whole.losses.size());
  REQUIRE(steps == 16);
  for (int stop = 1; stop < steps; ++stop) {
    INFO("stopped after " << stop << " steps");
    Case first(config, data, 1, unfreeze), second(config, data, 1, unfreeze);
    spoil(first);
    spoil(second);
    CHECK(train_steps(first, stop) == TrainerEnd::stopped);
    second.restore_from(first);
    CHECK(train_steps(second, -1) == TrainerEnd::finished);
    CHECK(first.losses == std::vector<double>(whole.losses.begin(), whole.losses.begin() + stop));
    CHECK(second.losses == std::vector<double>(whole.losses.begin() + stop, whole.losses.end()));
    CHECK(second.values() == whole.values());
    CHECK(second.statistics() == whole.statistics());
    CHECK(second.first_moment() == whole.first_moment());
    CHECK(second.second_moment() == whole.second_moment());
    CHECK(second.trainer.best_values() == whole.trainer.best_values());
    CHECK(second.trainer.best_statistics() == whole.trainer.best_statistics());
    CHECK(second.trainer.state().skipped == whole.trainer.state().skipped);
    CHECK(second.trainer.state().best_epoch == 2);
  }
}

TEST_CASE("stopped anywhere and continued, a run has the bits of one that was not") {
  SECTION("pre-training") {
    Config config = small_config(Task::pretraining);
    config.train.epochs = 4;
    check_resume<Pretraining<float>>(config, {}, [](auto&) {});
    config.head.rows = HeadRows::masked;
    config.model.last_block = LastBlock::read;
    check_resume<Pretraining<float>>(config, {}, [](auto&) {});
  }
  SECTION("fine-tuning, unfreezing and skipping") {
    Config config = small_config(Task::finetuning);
    config.train.epochs = 4;
    check_resume<TrainingCase<FaultyStage<Cpu<float>>>>(config, std::vector<int>{2, 3}, [](auto& run) {
      run.stage.fault = [](std::uint32_t step) {
        return step == 2 || step == 4 || step == 9 ? Fault::gradient : Fault::none;
      };
    });
  }
}

TEST_CASE("the same run twice gives the same bits, another seed gives others") {
  Config config = small_config(Task::pretraining);
  const auto values_after = [&] {
    Pretraining<float> run(config, SmallData(20));
    run.train();
    return run.values();
  };
  const auto first = values_after();
  CHECK(values_after() == first);
  config.train.seed = 2;
  CHECK(values_after() != first);
}

/// Allocations between the end of one step and the end of the next, in epochs whose buckets are all known.
template <class Case>
void check_no_allocations(Case& run) {
  std::vector<long> counts;
  counts.reserve(1000);
  run.losses.reserve(1000);
  long before = 0;
  run.train({.evaluate = {},
             .after_step =
                 [&](const StepReport& report) {
                   // An epoch's first step comes after its order of windows, which is a new list.
                   if (report.epoch > 1 && report.step_in_epoch > 1) counts.push_back(allocations - before);
                   before = allocations;
                 },
             .after_epoch = {},
             .should_stop = {}});
  REQUIRE(counts.size() >= 6);
  for (const long count : counts) CHECK(count == 0);
}

TEST_CASE("a training step allocates nothing once its bucket is known") {
  for (const int threads : {1, 2}) {
    INFO(threads << " threads");
    Config config = small_config(Task::pretraining);
    config.train.epochs = 4;
    config.train.accumulate = 2;
    config.model.upscaling = Upscaling::attention_linear;
    // Equal lengths: which (B, L) a step needs then does not depend on the epoch's order.
    SmallData data(26);
    for (NumberedWindow& one : data.windows) one.window.length = 5;
    for (const MaskCount count : {MaskCount::batch, MaskCount::sequence, MaskCount::bernoulli}) {
      for (const auto& [rows, last_block] : {std::pair{HeadRows::all, LastBlock::all},
                                             {HeadRows::masked, LastBlock::all},
                                             {HeadRows::masked, LastBlock::read}}) {
        INFO(spell(count) << ", head on " << spell(rows) << " rows, last block for " << spell(last_block));
        config.mask.count = count;
        config.head.rows = rows;
        config.model.last_block = last_block;
        Pretraining<float> run(config, data, threads);
        check_no_allocations(run);
      }
    }
    Config finetuning = small_config(Task::finetuning);
    finetuning.train.epochs = 4;
    Finetuning<float> run(finetuning, data, threads, std::vector<int>{1, 2});
    check_no_allocations(run);
  }
}

TEST_CASE("windows of many lengths in one step need no memory beyond their buckets") {
  Config config = small_config(Task::pretraining);
  config.train.epochs = 30;
  config.train.patience = 1000;
  Pretraining<float> run(config, SmallData(26));
  const std::size_t planned = run.buckets.capacity();
  run.train();
  CHECK(run.buckets.capacity() == planned);  // the largest bucket came first
}

}  // namespace
}  // namespace blinkbert::test
