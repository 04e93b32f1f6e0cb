#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/row_masks.hpp>

namespace blinkbert::test {
namespace {

struct Case {
  std::vector<int> lengths, counts;
  int L, N;
};
const Case cases[] = {
    {{1}, {1}, 1, 1},
    {{1, 0}, {0, 0}, 2, 4},
    {{5, 7, 0, 3}, {1, 7, 0, 0}, 7, 5},
    {{8, 4}, {3, 4}, 9, 9},
    {{16, 15, 17}, {5, 2, 17}, 17, 18},
    {{31, 32}, {10, 16}, 32, 4},
    {{33, 1, 32}, {12, 1, 6}, 33, 1},
    {{64, 63, 65}, {20, 10, 40}, 65, 9},
    {{30, 30, 12, 30, 30, 30, 7, 30, 30, 30, 30, 30, 30, 30, 30, 30},
     {4, 5, 2, 4, 5, 4, 1, 5, 4, 5, 4, 5, 4, 5, 4, 30},
     30,
     18},
    {{512, 400, 0, 511, 512, 512}, {77, 60, 0, 100, 512, 1}, 512, 5},  // enough work for several threads
    {{2049, 33}, {300, 33}, 2049, 1}};                                 // more than a block of several sequences holds

template <class Real>
bool has_same_bits(const std::vector<Real>& a, const std::vector<Real>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Real)) == 0);
}

TEMPLATE_LIST_TEST_CASE("row masks", "[row_masks]", Backends) {
  using Real = typename TestType::Real;
  const struct {
    Hide library;
    oracle::Hidden oracle;
  } hides[] = {{Hide::chosen, oracle::Hidden::chosen},
               {Hide::replaced, oracle::Hidden::replaced},
               {Hide::none, oracle::Hidden::none}};
  const struct { double replace, noise; } shares[] = {{.8, .1}, {0, 0}, {1, 0}, {0, 1}, {.3, .4}};
  for (const Case& c : cases) {
    const int B = static_cast<int>(c.lengths.size()), L = c.L, N = c.N;
    const std::vector<Wide<Real>> clean = random_values<Real>(B * L * N, 1);
    std::vector<int> offsets{0};
    for (const int count : c.counts) offsets.push_back(offsets.back() + count);
    const int M = offsets.back();
    std::vector<std::uint32_t> numbers;
    for (int b = 0; b < B; ++b) numbers.push_back(static_cast<std::uint32_t>(1000 + 37 * b));
    for (const auto& hide : hides) {
      for (const auto& share : shares) {
        const oracle::RowMasksCase how{.seed = 0xfedcba9876543210ull,
                                       .step = 17,
                                       .replace_share = share.replace,
                                       .noise_share = share.noise,
                                       .value = -1.25f,
                                       .noise_low = .3f,
                                       .noise_high = 1.9f,
                                       .hidden = hide.oracle};
        const oracle::MaskedRows<Wide<Real>> wanted = oracle::row_masks(clean, c.lengths, c.counts, numbers, L, N, how);
        for (const int threads : thread_counts<TestType>()) {
          INFO("B " << B << ", L " << L << ", N " << N << ", hide " << static_cast<int>(hide.library) << ", replace "
                    << share.replace << ", noise " << share.noise << ", threads " << threads);
          Stage<TestType> stage(threads);
          const View<const StepValues, 1> now = stage.now(how.step);
          const auto stream = [&](std::uint32_t purpose) {
            return RandomStream{
                .seed = how.seed, .purpose = static_cast<Purpose>(purpose), .layer = 0, .step = 0, .now = now};
          };
          const RowMasks<Real> op{
              .x = stage.template output<Real>(B, L, N),
              .rows = stage.template output<int>(M),
              .slots = stage.template output<int>(B * L),
              .actions = stage.template output<RowAction>(M),
              .visible = stage.template output<std::uint32_t>(B, visible_words(L)),
              .clean = stage.input(narrowed<Real>(poisoned(clean, real_rows(c.lengths, L))), B, L, N),
              .lengths = stage.input(c.lengths, B),
              .offsets = stage.input(offsets, B + 1),
              .sequences = stage.input(numbers, B),
              .chosen_stream = stream(how.chosen_purpose),
              .action_stream = stream(how.action_purpose),
              .noise_stream = stream(how.noise_purpose),
              .replace_below = how.replace_below(),
              .noise_below = how.noise_below(),
              .value = how.value,
              .noise_low = how.noise_low,
              .noise_high = how.noise_high,
              .hide = hide.library};
          stage.run_twice(op);
          CHECK(stage.values(op.rows) == wanted.rows);
          CHECK(stage.values(op.slots) == wanted.slots);
          CHECK(stage.values(op.visible) == wanted.visible);
          std::vector<int> actions;
          for (const RowAction action : stage.values(op.actions)) actions.push_back(static_cast<int>(action));
          CHECK(actions == wanted.actions);
          CHECK(has_same_bits(stage.values(op.x), narrowed<Real>(wanted.x)));
        }
      }
    }
  }
}

