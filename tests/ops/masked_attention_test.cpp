#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/visible_keys.hpp>
#include <tests/oracle/masked_attention.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  std::vector<int> lengths;
  int L, H, D;
  Keys keys;
  double drop_probability;
  double scale = 1;
};

// A scale of 40 gives scores of hundreds and more: exp without the maximum taken off would overflow. That case has its
// values on a grid of quarters and D = 16, so that the scores are exact in any order of summation and their rounding,
// large beside 1, does not have to be allowed for. The last case: enough work for several threads.
const Case cases[] = {
    {{1}, 1, 1, 1, Keys::all, 0},
    {{1, 0}, 1, 2, 3, Keys::all, .5},
    {{7, 3}, 7, 1, 3, Keys::half, 0},
    {{8, 5, 0}, 8, 3, 2, Keys::all, .1},
    {{9, 9}, 9, 2, 5, Keys::none_in_first, .1},
    {{15, 1}, 15, 2, 7, Keys::half, .5},
    {{16, 10}, 16, 1, 16, Keys::half, .1},
    {{17, 16}, 17, 1, 9, Keys::all, .3},
    {{31, 2}, 31, 2, 4, Keys::one, .02},
    {{32, 31}, 32, 1, 8, Keys::half, .1},
    {{33, 0, 32}, 33, 2, 3, Keys::half, .1},
    {{20, 20}, 20, 1, 5, Keys::none, .1},
    {{12, 9}, 13, 2, 16, Keys::half, .1, 40},
    {{64}, 64, 1, 17, Keys::half, 0},
    {{65, 40}, 65, 1, 6, Keys::all, .1},
    {{512}, 512, 1, 2, Keys::all, .1},
    // Where tiles of 16, 32, 64 and 128 rows and columns begin and end; visible keys in the last tile only.
    {{30, 17}, 30, 4, 128, Keys::half, .01},
    {{32}, 32, 3, 32, Keys::half, .1},
    {{33, 20}, 33, 1, 256, Keys::half, .1},
    {{16, 9}, 16, 2, 256, Keys::half, .1},
    {{30, 21}, 30, 1, 256, Keys::half, .01},
    {{48, 1}, 48, 2, 33, Keys::all, .1},
    {{64, 49}, 64, 1, 128, Keys::half, .1},
    {{96, 70}, 96, 1, 64, Keys::late, .1},
    {{100}, 100, 2, 24, Keys::half, .1},
    {{128, 127}, 128, 1, 64, Keys::half, .1},
    {{128}, 128, 1, 256, Keys::half, .1},
    {{129, 128, 0}, 129, 2, 8, Keys::half, .1},
    {{200, 64, 3}, 200, 1, 16, Keys::late, .1},
    {{140, 130}, 140, 1, 130, Keys::half, .1},
    {{150}, 150, 1, 256, Keys::half, .1},
    {{512, 300}, 512, 1, 4, Keys::late, .3},
    {{30, 30, 12, 30, 29, 7, 0, 30, 30, 30, 1, 30}, 30, 3, 9, Keys::half, .05}};

template <class Real>
struct Setup {
  int B;
  VisibleKeys keys;
  oracle::DropoutCase dropout;
  Tensors<Wide<Real>> inputs;  // qkv

  explicit Setup(const Case& c)
      : B(static_cast<int>(c.lengths.size())),
        keys(c.keys, c.lengths, c.L),
        dropout{.drop_probability = c.drop_probability},
        inputs{random_values<Real>(B * c.L * 3 * c.H * c.D, 1, c.scale)} {
    for (Wide<Real>& value : inputs[0]) {
      if (c.scale != 1) value = std::round(4 * value) / 4;
    }
  }
};

std::string described(const Case& c, int threads) {
  return text("B ", c.lengths.size(), ", L ", c.L, ", H ", c.H, ", D ", c.D, ", keys ", static_cast<int>(c.keys),
              ", drop ", c.drop_probability, ", scale ", c.scale, ", threads ", threads);
}

