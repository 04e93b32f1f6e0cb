// Who checks the checker: duals against closed forms, the oracle's forward functions on duals against finite differences,
// the random words against published ones.

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/core/dropout.hpp>
#include <tests/oracle/activation.hpp>
#include <tests/oracle/batch_norm.hpp>
#include <tests/oracle/dropout.hpp>
#include <tests/oracle/dual.hpp>
#include <tests/oracle/embed_rows.hpp>
#include <tests/oracle/gather_rows.hpp>
#include <tests/oracle/gathered_attention.hpp>
#include <tests/oracle/gradient.hpp>
#include <tests/oracle/layer_norm.hpp>
#include <tests/oracle/linear.hpp>
#include <tests/oracle/masked_attention.hpp>
#include <tests/oracle/masked_loss.hpp>
#include <tests/oracle/mean_rows.hpp>
#include <tests/oracle/residual_norm.hpp>
#include <tests/oracle/score_loss.hpp>

namespace blinkbert::oracle {
namespace {

using Exact = long double;

std::vector<Exact> numbers(int count, std::uint32_t key, Exact scale = 1) {
  std::vector<Exact> result;
  for (int i = 0; i < count; ++i) {
    const Words words = philox(key, static_cast<std::uint32_t>(i), 0, 0, 10, 99);
    result.push_back(scale * (static_cast<Exact>(words[0]) / 2147483648.0L - 1));
  }
  return result;
}

/// Compares the gradient on duals with central differences of step h and h/2, which are off by a h^2 + rounding / h and a
/// quarter of that: their difference bounds the error of the better one, twice over.
template <class Function>
void check_by_differences(const std::string& what, const Function& function, const Tensors<Exact>& inputs,
                          std::size_t count_of_inputs) {
  const std::vector<Exact> weights = numbers(static_cast<int>(function(inputs).size()), 1234);
  const auto value = [&](const Tensors<Exact>& at) {
    const std::vector<Exact> outputs = function(at);
    Exact sum = 0;
    for (std::size_t i = 0; i < outputs.size(); ++i) sum += outputs[i] * weights[i];
    return sum;
  };
  for (std::size_t input = 0; input < count_of_inputs; ++input) {
    const std::vector<std::size_t> elements = some_elements(inputs[input].size(), 40);
    const std::vector<Exact> derivatives = gradient(function, inputs, input, weights, elements);
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const auto difference = [&](Exact step) {
        Tensors<Exact> moved = inputs;
        moved[input][elements[i]] += step;
        const Exact above = value(moved);
        moved[input][elements[i]] -= 2 * step;
        return (above - value(moved)) / (2 * step);
      };
      const Exact coarse = difference(1e-5L), fine = difference(5e-6L);
      const Exact rounding = 1e-18L * (1 + std::abs(value(inputs))) / 5e-6L;
      INFO(what << ", input " << input << ", element " << elements[i] << ": dual " << derivatives[i] << ", difference "
                << fine);
      CHECK(std::abs(derivatives[i] - fine) <= std::abs(coarse - fine) + 100 * rounding);
    }
  }
}

TEST_CASE("duals follow the rules of differentiation", "[oracle]") {
  const Dual<double> x{0.7, 1};
  CHECK((x * x).derivative == Approx(1.4));
  CHECK((Dual<double>(1) / x).derivative == Approx(-1 / 0.49));
  CHECK((-x + 3 * x - 1).derivative == Approx(2));
  CHECK(exp(x).derivative == Approx(std::exp(0.7)));
  CHECK(log(x).derivative == Approx(1 / 0.7));
  CHECK(tanh(x).derivative == Approx(1 / (std::cosh(0.7) * std::cosh(0.7))));
  CHECK(sqrt(x).derivative == Approx(0.5 / std::sqrt(0.7)));
  CHECK(larger(x, Dual<double>(0.5)).derivative == 1);
  CHECK(larger(x, Dual<double>(0.9)).derivative == 0);
}

TEST_CASE("some elements include the first and the last, none twice", "[oracle]") {
  for (const std::size_t count : {0u, 1u, 2u, 99u, 100u, 101u, 1000u, 12345u}) {
    const std::vector<std::size_t> elements = some_elements(count, 100);
    CHECK(elements.size() <= 101);
    CHECK(elements.size() >= std::min<std::size_t>(count, 50));
    for (std::size_t i = 1; i < elements.size(); ++i) CHECK(elements[i - 1] < elements[i]);
    if (count > 0) CHECK((elements.front() == 0 && elements.back() == count - 1));
  }
}

TEST_CASE("random words are those of the published test vectors", "[oracle]") {
  // Random123, kat_vectors: philox 4x32 10.
  CHECK(philox(0, 0, 0, 0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox(0x299f31d0a4093822ull, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x037073, 0x44) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("the library's dropout decides what the contract says", "[oracle]") {
  for (const double drop_probability : {.01, .1, .5}) {
    const DropoutCase wanted{.drop_probability = drop_probability};
    const Dropout dropout({.seed = wanted.seed,
                           .purpose = static_cast<Purpose>(wanted.purpose),
                           .layer = wanted.layer,
                           .step = wanted.step},
                          wanted.first_sequence, drop_probability);
    int wrong = 0;
    for (int b = 0; b < 2; ++b) {
      for (int i = 0; i < 67; ++i) {
        for (int j = 0; j < 67; ++j) {
          wrong += dropout.keeps(b, i, 67, j) == (wanted.element(b, i, 67, j) > 0) ? 0 : 1;
          wrong += dropout.keeps_attention(b, 1, 3, i, j) == (wanted.attention(b, 1, 3, i, j) > 0) ? 0 : 1;
        }
      }
    }
    CHECK(wrong == 0);
    CHECK(dropout.keep_scale() == Approx(1 / (1 - drop_probability)).epsilon(1e-4));
  }
}

TEST_CASE("dropout keeps the share it says", "[oracle]") {
  const DropoutCase dropout{.drop_probability = .25};
  int dropped = 0, dropped_attention = 0;
  double sum = 0;
  for (int b = 0; b < 10; ++b) {
    for (int l = 0; l < 40; ++l) {
      for (int e = 0; e < 40; ++e) {
        dropped += dropout.element(b, l, 40, e) == 0 ? 1 : 0;
        dropped_attention += dropout.attention(b, 1, 2, l, e) == 0 ? 1 : 0;
        sum += static_cast<double>(dropout.element(b, l, 40, e));
      }
    }
  }
  // 16000 draws, deviation 55: six of them.
  CHECK(std::abs(dropped - 4000) < 330);
  CHECK(std::abs(dropped_attention - 4000) < 330);
  CHECK(sum == Approx((16000 - dropped) / .75));
}

TEST_CASE("forward functions on duals agree with finite differences", "[oracle]") {
  const DropoutCase dropout{.drop_probability = .2};
  const std::vector<int> lengths{4, 0, 2};
  check_by_differences(
      "linear", [](const auto& x) { return linear(x[0], x[1], x[2], 3, 4, 5); },
      {numbers(12, 1), numbers(20, 2), numbers(5, 3)}, 3);
  check_by_differences(
      "gelu", [](const auto& x) { return gelu(x[0]); }, {numbers(30, 1, 4)}, 1);
  check_by_differences(
      "layer_norm",
      [](const auto& x) {
        const auto result = layer_norm(x[0], x[1], x[2], 3, 5, 1e-5f);
        return joined(result.y, joined(result.mean, result.rstd));
      },
      {numbers(15, 1), numbers(5, 2), numbers(5, 3)}, 3);
  check_by_differences(
      "residual",
      [&](const auto& x) {
        return residual(x[0], x[1], {0, 4, -1, 2, 5, 3}, 3, 5, dropout);
      },
      {numbers(30, 1), numbers(30, 2)}, 2);
  const std::vector<std::vector<int>> visible{{1, 0, 1, 1}, {0, 0, 0, 0}, {0, 1, 0, 0}};
  check_by_differences(
      "masked_attention", [&](const auto& x) { return masked_attention(x[0], visible, lengths, 4, 2, 3, dropout); },
      {numbers(3 * 4 * 18, 1)}, 1);
  check_by_differences(
      "gathered_attention",
      [&](const auto& x) {
        return gathered_attention(x[0], x[1], {1, 3, -1, 8}, visible, lengths, 4, 2, 3, dropout);
      },
      {numbers(4 * 6, 1), numbers(3 * 4 * 12, 2)}, 2);
  check_by_differences(
      "embed_rows", [&](const auto& x) { return embed_rows(x[0], x[1], x[2], x[3], x[4], lengths, 4, 3, 2, 5); },
      {numbers(36, 1), numbers(24, 2), numbers(9, 3), numbers(3, 4), numbers(30, 5)}, 5);
  check_by_differences(
      "gather_rows",
      [](const auto& x) {
        return gather_rows(x[0], {2, -1, 0}, 4);
      },
      {numbers(12, 1)}, 1);
  check_by_differences(
      "mean_rows", [&](const auto& x) { return mean_rows(x[0], lengths, 4, 3); }, {numbers(36, 1)}, 1);
  check_by_differences(
      "activation",
      [&](const auto& x) {
        return activation(x[0], {0, 1, 2, 3}, 2, 5, dropout);
      },
      {numbers(20, 1)}, 1);
  for (const Statistics statistics : {Statistics::batch, Statistics::running}) {
    check_by_differences(
        "batch_norm",
        [&](const auto& x) {
          const auto result = batch_norm(x[0], x[1], x[2], x[3], x[4], {1, 0, 1, 1}, 3, statistics, 1e-5f, .1f);
          return joined(result.y, joined(result.running_mean, result.running_variance));
        },
        {numbers(12, 1), numbers(3, 2), numbers(3, 3), numbers(3, 4), {.5L, 1, 2}}, 5);
  }
  for (const Loss kind : {Loss::squared, Loss::absolute, Loss::huber}) {
    check_by_differences(
        "masked_loss",
        [&](const auto& x) {
          return masked_loss(x[0], x[1], {2, -1, 0}, 3, kind, .4);
        },
        {numbers(9, 1), numbers(9, 2)}, 2);
    check_by_differences(
        "score_loss", [&](const auto& x) { return score_loss(x[0], x[1], lengths, kind, .4); },
        {numbers(3, 1), numbers(3, 2)}, 2);
  }
}

TEST_CASE("the losses over levels are the logarithms of shares that add up to 1", "[oracle]") {
  const std::vector<Exact> z = numbers(4, 7);
  for (const LevelLoss kind : {LevelLoss::softmax, LevelLoss::ordinal}) {
    const int K = kind == LevelLoss::softmax ? 4 : 5;
    Exact sum = 0;
    for (int level = 0; level < K; ++level) {
      const Exact share = std::exp(-level_loss(kind, level, z));
      CHECK((share > 0 && share < 1));
      sum += share;
    }
    CHECK(std::abs(sum - 1) < 1e-17L);
    check_by_differences(
        "score_loss over levels",
        [&](const auto& x) {
          return score_loss_over_levels(x[0], {0, K - 1, 1}, {4, 2, 0}, 4, kind, {.5, 2, 1});
        },
        {numbers(12, 8)}, 1);
  }
}

TEST_CASE("the attention gradient's formula agrees with duals", "[oracle]") {
  const DropoutCase dropout{.drop_probability = .2};
  const std::vector<int> lengths{4, 0, 2};
  const std::vector<std::vector<int>> visible{{1, 0, 1, 1}, {0, 0, 0, 0}, {0, 1, 0, 0}};
  const Tensors<Exact> inputs{numbers(3 * 4 * 18, 1)};
  const std::vector<Exact> weights = numbers(3 * 4 * 6, 2);
  const std::vector<Exact> formula = masked_attention_gradient(inputs[0], weights, visible, lengths, 4, 2, 3, dropout);
  const std::vector<Exact> duals =
      gradient([&](const auto& x) { return masked_attention(x[0], visible, lengths, 4, 2, 3, dropout); }, inputs, 0,
               weights, some_elements(formula.size(), formula.size()));
  for (std::size_t i = 0; i < formula.size(); ++i) CHECK(std::abs(formula[i] - duals[i]) < 1e-17L);
}

}  // namespace
}  // namespace blinkbert::oracle
