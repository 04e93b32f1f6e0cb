#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/ops/visible_keys.hpp>
#include <tests/oracle/gathered_attention.hpp>

namespace blinkbert::test {
namespace {

/// Which rows are read: every real one; some; some with places for no row between and behind them; the last of each
/// sequence, -1 where there is none; some, but none of the first sequence; none at all.
enum class Read { all, some, holes, last, not_first, nothing };

struct Case {
  std::vector<int> lengths;
  int L, H, D;
  Keys keys;
  Read read;
  double drop_probability;
  double scale = 1;
};

// The case with a scale of 40: as in masked_attention_test.cpp. Read::some takes about a third of the rows, so that 65 rows
// and more make several blocks of 16 queries out of order. The last case: enough work for several threads.
const Case cases[] = {{{1}, 1, 1, 1, Keys::all, Read::all, 0},
                      {{1, 0}, 1, 2, 3, Keys::all, Read::last, .5},
                      {{7, 3}, 7, 1, 3, Keys::half, Read::some, 0},
                      {{8, 5, 0}, 8, 3, 2, Keys::all, Read::holes, .1},
                      {{0, 0}, 4, 2, 3, Keys::all, Read::last, .1},
                      {{9, 9}, 9, 2, 5, Keys::none_in_first, Read::some, .1},
                      {{9, 9, 4}, 9, 2, 5, Keys::half, Read::not_first, .1},
                      {{15, 1}, 15, 2, 7, Keys::half, Read::nothing, .5},
                      {{16, 10}, 16, 1, 16, Keys::half, Read::all, .1},
                      {{17, 16}, 17, 1, 9, Keys::all, Read::holes, .3},
                      {{31, 2}, 31, 2, 4, Keys::one, Read::some, .02},
                      {{32, 31}, 32, 1, 8, Keys::half, Read::last, .1},
                      {{33, 0, 32}, 33, 2, 3, Keys::half, Read::all, .1},
                      {{20, 20}, 20, 1, 5, Keys::none, Read::some, .1},
                      {{12, 9}, 13, 2, 16, Keys::half, Read::some, .1, 40},
                      {{64}, 64, 1, 17, Keys::half, Read::some, 0},
                      {{65, 40}, 65, 1, 6, Keys::all, Read::holes, .1},
                      {{512}, 512, 1, 2, Keys::all, Read::some, .1},
                      // Where tiles of 32, 64 and 128 rows and columns begin and end.
                      {{30, 17}, 30, 4, 128, Keys::half, Read::some, .01},
                      {{33, 20}, 33, 1, 256, Keys::half, Read::some, .1},
                      {{64, 49}, 64, 1, 64, Keys::half, Read::some, .1},
                      {{100, 96}, 100, 2, 24, Keys::late, Read::some, .1},
                      {{128}, 128, 1, 33, Keys::half, Read::all, .1},
                      {{129, 128, 0}, 129, 2, 8, Keys::half, Read::last, .1},
                      {{200, 64, 3}, 200, 1, 70, Keys::half, Read::some, .1},
                      {{30, 30, 12, 30, 29, 7, 0, 30, 30, 30, 1, 30}, 30, 3, 9, Keys::half, Read::holes, .05}};

template <class Real>
struct Setup {
  int B, M = 0;
  VisibleKeys keys;
  oracle::DropoutCase dropout;
  std::vector<int> rows, offsets{0};  // [M], [B + 1]
  std::vector<int> is_row;            // [M]    0 where there is no row
  std::vector<int> is_visible;        // [B L]
  Tensors<Wide<Real>> inputs;         // q, kv