// A batch cut in two draws what the whole batch draws: the counters know the sequence's number, not its place.
TEMPLATE_LIST_TEST_CASE("row masks do not depend on how a batch is cut", "[row_masks]", Backends) {
  using Real = typename TestType::Real;
  const int L = 12, N = 9, count = 3;
  const std::vector<Real> clean = narrowed<Real>(random_values<Real>(2 * L * N, 1));
  const auto draw = [&](int first, int B) {
    Stage<TestType> stage(1);
    std::vector<int> offsets;
    std::vector<std::uint32_t> numbers;
    for (int b = 0; b <= B; ++b) offsets.push_back(count * b);
    for (int b = 0; b < B; ++b) numbers.push_back(static_cast<std::uint32_t>(first + b));
    const std::vector<Real> part(clean.begin() + first * L * N, clean.begin() + (first + B) * L * N);
    const RowMasks<Real> op{.x = stage.template output<Real>(B, L, N),
                            .rows = stage.template output<int>(B * count),
                            .slots = stage.template output<int>(B * L),
                            .actions = stage.template output<RowAction>(B * count),
                            .visible = stage.template output<std::uint32_t>(B, 1),
                            .clean = stage.input(part, B, L, N),
                            .lengths = stage.input(std::vector<int>(static_cast<std::size_t>(B), L), B),
                            .offsets = stage.input(offsets, B + 1),
                            .sequences = stage.input(numbers, B),
                            .chosen_stream = {.seed = 9, .purpose = Purpose::chosen_rows, .layer = 0, .step = 3},
                            .action_stream = {.seed = 9, .purpose = Purpose::actions, .layer = 0, .step = 3},
                            .noise_stream = {.seed = 9, .purpose = Purpose::noise, .layer = 0, .step = 3},
                            .replace_below = 1ull << 31,
                            .noise_below = 1ull << 32};
    stage.run_twice(op);
    return stage.values(op.x);
  };
  CHECK(has_same_bits(draw(0, 2), joined(draw(0, 1), draw(1, 1))));
}

// Sequences in which two rows draw the same word, and the last place is between them.
TEMPLATE_LIST_TEST_CASE("row masks take the earlier of rows with equal words", "[row_masks]", Backends) {
  using Real = typename TestType::Real;
  const RandomStream stream{.seed = 0xfedcba9876543210ull, .purpose = Purpose::chosen_rows, .layer = 0, .step = 17};
  const int L = 200;
  const std::vector<std::uint32_t> numbers{404017, 626002, 626002};
  REQUIRE(stream.word(26, numbers[0]) == stream.word(27, numbers[0]));
  REQUIRE(stream.word(9, numbers[1]) == stream.word(50, numbers[1]));
  Stage<TestType> stage(1);
  const RowMasks<Real> op{.x = stage.template output<Real>(3, L, 1),
                          .rows = stage.template output<int>(95 + 22 + 23),
                          .slots = stage.template output<int>(3 * L),
                          .actions = stage.template output<RowAction>(95 + 22 + 23),
                          .visible = stage.template output<std::uint32_t>(3, visible_words(L)),
                          .clean = stage.input(narrowed<Real>(random_values<Real>(3 * L, 1)), 3, L, 1),
                          .lengths = stage.input(std::vector<int>{L, L, L}, 3),
                          .offsets = stage.input(std::vector<int>{0, 95, 95 + 22, 95 + 22 + 23}, 4),
                          .sequences = stage.input(numbers, 3),
                          .chosen_stream = stream,
                          .action_stream = {.seed = 9, .purpose = Purpose::actions, .layer = 0, .step = 17},
                          .noise_stream = {.seed = 9, .purpose = Purpose::noise, .layer = 0, .step = 17},
                          .replace_below = 1ull << 31,
                          .noise_below = 1ull << 32};
  stage.run_twice(op);
  const std::vector<int> slots = stage.values(op.slots);
  CHECK(slots[26] >= 0);
  CHECK(slots[27] == -1);
  CHECK(slots[L + 9] >= 0);
  CHECK(slots[L + 50] == -1);
  CHECK(slots[2 * L + 9] >= 0);
  CHECK(slots[2 * L + 50] >= 0);
}

TEMPLATE_LIST_TEST_CASE("row masks refuse wrong shapes", "[row_masks]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  const auto batch = [&](int L) { return stage.template output<Real>(2, L, 3); };
  const auto whole = [&](int size) { return stage.template output<int>(size); };
  using Op = RowMasks<Real>;
  const Op op{.x = batch(5),
              .rows = whole(2),
              .slots = whole(10),
              .actions = stage.template output<RowAction>(2),
              .visible = stage.template output<std::uint32_t>(2, 1),
              .clean = batch(5),
              .lengths = stage.input(std::vector<int>{5, 5}, 2),
              .offsets = stage.input(std::vector<int>{0, 1, 2}, 3),
              .sequences = stage.input(std::vector<std::uint32_t>{0, 1}, 2),
              .chosen_stream = {},
              .action_stream = {},
              .noise_stream = {},
              .replace_below = 1,
              .noise_below = 2};
  check_rejects(stage.device, op, "x of other rows", [&](Op& o) { o.x = batch(4); });
  check_rejects(stage.device, op, "offsets without the last", [&](Op& o) {
    o.offsets = stage.input(std::vector<int>{0, 1}, 2);
  });
  check_rejects(stage.device, op, "as many slots as chosen rows", [&](Op& o) { o.slots = whole(2); });
  check_rejects(stage.device, op, "too few actions", [&](Op& o) { o.actions = stage.template output<RowAction>(1); });
  check_rejects(stage.device, op, "thresholds the wrong way round", [&](Op& o) { o.replace_below = 3; });
#if defined(BLINKBERT_TEST_EMULATED)
  check_rejects(stage.device, op, "more rows than shared memory holds", [&](Op& o) {
    const int L = 32769;
    o.x = stage.template output<Real>(1, L, 1);
    o.clean = stage.template output<Real>(1, L, 1);
    o.slots = whole(L);
    o.visible = stage.template output<std::uint32_t>(1, visible_words(L));
    o.lengths = whole(1);
    o.offsets = whole(2);
    o.sequences = stage.template output<std::uint32_t>(1);
  });
#endif
}

}  // namespace
}  // namespace blinkbert::test
