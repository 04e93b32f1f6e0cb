#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/layer_norm.hpp>
#include <tests/oracle/residual_norm.hpp>

namespace blinkbert::test {
namespace {

constexpr float epsilon = 1e-5f;

/// `rows` empty: all B L rows of the batch.
struct Case {
  int B, L, E;
  double drop_probability;
  std::vector<int> rows = {};
};
/// Every third row of a batch.
std::vector<int> every_third(int T) {
  std::vector<int> rows;
  for (int t = 1; t < T; t += 3) rows.push_back(t);
  return rows;
}
// The last of those on all rows and the last of all: enough work for several threads.
const Case cases[] = {{1, 1, 1, 0},
                      {2, 1, 7, .5},
                      {1, 7, 8, .1},
                      {3, 5, 9, .1},
                      {2, 8, 15, .5},
                      {2, 9, 16, 0},
                      {1, 15, 17, .3},
                      {2, 17, 31, .1},
                      {1, 33, 32, .02},
                      {2, 2, 33, .5},
                      {2, 3, 64, .1},
                      {1, 4, 65, .9},
                      {0, 4, 8, .1},
                      {2, 3, 257, .1},
                      {1, 2, 520, .3},
                      {36, 30, 66, .1},
                      {3, 7, 9, .5, {2, 6, -1, 20}},
                      {4, 30, 16, .1, {29, -1, 89, 119}},
                      {2, 5, 17, 0, {-1, 9, 3}},
                      {3, 4, 33, .3, every_third(12)},
                      {3, 30, 66, .1, {0, 1, 31, 47, 62, 89}},
                      {108, 30, 66, .1, every_third(108 * 30)}};

template <class Real>
struct Setup {
  std::vector<int> rows;  // as the oracle takes them
  int T;
  std::vector<int> is_row;  // [T]  0 where there is no row
  oracle::DropoutCase dropout;
  Tensors<Wide<Real>> inputs;  // x, branch, gamma, beta

