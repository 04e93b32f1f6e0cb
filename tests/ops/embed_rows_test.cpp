#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/embed_rows.hpp>

namespace blinkbert::test {
namespace {

/// N = 0: no linear part; K = 0: no prefix.
struct Case {
  std::vector<int> lengths;
  int L, N, K, E;
  int positions;  // rows of the position table
};
std::vector<int> repeated(const std::vector<int>& lengths, int times) {
  std::vector<int> all;
  for (int i = 0; i < times; ++i) all = joined(std::move(all), lengths);
  return all;
}
const Case cases[] = {{{1}, 1, 1, 0, 1, 1},
                      {{3, 0}, 4, 0, 5, 5, 4},
                      {{7, 5}, 7, 9, 0, 8, 9},
                      {{2, 8, 0}, 8, 3, 3, 9, 8},
                      {{9}, 9, 0, 7, 7, 16},
                      {{15, 16}, 16, 7, 9, 17, 16},
                      {{17, 2}, 17, 16, 0, 15, 20},
                      {{31, 1}, 33, 9, 9, 32, 33},
                      {{0, 0}, 3, 2, 2, 4, 3},
                      {{20}, 20, 33, 0, 31, 64},
                      {{5, 4}, 5, 17, 17, 65, 5},
                      {{30, 11, 30, 30, 7, 30}, 30, 18, 18, 64, 30},
                      {{2, 0, 3, 1, 3, 3, 3, 2, 3}, 3, 18, 0, 520, 3},
                      {{3, 1}, 4, 64, 5, 128, 4},
                      {{2, 1}, 2, 30, 3, 520, 2},
                      {{2, 1}, 2, 3, 0, 301, 2},
                      {repeated({2, 1, 2, 0}, 75), 2, 9, 8, 24, 2},
                      {std::vector<int>(30, 25), 30, 9, 0, 33, 30},   // more rows than blocks take at a time
                      {std::vector<int>(60, 26), 30, 9, 0, 64, 30}};  // enough work for several threads

template <class Real>
struct Setup {
  int B, T, outs;
  std::vector<int> real;
  Tensors<Wide<Real>> inputs;  // x, prefix, weight, bias, position

