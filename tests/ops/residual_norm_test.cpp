#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/layer_norm.hpp>
#include <tests/oracle/residual_norm.hpp>

namespace blinkbert::test {
namespace {

constexpr float epsilon = 1e-5f;

struct Case {
  int B, L, E;
  double drop_probability;
};
constexpr Case cases[] = {{1, 1, 1, 0},    {2, 1, 7, .5},   {1, 7, 8, .1},   {3, 5, 9, .1},    {2, 8, 15, .5},
                          {2, 9, 16, 0},   {1, 15, 17, .3}, {2, 17, 31, .1}, {1, 33, 32, .02}, {2, 2, 33, .5},
                          {2, 3, 64, .1},  {1, 4, 65, .9},  {0, 4, 8, .1},   {2, 3, 257, .1},  {1, 2, 520, .3},
                          {36, 30, 66, .1}};  // the last: enough work for several threads

template <class Real>
struct Setup {
  int T;
  oracle::DropoutCase dropout;
  Tensors<Real> inputs;  // x, branch, gamma, beta

  explicit Setup(const Case& c)
      : T(c.B * c.L),
        dropout{.drop_probability = c.drop_probability},
        inputs{random_values<Real>(T * c.E, 1), random_values<Real>(T * c.E, 2), random_values<Real>(c.E, 3, 1, .5),
               random_values<Real>(c.E, 4)} {}
};

TEMPLATE_LIST_TEST_CASE("residual norm forward", "[residual_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("residual_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int T = setup.T, E = c.E;
    const auto sum = [&](const auto& x) { return oracle::residual(x[0], x[1], c.B, c.L, E, setup.dropout); };
    const auto norm = [&](const auto& x) { return oracle::layer_norm(sum(x), x[2], x[3], T, E, epsilon); };
    const Expected<Real> z = expect_values<Real>(sum, setup.inputs);
    const Expected<Real> y = expect_values<Real>([&](const auto& x) { return norm(x).y; }, setup.inputs);
    const Expected<Real> mean = expect_values<Real>([&](const auto& x) { return norm(x).mean; }, setup.inputs);
    const Expected<Real> rstd = expect_values<Real>([&](const auto& x) { return norm(x).rstd; }, setup.inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << c.B << ", L " << c.L << ", E " << E << ", drop " << c.drop_probability << ", threads " << threads);
      Stage<TestType> stage(threads);
      const View<const Wide<Real>, 1> gamma = stage.input(setup.inputs[2], E), beta = stage.input(setup.inputs[3], E);
      ResidualNormForward<Real> op{.z = stage.template output<Real>(T, E),
                                   .y = stage.template output<Real>(T, E),
                                   .mean = stage.template output<Wide<Real>>(T),
                                   .rstd = stage.template output<Wide<Real>>(T),
                                   .x = stage.input(setup.inputs[0], T, E),
                                   .branch = stage.input(setup.inputs[1], T, E),
                                   .gamma = gamma,
                                   .beta = beta,
                                   .dropout = library_dropout(setup.dropout),
                                   .L = c.L,
                                   .epsilon = epsilon};
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
    const Tensors<Real>& inputs = setup.inputs;
    const std::vector<Real> dy = random_values<Real>(T * E, 5), dz = random_values<Real>(T * E, 6);
    const std::vector<Wide<Real>> gamma_start = random_values<Wide<Real>>(E, 7),
                                  beta_start = random_values<Wide<Real>>(E, 8);
    const auto sum = [&](const auto& x) { return oracle::residual(x[0], x[1], c.B, c.L, E, setup.dropout); };
    const auto norm = [&](const auto& x) { return oracle::layer_norm(sum(x), x[2], x[3], T, E, epsilon).y; };
    const auto both = [&](const auto& x) { return joined(norm(x), sum(x)); };
    const std::vector<Real> dboth = joined(dy, dz);
    const std::vector<Exact<Real>> z = sum(converted<Exact<Real>>(inputs));
    const auto saved =
        oracle::layer_norm(z, converted<Exact<Real>>(inputs[2]), converted<Exact<Real>>(inputs[3]), T, E, epsilon);
    const Exact<Real> term = largest_norm_term<Real>(saved.rstd, inputs[2], dy);
    const auto norm_gradient = [&](const auto& function, std::size_t input, const std::vector<Real>& weights) {
      return with_largest_term(expect_gradient<Real>(function, inputs, input, weights, {}, most), term);
    };
    const Expected<Real> norm_dx = norm_gradient(norm, 0, dy), norm_dbranch = norm_gradient(norm, 1, dy),
                         both_dx = norm_gradient(both, 0, dboth), both_dbranch = norm_gradient(both, 1, dboth),
                         sum_dx = expect_gradient<Real>(sum, inputs, 0, dz, {}, most),
                         sum_dbranch = expect_gradient<Real>(sum, inputs, 1, dz, {}, most),
                         dgamma = expect_gradient<Real>(norm, inputs, 2, dy, gamma_start, most),
                         dbeta = expect_gradient<Real>(norm, inputs, 3, dy, beta_start, most);
    for (const int threads : thread_counts<TestType>()) {
      INFO("B " << c.B << ", L " << c.L << ", E " << E << ", drop " << c.drop_probability << ", threads " << threads);
      Stage<TestType> stage(threads);
      const View<const Real, 2> dy_view = stage.input(dy, T, E), dz_view = stage.input(dz, T, E);
      ResidualNormBackward<Real> op{.dx = stage.template output<Real>(T, E),
                                    .dbranch = stage.template output<Real>(T, E),
                                    .dgamma = stage.sum(gamma_start, E),
                                    .dbeta = stage.sum(beta_start, E),
                                    .dy = dy_view,
                                    .dz = {},
                                    .z = stage.input(converted<Real>(z), T, E),
                                    .mean = stage.input(converted<Wide<Real>>(saved.mean), T),
                                    .rstd = stage.input(converted<Wide<Real>>(saved.rstd), T),
                                    .gamma = stage.input(inputs[2], E),
                                    .dropout = library_dropout(setup.dropout),
                                    .L = c.L};
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
      op.dx = stage.in_and_out(dz, T, E);
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
                        .dropout = {},
                        .L = 2};
  check_rejects(stage.device, forward, "no z", [&](Forward& o) { o.z = {}; });
  check_rejects(stage.device, forward, "branch of other rows", [&](Forward& o) { o.branch = matrix(3, 3); });
  check_rejects(stage.device, forward, "rows that are no sequences", [&](Forward& o) { o.L = 3; });
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
                          .dropout = {},
                          .L = 2};
  check_rejects(stage.device, backward, "no gradient at all", [&](Backward& o) { o.dy = {}; });
  check_rejects(stage.device, backward, "no z", [&](Backward& o) { o.z = {}; });
  check_rejects(stage.device, backward, "L 0", [&](Backward& o) { o.L = 0; });
  check_rejects(stage.device, backward, "dropout without dbranch", [&](Backward& o) {
    o.dbranch = {};
    o.dropout = library_dropout({.drop_probability = .1});
  });
}

}  // namespace
}  // namespace blinkbert::test
