#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/segments.hpp>
#include <tests/oracle/adamw.hpp>
#include <tests/oracle/sum_of_squares.hpp>

namespace blinkbert::test {
namespace {

// Steps 1 and 5 are skipped. Of five segments the second never trains and the fourth trains from step 4, one skip later.
constexpr int steps = 8;
bool is_skipped(int step) { return step == 1 || step == 5; }

enum class Memory { apart, shared };

struct Case {
  std::vector<int> sizes;
  oracle::AdamWRates rates;
  double gradient_scale;
  Memory working;
};
const Case cases[] = {
    {{1}, {.rate = 1e-3f, .weight_decay = .01f}, 1e-3, Memory::apart},
    {{128, 256, 127, 129, 130, 131, 126, 5, 513}, {.rate = 1e-2f, .weight_decay = .1f}, 1, Memory::apart},
    {std::vector<int>(150, 3), {.rate = 1e-2f, .weight_decay = .1f}, 1, Memory::shared},
    {{7, 8, 9}, {.rate = 6.2e-4f, .weight_decay = .0095f}, 1, Memory::shared},
    {{15, 16, 17, 31, 33}, {.rate = 1e-2f, .weight_decay = .1f, .clip = .5f}, 3, Memory::apart},
    {{64, 5, 65, 127, 1, 2},
     {.rate = 1e-2f, .weight_decay = 0, .clip = 1000, .beta1 = .8f, .beta2 = .95f, .epsilon = 1e-3f},
     1,
     Memory::shared},
    {{30000, 300, 20000, 17000, 7}, {.rate = 1e-3f, .weight_decay = .05f}, .1, Memory::apart}};

/// Values and moments after some steps.
template <class Number>
struct State {
  std::vector<Number> values, first_moment, second_moment;
};

/// The oracle over the whole block, step after step.
template <class Number>
class Reference {
 public:
  Reference(const Case& c, const std::vector<Segment>& segments, const std::vector<Number>& start)
      : rates_(c.rates), segments_(segments), parameters_(start.size()) {
    for (std::size_t p = 0; p < start.size(); ++p) parameters_[p].value = start[p];
  }

  void step(int step, const std::vector<Number>& gradients) {
    if (is_skipped(step)) return;
    const Number norm = std::sqrt(oracle::sum_of_squares(gradients, segments_, step));
    for (const Segment& segment : segments_) {
      if (step < segment.first_trainable) continue;
      const Number decay = segment.decays ? Number(rates_.weight_decay) : Number(0);
      for (std::int64_t p = segment.begin; p < segment.end; ++p) {
        parameters_[static_cast<std::size_t>(p)].step(rates_, gradients[static_cast<std::size_t>(p)], norm, decay);
      }
    }
  }

  State<Number> state() const {
    State<Number> result;
    for (const oracle::AdamWParameter<Number>& parameter : parameters_) {
      result.values.push_back(parameter.value);
      result.first_moment.push_back(parameter.first_moment);
      result.second_moment.push_back(parameter.second_moment);
    }
    return result;
  }

