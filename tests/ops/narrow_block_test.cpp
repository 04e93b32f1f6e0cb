#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/visible_keys.hpp>
#include <tests/oracle/model.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  std::vector<int> lengths;
  int L, N, H;
  NormOrder order;
  Keys keys;
  double drop_probability;
};
// More sequences than blocks walk side by side (the last case on every backend); rows and widths around 4, 16 and 32; heads that do not divide the width.
const Case cases[] = {{{1}, 1, 1, 1, NormOrder::post, Keys::all, 0},
                      {{3, 0, 2}, 3, 9, 4, NormOrder::post, Keys::all, 0},
                      {{5, 4}, 5, 9, 2, NormOrder::pre, Keys::half, .1},
                      {{7, 6, 1}, 7, 18, 8, NormOrder::post, Keys::half, .3},
                      {{4, 9, 8, 0, 2, 9, 5}, 9, 5, 2, NormOrder::post, Keys::all, .1},
                      {{4, 9, 8, 0, 2, 9, 5}, 9, 5, 2, NormOrder::pre, Keys::none_in_first, .1},
                      {{16, 2}, 17, 18, 4, NormOrder::pre, Keys::one, 0},
                      {{33, 20}, 33, 8, 2, NormOrder::post, Keys::half, .05},
                      {{6}, 6, 32, 2, NormOrder::post, Keys::none, .1},
                      {{2, 1, 3, 0, 2, 3, 1, 1, 2, 3, 3, 2, 1}, 3, 5, 2, NormOrder::post, Keys::half, .1}};

/// The inputs of the block in the order of its gradients: x, then the parameters by the names of the checkpoint.
const std::vector<std::string> names = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias",
                                        "linear1.weight", "linear1.bias", "linear2.weight",  "linear2.bias",
                                        "norm1.weight",   "norm1.bias",   "norm2.weight",    "norm2.bias"};

template <class Real>
struct Setup {
  int B, T, I, F;
  VisibleKeys keys;
  std::vector<int> real;
  Tensors<float> inputs;  // x and the parameters

  explicit Setup(const Case& c)
      : B(static_cast<int>(c.lengths.size())),
        T(B * c.L),
        I(head_width(c.N, c.H) * c.H),
        F(4 * c.N),
        keys(c.keys, c.lengths, c.L),
        real(real_rows(c.lengths, c.L)) {
    const int N = c.N;
    // Gains are wide; everything else is stored.
    inputs = {random_values<Real>(T * N, 1), random_values<Real>(3 * I * N, 2, .5),
              random_values<Real>(3 * I, 3), random_values<Real>(N * I, 4, .5),
              random_values<Real>(N, 5),     random_values<Real>(F * N, 6, .5),
              random_values<Real>(F, 7),     random_values<Real>(N * F, 8, .5),
              random_values<Real>(N, 9),     random_values<float>(N, 10, .5, 1),
              random_values<float>(N, 11),   random_values<float>(N, 12, .5, 1),
              random_values<float>(N, 13)};
  }

  /// y [T, N] from the inputs, zeros at padded rows.
  auto function(const Case& c) const {
    return [this, &c]<class Number>(const std::vector<std::vector<Number>>& x) {
      oracle::Parameters<Number> parameters;
      for (std::size_t i = 0; i < names.size(); ++i) {
        parameters["block." + std::string(i < 4 ? "self_attn." : "") + names[i]] = x[i + 1];
      }
      const ModelConfig model{.width = c.N, .heads = c.H, .dropout = c.drop_probability, .norm = c.order};
      const oracle::PassCase pass{.mode = oracle::Passes::training,
                                  .seed = 77,
                                  .step = 5,
                                  .first_sequence = 3,
                                  .lengths = c.lengths,
                                  .visible = keys.visible,
                                  .L = c.L};
      const oracle::Model<Number> oracle(parameters, model, {}, c.N, pass);
      std::vector<Number> y = oracle.block(x[0], "block", c.N, upscaling_layer);
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (real[i / static_cast<std::size_t>(c.N)] == 0) y[i] = Number(0);
      }
      return y;
    };
  }

  template <class Stage, class Op>
  void set_inputs(Stage& stage, Op& op, const Case& c) const {
    const int N = c.N;
    const auto part = [&](std::size_t i, auto... extents) {
      return stage.input(narrowed<Real>(inputs[i]), extents...);
    };
    op.x = stage.input(narrowed<Real>(poisoned(inputs[0], real)), T, N);
    op.weights = {.in_weight = part(1, 3 * I, N),
                  .in_bias = part(2, 3 * I),
                  .out_weight = part(3, N, I),
                  .out_bias = part(4, N),
                  .weight1 = part(5, F, N),
                  .bias1 = part(6, F),
                  .weight2 = part(7, N, F),
                  .bias2 = part(8, N),
                  .gamma1 = stage.input(inputs[9], N),
                  .beta1 = stage.input(inputs[10], N),
                  .gamma2 = stage.input(inputs[11], N),
                  .beta2 = stage.input(inputs[12], N)};
    const auto dropout = [&](Purpose purpose) {
      if (c.drop_probability == 0) return Dropout();
      return Dropout({.seed = 77, .purpose = purpose, .layer = upscaling_layer, .step = 5}, 3, c.drop_probability);
    };
    op.setting = {.visible = stage.input(keys.bits, B, visible_words(c.L)),
                  .lengths = stage.input(c.lengths, B),
                  .L = c.L,
                  .H = c.H,
                  .order = c.order,
                  .attention = dropout(Purpose::attention_dropout),
                  .after_attention = dropout(Purpose::attention_residual_dropout),
                  .after_feed_forward = dropout(Purpose::feed_forward_residual_dropout)};
  }
};

