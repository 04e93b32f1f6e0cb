#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/mean_rows.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  std::vector<int> lengths;
  int L, E;
};
const Case cases[] = {{{}, 2, 8},
                      {{1}, 1, 1},
                      {{0}, 3, 5},
                      {{0, 2, 3, 1}, 3, 7},
                      {{7, 0, 4}, 7, 8},
                      {{9, 8}, 9, 9},
                      {{0, 15}, 16, 17},
                      {{33, 1, 32}, 33, 31},
                      {{20, 0, 50}, 60, 520},
                      {std::vector<int>(40, 29), 30, 64},
                      {std::vector<int>(12, 29), 30, 33},
                      {std::vector<int>(1500, 2), 3, 256}};  // more rows than blocks take at a time

TEMPLATE_LIST_TEST_CASE("mean rows forward", "[mean_rows]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("mean_rows", BackendName<TestType>::value);
  for (const auto& [lengths, L, E] : cases) {
    const int B = static_cast<int>(lengths.size()), T = B * L;
    const Tensors<Wide<Real>> inputs{random_values<Real>(T * E, 1, 1, 2)};
    const auto mean = [&, &lengths = lengths, L = L, E = E](const auto& x) {
      return oracle::mean_rows(x[0], lengths, L, E);
    };
    const Expected<Real> y = expect_values<Real>(mean, inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << B << ", L " << L << ", E " << E << ", threads " << threads);
      Stage<TestType> stage(threads);
      const MeanRowsForward<Real> op{.y = stage.template output<Real>(B, E),
                                     .x = stage.input(narrowed<Real>(poisoned(inputs[0], real_rows(lengths, L))), T, E),
                                     .lengths = stage.input(lengths, B),
                                     .L = L};
      stage.run_twice(op);
      compare("y", stage.values(op.y), y);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("mean rows backward", "[mean_rows]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("mean_rows", BackendName<TestType>::value);
  for (const auto& [lengths, L, E] : cases) {
    const int B = static_cast<int>(lengths.size()), T = B * L;
    const Tensors<Wide<Real>> inputs{random_values<Real>(T * E, 1)};
    const auto mean = [&, &lengths = lengths, L = L, E = E](const auto& x) {
      return oracle::mean_rows(x[0], lengths, L, E);
    };
    const std::vector<Wide<Real>> dy = random_values<Real>(B * E, 2);
    const Expected<Real> dx = expect_gradient<Real>(mean, inputs, 0, dy, {}, T * E > 5000 ? 20 : 300);
    std::vector<int> is_read;
    for (const int length : lengths) is_read.push_back(length > 0 ? 1 : 0);
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << B << ", L " << L << ", E " << E << ", threads " << threads);
      Stage<TestType> stage(threads);
      const MeanRowsBackward<Real> op{.dx = stage.template output<Real>(T, E),
                                      .dy = stage.input(narrowed<Real>(poisoned(dy, is_read)), B, E),
                                      .lengths = stage.input(lengths, B),
                                      .L = L};
      stage.run_twice(op);
      const std::vector<Real> actual = stage.values(op.dx);
      compare("dx", actual, dx);
      const std::vector<int> real = real_rows(lengths, L);
      bool is_zero_in_padding = true;
      for (std::size_t i = 0; i < actual.size(); ++i) {
        if (real[i / static_cast<std::size_t>(E)] == 0 && static_cast<double>(actual[i]) != 0)
          is_zero_in_padding = false;
      }
      CHECK(is_zero_in_padding);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("mean rows refuses wrong shapes", "[mean_rows]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const View<const int, 1> lengths = stage.input(std::vector<int>{2, 1}, 2);
  using Forward = MeanRowsForward<Real>;
  const Forward forward{.y = matrix(2, 5), .x = matrix(6, 5), .lengths = lengths, .L = 3};
  check_rejects(stage.device, forward, "a y of all rows", [&](Forward& o) { o.y = matrix(6, 5); });
  check_rejects(stage.device, forward, "another L", [&](Forward& o) { o.L = 2; });
  check_rejects(stage.device, forward, "no lengths", [&](Forward& o) { o.lengths = {}; });
  using Backward = MeanRowsBackward<Real>;
  const Backward backward{.dx = matrix(6, 5), .dy = matrix(2, 5), .lengths = lengths, .L = 3};
  check_rejects(stage.device, backward, "a dx of another width", [&](Backward& o) { o.dx = matrix(6, 4); });
  check_rejects(stage.device, backward, "a dy of all rows", [&](Backward& o) { o.dy = matrix(6, 5); });
}

}  // namespace
}  // namespace blinkbert::test
