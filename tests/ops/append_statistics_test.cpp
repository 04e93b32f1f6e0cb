#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/visible_keys.hpp>
#include <tests/oracle/append_statistics.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  std::vector<int> lengths;
  int L, N;
};
const Case cases[] = {{{}, 2, 3},
                      {{1}, 1, 1},
                      {{0}, 3, 5},
                      {{0, 2, 3}, 3, 7},
                      {{7, 0, 4}, 8, 8},
                      {{31, 32, 33}, 33, 9},
                      {{64, 65}, 65, 18},
                      {{20, 0, 50}, 60, 33},
                      {std::vector<int>(9, 29), 30, 130},
                      {std::vector<int>(700, 30), 31, 36}};  // enough work for several threads

TEMPLATE_LIST_TEST_CASE("append statistics", "[append_statistics]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("append_statistics", BackendName<TestType>::value);
  for (const auto& [lengths, L, N] : cases) {
    const int B = static_cast<int>(lengths.size()), T = B * L;
    const Tensors<Wide<Real>> inputs{random_values<Real>(T * N, 1, 2, .5)};
    for (const Keys which : {Keys::all, Keys::half, Keys::one, Keys::none_in_first, Keys::none}) {
      const VisibleKeys keys(which, lengths, L);
      const auto append = [&, &lengths = lengths, L = L, N = N](const auto& x) {
        return oracle::append_statistics(x[0], lengths, keys.visible, L, N);
      };
      const Expected<Real> y = expect_values<Real>(append, inputs);
      for (const int threads : thread_counts<TestType>()) {
        INFO("B " << B << ", L " << L << ", N " << N << ", keys " << static_cast<int>(which) << ", threads "
                  << threads);
        Stage<TestType> stage(threads);
        const AppendStatistics<Real> op{
            .y = stage.template output<Real>(B, L, 4 * N),
            .x = stage.input(narrowed<Real>(poisoned(inputs[0], real_rows(lengths, L))), B, L, N),
            .lengths = stage.input(lengths, B),
            .visible = stage.input(keys.bits, B, visible_words(L))};
        stage.run_twice(op);
        compare("y", stage.values(op.y), y);
      }
    }
  }
}

// Rows that are not visible reach only themselves: with other values there, every other row keeps its bits.
TEMPLATE_LIST_TEST_CASE("statistics tell nothing of hidden rows", "[append_statistics]", Backends) {
  using Real = typename TestType::Real;
  constexpr int B = 3, L = 34, N = 5;
  const std::vector<int> lengths{34, 20, 33};
  const VisibleKeys keys(Keys::half, lengths, L);
  const auto run_on = [&](const std::vector<Wide<Real>>& x) {
    Stage<TestType> stage(1);
    const AppendStatistics<Real> op{.y = stage.template output<Real>(B, L, 4 * N),
                                    .x = stage.input(narrowed<Real>(x), B, L, N),
                                    .lengths = stage.input(lengths, B),
                                    .visible = stage.input(keys.bits, B, visible_words(L))};
    stage.run_twice(op);
    return stage.values(op.y);
  };
  const std::vector<Wide<Real>> x = random_values<Real>(B * L * N, 1);
  std::vector<Wide<Real>> other = x;
  const std::vector<Wide<Real>> noise = random_values<Real>(B * L * N, 2, 100);
  for (int row = 0; row < B * L; ++row) {
    for (int n = 0; n < N && keys.visible[row / L][row % L] == 0; ++n) other[row * N + n] = noise[row * N + n];
  }
  const std::vector<Real> before = run_on(x), after = run_on(other);
  int differing = 0;
  for (int row = 0; row < B * L; ++row) {
    const bool is_real = row % L < lengths[row / L], is_hidden = keys.visible[row / L][row % L] == 0;
    for (int c = 0; c < 4 * N; ++c) {
      const std::size_t at = static_cast<std::size_t>(row * 4 * N + c);
      if (static_cast<double>(before[at]) == static_cast<double>(after[at])) continue;
      ++differing;
      CHECK((is_real && is_hidden && c < N));
    }
  }
  CHECK(differing > 0);
}

TEMPLATE_LIST_TEST_CASE("append statistics refuses wrong shapes", "[append_statistics]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  using Op = AppendStatistics<Real>;
  const Op op{.y = stage.template output<Real>(2, 3, 8),
              .x = stage.template output<Real>(2, 3, 2),
              .lengths = stage.input(std::vector<int>{2, 1}, 2),
              .visible = stage.input(std::vector<std::uint32_t>{3, 1}, 2, 1)};
  check_rejects(stage.device, op, "y as wide as x", [&](Op& o) { o.y = stage.template output<Real>(2, 3, 2); });
  check_rejects(stage.device, op, "no visible rows", [&](Op& o) { o.visible = {}; });
  check_rejects(stage.device, op, "lengths of fewer sequences",
                [&](Op& o) { o.lengths = stage.input(std::vector<int>{2}, 1); });
}

}  // namespace
}  // namespace blinkbert::test
