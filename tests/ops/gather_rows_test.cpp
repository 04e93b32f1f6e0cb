#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/gather_rows.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  int T, E;
  std::vector<int> rows;
};
/// Rows T - 1, T - 1 - stride, ...
std::vector<int> backwards(int T, int stride) {
  std::vector<int> rows;
  for (int t = T - 1; t >= 0; t -= stride) rows.push_back(t);
  return rows;
}
const Case cases[] = {{1, 1, {0}},
                      {1, 5, {-1}},
                      {4, 7, {}},
                      {7, 8, {6, 0, -1, 3}},
                      {9, 9, {-1, -1}},
                      {16, 17, {15, 14, 1, 0}},
                      {33, 31, backwards(33, 3)},
                      {65, 64, backwards(65, 3)},
                      {300, 520, backwards(300, 2)},
                      {2100, 65, backwards(2100, 1)}};  // enough work for several threads

TEMPLATE_LIST_TEST_CASE("gather rows forward", "[gather_rows]", Backends) {
  using Real = typename TestType::Real;
  for (const auto& [T, E, rows] : cases) {
    const int M = static_cast<int>(rows.size());
    const std::vector<Wide<Real>> x = random_values<Real>(T * E, 1);
    std::vector<int> is_read(T, 0);
    for (const int row : rows) {
      if (row >= 0) is_read[row] = 1;
    }
    for (const int threads : thread_counts<TestType>()) {
      INFO("T " << T << ", E " << E << ", M " << M << ", threads " << threads);
      Stage<TestType> stage(threads);
      const GatherRowsForward<Real> op{.y = stage.template output<Real>(M, E),
                                       .x = stage.input(narrowed<Real>(poisoned(x, is_read)), T, E),
                                       .rows = stage.input(rows, M)};
      stage.run_twice(op);
      CHECK(stage.values(op.y) == narrowed<Real>(oracle::gather_rows(x, rows, E)));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("gather rows backward", "[gather_rows]", Backends) {
  using Real = typename TestType::Real;
  for (const auto& [T, E, rows] : cases) {
    const int M = static_cast<int>(rows.size());
    const std::vector<Wide<Real>> dy = random_values<Real>(M * E, 2);
    std::vector<int> slots(T, -1), is_read(rows.size(), 0);
    for (int m = 0; m < M; ++m) {
      if (rows[m] < 0) continue;
      slots[rows[m]] = m;
      is_read[m] = 1;
    }
    const Tensors<Wide<Real>> inputs{random_values<Real>(T * E, 1)};
    const auto gather = [&, E = E, &rows = rows](const auto& x) { return oracle::gather_rows(x[0], rows, E); };
    const Expected<Real> dx = expect_gradient<Real>(gather, inputs, 0, dy, {}, T * E > 5000 ? 20 : 500);
    // One sum of two numbers, rounded once: exact.
    const std::vector<Wide<Real>> residual = random_values<Real>(T * E, 3);
    std::vector<Wide<Real>> sum = oracle::gather_rows(dy, slots, E);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += residual[i];
    for (const int threads : thread_counts<TestType>()) {
      INFO("T " << T << ", E " << E << ", M " << M << ", threads " << threads);
      Comparison compare("gather_rows", BackendName<TestType>::value);
      Stage<TestType> stage(threads);
      GatherRowsBackward<Real> op{.dx = stage.template output<Real>(T, E),
                                  .dy = stage.input(narrowed<Real>(poisoned(dy, is_read)), M, E),
                                  .slots = stage.input(slots, T),
                                  .residual = {}};
      stage.run_twice(op);
      const std::vector<Real> actual = stage.values(op.dx);
      compare("dx", actual, dx);
      // A gather along the slots is the same thing said the other way round, for every element.
      CHECK(actual == narrowed<Real>(oracle::gather_rows(dy, slots, E)));

      op.residual = stage.input(narrowed<Real>(residual), T, E);
      stage.run_twice(op);
      CHECK(stage.values(op.dx) == narrowed<Real>(sum));
      op.dx = stage.in_and_out(narrowed<Real>(residual), T, E);
      op.residual = op.dx;
      stage.run_twice(op);
      CHECK(stage.values(op.dx) == narrowed<Real>(sum));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("gather rows refuses wrong shapes", "[gather_rows]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const View<const int, 1> rows = stage.input(std::vector<int>{1, 0}, 2),
                           slots = stage.input(std::vector<int>{1, 0, -1}, 3);
  using Forward = GatherRowsForward<Real>;
  const Forward forward{.y = matrix(2, 5), .x = matrix(3, 5), .rows = rows};
  check_rejects(stage.device, forward, "y of all rows", [&](Forward& o) { o.y = matrix(3, 5); });
  check_rejects(stage.device, forward, "y of another width", [&](Forward& o) { o.y = matrix(2, 4); });
  using Backward = GatherRowsBackward<Real>;
  const Backward backward{.dx = matrix(3, 5), .dy = matrix(2, 5), .slots = slots, .residual = {}};
  check_rejects(stage.device, backward, "rows in the place of slots", [&](Backward& o) { o.slots = rows; });
  check_rejects(stage.device, backward, "no dx", [&](Backward& o) { o.dx = {}; });
  check_rejects(stage.device, backward, "a residual of the gathered rows", [&](Backward& o) { o.residual = o.dy; });
}

}  // namespace
}  // namespace blinkbert::test