TEMPLATE_LIST_TEST_CASE("masked attention forward", "[masked_attention]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("masked_attention", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int B = setup.B, L = c.L, H = c.H, D = c.D;
    const auto attention = [&](const auto& x) {
      return oracle::masked_attention(x[0], setup.keys.visible, c.lengths, L, H, D, setup.dropout);
    };
    const Expected<Real> o = expect_values<Real>(attention, setup.inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      const MaskedAttentionForward<Real> op{
          .o = stage.template output<Real>(B, L, H, D),
          .qkv = stage.input(narrowed<Real>(poisoned(setup.inputs[0], real_rows(c.lengths, L))), B, L, 3, H, D),
          .visible = stage.input(setup.keys.bits, B, visible_words(L)),
          .lengths = stage.input(c.lengths, B),
          .dropout = library_dropout(setup.dropout)};
      stage.run_twice(op);
      compare("o", stage.values(op.o), o);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("masked attention backward", "[masked_attention]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("masked_attention", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const int B = setup.B, L = c.L, H = c.H, D = c.D;
    const std::vector<int> real = real_rows(c.lengths, L);
    const std::vector<Wide<Real>> output_gradient = random_values<Real>(B * L * H * D, 2);
    const auto attention = [&](const auto& x) {
      return oracle::masked_attention(x[0], setup.keys.visible, c.lengths, L, H, D, setup.dropout);
    };
    const auto formula = [&](const auto& x) {
      return oracle::masked_attention_gradient(x[0], x[1], setup.keys.visible, c.lengths, L, H, D, setup.dropout);
    };
    const Expected<Real> dqkv = expect_values<Real>(formula, {setup.inputs[0], output_gradient});
    Expected<Real> by_duals = expect_gradient<Real>(attention, setup.inputs, 0, zeroed(output_gradient, real), {},
                                                    L * L * D > 100000 ? 3 : 100);
    by_duals.tolerance = dqkv.tolerance;
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      const MaskedAttentionBackward<Real> op{
          .dqkv = stage.template output<Real>(B, L, 3, H, D),
          .output_gradient = stage.input(narrowed<Real>(poisoned(output_gradient, real)), B, L, H, D),
          .qkv = stage.input(narrowed<Real>(poisoned(setup.inputs[0], real)), B, L, 3, H, D),
          .visible = stage.input(setup.keys.bits, B, visible_words(L)),
          .lengths = stage.input(c.lengths, B),
          .dropout = library_dropout(setup.dropout)};
      stage.run_twice(op);
      const std::vector<Real> actual = stage.values(op.dqkv);
      compare("dqkv", actual, dqkv);
      compare("dqkv by duals", actual, by_duals);

      // Exact zeros: padded rows, and keys and values that are hidden.
      const std::size_t width = static_cast<std::size_t>(H * D);
      std::size_t not_zero = 0;
      for (std::size_t row = 0; row < real.size(); ++row) {
        for (std::size_t which = 0; which < 3; ++which) {
          const bool takes_part = which == 0 ? real[row] != 0 : setup.keys.visible[row / L][row % L] != 0;
          for (std::size_t d = 0; d < width && !takes_part; ++d)
            not_zero += actual[(row * 3 + which) * width + d] == 0 ? 0 : 1;
        }
      }
      CHECK(not_zero == 0);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("masked attention refuses wrong shapes", "[masked_attention]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto rows = [&](int B, int L, int H, int D) { return stage.template output<Real>(B, L, H, D); };
  const auto packed = [&](int L, int three) { return stage.template output<Real>(2, L, three, 2, 3); };
  const auto bits = [&](int B, int words) { return stage.template output<std::uint32_t>(B, words); };
  using Forward = MaskedAttentionForward<Real>;
  const Forward forward{.o = rows(2, 33, 2, 3),
                        .qkv = packed(33, 3),
                        .visible = bits(2, 2),
                        .lengths = stage.input(std::vector<int>{33, 33}, 2),
                        .dropout = {}};
  check_rejects(stage.device, forward, "only q and k", [&](Forward& o) { o.qkv = packed(33, 2); });
  check_rejects(stage.device, forward, "o without heads", [&](Forward& o) { o.o = rows(2, 33, 1, 3); });
  check_rejects(stage.device, forward, "one word of visible bits", [&](Forward& o) { o.visible = bits(2, 1); });
  check_rejects(stage.device, forward, "one length",
                [&](Forward& o) { o.lengths = stage.input(std::vector<int>{33}, 1); });
  check_rejects(stage.device, forward, "L 513", [&](Forward& o) {
    o.o = rows(2, 513, 2, 3);
    o.qkv = packed(513, 3);
    o.visible = bits(2, 17);
  });
  using Backward = MaskedAttentionBackward<Real>;
  const Backward backward{.dqkv = packed(33, 3),
                          .output_gradient = rows(2, 33, 2, 3),
                          .qkv = packed(33, 3),
                          .visible = bits(2, 2),
                          .lengths = stage.input(std::vector<int>{33, 33}, 2),
                          .dropout = {}};
  check_rejects(stage.device, backward, "dqkv of other rows", [&](Backward& o) { o.dqkv = packed(32, 3); });
  check_rejects(stage.device, backward, "no output gradient", [&](Backward& o) { o.output_gradient = {}; });
}

}  // namespace
}  // namespace blinkbert::test