  explicit Setup(const Case& c)
      : B(static_cast<int>(c.lengths.size())),
        keys(c.keys, c.lengths, c.L),
        dropout{.drop_probability = c.drop_probability} {
    for (int b = 0; b < B; ++b) {
      const int length = c.lengths[b];
      for (int l = 0; l < length; ++l) {
        const bool is_some = (l * l + 2 * l + b) % 7 < 3 || l == length - 1;
        const bool is_read = c.read == Read::all || (c.read == Read::last && l == length - 1) ||
                             (is_some && (c.read == Read::some || c.read == Read::holes)) ||
                             (is_some && c.read == Read::not_first && b > 0);
        if (is_read) rows.push_back(b * c.L + l);
        if (c.read == Read::holes && l % 6 == 1) rows.push_back(-1);
      }
      if ((c.read == Read::last && length == 0) || c.read == Read::holes) rows.push_back(-1);
      offsets.push_back(static_cast<int>(rows.size()));
      is_visible.insert(is_visible.end(), keys.visible[b].begin(), keys.visible[b].end());
    }
    M = static_cast<int>(rows.size());
    for (const int row : rows) is_row.push_back(row < 0 ? 0 : 1);
    inputs = {random_values<Real>(M * c.H * c.D, 1, c.scale), random_values<Real>(B * c.L * 2 * c.H * c.D, 2, c.scale)};
    for (std::vector<Wide<Real>>& input : inputs) {
      for (Wide<Real>& value : input) {
        if (c.scale != 1) value = std::round(4 * value) / 4;
      }
    }
  }

