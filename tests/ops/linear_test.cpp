#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/linear.hpp>

namespace blinkbert::test {
#if defined(BLINKBERT_TEST_EMULATED) || defined(BLINKBERT_TEST_CUDA)
using LinearBackends = Backends;
#else
/// Products of floats by less than what is there.
template <Products most>
struct LimitedCpu : Cpu<float> {
  explicit LimitedCpu(int threads) : Cpu<float>(threads) { limit_products(most); }
};
template <>
struct BackendName<LimitedCpu<Products::portable>> {
  static constexpr const char* value = "Cpu portable";
};
template <>
struct BackendName<LimitedCpu<Products::onednn>> {
  static constexpr const char* value = "Cpu oneDNN";
};
using LinearBackends =
    std::tuple<Cpu<float>, Cpu<double>, LimitedCpu<Products::portable>, LimitedCpu<Products::onednn>>;
#endif
namespace {

struct Sizes {
  int T, in, out;
};
// Then: enough work for several threads, and more than one block in each direction of a blocked product; a gradient of a bias
// that several threads share.
constexpr Sizes sizes[] = {{1, 1, 1},      {0, 8, 3},      {2, 3, 5},      {7, 8, 9},    {9, 7, 8},
                           {15, 16, 17},   {17, 15, 16},   {31, 32, 33},   {33, 31, 32}, {64, 65, 13},
                           {13, 64, 65},   {65, 1, 64},    {130, 9, 1},    {66, 33, 64}, {330, 40, 24},
                           {3, 2100, 520}, {3, 520, 2100}, {2100, 520, 3}, {330, 4, 420}};

/// What duals cost at most: beyond, products written out serve alone.
bool is_small(const Sizes& size) { return 1.0 * size.T * size.in * size.out < 2e5; }

/// [rows, columns] -> [columns, rows].
template <class Number>
std::vector<Number> transposed(const std::vector<Number>& matrix, int rows, int columns) {
  std::vector<Number> result;
  for (int column = 0; column < columns; ++column) {
    for (int row = 0; row < rows; ++row) result.push_back(matrix[row * columns + column]);
  }
  return result;
}

/// a [rows, depth] b [depth, columns], added up in the order of depth.
template <class Number>
std::vector<Number> product(const std::vector<Number>& a, const std::vector<Number>& b, int rows, int depth,
                            int columns) {
  std::vector<Number> result(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      Number sum{};
      for (int k = 0; k < depth; ++k) sum += a[row * depth + k] * b[k * columns + column];
      result[row * columns + column] = sum;
    }
  }
  return result;
}

template <class Number>
std::vector<Number> sum_of(std::vector<Number> a, const std::vector<Number>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

/// gradient * gelu'(h), element by element. Kernels may do so in a second pass.
template <class Number>
std::vector<Number> times_gelu_slope(std::vector<Number> gradient, const std::vector<Number>& h) {
  for (std::size_t i = 0; i < h.size(); ++i) {
    gradient[i] = oracle::stored(gradient[i]) * oracle::gelu(oracle::Dual<Number>(h[i], 1)).derivative;
  }
  return gradient;
}

TEMPLATE_LIST_TEST_CASE("linear forward", "[linear]", LinearBackends) {
  using Real = typename TestType::Real;
  Comparison compare("linear", BackendName<TestType>::value);
  for (const auto [T, in, out] : sizes) {
    // A scale of 40 drives GELU into both of its tails.
    for (const double scale : {1.0, 40.0}) {
      const Tensors<Wide<Real>> inputs{random_values<Real>(T * in, 1, scale), random_values<Real>(out * in, 2),
                                       random_values<Real>(out, 3)};
      // Kernels may add the bias in a second pass.
      const auto linear = [&, T = T, in = in, out = out](const auto& x) {
        auto h = product(x[0], transposed(x[1], out, in), T, in, out);
        for (std::size_t i = 0; i < h.size(); ++i) {
          h[i] = oracle::stored(h[i]) + x[2][i % static_cast<std::size_t>(out)];
        }
        return h;
      };
      const auto gelu = [&](const auto& x) { return oracle::gelu(linear(x)); };
      const Expected<Real> h = expect_values<Real>(linear, inputs), y = expect_values<Real>(gelu, inputs);
      for (const int threads : thread_counts<TestType>()) {
        INFO("T " << T << ", in " << in << ", out " << out << ", scale " << scale << ", threads " << threads);
        Stage<TestType> stage(threads);
        LinearForward<Real> op{.y = stage.template output<Real>(T, out),
                               .pre_activation = {},
                               .x = stage.input(narrowed<Real>(inputs[0]), T, in),
                               .weight = stage.input(narrowed<Real>(inputs[1]), out, in),
                               .bias = stage.input(narrowed<Real>(inputs[2]), out)};
        stage.run_twice(op);
        compare("y", stage.values(op.y), h);
        op.activation = Activation::gelu;
        stage.run_twice(op);
        compare("gelu(y)", stage.values(op.y), y);
        op.pre_activation = stage.template output<Real>(T, out);
        stage.run_twice(op);
        compare("gelu(y)", stage.values(op.y), y);
        compare("pre_activation", stage.values(op.pre_activation), h);
      }
    }
  }
}

/// gelu'(h) holds the product of h/2 u' with 1 - tanh^2 u, a difference of numbers near 1: the largest |dx h/2 u'| where
/// that difference is not 0 in this precision.
template <class Real>
Exact<Real> largest_gelu_term(const std::vector<Exact<Real>>& dx, const std::vector<Wide<Real>>& h) {
  Exact<Real> largest = 0;
  for (std::size_t i = 0; i < h.size(); ++i) {
    const double x = static_cast<double>(h[i]), u = .7978845608 * (x + .044715 * x * x * x);
    if (1 - std::abs(std::tanh(u)) < static_cast<double>(std::numeric_limits<Wide<Real>>::epsilon())) continue;
    const double slope_of_u = .7978845608 * (1 + 3 * .044715 * x * x);
    largest = std::max(largest, std::abs(dx[i] * static_cast<Exact<Real>>(x / 2 * slope_of_u)));
  }
  return largest;
}

TEMPLATE_LIST_TEST_CASE("linear input gradient", "[linear]", LinearBackends) {
  using Real = typename TestType::Real;
  Comparison compare("linear", BackendName<TestType>::value);
  for (const Sizes& size : sizes) {
    const int T = size.T, in = size.in, out = size.out;
    const Tensors<Wide<Real>> inputs{random_values<Real>(T * in, 1, 4), random_values<Real>(out * in, 2),
                                     std::vector<Wide<Real>>(static_cast<std::size_t>(out))};
    const std::vector<Wide<Real>> dy = random_values<Real>(T * out, 4), residual = random_values<Real>(T * in, 5);
    // dy W, every element.
    const Tensors<Wide<Real>> factors{dy, inputs[1], inputs[0], residual};
    const auto dy_weight = [&](const auto& x) { return product(x[0], x[1], T, out, in); };
    const Expected<Real> dx = expect_values<Real>(dy_weight, factors);
    const Exact<Real> term = largest_gelu_term<Real>(dx.values, inputs[0]);
    const Expected<Real> dh = with_largest_term(
        expect_values<Real>([&](const auto& x) { return times_gelu_slope(dy_weight(x), x[2]); }, factors), term);
    const Expected<Real> sum = expect_values<Real>([&](const auto& x) { return sum_of(dy_weight(x), x[3]); }, factors);
    // The same from the forward functions, some elements.
    const auto linear = [&](const auto& x) { return oracle::linear(x[0], x[1], x[2], T, in, out); };
    const auto after_gelu = [&](const auto& x) { return oracle::linear(oracle::gelu(x[0]), x[1], x[2], T, in, out); };
    const std::size_t most = is_small(size) ? 100 : 0;
    const Expected<Real> dx_by_duals = expect_gradient<Real>(linear, inputs, 0, dy, {}, most);
    Expected<Real> dh_by_duals = expect_gradient<Real>(after_gelu, inputs, 0, dy, {}, most);
    dh_by_duals.tolerance = std::max(with_largest_term(dh_by_duals, term).tolerance, dh.tolerance);
    for (const int threads : thread_counts<TestType>()) {
      INFO("T " << T << ", in " << in << ", out " << out << ", threads " << threads);
      Stage<TestType> stage(threads);
      LinearInputGradient<Real> op{.dx = stage.template output<Real>(T, in),
                                   .dy = stage.input(narrowed<Real>(dy), T, out),
                                   .weight = stage.input(narrowed<Real>(inputs[1]), out, in),
                                   .pre_activation = {},
                                   .residual = {}};
      stage.run_twice(op);
      compare("dx", stage.values(op.dx), dx);
      compare("dx by duals", stage.values(op.dx), dx_by_duals);
      op.pre_activation = stage.input(narrowed<Real>(inputs[0]), T, in);
      stage.run_twice(op);
      compare("dh", stage.values(op.dx), dh);
      compare("dh by duals", stage.values(op.dx), dh_by_duals);
      op.pre_activation = {};
      op.residual = stage.input(narrowed<Real>(residual), T, in);
      stage.run_twice(op);
      compare("dx + residual", stage.values(op.dx), sum);
      op.dx = stage.in_and_out(narrowed<Real>(residual), T, in);
      op.residual = op.dx;
      stage.run_twice(op);
      compare("dx + residual", stage.values(op.dx), sum);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("linear weight gradient", "[linear]", LinearBackends) {
  using Real = typename TestType::Real;
  Comparison compare("linear", BackendName<TestType>::value);
  for (const Sizes& size : sizes) {
    const int T = size.T, in = size.in, out = size.out;
    const Tensors<Wide<Real>> inputs{random_values<Real>(T * in, 1), random_values<Real>(out * in, 2),
                                     random_values<Real>(out, 3)};
    const std::vector<Wide<Real>> dy = random_values<Real>(T * out, 4);
    const std::vector<Wide<Real>> weight_start = random_values<Wide<Real>>(out * in, 5),
                                  bias_start = random_values<Wide<Real>>(out, 6);
    // dy^T x, every element.
    const Expected<Wide<Real>> dweight = expect_values<Real, Wide<Real>>(
        [&](const auto& x) { return sum_of(product(transposed(x[0], T, out), x[1], out, T, in), x[2]); },
        {dy, inputs[0], weight_start});
    // The same from the forward function, some elements.
    const auto linear = [&](const auto& x) { return oracle::linear(x[0], x[1], x[2], T, in, out); };
    const std::size_t most = is_small(size) ? 100 : 0;
    const Expected<Wide<Real>> by_duals = expect_gradient<Real, Wide<Real>>(linear, inputs, 1, dy, weight_start, most);
    const Expected<Wide<Real>> dbias =
        expect_gradient<Real, Wide<Real>>(linear, inputs, 2, dy, bias_start, is_small(size) ? 100 : 3);
    for (const int threads : thread_counts<TestType>()) {
      INFO("T " << T << ", in " << in << ", out " << out << ", threads " << threads);
      Stage<TestType> stage(threads);
      const LinearWeightGradient<Real> op{.dweight = stage.sum(weight_start, out, in),
                                          .dbias = stage.sum(bias_start, out),
                                          .dy = stage.input(narrowed<Real>(dy), T, out),
                                          .x = stage.input(narrowed<Real>(inputs[0]), T, in)};
      stage.run_twice(op);
      compare("dweight", stage.values(op.dweight), dweight);
      compare("dweight by duals", stage.values(op.dweight), by_duals);
      compare("dbias", stage.values(op.dbias), dbias);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("linear refuses wrong shapes", "[linear]", LinearBackends) {
  using Real = typename TestType::Real;
  using Op = LinearForward<Real>;
  Stage<TestType> stage(1);
  const auto matrix = [&](int rows, int columns) { return stage.template output<Real>(rows, columns); };
  const Op op{.y = matrix(4, 3),
              .pre_activation = {},
              .x = matrix(4, 2),
              .weight = matrix(3, 2),
              .bias = stage.template output<Real>(3)};
  check_rejects(stage.device, op, "y of another width", [&](Op& o) { o.y = matrix(4, 2); });
  check_rejects(stage.device, op, "no y", [&](Op& o) { o.y = {}; });
  check_rejects(stage.device, op, "weight of another width", [&](Op& o) { o.weight = matrix(3, 4); });
  check_rejects(stage.device, op, "bias too long", [&](Op& o) { o.bias = stage.template output<Real>(4); });
  check_rejects(stage.device, op, "pre-activation without activation", [&](Op& o) { o.pre_activation = matrix(4, 3); });
  using InputGradient = LinearInputGradient<Real>;
  const InputGradient input{
      .dx = matrix(4, 2), .dy = matrix(4, 3), .weight = matrix(3, 2), .pre_activation = {}, .residual = {}};
  check_rejects(stage.device, input, "dx of another width", [&](InputGradient& o) { o.dx = matrix(4, 3); });
  check_rejects(stage.device, input, "both activation and residual", [&](InputGradient& o) {
    o.pre_activation = matrix(4, 2);
    o.residual = matrix(4, 2);
  });
  using WeightGradient = LinearWeightGradient<Real>;
  const auto wide = [&](int rows, int columns) { return Acc{stage.template output<Wide<Real>>(rows, columns)}; };
  const WeightGradient weight{
      .dweight = wide(3, 2), .dbias = Acc{stage.template output<Wide<Real>>(3)}, .dy = matrix(4, 3), .x = matrix(4, 2)};
  check_rejects(stage.device, weight, "dweight transposed", [&](WeightGradient& o) { o.dweight = wide(2, 3); });
  check_rejects(stage.device, weight, "fewer rows of dy", [&](WeightGradient& o) { o.dy = matrix(3, 3); });
}

}  // namespace
}  // namespace blinkbert::test
