#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/masked_loss.hpp>

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

struct Case {
  int T, N;
  HeadRows rows;
  std::vector<int> chosen;  // t of the chosen rows; -1 may stand among them
};
std::vector<int> some_rows(int T) {
  std::vector<int> rows;
  for (int t = 0; t < T; ++t) {
    if (t * t % 7 < 3) rows.push_back(t);
  }
  return rows;
}
const Case cases[] = {{1, 1, HeadRows::all, {0}},
                      {1, 1, HeadRows::masked, {0}},
                      {7, 9, HeadRows::all, {}},
                      {7, 9, HeadRows::masked, {}},
                      {8, 7, HeadRows::all, {2, 7}},
                      {9, 8, HeadRows::masked, {1, -1, 8}},
                      {16, 18, HeadRows::all, some_rows(16)},
                      {17, 15, HeadRows::masked, some_rows(17)},
                      {65, 3, HeadRows::all, some_rows(65)},
                      {33, 33, HeadRows::masked, some_rows(33)},
                      {400, 64, HeadRows::all, some_rows(400)},
                      {900, 65, HeadRows::masked, some_rows(900)},
                      {2000, 18, HeadRows::all, some_rows(2000)},
                      {20, 255, HeadRows::all, some_rows(20)},
                      {20, 256, HeadRows::masked, some_rows(20)},
                      {21, 257, HeadRows::masked, some_rows(21)},
                      {7, 600, HeadRows::all, some_rows(7)}};
constexpr double delta = .75, scale = .125;

template <class Real>
struct Setup {
  int R;
  std::vector<int> selected;    // as the op takes it
  std::vector<int> target_row;  // [R]  row of target, or -1
  std::vector<int> counts, is_target;
  Tensors<Wide<Real>> inputs;  // prediction, target
  std::vector<Wide<Real>> weights;

  explicit Setup(const Case& c) : is_target(c.T, 0), weights(random_values<Wide<Real>>(c.N, 3, 1, 1.5)) {
    R = c.rows == HeadRows::all ? c.T : static_cast<int>(c.chosen.size());
    target_row.assign(R, -1);
    selected.assign(R, -1);
    for (int m = 0; m < static_cast<int>(c.chosen.size()); ++m) {
      const int t = c.chosen[m];
      if (t < 0) continue;
      const int r = c.rows == HeadRows::all ? t : m;
      target_row[r] = t;
      selected[r] = c.rows == HeadRows::all ? m : t;
      is_target[t] = 1;
    }
    for (const int t : target_row) counts.push_back(t >= 0 ? 1 : 0);
    inputs = {random_values<Real>(R * c.N, 1), random_values<Wide<Real>>(c.T * c.N, 2)};
    // Exactly equal once, exactly delta apart twice: the kinks of |e| and of Huber's loss.
    for (int n = 0; n < c.N && n < 3; ++n) {
      for (int r = 0; r < R; ++r) {
        if (target_row[r] < 0) continue;
        inputs[1][target_row[r] * c.N + n] = Wide<Real>(.25);
        inputs[0][r * c.N + n] = static_cast<Wide<Real>>(.25 + delta * (n - 1));
        break;
      }
    }
  }
};

TEMPLATE_LIST_TEST_CASE("masked loss", "[masked_loss]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("masked_loss", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const std::vector<Wide<Real>> start = random_values<Wide<Real>>(c.N, 4);
    std::vector<Wide<Real>> scaled_weights;
    for (const Wide<Real> weight : setup.weights) scaled_weights.push_back(static_cast<Wide<Real>>(scale) * weight);
    for (const Kind& kind : kinds) {
      const auto loss = [&](const auto& x) {
        return oracle::masked_loss(x[0], x[1], setup.target_row, c.N, kind.oracle, delta);
      };
      const auto from_start = [&](const auto& x) {
        auto sums = loss(x);
        for (int n = 0; n < c.N; ++n) sums[n] += start[n];
        return sums;
      };
      const Expected<Wide<Real>> sums = expect_values<Real, Wide<Real>>(from_start, setup.inputs);
      const Expected<Real> dprediction =
          expect_gradient<Real>(loss, setup.inputs, 0, scaled_weights, {}, c.T > 100 ? 20 : 300);
      for (const int threads : thread_counts<TestType>()) {
        INFO("T " << c.T << ", N " << c.N << ", rows " << (c.rows == HeadRows::all ? "all" : "masked") << ", loss "
                  << kind.name << ", threads " << threads);
        Stage<TestType> stage(threads);
        MaskedLoss<Real> op{
            .dprediction = stage.template output<Real>(setup.R, c.N),
            .sums = stage.sum(start, c.N),
            .prediction = stage.input(narrowed<Real>(poisoned(setup.inputs[0], setup.counts)), setup.R, c.N),
            .target = stage.input(poisoned(setup.inputs[1], setup.is_target), c.T, c.N),
            .selected = stage.input(setup.selected, setup.R),
            .weights = stage.input(setup.weights, c.N),
            .rows = c.rows,
            .kind = kind.library,
            .delta = static_cast<Wide<Real>>(delta),
            .scale = static_cast<Wide<Real>>(scale)};
        stage.run_twice(op);
        compare("sums", stage.values(op.sums), sums);
        compare("dprediction", stage.values(op.dprediction), dprediction);
        const std::vector<Real> actual = stage.values(op.dprediction);
        std::size_t not_zero = 0;
        for (int i = 0; i < setup.R * c.N; ++i) not_zero += setup.counts[i / c.N] != 0 || actual[i] == 0 ? 0 : 1;
        CHECK(not_zero == 0);
        op.dprediction = {};
        stage.run_twice(op);
        compare("sums", stage.values(op.sums), sums);
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("masked loss refuses wrong shapes", "[masked_loss]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const auto wide = [&](int size) { return stage.template output<Wide<Real>>(size); };
  using Op = MaskedLoss<Real>;
  const Op op{.dprediction = matrix(4, 3),
              .sums = Acc{wide(3)},
              .prediction = matrix(4, 3),
              .target = stage.template output<Wide<Real>>(4, 3),
              .selected = stage.input(std::vector<int>(4, -1), 4),
              .weights = wide(3)};
  check_rejects(stage.device, op, "dprediction of another width", [&](Op& o) { o.dprediction = matrix(4, 2); });
  check_rejects(stage.device, op, "no sums", [&](Op& o) { o.sums = {}; });
  check_rejects(stage.device, op, "too few weights", [&](Op& o) { o.weights = wide(2); });
  check_rejects(stage.device, op, "selected too short",
                [&](Op& o) { o.selected = stage.input(std::vector<int>(3, -1), 3); });
  check_rejects(stage.device, op, "all rows, fewer targets",
                [&](Op& o) { o.target = stage.template output<Wide<Real>>(3, 3); });
  check_rejects(stage.device, op, "delta 0", [&](Op& o) { o.delta = 0; });
}

}  // namespace
}  // namespace blinkbert::test