 private:
  oracle::AdamWRates rates_;
  std::vector<Segment> segments_;
  std::vector<oracle::AdamWParameter<Number>> parameters_;
};

template <class Real>
Expected<Real> both(const std::vector<Exact<Real>>& exact, const std::vector<Real>& low) {
  return expect<Real>(exact.size(), oracle::some_elements(exact.size(), exact.size()), exact, low);
}

TEMPLATE_LIST_TEST_CASE("adamw steps", "[adamw]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  Comparison compare("adamw", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const std::vector<Segment> segments = segments_of(c.sizes);
    const int P = block_size(segments);
    const std::vector<Number> start = random_values<Number>(P, 1);
    for (const int threads : thread_counts<TestType>()) {
      Reference<Exact<Number>> exact(c, segments, converted<Exact<Number>>(start));
      Reference<Number> low(c, segments, start);
      State<Number> state{start, std::vector<Number>(start.size()), std::vector<Number>(start.size())};
      std::vector<Real> working = converted<Real>(start);
      std::int64_t skipped = 0;
      for (int step = 0; step < steps; ++step) {
        INFO("P " << P << ", step " << step << ", threads " << threads);
        const std::vector<int> trains =
            elements_of(segments, [&](const Segment& segment) { return segment.trains_at(step); });
        const std::vector<Number> gradients =
            random_values<Number>(P, 100 + static_cast<std::uint64_t>(step), c.gradient_scale);
        exact.step(step, converted<Exact<Number>>(gradients));
        low.step(step, gradients);
        const double sum = is_skipped(step) ? (step == 1 ? std::numeric_limits<double>::quiet_NaN()
                                                         : std::numeric_limits<double>::infinity())
                                            : oracle::sum_of_squares(converted<double>(gradients), segments, step);

        const std::vector<Number> running_before = random_values<Number>(7, 51), running = random_values<Number>(7, 52);

        Stage<TestType> stage(threads);
        const View<Number, 1> values = stage.in_and_out(state.values, P);
        AdamW<Real> op{.values = values,
                       .working = {},
                       .first_moment = stage.in_and_out(state.first_moment, P),
                       .second_moment = stage.in_and_out(state.second_moment, P),
                       .skipped = stage.in_and_out(std::vector<std::int64_t>{skipped}, 1),
                       .gradients = stage.input(poisoned(gradients, trains), P),
                       .segments = stage.input(segments, static_cast<int>(segments.size())),
                       .sum_of_squares = stage.input(std::vector<double>{sum}, 1),
                       .now = stage.now(step, c.rates.rate),
                       .statistics = stage.in_and_out(running, 7),
                       .statistics_before = stage.input(running_before, 7),
                       .weight_decay = c.rates.weight_decay,
                       .clip = c.rates.clip,
                       .beta1 = c.rates.beta1,
                       .beta2 = c.rates.beta2,
                       .epsilon = c.rates.epsilon};
        if constexpr (std::is_same_v<Real, Number>) {
          if (c.working == Memory::shared) op.working = values;
        }
        if (!op.working) op.working = stage.in_and_out(working, P);
        stage.run_twice(op);
        CHECK(stage.values(op.statistics) == (is_skipped(step) ? running_before : running));

        const State<Number> before = state;
        state = {stage.values(op.values), stage.values(op.first_moment), stage.values(op.second_moment)};
        if (is_skipped(step)) {
          CHECK(stage.values(op.skipped)[0] == skipped + 1);
          CHECK(state.values == before.values);
          CHECK(state.first_moment == before.first_moment);
          CHECK(state.second_moment == before.second_moment);
          CHECK(stage.values(op.working) == working);
          skipped += 1;
          continue;
        }
        CHECK(stage.values(op.skipped)[0] == skipped);
        const State<Exact<Number>> wanted = exact.state();
        const State<Number> rounded = low.state();
        compare("values", state.values, both<Number>(wanted.values, rounded.values));
        compare("first_moment", state.first_moment, both<Number>(wanted.first_moment, rounded.first_moment));
        compare("second_moment", state.second_moment, both<Number>(wanted.second_moment, rounded.second_moment));
        // Frozen segments and gaps keep their bits; working is what values rounds to.
        working = stage.values(op.working);
        std::size_t moved = 0;
        for (int p = 0; p < P; ++p) {
          if (trains[p] == 0 &&
              (state.values[p] != before.values[p] || state.first_moment[p] != 0 || state.second_moment[p] != 0))
            ++moved;
        }
        CHECK(moved == 0);
        CHECK(working == converted<Real>(state.values));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("adamw without segments changes nothing but the count of skipped steps", "[adamw]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  for (const double sum : {1.0, std::numeric_limits<double>::infinity()}) {
    Stage<TestType> stage(1);
    const std::vector<Number> block = random_values<Number>(130, 1);
    const AdamW<Real> op{.values = stage.in_and_out(block, 130),
                         .working = stage.in_and_out(converted<Real>(block), 130),
                         .first_moment = stage.in_and_out(block, 130),
                         .second_moment = stage.in_and_out(block, 130),
                         .skipped = stage.in_and_out(std::vector<std::int64_t>{5}, 1),
                         .gradients = stage.input(block, 130),
                         .segments = stage.input(std::vector<Segment>(), 0),
                         .sum_of_squares = stage.input(std::vector<double>{sum}, 1),
                         .now = stage.now(7, 1e-3f)};
    stage.run_twice(op);
    CHECK(stage.values(op.skipped)[0] == (std::isfinite(sum) ? 5 : 6));
    CHECK(stage.values(op.values) == block);
    CHECK(stage.values(op.working) == converted<Real>(block));
    CHECK(stage.values(op.first_moment) == block);
    CHECK(stage.values(op.second_moment) == block);
  }
}

TEMPLATE_LIST_TEST_CASE("adamw refuses wrong shapes", "[adamw]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  Stage<TestType> stage(1);
  const auto block = [&](int size) { return stage.template output<Number>(size); };
  const std::vector<Segment> segments = segments_of({9});
  using Op = AdamW<Real>;
  const Op op{.values = block(16),
              .working = stage.template output<Real>(16),
              .first_moment = block(16),
              .second_moment = block(16),
              .skipped = stage.in_and_out(std::vector<std::int64_t>{0}, 1),
              .gradients = block(16),
              .segments = stage.input(segments, 1),
              .sum_of_squares = stage.input(std::vector<double>{1}, 1),
              .now = stage.now(0, 1e-3f)};
  check_rejects(stage.device, op, "moments too short", [&](Op& o) { o.second_moment = block(15); });
  check_rejects(stage.device, op, "gradients too long", [&](Op& o) { o.gradients = block(17); });
  check_rejects(stage.device, op, "no sum of squares", [&](Op& o) { o.sum_of_squares = {}; });
  check_rejects(stage.device, op, "no skip count", [&](Op& o) { o.skipped = {}; });
  check_rejects(stage.device, op, "clip 0", [&](Op& o) { o.clip = 0; });
  check_rejects(stage.device, op, "no step", [&](Op& o) { o.now = {}; });
  check_rejects(stage.device, op, "nothing to put back", [&](Op& o) { o.statistics = block(3); });
  check_rejects(stage.device, op, "no working block", [&](Op& o) { o.working = {}; });
}

}  // namespace
}  // namespace blinkbert::test
