#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/segments.hpp>
#include <tests/oracle/sum_of_squares.hpp>

namespace blinkbert::test {
namespace {

// The second segment of five is frozen for good, the fourth trains from step 4.
const std::vector<int> sizes[] = {{1},
                                  {7, 8},
                                  {9, 15, 16},
                                  {17, 31, 32, 33, 64},
                                  {65, 1, 1, 13, 127, 5},
                                  {128, 128, 129, 127, 256, 128, 1, 511, 512, 513},
                                  {40000, 300, 50001, 33000, 7}};

TEMPLATE_LIST_TEST_CASE("sum of squares", "[sum_of_squares]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  Comparison compare("sum_of_squares", BackendName<TestType>::value);
  for (const std::vector<int>& size : sizes) {
    const std::vector<Segment> segments = segments_of(size);
    const int P = block_size(segments);
    for (const std::int64_t step : {0, 3, 4, 9}) {
      const std::vector<Number> gradients = random_values<Number>(P, 1);
      const std::vector<int> trains =
          elements_of(segments, [&](const Segment& segment) { return segment.trains_at(step); });
      // In double whatever the gradients are.
      const Expected<double> sum = expect_values<double>(
          [&](const auto& x) { return std::vector{oracle::sum_of_squares(x[0], segments, step)}; },
          Tensors<double>{converted<double>(gradients)});
      for (const int threads : thread_counts<TestType>()) {
        INFO("P " << P << ", step " << step << ", threads " << threads);
        Stage<TestType> stage(threads);
        const SumOfSquares<Real> op{.sum = stage.template output<double>(1),
                                    .gradients = stage.input(poisoned(gradients, trains), P),
                                    .segments = stage.input(segments, static_cast<int>(segments.size())),
                                    .now = stage.now(step)};
        stage.run_twice(op);
        compare("sum", stage.values(op.sum), sum);
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("sum of squares of what is not finite is not finite", "[sum_of_squares]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  const std::vector<Segment> segments = segments_of({9, 15, 20});
  const int P = block_size(segments);
  for (const Number bad : {std::numeric_limits<Number>::quiet_NaN(), std::numeric_limits<Number>::infinity(),
                           -std::numeric_limits<Number>::infinity()}) {
    for (const std::int64_t place : {std::int64_t{0}, segments[0].end - 1, segments[2].begin, segments[2].end - 1}) {
      std::vector<Number> gradients = random_values<Number>(P, 1);
      gradients[static_cast<std::size_t>(place)] = bad;
      Stage<TestType> stage(1);
      const SumOfSquares<Real> op{.sum = stage.template output<double>(1),
                                  .gradients = stage.input(gradients, P),
                                  .segments = stage.input(segments, 3),
                                  .now = stage.now(0)};
      stage.run_twice(op);
      CHECK_FALSE(std::isfinite(stage.values(op.sum)[0]));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("sum of squares of what is too large to be squared in float", "[sum_of_squares]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  const std::vector<Segment> segments = segments_of({9, 15, 200});
  const int P = block_size(segments);
  const std::vector<Number> gradients = random_values<Number>(P, 1, 1e30);
  Stage<TestType> stage(1);
  const SumOfSquares<Real> op{.sum = stage.template output<double>(1),
                              .gradients = stage.input(gradients, P),
                              .segments = stage.input(segments, 3),
                              .now = stage.now(0)};
  stage.run_twice(op);
  CHECK(stage.values(op.sum)[0] ==
        Approx(oracle::sum_of_squares(converted<double>(gradients), segments, 0)).epsilon(1e-13));
}

TEMPLATE_LIST_TEST_CASE("sum of squares of nothing", "[sum_of_squares]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  SumOfSquares<Real> op{.sum = stage.template output<double>(1),
                        .gradients = stage.input(std::vector<Wide<Real>>(16), 16),
                        .segments = stage.input(std::vector<Segment>(), 0),
                        .now = stage.now(0)};
  stage.run_twice(op);
  CHECK(stage.values(op.sum)[0] == 0);
  op.gradients = stage.input(std::vector<Wide<Real>>(), 0);
  stage.run_twice(op);
  CHECK(stage.values(op.sum)[0] == 0);
}

TEMPLATE_LIST_TEST_CASE("sum of squares refuses wrong shapes", "[sum_of_squares]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const std::vector<Segment> segments = segments_of({9});
  using Op = SumOfSquares<Real>;
  const Op op{.sum = stage.template output<double>(1),
              .gradients = stage.template output<Wide<Real>>(16),
              .segments = stage.input(segments, 1),
              .now = stage.now(0)};
  check_rejects(stage.device, op, "no sum", [&](Op& o) { o.sum = {}; });
  check_rejects(stage.device, op, "two sums", [&](Op& o) { o.sum = stage.template output<double>(2); });
  check_rejects(stage.device, op, "no segments", [&](Op& o) { o.segments = {}; });
  check_rejects(stage.device, op, "no gradients", [&](Op& o) { o.gradients = {}; });
  check_rejects(stage.device, op, "no step", [&](Op& o) { o.now = {}; });
}

}  // namespace
}  // namespace blinkbert::test
