// How many rows of each sequence are chosen: hand values, the properties that the contract states, and an independent
// count.

#include <set>

#include <catch2/catch.hpp>

#include <blinkbert/data/row_masks.hpp>
#include <tests/oracle/dropout.hpp>

namespace blinkbert {
namespace {

std::vector<std::uint32_t> numbered(std::size_t count, std::uint32_t first = 0) {
  std::vector<std::uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

std::vector<int> counts_of(const std::vector<int>& lengths, MaskCount count, double rate, std::uint64_t seed = 1,
                           std::uint32_t step = 0, std::uint32_t first = 0) {
  MaskConfig mask;
  mask.count = count;
  mask.rate = rate;
  std::vector<int> counts{7, 7, 7};  // what it held does not matter
  masked_row_counts(counts, lengths, numbered(lengths.size(), first), mask,
                    mask_streams(Draw::training, seed, step).chosen);
  return counts;
}

TEST_CASE("rows chosen per step and per sequence: values by hand") {
  struct Case {
    MaskCount count;
    double rate;
    std::vector<int> lengths, wanted;
  };
  const std::vector<Case> cases{
      // c(30) = 4.5 -> 5, c(60) = 9, c(90) = 13.5 -> 14
      {MaskCount::batch, 0.15, {30, 30, 30}, {5, 4, 5}},
      // c(3) = .45 -> 0, c(4) = .6 -> 1, c(9) = 1.35 -> 1, c(10) = 1.5 -> 2
      {MaskCount::batch, 0.15, {3, 1, 5, 1}, {0, 1, 0, 1}},
      {MaskCount::batch, 0.15, {3}, {1}},                    // would get none: the first sequence gets one
      {MaskCount::batch, 0.15, {0, 0, 2, 1}, {0, 0, 1, 0}},  // the first that has a row
      {MaskCount::batch, 0.15, {0, 0}, {0, 0}},              // nothing to choose from
      {MaskCount::batch, 0.15, {}, {}},
      {MaskCount::batch, 1.0, {4, 0, 7}, {4, 0, 7}},
      {MaskCount::batch, 0.5, {1, 1, 1, 1}, {1, 0, 1, 0}},  // halves are rounded up: c = 1, 1, 2, 2
      {MaskCount::batch, 0.0000004, {30}, {1}},             // less than one in a million counts as nothing
      {MaskCount::sequence, 0.15, {30, 3, 10, 0, 1}, {5, 1, 2, 0, 1}},
      {MaskCount::sequence, 1.0, {4, 1}, {4, 1}},
      {MaskCount::bernoulli, 1.0, {4, 0, 7}, {4, 0, 7}},  // round(2^32) needs 64 bits
  };
  for (const Case& one : cases) {
    INFO(spell(one.count) << " at " << one.rate << ", " << one.lengths.size() << " sequences");
    CHECK(counts_of(one.lengths, one.count, one.rate) == one.wanted);
  }
}

TEST_CASE("per step, the running sums are the nearest whole shares") {
  const std::vector<int> lengths{30, 7, 1, 0, 12, 30, 29, 5, 1, 1, 1, 30, 512, 3};
  for (const double rate : {0.01, 0.15, 0.333333, 0.5, 0.95, 1.0}) {
    const std::vector<int> counts = counts_of(lengths, MaskCount::batch, rate);
    std::int64_t rows = 0, chosen = 0;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      rows += lengths[b];
      chosen += counts[b];
      INFO("rate " << rate << ", sequence " << b);
      CHECK(counts[b] >= 0);
      CHECK(counts[b] <= lengths[b]);
      CHECK(std::abs(static_cast<double>(chosen) - rate * static_cast<double>(rows)) <= 0.5 + 1e-9);
    }
  }
}

TEST_CASE("counts per step do not depend on seed or step, and a step cut into micro-batches keeps its offsets") {
  const std::vector<int> lengths{30, 30, 17, 9, 5, 5, 4};
  const std::vector<int> counts = counts_of(lengths, MaskCount::batch, 0.15);
  CHECK(counts == counts_of(lengths, MaskCount::batch, 0.15, 99, 1234, 17));
  // Counted piece by piece the roundings would start anew: the counts belong to the whole step.
  const std::vector<int> first = counts_of({30, 30, 17}, MaskCount::batch, 0.15);
  CHECK(std::equal(first.begin(), first.end(), counts.begin()));
  CHECK(counts_of({9, 5, 5, 4}, MaskCount::batch, 0.15) != std::vector<int>(counts.begin() + 3, counts.end()));
}

TEST_CASE("bernoulli counts the rows whose word is below the threshold, wherever the step is cut") {
  const std::vector<int> lengths{30, 1, 0, 512, 77, 5};
  int total = 0;
  for (const double rate : {0.15, 0.5, 0.9}) {
    const std::vector<int> counts = counts_of(lengths, MaskCount::bernoulli, rate, 0x100000005ull, 8, 40);
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      int wanted = 0;
      for (int row = 0; row < lengths[b]; ++row) {
        const auto words = oracle::philox(0x100000005ull, static_cast<std::uint32_t>(row),
                                          40 + static_cast<std::uint32_t>(b), 8, 3, 0);
        wanted += static_cast<double>(words[0]) / 4294967296.0 < rate ? 1 : 0;
      }
      INFO("rate " << rate << ", sequence " << b);
      CHECK(counts[b] == wanted);
      CHECK(counts_of({lengths[b]}, MaskCount::bernoulli, rate, 0x100000005ull, 8,
                      40 + static_cast<std::uint32_t>(b)) == std::vector<int>{counts[b]});
      total += counts[b];
    }
  }
  CHECK(total > 500);
}

TEST_CASE("training and evaluation draw from streams of their own") {
  const MaskStreams training = mask_streams(Draw::training, 5, 9), evaluation = mask_streams(Draw::evaluation, 5, 0);
  std::set<std::uint32_t> words;
  for (const MaskStreams& streams : {training, evaluation}) {
    for (const RandomStream& stream : {streams.chosen, streams.actions, streams.noise}) words.insert(stream.word(0, 0));
  }
  CHECK(words.size() == 6);
  const auto drawn = [](const RandomStream& stream) {
    const RandomWords four = stream.words(3, 4);
    return oracle::Words{four[0], four[1], four[2], four[3]};
  };
  CHECK(drawn(training.chosen) == oracle::philox(5, 3, 4, 9, 3, 0));
  CHECK(drawn(training.actions) == oracle::philox(5, 3, 4, 9, 4, 0));
  CHECK(drawn(training.noise) == oracle::philox(5, 3, 4, 9, 5, 0));
  CHECK(drawn(evaluation.chosen) == oracle::philox(5, 3, 4, 0, 13, 0));
  CHECK(drawn(evaluation.actions) == oracle::philox(5, 3, 4, 0, 14, 0));
  CHECK(drawn(evaluation.noise) == oracle::philox(5, 3, 4, 0, 15, 0));
  std::vector<int> counts;
  CHECK_THROWS_AS(masked_row_counts(counts, std::vector<int>{1, 2}, numbered(1), MaskConfig{}, training.chosen),
                  ContractViolation);
}

}  // namespace
}  // namespace blinkbert