  /// With what an op may not read poisoned: queries that are no row, keys that are not visible.
  template <class Op, class Stage>
  void set_inputs(Op& op, Stage& stage, const Case& c) const {
    op.q = stage.input(narrowed<Real>(poisoned(inputs[0], is_row)), M, c.H, c.D);
    op.kv = stage.input(narrowed<Real>(poisoned(inputs[1], is_visible)), B, c.L, 2, c.H, c.D);
    op.rows = stage.input(rows, M);
    op.offsets = stage.input(offsets, B + 1);
    op.visible = stage.input(keys.bits, B, visible_words(c.L));
    op.lengths = stage.input(c.lengths, B);
    op.dropout = library_dropout(dropout);
  }
};

std::string described(const Case& c, int threads) {
  return text("B ", c.lengths.size(), ", L ", c.L, ", H ", c.H, ", D ", c.D, ", keys ", static_cast<int>(c.keys),
              ", read ", static_cast<int>(c.read), ", drop ", c.drop_probability, ", scale ", c.scale, ", threads ",
              threads);
}

TEMPLATE_LIST_TEST_CASE("gathered attention forward", "[gathered_attention]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("gathered_attention", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const auto attention = [&](const auto& x) {
      return oracle::gathered_attention(x[0], x[1], setup.rows, setup.keys.visible, c.lengths, c.L, c.H, c.D,
                                        setup.dropout);
    };
    const Expected<Real> o = expect_values<Real>(attention, setup.inputs);
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      GatheredAttentionForward<Real> op{};
      op.o = stage.template output<Real>(setup.M, c.H, c.D);
      setup.set_inputs(op, stage, c);
      stage.run_twice(op);
      compare("o", stage.values(op.o), o);
      CHECK(stage.values(op.o) == zeroed(stage.values(op.o), setup.is_row));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("gathered attention backward", "[gathered_attention]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("gathered_attention", BackendName<TestType>::value);
  for (const Case& c : cases) {
    const Setup<Real> setup(c);
    const std::vector<Wide<Real>> output_gradient = random_values<Real>(setup.M * c.H * c.D, 3);
    const auto attention = [&](const auto& x) {
      return oracle::gathered_attention(x[0], x[1], setup.rows, setup.keys.visible, c.lengths, c.L, c.H, c.D,
                                        setup.dropout);
    };
    const auto formula = [&](const auto& x) {
      return oracle::gathered_attention_gradient(x[0], x[1], x[2], setup.rows, setup.keys.visible, c.lengths, c.L, c.H,
                                                 c.D, setup.dropout);
    };
    const Tensors<Wide<Real>> inputs{setup.inputs[0], setup.inputs[1], output_gradient};
    const Expected<Real> dq = expect_values<Real>([&](const auto&x) { return formula(x).dq; }, inputs),
                         dkv = expect_values<Real>([&](const auto&x) { return formula(x).dkv; }, inputs);
    const std::vector<Wide<Real>> weights = zeroed(output_gradient, setup.is_row);
    const std::size_t most = c.L * c.L * c.D > 100000 ? 3 : 100;
    Expected<Real> dq_by_duals = expect_gradient<Real>(attention, setup.inputs, 0, weights, {}, most),
                   dkv_by_duals = expect_gradient<Real>(attention, setup.inputs, 1, weights, {}, most);
    dq_by_duals.tolerance = dq.tolerance;
    dkv_by_duals.tolerance = dkv.tolerance;
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      GatheredAttentionBackward<Real> op{};
      op.dq = stage.template output<Real>(setup.M, c.H, c.D);
      op.dkv = stage.template output<Real>(setup.B, c.L, 2, c.H, c.D);
      op.output_gradient = stage.input(narrowed<Real>(poisoned(output_gradient, setup.is_row)), setup.M, c.H, c.D);
      setup.set_inputs(op, stage, c);
      stage.run_twice(op);
      const std::vector<Real> actual_dq = stage.values(op.dq), actual_dkv = stage.values(op.dkv);
      compare("dq", actual_dq, dq);
      compare("dq by duals", actual_dq, dq_by_duals);
      compare("dkv", actual_dkv, dkv);
      compare("dkv by duals", actual_dkv, dkv_by_duals);

      // Exact zeros: queries that are no row or see no key; keys that are not visible or that nobody asks.
      std::vector<int> attends = setup.is_row, is_asked = setup.is_visible;
      for (int b = 0; b < setup.B; ++b) {
        const auto count = [](const std::vector<int>& of, int first, int last) {
          return std::count(of.begin() + first, of.begin() + last, 1);
        };
        const int first = setup.offsets[b], last = setup.offsets[b + 1];
        if (count(setup.is_row, first, last) == 0) std::fill_n(is_asked.begin() + b * c.L, c.L, 0);
        if (count(setup.is_visible, b * c.L, (b + 1) * c.L) == 0) std::fill_n(attends.begin() + first, last - first, 0);
      }
      CHECK(actual_dq == zeroed(actual_dq, attends));
      CHECK(actual_dkv == zeroed(actual_dkv, is_asked));
    }
  }
}

/// `values` as expected ones.
template <class Real>
Expected<Real> expect_same(const std::vector<Real>& values, Exact<Real> tolerance) {
  return {values.size(), oracle::some_elements(values.size(), values.size()), converted<Exact<Real>>(values),
          tolerance};
}

TEMPLATE_LIST_TEST_CASE("gathered attention on all rows is masked attention", "[gathered_attention]", Backends) {
  using Real = typename TestType::Real;
  Comparison compare("gathered_attention", BackendName<TestType>::value);
  for (const Case& c : cases) {
    if (c.read != Read::all) continue;
    const Setup<Real> setup(c);
    const int B = setup.B, L = c.L, H = c.H, D = c.D, M = setup.M;
    const std::vector<Wide<Real>> output_gradient = random_values<Real>(M * H * D, 3);
    std::vector<Wide<Real>> all_gradients(B * L * H * D);
    for (int m = 0; m < M; ++m) {
      std::copy_n(output_gradient.begin() + m * H * D, H * D, all_gradients.begin() + setup.rows[m] * H * D);
    }
    const std::vector<Wide<Real>> qkv = oracle::joined_queries(setup.inputs[0], setup.inputs[1], setup.rows, H * D);
    // Two backends' worth of rounding: both results are near the same reference.
    const auto tolerance = [&](const auto& function) {
      return 2 * expect_values<Real>(function, {qkv, all_gradients}).tolerance;
    };
    const Exact<Real> forward_tolerance = tolerance([&](const auto& x) {
      return oracle::masked_attention(x[0], setup.keys.visible, c.lengths, L, H, D, setup.dropout);
    });
    const Exact<Real> backward_tolerance = tolerance([&](const auto& x) {
      return oracle::masked_attention_gradient(x[0], x[1], setup.keys.visible, c.lengths, L, H, D, setup.dropout);
    });
    for (const int threads : thread_counts<TestType>()) {
      INFO(described(c, threads));
      Stage<TestType> stage(threads);
      GatheredAttentionForward<Real> gathered{};
      gathered.o = stage.template output<Real>(M, H, D);
      setup.set_inputs(gathered, stage, c);
      const MaskedAttentionForward<Real> masked{.o = stage.template output<Real>(B, L, H, D),
                                                .qkv = stage.input(narrowed<Real>(qkv), B, L, 3, H, D),
                                                .visible = gathered.visible,
                                                .lengths = gathered.lengths,
                                                .dropout = gathered.dropout};
      stage.run_twice(masked);
      const std::vector<Real> o = oracle::taken_rows(stage.values(masked.o), setup.rows, 1, H * D);
      stage.run_twice(gathered);
      compare("o of all rows", stage.values(gathered.o), expect_same(o, forward_tolerance));

      GatheredAttentionBackward<Real> gathered_back{};
      gathered_back.dq = stage.template output<Real>(M, H, D);
      gathered_back.dkv = stage.template output<Real>(B, L, 2, H, D);
      gathered_back.output_gradient = stage.input(narrowed<Real>(output_gradient), M, H, D);
      setup.set_inputs(gathered_back, stage, c);
      const MaskedAttentionBackward<Real> masked_back{
          .dqkv = stage.template output<Real>(B, L, 3, H, D),
          .output_gradient = stage.input(narrowed<Real>(all_gradients), B, L, H, D),
          .qkv = masked.qkv,
          .visible = gathered.visible,
          .lengths = gathered.lengths,
          .dropout = gathered.dropout};
      stage.run_twice(masked_back);
      const std::vector<Real> dqkv = stage.values(masked_back.dqkv);
      stage.run_twice(gathered_back);
      // Put together as masked attention writes them; rows that are no query have no dq there either.
      compare(
          "dqkv of all rows",
          oracle::joined_queries(stage.values(gathered_back.dq), stage.values(gathered_back.dkv), setup.rows, H * D),
          expect_same(dqkv, backward_tolerance));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("gathered attention refuses wrong shapes", "[gathered_attention]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto rows = [&](int M, int H, int D) { return stage.template output<Real>(M, H, D); };
  const auto pairs = [&](int L, int two) { return stage.template output<Real>(2, L, two, 2, 3); };
  const auto bits = [&](int B, int words) { return stage.template output<std::uint32_t>(B, words); };
  const auto numbers = [&](std::vector<int> values) { return stage.input(values, static_cast<int>(values.size())); };
  using Forward = GatheredAttentionForward<Real>;
  const Forward forward{.o = rows(4, 2, 3),
                        .q = rows(4, 2, 3),
                        .kv = pairs(33, 2),
                        .rows = numbers({0, 32, 33, -1}),
                        .offsets = numbers({0, 2, 4}),
                        .visible = bits(2, 2),
                        .lengths = numbers({33, 33}),
                        .dropout = {}};
  check_rejects(stage.device, forward, "q, k and v", [&](Forward& o) { o.kv = pairs(33, 3); });
  check_rejects(stage.device, forward, "q of other heads", [&](Forward& o) { o.q = rows(4, 1, 3); });
  check_rejects(stage.device, forward, "o of all rows", [&](Forward& o) { o.o = rows(66, 2, 3); });
  check_rejects(stage.device, forward, "a row too few", [&](Forward& o) { o.rows = numbers({0, 32, 33}); });
  check_rejects(stage.device, forward, "offsets without their end", [&](Forward& o) { o.offsets = numbers({0, 2}); });
  check_rejects(stage.device, forward, "one word of visible bits", [&](Forward& o) { o.visible = bits(2, 1); });
  check_rejects(stage.device, forward, "one length", [&](Forward& o) { o.lengths = numbers({33}); });
  check_rejects(stage.device, forward, "L 513", [&](Forward& o) {
    o.kv = pairs(513, 2);
    o.visible = bits(2, 17);
  });
  using Backward = GatheredAttentionBackward<Real>;
  const Backward backward{.dq = rows(4, 2, 3),
                          .dkv = pairs(33, 2),
                          .output_gradient = rows(4, 2, 3),
                          .q = rows(4, 2, 3),
                          .kv = pairs(33, 2),
                          .rows = numbers({0, 32, 33, -1}),
                          .offsets = numbers({0, 2, 4}),
                          .visible = bits(2, 2),
                          .lengths = numbers({33, 33}),
                          .dropout = {}};
  check_rejects(stage.device, backward, "dkv of other rows", [&](Backward& o) { o.dkv = pairs(32, 2); });
  check_rejects(stage.device, backward, "no output gradient", [&](Backward& o) { o.output_gradient = {}; });
  check_rejects(stage.device, backward, "dq of other rows", [&](Backward& o) { o.dq = rows(3, 2, 3); });
  check_rejects(stage.device, backward, "no rows", [&](Backward& o) { o.rows = {}; });
  check_rejects(stage.device, backward, "offsets without their end", [&](Backward& o) { o.offsets = numbers({0, 2}); });
}

}  // namespace
}  // namespace blinkbert::test
