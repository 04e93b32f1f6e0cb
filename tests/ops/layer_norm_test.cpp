#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/layer_norm.hpp>

namespace blinkbert::test {
namespace {

constexpr float epsilon = 1e-5f;

struct Case {
  int T, E;
  double middle = 0, scale = 1;
};
// The last rows: a mean of 1e4 with deviation 1, which one-pass variance does not survive; many rows for several threads.
constexpr Case cases[] = {{1, 1},
                          {3, 2},
                          {0, 5},
                          {2, 7},
                          {7, 8},
                          {8, 9},
                          {9, 15},
                          {17, 16},
                          {16, 17},
                          {15, 31},
                          {33, 32},
                          {5, 33},
                          {64, 64},
                          {65, 65},
                          {40, 33, 1e4, 1.7320508},
                          {30, 64, -3, 1e-2},
                          {1100, 130}};

template <class Real>
Tensors<Wide<Real>> inputs_of(const Case& c) {
  return {random_values<Real>(c.T * c.E, 1, c.scale, c.middle), random_values<Wide<Real>>(c.E, 2, 1, .5),
          random_values<Wide<Real>>(c.E, 3)};
}

TEMPLATE_LIST_TEST_CASE("layer norm forward", "[layer_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("layer_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const int T = c.T, E = c.E;
    const Tensors<Wide<Real>> inputs = inputs_of<Real>(c);
    const auto norm = [&](const auto& x) { return oracle::layer_norm(x[0], x[1], x[2], T, E, epsilon); };
    const Expected<Real> y = expect_values<Real>([&](const auto& x) { return norm(x).y; }, inputs);
    const Expected<Wide<Real>> mean =
        expect_values<Real, Wide<Real>>([&](const auto& x) { return norm(x).mean; }, inputs);
    const Expected<Wide<Real>> rstd =
        expect_values<Real, Wide<Real>>([&](const auto& x) { return norm(x).rstd; }, inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO("T " << T << ", E " << E << ", mean " << c.middle << ", threads " << threads);
      Stage<TestType> stage(threads);
      LayerNormForward<Real> op{.y = stage.template output<Real>(T, E),
                                .mean = {},
                                .rstd = {},
                                .x = stage.input(narrowed<Real>(inputs[0]), T, E),
                                .gamma = stage.input(inputs[1], E),
                                .beta = stage.input(inputs[2], E),
                                .epsilon = epsilon};
      stage.run_twice(op);
      compare("y", stage.values(op.y), y);
      op.mean = stage.template output<Wide<Real>>(T);
      op.rstd = stage.template output<Wide<Real>>(T);
      stage.run_twice(op);
      compare("y", stage.values(op.y), y);
      compare("mean", stage.values(op.mean), mean);
      compare("rstd", stage.values(op.rstd), rstd);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("layer norm backward", "[layer_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("layer_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const int T = c.T, E = c.E;
    const std::size_t most = T * E > 5000 ? 20 : 150;
    const Tensors<Wide<Real>> inputs = inputs_of<Real>(c);
    const std::vector<Wide<Real>> dy = random_values<Real>(T * E, 4), residual = random_values<Real>(T * E, 5);
    const std::vector<Wide<Real>> gamma_start = random_values<Wide<Real>>(E, 6),
                                  beta_start = random_values<Wide<Real>>(E, 7);
    const auto norm = [&](const auto& x) { return oracle::layer_norm(x[0], x[1], x[2], T, E, epsilon).y; };
    const auto beside_residual = [&](const auto& x) { return joined(norm(x), x[0]); };
    const auto saved = oracle::layer_norm(converted<Exact<Real>>(inputs[0]), converted<Exact<Real>>(inputs[1]),
                                          converted<Exact<Real>>(inputs[2]), T, E, epsilon);
    const Exact<Real> term = largest_norm_term<Real>(saved.rstd, inputs[1], dy);
    const Expected<Real> dx = with_largest_term(expect_gradient<Real>(norm, inputs, 0, dy, {}, most), term);
    const Expected<Real> sum =
        with_largest_term(expect_gradient<Real>(beside_residual, inputs, 0, joined(dy, residual), {}, most), term);
    const Expected<Wide<Real>> dgamma = expect_gradient<Real, Wide<Real>>(norm, inputs, 1, dy, gamma_start, most);
    const Expected<Wide<Real>> dbeta = expect_gradient<Real, Wide<Real>>(norm, inputs, 2, dy, beta_start, most);
    for (const int threads : thread_counts<TestType>()) {
      INFO("T " << T << ", E " << E << ", mean " << c.middle << ", threads " << threads);
      Stage<TestType> stage(threads);
      LayerNormBackward<Real> op{.dx = stage.template output<Real>(T, E),
                                 .dgamma = stage.sum(gamma_start, E),
                                 .dbeta = stage.sum(beta_start, E),
                                 .dy = stage.input(narrowed<Real>(dy), T, E),
                                 .x = stage.input(narrowed<Real>(inputs[0]), T, E),
                                 .residual = {},
                                 .mean = stage.input(converted<Wide<Real>>(saved.mean), T),
                                 .rstd = stage.input(converted<Wide<Real>>(saved.rstd), T),
                                 .gamma = stage.input(inputs[1], E)};
      const auto check_parameters = [&] {
        compare("dgamma", stage.values(op.dgamma), dgamma);
        compare("dbeta", stage.values(op.dbeta), dbeta);
      };
      stage.run_twice(op);
      compare("dx", stage.values(op.dx), dx);
      check_parameters();
      op.residual = stage.input(narrowed<Real>(residual), T, E);
      stage.run_twice(op);
      compare("dx + residual", stage.values(op.dx), sum);
      check_parameters();
      op.dx = stage.in_and_out(narrowed<Real>(residual), T, E);
      op.residual = op.dx;
      stage.run_twice(op);
      compare("dx + residual", stage.values(op.dx), sum);
      op.dx = {};
      op.residual = {};
      stage.run_twice(op);
      check_parameters();
    }
  }
}

TEMPLATE_LIST_TEST_CASE("layer norm refuses wrong shapes", "[layer_norm]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const auto wide = [&](int size) { return stage.template output<Wide<Real>>(size); };
  using Forward = LayerNormForward<Real>;
  const Forward forward{
      .y = matrix(4, 3), .mean = wide(4), .rstd = wide(4), .x = matrix(4, 3), .gamma = wide(3), .beta = wide(3)};
  check_rejects(stage.device, forward, "y of another width", [&](Forward& o) { o.y = matrix(4, 2); });
  check_rejects(stage.device, forward, "gamma too short", [&](Forward& o) { o.gamma = wide(2); });
  check_rejects(stage.device, forward, "mean too short", [&](Forward& o) { o.mean = wide(3); });
  check_rejects(stage.device, forward, "epsilon 0", [&](Forward& o) { o.epsilon = 0; });
  using Backward = LayerNormBackward<Real>;
  const Backward backward{.dx = matrix(4, 3),
                          .dgamma = Acc{wide(3)},
                          .dbeta = Acc{wide(3)},
                          .dy = matrix(4, 3),
                          .x = matrix(4, 3),
                          .residual = {},
                          .mean = wide(4),
                          .rstd = wide(4),
                          .gamma = wide(3)};
  check_rejects(stage.device, backward, "no mean", [&](Backward& o) { o.mean = {}; });
  check_rejects(stage.device, backward, "no dgamma", [&](Backward& o) { o.dgamma = {}; });
  check_rejects(stage.device, backward, "dy of other rows", [&](Backward& o) { o.dy = matrix(3, 3); });
  check_rejects(stage.device, backward, "residual of another width", [&](Backward& o) { o.residual = matrix(4, 4); });
}

}  // namespace
}  // namespace blinkbert::test
