#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/batch_norm.hpp>

namespace blinkbert::test {
namespace {

constexpr float epsilon = 1e-5f, momentum = 0.1f;

/// `lengths` empty: R rows, all real.
struct Case {
  std::vector<int> lengths;
  int R, L, F;
  double middle = 0;
};
const Case cases[] = {{{}, 1, 1, 1},
                      {{}, 2, 1, 7},
                      {{}, 0, 1, 3},
                      {{0, 0}, 6, 3, 8},
                      {{0, 1, 0}, 12, 4, 9},
                      {{1, 0, 1}, 9, 3, 5},
                      {{2, 0}, 10, 5, 15},
                      {{7, 3}, 14, 7, 16},
                      {{8, 0, 5}, 27, 9, 17},
                      {{15, 16}, 32, 16, 31},
                      {{}, 33, 1, 33},
                      {{17}, 17, 17, 32},
                      {{30, 31}, 62, 31, 1},
                      {{}, 65, 1, 64},
                      {{20, 30}, 60, 30, 5, 1e4},
                      {{17, 0, 20}, 60, 20, 40, -30},
                      {{5, 0, 9}, 30, 10, 520},
                      {std::vector<int>(65, 27), 1950, 30, 64},
                      {std::vector<int>(70, 23), 2100, 30, 65}};  // enough work for several threads

template <class Real>
struct Setup {
  std::vector<int> real;
  Tensors<Wide<Real>> inputs;  // x, gamma, beta, running mean, running variance
  std::vector<Wide<Real>> dy;

  explicit Setup(const Case& c)
      : real(c.lengths.empty() ? std::vector<int>(c.R, 1) : real_rows(c.lengths, c.L)),
        inputs{random_values<Real>(c.R * c.F, 1, 1.7320508, c.middle), random_values<Wide<Real>>(c.F, 2, 1, .5),
               random_values<Wide<Real>>(c.F, 3), random_values<Wide<Real>>(c.F, 4, 1, c.middle),
               random_values<Wide<Real>>(c.F, 5, .5, 1)},
        dy(random_values<Real>(c.R * c.F, 6)) {}