  explicit Setup(const Case& c)
      : rows(c.rows.empty() ? oracle::all_rows(c.B * c.L) : c.rows),
        T(static_cast<int>(rows.size())),
        dropout{.drop_probability = c.drop_probability} {
    for (const int row : rows) is_row.push_back(row < 0 ? 0 : 1);
    // Rows of -1 may take any random bits: nothing to drop there, so that the result does not depend on them.
    inputs = {random_values<Real>(T * c.E, 1), zeroed(random_values<Real>(T * c.E, 2), is_row),
              random_values<Real>(c.E, 3, 1, .5), random_values<Real>(c.E, 4)};
  }
};

TEMPLATE_LIST_TEST_CASE("residual norm forward", "[residual_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("residual_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int T = setup.T, E = c.E;
    const auto sum = [&](const auto& x) { return oracle::residual(x[0], x[1], setup.rows, c.L, E, setup.dropout); };
    const auto norm = [&](const auto& x) { return oracle::layer_norm(sum(x), x[2], x[3], T, E, epsilon); };
    const Expected<Real> z = expect_values<Real>(sum, setup.inputs);
    const Expected<Real> y = expect_values<Real>([&](const auto& x) { return norm(x).y; }, setup.inputs);
    const Expected<Wide<Real>> mean =
        expect_values<Real, Wide<Real>>([&](const auto& x) { return norm(x).mean; }, setup.inputs);
    const Expected<Wide<Real>> rstd =
        expect_values<Real, Wide<Real>>([&](const auto& x) { return norm(x).rstd; }, setup.inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << c.B << ", L " << c.L << ", T " << T << ", E " << E << ", drop " << c.drop_probability << ", threads "
                << threads);
      Stage<TestType> stage(threads);
      const View<const Wide<Real>, 1> gamma = stage.input(setup.inputs[2], E), beta = stage.input(setup.inputs[3], E);
      ResidualNormForward<Real> op{.z = stage.template output<Real>(T, E),
                                   .y = stage.template output<Real>(T, E),
                                   .mean = stage.template output<Wide<Real>>(T),
                                   .rstd = stage.template output<Wide<Real>>(T),
                                   .x = stage.input(narrowed<Real>(setup.inputs[0]), T, E),
                                   .branch = stage.input(narrowed<Real>(setup.inputs[1]), T, E),
                                   .gamma = gamma,
                                   .beta = beta,
                                   .rows = {},
                                   .dropout = library_dropout(setup.dropout, stage.now(setup.dropout.step)),
                                   .L = c.L,
                                   .epsilon = epsilon};
      if (!c.rows.empty()) op.rows = stage.input(c.rows, T);
      stage.run_twice(op);
      compare("z", stage.values(op.z), z);
      compare("y", stage.values(op.y), y);
      compare("mean", stage.values(op.mean), mean);
      compare("rstd", stage.values(op.rstd), rstd);
      op.mean = {};
      op.rstd = {};
      stage.run_twice(op);
      compare("z", stage.values(op.z), z);
      compare("y", stage.values(op.y), y);
      op.y = {};
      op.gamma = {};
      op.beta = {};
      stage.run_twice(op);
      compare("z", stage.values(op.z), z);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("residual norm backward", "[residual_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("residual_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int T = setup.T, E = c.E;
    const std::size_t most = T * E > 5000 ? 10 : T * E > 500 ? 60 : 150;
    // Backward reads z as forward stored it: a sum of that z and a branch of zeros.
    Tensors<Wide<Real>> inputs = setup.inputs;
    inputs[0] = converted<Wide<Real>>(
        narrowed<Real>(oracle::residual(inputs[0], inputs[1], setup.rows, c.L, E, setup.dropout)));
    std::fill(inputs[1].begin(), inputs[1].end(), Wide<Real>(0));
    const std::vector<Wide<Real>> dy = zeroed(random_values<Real>(T * E, 5), setup.is_row),
                                  dz = zeroed(random_values<Real>(T * E, 6), setup.is_row);
    const std::vector<Wide<Real>> gamma_start = random_values<Wide<Real>>(E, 7),
                                  beta_start = random_values<Wide<Real>>(E, 8);
    const auto sum = [&](const auto& x) { return oracle::residual(x[0], x[1], setup.rows, c.L, E, setup.dropout); };
    const auto norm = [&](const auto& x) { return oracle::layer_norm(sum(x), x[2], x[3], T, E, epsilon).y; };
    const auto both = [&](const auto& x) { return joined(norm(x), sum(x)); };
    const std::vector<Wide<Real>> dboth = joined(dy, dz);
    const auto saved = oracle::layer_norm(converted<Exact<Real>>(inputs[0]), converted<Exact<Real>>(inputs[2]),
                                          converted<Exact<Real>>(inputs[3]), T, E, epsilon);
    const Exact<Real> term = largest_norm_term<Real>(saved.rstd, inputs[2], dy);
    const auto norm_gradient = [&](const auto& function, std::size_t input, const std::vector<Wide<Real>>& weights) {
      return with_largest_term(expect_gradient<Real>(function, inputs, input, weights, {}, most), term);
    };
    const Expected<Real> norm_dx = norm_gradient(norm, 0, dy), norm_dbranch = norm_gradient(norm, 1, dy),
                         both_dx = norm_gradient(both, 0, dboth), both_dbranch = norm_gradient(both, 1, dboth),
                         sum_dx = expect_gradient<Real>(sum, inputs, 0, dz, {}, most),
                         sum_dbranch = expect_gradient<Real>(sum, inputs, 1, dz, {}, most);
    const Expected<Wide<Real>> dgamma = expect_gradient<Real, Wide<Real>>(norm, inputs, 2, dy, gamma_start, most),
                               dbeta = expect_gradient<Real, Wide<Real>>(norm, inputs, 3, dy, beta_start, most);
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << c.B << ", L " << c.L << ", T " << T << ", E " << E << ", drop " << c.drop_probability << ", threads "
                << threads);
      Stage<TestType> stage(threads);
      const View<const Real, 2> dy_view = stage.input(narrowed<Real>(dy), T, E),
                                dz_view = stage.input(narrowed<Real>(dz), T, E);
      ResidualNormBackward<Real> op{.dx = stage.template output<Real>(T, E),
                                    .dbranch = stage.template output<Real>(T, E),
                                    .dgamma = stage.sum(gamma_start, E),
                                    .dbeta = stage.sum(beta_start, E),
                                    .dy = dy_view,
                                    .dz = {},
                                    .z = stage.input(narrowed<Real>(inputs[0]), T, E),
                                    .mean = stage.input(converted<Wide<Real>>(saved.mean), T),
                                    .rstd = stage.input(converted<Wide<Real>>(saved.rstd), T),
                                    .gamma = stage.input(inputs[2], E),
                                    .rows = {},
                                    .dropout = library_dropout(setup.dropout, stage.now(setup.dropout.step)),
                                    .L = c.L};
      if (!c.rows.empty()) op.rows = stage.input(c.rows, T);
      const auto check = [&](const char* name, const Expected<Real>& dx, const Expected<Real>& dbranch) {
        stage.run_twice(op);
        compare(std::string(name) + " dx", stage.values(op.dx), dx);
        if (op.dbranch) compare(std::string(name) + " dbranch", stage.values(op.dbranch), dbranch);
        if (op.dgamma) compare("dgamma", stage.values(op.dgamma), dgamma);
        if (op.dbeta) compare("dbeta", stage.values(op.dbeta), dbeta);
      };
      check("norm", norm_dx, norm_dbranch);
      op.dz = dz_view;
      check("both", both_dx, both_dbranch);
      op.dx = stage.in_and_out(narrowed<Real>(dz), T, E);
      op.dz = op.dx;
      check("both", both_dx, both_dbranch);
      if (c.drop_probability == 0) {
        const View<Real, 2> dbranch = op.dbranch;
        op.dbranch = {};
        check("both", both_dx, both_dbranch);
        op.dbranch = dbranch;
      }
      op.dy = {};
      op.z = {};
      op.mean = {};
      op.rstd = {};
      op.gamma = {};
      op.dgamma = {};
      op.dbeta = {};
      check("sum", sum_dx, sum_dbranch);
      op.dx = stage.template output<Real>(T, E);
      op.dz = dz_view;
      check("sum", sum_dx, sum_dbranch);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("residual norm refuses wrong shapes", "[residual_norm]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const auto wide = [&](int size) { return stage.template output<Wide<Real>>(size); };
  using Forward = ResidualNormForward<Real>;
  const Forward forward{.z = matrix(4, 3),
                        .y = matrix(4, 3),
                        .mean = {},
                        .rstd = {},
                        .x = matrix(4, 3),
                        .branch = matrix(4, 3),
                        .gamma = wide(3),
                        .beta = wide(3),
                        .rows = {},
                        .dropout = {},
                        .L = 2};
  check_rejects(stage.device, forward, "no z", [&](Forward& o) { o.z = {}; });
  check_rejects(stage.device, forward, "branch of other rows", [&](Forward& o) { o.branch = matrix(3, 3); });
  check_rejects(stage.device, forward, "rows that are no sequences", [&](Forward& o) { o.L = 3; });
  check_rejects(stage.device, forward, "a row too few", [&](Forward& o) {
    o.rows = stage.input(std::vector<int>{0, 1, 2}, 3);
  });
  check_rejects(stage.device, forward, "gamma without y", [&](Forward& o) { o.y = {}; });
  check_rejects(stage.device, forward, "y without gamma", [&](Forward& o) { o.gamma = {}; });
  using Backward = ResidualNormBackward<Real>;
  const Backward backward{.dx = matrix(4, 3),
                          .dbranch = matrix(4, 3),
                          .dgamma = Acc{wide(3)},
                          .dbeta = Acc{wide(3)},
                          .dy = matrix(4, 3),
                          .dz = {},
                          .z = matrix(4, 3),
                          .mean = wide(4),
                          .rstd = wide(4),
                          .gamma = wide(3),
                          .rows = {},
                          .dropout = {},
                          .L = 2};
  check_rejects(stage.device, backward, "no gradient at all", [&](Backward& o) { o.dy = {}; });
  check_rejects(stage.device, backward, "no z", [&](Backward& o) { o.z = {}; });
  check_rejects(stage.device, backward, "L 0", [&](Backward& o) { o.L = 0; });
  check_rejects(stage.device, backward, "rows that are no sequences", [&](Backward& o) { o.L = 3; });
  check_rejects(stage.device, backward, "a row too many", [&](Backward& o) {
    o.rows = stage.input(std::vector<int>{0, 1, 2, 3, 4}, 5);
  });
  check_rejects(stage.device, backward, "dropout without dbranch", [&](Backward& o) {
    o.dbranch = {};
    o.dropout = library_dropout({.drop_probability = .1});
  });
}

}  // namespace
}  // namespace blinkbert::test
