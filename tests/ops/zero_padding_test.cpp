#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/zero_padding.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  std::vector<int> lengths;
  int L, F;
};
const Case cases[] = {{{}, 2, 8},
                      {{1}, 1, 1},
                      {{0}, 1, 5},
                      {{0, 1, 1, 0}, 1, 7},
                      {{3, 0, 7}, 7, 8},
                      {{8, 9}, 9, 9},
                      {{0, 15}, 16, 17},
                      {{33, 1, 32}, 33, 31},
                      {{3, 5}, 5, 40},
                      {{3, 4}, 4, 300},
                      {{20, 0, 50}, 60, 520},
                      {std::vector<int>(40, 29), 30, 64},
                      {std::vector<int>(12, 29), 30, 33}};  // more rows than blocks take at a time

TEMPLATE_LIST_TEST_CASE("zero padding", "[zero_padding]", Backends) {
  using Real = typename TestType::Real;
  for (const auto& [lengths, L, F] : cases) {
    const int B = static_cast<int>(lengths.size()), T = B * L;
    const std::vector<Wide<Real>> x = random_values<Real>(T * F, 1);
    const std::vector<Real> wanted = narrowed<Real>(oracle::zero_padding(x, lengths, L, F)),
                            given = narrowed<Real>(poisoned(x, real_rows(lengths, L)));
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << B << ", L " << L << ", F " << F << ", threads " << threads);
      Stage<TestType> stage(threads);
      ZeroPadding<Real> op{.y = stage.template output<Real>(T, F),
                           .x = stage.input(given, T, F),
                           .lengths = stage.input(lengths, B),
                           .L = L};
      stage.run_twice(op);
      CHECK(stage.values(op.y) == wanted);
      op.y = stage.in_and_out(given, T, F);
      op.x = op.y;
      stage.run_twice(op);
      CHECK(stage.values(op.y) == wanted);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("zero padding refuses wrong shapes", "[zero_padding]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  using Op = ZeroPadding<Real>;
  const Op op{.y = matrix(4, 3), .x = matrix(4, 3), .lengths = stage.input(std::vector<int>{2, 1}, 2), .L = 2};
  check_rejects(stage.device, op, "y of another width", [&](Op& o) { o.y = matrix(4, 2); });
  check_rejects(stage.device, op, "rows that are no sequences", [&](Op& o) { o.L = 3; });
  check_rejects(stage.device, op, "no lengths", [&](Op& o) { o.lengths = {}; });
}

}  // namespace
}  // namespace blinkbert::test