  auto function(const Case& c, oracle::Statistics statistics) const {
    return [this, &c, statistics](const auto& x) {
      return oracle::batch_norm(x[0], x[1], x[2], x[3], x[4], real, c.F, statistics, epsilon, momentum);
    };
  }
};

struct Kind {
  BatchStatistics library;
  oracle::Statistics oracle;
  const char* name;
};
constexpr Kind kinds[] = {{BatchStatistics::batch, oracle::Statistics::batch, "batch"},
                          {BatchStatistics::running, oracle::Statistics::running, "running"}};

TEMPLATE_LIST_TEST_CASE("batch norm forward", "[batch_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("batch_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    for (const Kind& kind : kinds) {
      const auto norm = setup.function(c, kind.oracle);
      const Expected<Real> y = expect_values<Real>([&](const auto& x) { return norm(x).y; }, setup.inputs);
      const auto expect_wide = [&](const auto& statistic) {
        return expect_values<Real, Wide<Real>>([&](const auto& x) { return statistic(norm(x)); }, setup.inputs);
      };
      const Expected<Wide<Real>> mean = expect_wide([](const auto&all) { return all.mean; }),
                                 rstd = expect_wide([](const auto&all) { return all.rstd; }),
                                 running_mean = expect_wide([](const auto&all) { return all.running_mean; }),
                                 running_variance = expect_wide([](const auto&all) { return all.running_variance; });
      for (const int threads : thread_counts<TestType>()) {
        INFO("R " << c.R << ", L " << c.L << ", F " << c.F << ", statistics " << kind.name << ", threads " << threads);
        Stage<TestType> stage(threads);
        BatchNormForward<Real> op{.y = stage.template output<Real>(c.R, c.F),
                                  .mean = stage.template output<Wide<Real>>(c.F),
                                  .rstd = stage.template output<Wide<Real>>(c.F),
                                  .running_mean = stage.in_and_out(setup.inputs[3], c.F),
                                  .running_variance = stage.in_and_out(setup.inputs[4], c.F),
                                  .x = stage.input(narrowed<Real>(poisoned(setup.inputs[0], setup.real)), c.R, c.F),
                                  .gamma = stage.input(setup.inputs[1], c.F),
                                  .beta = stage.input(setup.inputs[2], c.F),
                                  .lengths = {},
                                  .L = c.L,
                                  .statistics = kind.library,
                                  .epsilon = epsilon,
                                  .momentum = momentum};
        if (!c.lengths.empty()) op.lengths = stage.input(c.lengths, static_cast<int>(c.lengths.size()));
        stage.run_twice(op);
        compare("y", stage.values(op.y), y);
        compare("mean", stage.values(op.mean), mean);
        compare("rstd", stage.values(op.rstd), rstd);
        compare("running_mean", stage.values(op.running_mean), running_mean);
        compare("running_variance", stage.values(op.running_variance), running_variance);
        if (kind.library == BatchStatistics::running || std::count(setup.real.begin(), setup.real.end(), 1) < 2) {
          CHECK(stage.values(op.running_mean) == setup.inputs[3]);
          CHECK(stage.values(op.running_variance) == setup.inputs[4]);
        }
      }
    }
  }
}

/// dgamma = sum dy (x - mean) rstd: the largest |sum dy mean rstd|, which is what the rounding of the saved mean scales.
template <class Real>
Exact<Real> largest_mean_term(const std::vector<Exact<Real>>& mean, const std::vector<Exact<Real>>& rstd,
                              const std::vector<Wide<Real>>& dy) {
  Exact<Real> largest = 0;
  for (std::size_t f = 0; f < mean.size(); ++f) {
    Exact<Real> sum = 0;
    for (std::size_t i = f; i < dy.size(); i += mean.size()) sum += static_cast<Exact<Real>>(dy[i]);
    largest = std::max(largest, std::abs(sum * mean[f] * rstd[f]));
  }
  return largest;
}

TEMPLATE_LIST_TEST_CASE("batch norm backward", "[batch_norm]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("batch_norm", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const std::size_t most = c.R * c.F > 5000 ? 10 : 150;
    const std::vector<Wide<Real>> weights = zeroed(setup.dy, setup.real);
    const std::vector<Wide<Real>> gamma_start = random_values<Wide<Real>>(c.F, 7),
                                  beta_start = random_values<Wide<Real>>(c.F, 8);
    for (const Kind& kind : kinds) {
      const auto norm = setup.function(c, kind.oracle);
      const auto output = [&](const auto& x) { return norm(x).y; };
      const auto saved = norm(converted<Exact<Real>>(setup.inputs));
      const Expected<Real> dx = with_largest_term(expect_gradient<Real>(output, setup.inputs, 0, weights, {}, most),
                                                  largest_norm_term<Real>(saved.rstd, setup.inputs[1], weights));
      const Expected<Wide<Real>> dgamma = with_largest_term(expect_gradient<Real, Wide<Real>>(
                                                                output, setup.inputs, 1, weights, gamma_start, most),
                                                            largest_mean_term<Real>(saved.mean, saved.rstd, weights)),
                                 dbeta = expect_gradient<Real, Wide<Real>>(output, setup.inputs, 2, weights, beta_start,
                                                                           most);
      for (const int threads : thread_counts<TestType>()) {
        INFO("R " << c.R << ", L " << c.L << ", F " << c.F << ", statistics " << kind.name << ", threads " << threads);
        Stage<TestType> stage(threads);
        const std::vector<Real> dy = narrowed<Real>(poisoned(setup.dy, setup.real));
        BatchNormBackward<Real> op{.dx = stage.template output<Real>(c.R, c.F),
                                   .dgamma = stage.sum(gamma_start, c.F),
                                   .dbeta = stage.sum(beta_start, c.F),
                                   .dy = stage.input(dy, c.R, c.F),
                                   .x = stage.input(narrowed<Real>(poisoned(setup.inputs[0], setup.real)), c.R, c.F),
                                   .mean = stage.input(converted<Wide<Real>>(saved.mean), c.F),
                                   .rstd = stage.input(converted<Wide<Real>>(saved.rstd), c.F),
                                   .gamma = stage.input(setup.inputs[1], c.F),
                                   .lengths = {},
                                   .L = c.L,
                                   .statistics = kind.library};
        if (!c.lengths.empty()) op.lengths = stage.input(c.lengths, static_cast<int>(c.lengths.size()));
        const auto check = [&] {
          stage.run_twice(op);
          compare("dx", stage.values(op.dx), dx);
          compare("dgamma", stage.values(op.dgamma), dgamma);
          compare("dbeta", stage.values(op.dbeta), dbeta);
        };
        check();
        op.dx = stage.in_and_out(dy, c.R, c.F);
        op.dy = op.dx;
        check();
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("batch norm refuses wrong shapes", "[batch_norm]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const auto wide = [&](int size) { return stage.template output<Wide<Real>>(size); };
  const auto lengths = [&](int B) { return stage.input(std::vector<int>(static_cast<std::size_t>(B), 1), B); };
  using Forward = BatchNormForward<Real>;
  const Forward forward{.y = matrix(4, 3),
                        .mean = wide(3),
                        .rstd = wide(3),
                        .running_mean = wide(3),
                        .running_variance = wide(3),
                        .x = matrix(4, 3),
                        .gamma = wide(3),
                        .beta = wide(3),
                        .lengths = lengths(2),
                        .L = 2};
  check_rejects(stage.device, forward, "no mean", [&](Forward& o) { o.mean = {}; });
  check_rejects(stage.device, forward, "running mean too long", [&](Forward& o) { o.running_mean = wide(4); });
  check_rejects(stage.device, forward, "rows that are no sequences", [&](Forward& o) { o.lengths = lengths(3); });
  check_rejects(stage.device, forward, "epsilon 0", [&](Forward& o) { o.epsilon = 0; });
  using Backward = BatchNormBackward<Real>;
  const Backward backward{.dx = matrix(4, 3),
                          .dgamma = Acc{wide(3)},
                          .dbeta = Acc{wide(3)},
                          .dy = matrix(4, 3),
                          .x = matrix(4, 3),
                          .mean = wide(3),
                          .rstd = wide(3),
                          .gamma = wide(3),
                          .lengths = lengths(2),
                          .L = 2};
  check_rejects(stage.device, backward, "dy of another width", [&](Backward& o) { o.dy = matrix(4, 2); });
  check_rejects(stage.device, backward, "no dbeta", [&](Backward& o) { o.dbeta = {}; });
  check_rejects(stage.device, backward, "L 0", [&](Backward& o) { o.L = 0; });
}

}  // namespace
}  // namespace blinkbert::test
