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

const char* spell_kind(LossKind kind) { return kind == LossKind::softmax ? "softmax" : "ordinal"; }

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

TEMPLATE_LIST_TEST_CASE("weighted score loss", "[score_loss]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("score_loss", BackendName<TestType>::value);
  for (const int B : {1, 33, 65}) {
    std::vector<int> lengths;
    std::vector<double> weights;
    std::vector<Wide<Real>> given;
    for (int b = 0; b < B; ++b) {
      lengths.push_back(b % 5 == 1 ? 0 : 1 + b % 4);
      weights.push_back(.25 * (b % 7));
      given.push_back(static_cast<Wide<Real>>(weights.back()));
    }
    const Tensors<Wide<Real>> inputs{random_values<Real>(B, 1, 4, 5), random_values<Wide<Real>>(B, 2, 4, 5)};
    for (const Kind& kind : kinds) {
      const auto loss = [&](const auto& x) {
        return oracle::score_loss(x[0], x[1], lengths, kind.oracle, delta, weights);
      };
      INFO("B " << B << ", loss " << kind.name);
      Stage<TestType> stage(1);
      const ScoreLoss<Real> op{.dprediction = stage.template output<Real>(B, 1),
                               .sum = stage.sum(std::vector<Wide<Real>>(1), 1),
                               .prediction = stage.input(narrowed<Real>(poisoned(inputs[0], lengths)), B, 1),
                               .target = stage.input(poisoned(inputs[1], lengths), B),
                               .edges = {},
                               .weights = stage.input(poisoned(given, lengths), B),
                               .lengths = stage.input(lengths, B),
                               .kind = kind.library,
                               .delta = static_cast<Wide<Real>>(delta),
                               .scale = static_cast<Wide<Real>>(scale)};
      stage.run_twice(op);
      compare("sum", stage.values(op.sum), expect_values<Real, Wide<Real>>(loss, inputs));
      compare("dprediction", stage.values(op.dprediction),
              expect_gradient<Real>(loss, inputs, 0, {static_cast<Wide<Real>>(scale)}));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("score loss over levels", "[score_loss]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("score_loss", BackendName<TestType>::value);
  const std::vector<Wide<Real>> all_edges{Wide<Real>(3.34), Wide<Real>(5), Wide<Real>(6.68), Wide<Real>(8.5)};
  for (const LossKind kind : {LossKind::softmax, LossKind::ordinal}) {
    const auto oracle_kind = kind == LossKind::softmax ? oracle::LevelLoss::softmax : oracle::LevelLoss::ordinal;
    for (const int edge_count : {1, 2, 4}) {
      const int O = kind == LossKind::softmax ? edge_count + 1 : edge_count;
      const std::vector<Wide<Real>> edges(all_edges.begin(), all_edges.begin() + edge_count);
      for (const int B : {0, 1, 2, 31, 32, 33, 65, 1025}) {
        for (const double spread : {3.0, 120.0}) {  // also outputs whose exponentials are beyond float
          std::vector<int> lengths, levels;
          std::vector<Wide<Real>> targets, given;
          std::vector<double> weights;
          for (int b = 0; b < B; ++b) {
            lengths.push_back(B > 1 && b % 5 == 1 ? 0 : 1 + b % 4);
            const int level = b % (edge_count + 1);
            levels.push_back(level);
            // On the edge itself every second time: it belongs to the level above.
            targets.push_back(level == 0 ? edges[0] - Wide<Real>(.5)
                                         : edges[level - 1] + Wide<Real>(b / (edge_count + 1) % 2 == 0 ? 0 : .25));
            weights.push_back(.5 + .25 * (b % 3));
            given.push_back(static_cast<Wide<Real>>(weights.back()));
          }
          const Tensors<Wide<Real>> inputs{random_values<Real>(B * O, 1, spread)};
          const auto loss = [&](const auto& x) {
            return oracle::score_loss_over_levels(x[0], levels, lengths, O, oracle_kind, weights);
          };
          const Expected<Wide<Real>> sum = expect_values<Real, Wide<Real>>(loss, inputs);
          const Expected<Real> dprediction =
              expect_gradient<Real>(loss, inputs, 0, {static_cast<Wide<Real>>(scale)}, {}, B > 100 ? 70 : 150);
          for (const int threads : thread_counts<TestType>()) {
            INFO("B " << B << ", loss " << spell_kind(kind) << ", edges " << edge_count << ", spread " << spread);
            Stage<TestType> stage(threads);
            ScoreLoss<Real> op{.dprediction = stage.template output<Real>(B, O),
                               .sum = stage.sum(std::vector<Wide<Real>>(1), 1),
                               .prediction = stage.input(narrowed<Real>(poisoned(inputs[0], lengths)), B, O),
                               .target = stage.input(poisoned(targets, lengths), B),
                               .edges = stage.input(edges, edge_count),
                               .weights = stage.input(poisoned(given, lengths), B),
                               .lengths = stage.input(lengths, B),
                               .kind = kind,
                               .scale = static_cast<Wide<Real>>(scale)};
            stage.run_twice(op);
            compare("sum over levels", stage.values(op.sum), sum);
            compare("dprediction", stage.values(op.dprediction), dprediction);
            op.dprediction = {};
            stage.run_twice(op);
            compare("sum over levels", stage.values(op.sum), sum);
          }
        }
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
  check_rejects(stage.device, op, "too few weights", [&](Op& o) { o.weights = stage.template output<Wide<Real>>(2); });
  check_rejects(stage.device, op, "edges without levels",
                [&](Op& o) { o.edges = stage.template output<Wide<Real>>(1); });
  check_rejects(stage.device, op, "levels without edges", [&](Op& o) { o.kind = LossKind::ordinal; });
  check_rejects(stage.device, op, "softmax over one output", [&](Op& o) {
    o.kind = LossKind::softmax;
    o.edges = stage.template output<Wide<Real>>(1);
  });
}

}  // namespace
}  // namespace blinkbert::test
