#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/activation.hpp>

namespace blinkbert::test {
namespace {

/// `rows` empty: row r is row t = r.
struct Case {
  int R, F, L;
  std::vector<int> rows;
  double drop_probability;
};
const Case cases[] = {{1, 1, 1, {}, 0},
                      {6, 7, 3, {}, .5},
                      {7, 8, 7, {}, .02},
                      {4, 9, 30, {29, 59, -1, 91}, .16},
                      {16, 15, 8, {}, .1},
                      {3, 16, 5, {14, 4, 9}, .5},
                      {17, 17, 1, {}, .3},
                      {0, 4, 2, {}, .1},
                      {5, 31, 9, {0, 3, -1, 10, 44}, .1},
                      {33, 33, 33, {}, 0},
                      {9, 64, 3, {}, .9},
                      {4, 300, 2, {5, 4, -1, 0}, .2},
                      {60, 520, 7, {}, .02},
                      {800, 64, 30, {}, .1},
                      {600, 65, 30, {}, .1}};

template <class Real>
struct Setup {
  std::vector<int> rows;  // as the oracle takes them
  oracle::DropoutCase dropout;
  Tensors<Wide<Real>> inputs;  // x
  std::vector<Wide<Real>> dy;

  explicit Setup(const Case& c)
      : rows(c.rows),
        dropout{.drop_probability = c.drop_probability},
        inputs{random_values<Real>(c.R * c.F, 1)},
        dy(random_values<Real>(c.R * c.F, 2)) {
    if (rows.empty()) {
      for (int r = 0; r < c.R; ++r) rows.push_back(r);
    }
    // Rows of -1 may take any random bits: nothing positive there, so that the result does not depend on them.
    for (std::size_t r = 0; r < rows.size(); ++r) {
      for (int f = 0; f < c.F && rows[r] < 0; ++f) inputs[0][r * c.F + f] = f % 2 == 0 ? Wide<Real>(0) : Wide<Real>(-1);
    }
    if (c.R * c.F > 3) inputs[0][3] = 0;
  }
};

TEMPLATE_LIST_TEST_CASE("activation forward", "[activation]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("activation", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const auto activation = [&](const auto& x) {
      return oracle::activation(x[0], setup.rows, c.L, c.F, setup.dropout);
    };
    const Expected<Real> y = expect_values<Real>(activation, setup.inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO("R " << c.R << ", F " << c.F << ", L " << c.L << ", drop " << c.drop_probability << ", threads " << threads);
      Stage<TestType> stage(threads);
      ActivationForward<Real> op{.y = stage.template output<Real>(c.R, c.F),
                                 .x = stage.input(narrowed<Real>(setup.inputs[0]), c.R, c.F),
                                 .rows = {},
                                 .dropout = library_dropout(setup.dropout),
                                 .L = c.L};
      if (!c.rows.empty()) op.rows = stage.input(c.rows, c.R);
      stage.run_twice(op);
      compare("y", stage.values(op.y), y);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("activation backward", "[activation]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("activation", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const auto activation = [&](const auto& x) {
      return oracle::activation(x[0], setup.rows, c.L, c.F, setup.dropout);
    };
    const Expected<Real> dx = expect_gradient<Real>(activation, setup.inputs, 0, setup.dy, {}, c.R > 100 ? 20 : 300);
    for (const int threads : thread_counts<TestType>()) {
      INFO("R " << c.R << ", F " << c.F << ", L " << c.L << ", drop " << c.drop_probability << ", threads " << threads);
      Stage<TestType> stage(threads);
      ActivationBackward<Real> op{.dx = stage.template output<Real>(c.R, c.F),
                                  .dy = stage.input(narrowed<Real>(setup.dy), c.R, c.F),
                                  .x = stage.input(narrowed<Real>(setup.inputs[0]), c.R, c.F),
                                  .rows = {},
                                  .dropout = library_dropout(setup.dropout),
                                  .L = c.L};
      if (!c.rows.empty()) op.rows = stage.input(c.rows, c.R);
      stage.run_twice(op);
      compare("dx", stage.values(op.dx), dx);
      op.dx = stage.in_and_out(narrowed<Real>(setup.dy), c.R, c.F);
      op.dy = op.dx;
      stage.run_twice(op);
      compare("dx", stage.values(op.dx), dx);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("activation refuses wrong shapes", "[activation]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  using Forward = ActivationForward<Real>;
  const Forward forward{.y = matrix(4, 3), .x = matrix(4, 3), .rows = {}, .dropout = {}, .L = 2};
  check_rejects(stage.device, forward, "y of another width", [&](Forward& o) { o.y = matrix(4, 2); });
  check_rejects(stage.device, forward, "too few rows", [&](Forward& o) {
    o.rows = stage.input(std::vector<int>{1, 2}, 2);
  });
  check_rejects(stage.device, forward, "L 0", [&](Forward& o) { o.L = 0; });
  using Backward = ActivationBackward<Real>;
  const Backward backward{.dx = matrix(4, 3), .dy = matrix(4, 3), .x = matrix(4, 3), .rows = {}, .dropout = {}, .L = 2};
  check_rejects(stage.device, backward, "dy of other rows", [&](Backward& o) { o.dy = matrix(3, 3); });
  check_rejects(stage.device, backward, "no dx", [&](Backward& o) { o.dx = {}; });
}

}  // namespace
}  // namespace blinkbert::test