std::string described(const Case& c) {
  return text("B ", c.lengths.size(), ", L ", c.L, ", N ", c.N, ", H ", c.H, ", order ", static_cast<int>(c.order),
              ", keys ", static_cast<int>(c.keys), ", drop ", c.drop_probability);
}

// Between x and y nothing is stored in the narrow type: the tolerance is that of float arithmetic, rounded once.

TEMPLATE_LIST_TEST_CASE("narrow block forward", "[narrow_block]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("narrow_block", BackendName<TestType>::value);
  for (const Case& c : cases) {
    INFO(described(c));
    const Setup<Real> setup(c);
    Stage<TestType> stage(1);
    NarrowBlockForward<Real> op{};
    op.y = stage.template output<Real>(setup.T, c.N);
    setup.set_inputs(stage, op, c);
    stage.run_twice(op);
    compare("y", stage.values(op.y), expect_values<float, Real>(setup.function(c), setup.inputs));
  }
}

TEMPLATE_LIST_TEST_CASE("narrow block backward", "[narrow_block]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("narrow_block", BackendName<TestType>::value);
  for (const Case& c : cases) {
    INFO(described(c));
    const Setup<Real> setup(c);
    const int N = c.N, I = setup.I, F = setup.F;
    const std::vector<float> dy = random_values<Real>(setup.T * N, 20);
    Tensors<float> starts;
    for (std::size_t i = 1; i < setup.inputs.size(); ++i) {
      starts.push_back(random_values<float>(static_cast<int>(setup.inputs[i].size()), 30 + i));
    }
    Stage<TestType> stage(1);
    NarrowBlockBackward<Real> op{};
    op.dx = stage.template output<Real>(setup.T, N);
    op.dy = stage.input(narrowed<Real>(poisoned(dy, setup.real)), setup.T, N);
    op.gradients = {.in_weight = stage.sum(starts[0], 3 * I, N),
                    .in_bias = stage.sum(starts[1], 3 * I),
                    .out_weight = stage.sum(starts[2], N, I),
                    .out_bias = stage.sum(starts[3], N),
                    .weight1 = stage.sum(starts[4], F, N),
                    .bias1 = stage.sum(starts[5], F),
                    .weight2 = stage.sum(starts[6], N, F),
                    .bias2 = stage.sum(starts[7], N),
                    .gamma1 = stage.sum(starts[8], N),
                    .beta1 = stage.sum(starts[9], N),
                    .gamma2 = stage.sum(starts[10], N),
                    .beta2 = stage.sum(starts[11], N)};
    setup.set_inputs(stage, op, c);
    const auto function = setup.function(c);
    const std::size_t most = 40;
    const auto gradient = [&]<class T>(std::size_t i, T) {
      return expect_gradient<float, T>(function, setup.inputs, i, dy, i == 0 ? std::vector<float>{} : starts[i - 1],
                                       most);
    };
    const Expected<Real> dx = gradient(0, Real());
    std::vector<Expected<float>> expected;
    for (std::size_t i = 1; i < setup.inputs.size(); ++i) expected.push_back(gradient(i, float()));
    const auto check_parameters = [&] {
      std::size_t i = 0;
      const auto next = [&](const auto& sum) {
        compare(names[i], stage.values(sum), expected[i]);
        ++i;
      };
      next(op.gradients.in_weight);
      next(op.gradients.in_bias);
      next(op.gradients.out_weight);
      next(op.gradients.out_bias);
      next(op.gradients.weight1);
      next(op.gradients.bias1);
      next(op.gradients.weight2);
      next(op.gradients.bias2);
      next(op.gradients.gamma1);
      next(op.gradients.beta1);
      next(op.gradients.gamma2);
      next(op.gradients.beta2);
    };
    stage.run_twice(op);
    compare("dx", stage.values(op.dx), dx);
    check_parameters();
    op.dx = {};
    stage.run_twice(op);
    check_parameters();
  }
}

}  // namespace
}  // namespace blinkbert::test