  explicit Setup(const Case& c)
      : B(static_cast<int>(c.lengths.size())),
        T(B * c.L),
        outs(c.E - c.K),
        real(real_rows(c.lengths, c.L)),
        inputs{random_values<Real>(T * c.N, 1), random_values<Real>(T * c.K, 2), random_values<Real>(outs * c.N, 3),
               random_values<Real>(outs, 4), random_values<Wide<Real>>(c.positions * c.E, 5)} {}
};

std::string described(const Case& c, int threads) {
  return text("B ", c.lengths.size(), ", L ", c.L, ", N ", c.N, ", K ", c.K, ", E ", c.E, ", threads ", threads);
}

TEMPLATE_LIST_TEST_CASE("embed rows forward", "[embed_rows]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("embed_rows", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int T = setup.T;
    const auto embed = [&](const auto& x) {
      return oracle::embed_rows(x[0], x[1], x[2], x[3], x[4], c.lengths, c.L, c.N, c.K, c.E);
    };
    const Expected<Real> y = expect_values<Real>(embed, setup.inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      EmbedRowsForward<Real> op{.y = stage.template output<Real>(T, c.E),
                                .x = {},
                                .prefix = {},
                                .weight = {},
                                .bias = {},
                                .position = stage.input(setup.inputs[4], c.positions, c.E),
                                .lengths = stage.input(c.lengths, setup.B),
                                .L = c.L};
      if (c.N > 0) {
        op.x = stage.input(narrowed<Real>(poisoned(setup.inputs[0], setup.real)), T, c.N);
        op.weight = stage.input(narrowed<Real>(setup.inputs[2]), setup.outs, c.N);
        op.bias = stage.input(narrowed<Real>(setup.inputs[3]), setup.outs);
      }
      if (c.K > 0) op.prefix = stage.input(narrowed<Real>(poisoned(setup.inputs[1], setup.real)), T, c.K);
      stage.run_twice(op);
      compare("y", stage.values(op.y), y);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("embed rows backward", "[embed_rows]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("embed_rows", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int T = setup.T;
    const std::size_t most = T * c.E * c.N > 500000 ? 10 : T * c.E * c.N > 50000 ? 30 : 150;
    const std::vector<Wide<Real>> dy = random_values<Real>(T * c.E, 6);
    const std::vector<Wide<Real>> weights = zeroed(dy, setup.real);
    const std::vector<Wide<Real>> weight_start = random_values<Wide<Real>>(setup.outs * c.N, 7),
                                  bias_start = random_values<Wide<Real>>(setup.outs, 8),
                                  position_start = random_values<Wide<Real>>(c.positions * c.E, 9);
    const auto embed = [&](const auto& x) {
      return oracle::embed_rows(x[0], x[1], x[2], x[3], x[4], c.lengths, c.L, c.N, c.K, c.E);
    };
    const Expected<Real> dx = expect_gradient<Real>(embed, setup.inputs, 0, weights, {}, most),
                         dprefix = expect_gradient<Real>(embed, setup.inputs, 1, weights, {}, most);
    const auto expect_wide = [&](std::size_t with_respect_to, const std::vector<Wide<Real>>& start) {
      return expect_gradient<Real, Wide<Real>>(embed, setup.inputs, with_respect_to, weights, start, most);
    };
    const Expected<Wide<Real>> dweight = expect_wide(2, weight_start), dbias = expect_wide(3, bias_start),
                               dposition = expect_wide(4, position_start);
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      EmbedRowsBackward<Real> op{.dx = {},
                                 .dprefix = {},
                                 .dweight = {},
                                 .dbias = {},
                                 .dposition = stage.sum(position_start, c.positions, c.E),
                                 .dy = stage.input(narrowed<Real>(poisoned(dy, setup.real)), T, c.E),
                                 .x = {},
                                 .weight = {},
                                 .lengths = stage.input(c.lengths, setup.B),
                                 .K = c.K,
                                 .L = c.L};
      if (c.K > 0) op.dprefix = stage.template output<Real>(T, c.K);
      if (c.N > 0) {
        op.dx = stage.template output<Real>(T, c.N);
        op.dweight = stage.sum(weight_start, setup.outs, c.N);
        op.dbias = stage.sum(bias_start, setup.outs);
        op.x = stage.input(narrowed<Real>(poisoned(setup.inputs[0], setup.real)), T, c.N);
        op.weight = stage.input(narrowed<Real>(setup.inputs[2]), setup.outs, c.N);
      }
      const auto check = [&] {
        stage.run_twice(op);
        if (op.dx) compare("dx", stage.values(op.dx), dx);
        if (op.dprefix) compare("dprefix", stage.values(op.dprefix), dprefix);
        if (op.dweight) compare("dweight", stage.values(op.dweight), dweight);
        if (op.dbias) compare("dbias", stage.values(op.dbias), dbias);
        if (op.dposition) compare("dposition", stage.values(op.dposition), dposition);
      };
      check();
      op.dx = {};
      op.dposition = {};
      check();
      op.dprefix = {};
      check();
    }
  }
}

TEMPLATE_LIST_TEST_CASE("embed rows refuses wrong shapes", "[embed_rows]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const auto wide = [&](int rows, int columns) { return stage.template output<Wide<Real>>(rows, columns); };
  const View<const int, 1> lengths = stage.input(std::vector<int>{2, 1}, 2);
  using Forward = EmbedRowsForward<Real>;
  const Forward forward{.y = matrix(4, 5),
                        .x = matrix(4, 3),
                        .prefix = matrix(4, 1),
                        .weight = matrix(4, 3),
                        .bias = stage.template output<Real>(4),
                        .position = wide(2, 5),
                        .lengths = lengths,
                        .L = 2};
  check_rejects(stage.device, forward, "neither x nor prefix", [&](Forward& o) { o.x = {}, o.prefix = {}; });
  check_rejects(stage.device, forward, "fewer positions than rows", [&](Forward& o) { o.position = wide(1, 5); });
  check_rejects(stage.device, forward, "weight for the whole width", [&](Forward& o) { o.weight = matrix(5, 3); });
  check_rejects(stage.device, forward, "prefix alone, narrower than y",
                [&](Forward& o) { o.x = {}, o.weight = {}, o.bias = {}; });
  check_rejects(stage.device, forward, "y of other rows", [&](Forward& o) { o.y = matrix(3, 5); });
  using Backward = EmbedRowsBackward<Real>;
  const Backward backward{.dx = {},
                          .dprefix = {},
                          .dweight = Acc{wide(4, 3)},
                          .dbias = stage.sum(std::vector<Wide<Real>>(4), 4),
                          .dposition = {},
                          .dy = matrix(4, 5),
                          .x = matrix(4, 3),
                          .weight = matrix(4, 3),
                          .lengths = lengths,
                          .K = 1,
                          .L = 2};
  check_rejects(stage.device, backward, "K wider than dy", [&](Backward& o) { o.K = 6; });
  check_rejects(stage.device, backward, "dprefix of another width", [&](Backward& o) { o.dprefix = matrix(4, 2); });
  check_rejects(stage.device, backward, "no dweight", [&](Backward& o) { o.dweight = {}; });
  check_rejects(stage.device, backward, "dposition too short", [&](Backward& o) { o.dposition = Acc{wide(1, 5)}; });
}

}  // namespace
}  // namespace blinkbert::test
