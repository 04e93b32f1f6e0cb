#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/score_loss.hpp>

namespace blinkbert::test {
namespace {

struct Kind {
  LossKind library;
  oracle::Loss oracle;
  const char* name;
};
constexpr Kind kinds[] = {{LossKind::squared, oracle::Loss::squared, "squared"},
                          {LossKind::absolute, oracle::Loss::absolute, "absolute"},
                          {LossKind::huber, oracle::Loss::huber, "huber"}};
constexpr double delta = 1.5, scale = .03125;

TEMPLATE_LIST_TEST_CASE("score loss", "[score_loss]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("score_loss", BackendName<TestType>::value);
  // 1024 and its neighbours: as many sequences as a block has threads.
  for (const int B : {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 1023, 1024, 1025, 3000}) {
    std::vector<int> lengths;
    for (int b = 0; b < B; ++b) lengths.push_back(B > 1 && b % 5 == 1 ? 0 : 1 + b % 4);
    Tensors<Wide<Real>> inputs{random_values<Real>(B, 1, 4, 5), random_values<Wide<Real>>(B, 2, 4, 5)};
    // Equal, and delta apart on both sides: the kinks.
    const double apart[] = {0, 0, delta, -delta};
    for (int b = 0; b < B && b < 4; ++b) {
      inputs[1][b] = Wide<Real>(4);
      inputs[0][b] = static_cast<Wide<Real>>(4 + apart[b]);
    }
    const std::vector<Wide<Real>> start = random_values<Wide<Real>>(1, 3);
    for (const Kind& kind : kinds) {
      const auto loss = [&](const auto& x) { return oracle::score_loss(x[0], x[1], lengths, kind.oracle, delta); };
      const auto from_start = [&](const auto& x) {
        auto sum = loss(x);
        sum[0] += start[0];
        return sum;
      };
      const Expected<Wide<Real>> sum = expect_values<Real, Wide<Real>>(from_start, inputs);
      const Expected<Real> dprediction =
          expect_gradient<Real>(loss, inputs, 0, {static_cast<Wide<Real>>(scale)}, {}, B > 100 ? 70 : 150);
      for (const int threads : thread_counts<TestType>()) {
        INFO("B " << B << ", loss " << kind.name << ", threads " << threads);
        Stage<TestType> stage(threads);
        ScoreLoss<Real> op{.dprediction = stage.template output<Real>(B, 1),
                           .sum = stage.sum(start, 1),
                           .prediction = stage.input(narrowed<Real>(poisoned(inputs[0], lengths)), B, 1),
                           .target = stage.input(poisoned(inputs[1], lengths), B),
                           .lengths = stage.input(lengths, B),
                           .kind = kind.library,
                           .delta = static_cast<Wide<Real>>(delta),
                           .scale = static_cast<Wide<Real>>(scale)};
        stage.run_twice(op);
        compare("sum", stage.values(op.sum), sum);
        compare("dprediction", stage.values(op.dprediction), dprediction);
        op.dprediction = {};
        stage.run_twice(op);
        compare("sum", stage.values(op.sum), sum);
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("score loss refuses wrong shapes", "[score_loss]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  using Op = ScoreLoss<Real>;
  const Op op{.dprediction = {},
              .sum = stage.sum(std::vector<Wide<Real>>(1), 1),
              .prediction = stage.template output<Real>(3, 1),
              .target = stage.template output<Wide<Real>>(3),
              .lengths = stage.input(std::vector<int>{1, 2, 3}, 3)};
  check_rejects(stage.device, op, "two columns", [&](Op& o) { o.prediction = stage.template output<Real>(3, 2); });
  check_rejects(stage.device, op, "too few targets", [&](Op& o) { o.target = stage.template output<Wide<Real>>(2); });
  check_rejects(stage.device, op, "no sum", [&](Op& o) { o.sum = {}; });
  check_rejects(stage.device, op, "delta 0", [&](Op& o) { o.delta = 0; });
}

}  // namespace
}  // namespace blinkbert::test
