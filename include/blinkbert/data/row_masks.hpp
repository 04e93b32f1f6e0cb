#pragma once

// How many rows of each sequence are chosen for prediction: known before any random number is drawn, so that offsets and
// M are host knowledge on every device. Which rows, and what happens to them: ops/row_masks.hpp.

#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// Whose counters a batch draws from.
enum class Draw {
  training,    // step = the optimizer step, sequence = the place within it
  evaluation,  // purposes of their own, step 0, sequence = the window's number in the file: equal in every epoch
};

struct MaskStreams {
  RandomStream chosen, actions, noise;
};

/// `now`: as in RandomStream, for the device; training only.
inline MaskStreams mask_streams(Draw draw, std::uint64_t seed, std::uint32_t step, View<const StepValues, 1> now = {}) {
  const auto stream = [&](Purpose purpose) {
    return RandomStream{.seed = seed, .purpose = purpose, .layer = 0, .step = step, .now = now};
  };
  if (draw == Draw::training) return {stream(Purpose::chosen_rows), stream(Purpose::actions), stream(Purpose::noise)};
  return {stream(Purpose::evaluation_chosen_rows), stream(Purpose::evaluation_actions),
          stream(Purpose::evaluation_noise)};
}

/// Rows chosen in each sequence, written to `counts` (resized; its memory is used again), for all sequences that share a
/// count: those of one optimizer step, or all validation windows in file order. With r = round(1e6 rate),
/// c(s) = (r s + 500000) / 1000000 in 64-bit integers:
///   batch      c(S[b+1]) - c(S[b]), S the running sum of lengths; if that is nothing at all, one in the first sequence
///   sequence   max(1, c(length)), 0 for an empty sequence
///   bernoulli  the rows whose word is below round(rate 2^32); these are the rows with the smallest words, so the op
///              needs their number only
inline void masked_row_counts(std::vector<int>& counts, std::span<const int> lengths,
                              std::span<const std::uint32_t> sequences, const MaskConfig& mask,
                              const RandomStream& chosen) {
  BLINKBERT_EXPECTS(lengths.size() == sequences.size(), lengths.size(), sequences.size());
  const std::int64_t rate = std::llround(1e6 * mask.rate);
  const auto share = [&](std::int64_t rows) { return (rate * rows + 500000) / 1000000; };
  counts.assign(lengths.size(), 0);
  std::int64_t rows = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    switch (mask.count) {
      case MaskCount::batch:
        counts[b] = static_cast<int>(share(rows + lengths[b]) - share(rows));
        rows += lengths[b];
        break;
      case MaskCount::sequence:
        if (lengths[b] > 0) counts[b] = static_cast<int>(std::max<std::int64_t>(1, share(lengths[b])));
        break;
      case MaskCount::bernoulli: {
        const auto below = static_cast<std::uint64_t>(std::llround(mask.rate * 0x1p32));
        for (int row = 0; row < lengths[b]; ++row) {
          counts[b] += chosen.word(static_cast<std::uint32_t>(row), sequences[b]) < below ? 1 : 0;
        }
        break;
      }
    }
  }
  if (mask.count == MaskCount::batch && std::accumulate(counts.begin(), counts.end(), std::int64_t{0}) == 0) {
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      if (lengths[b] == 0) continue;
      counts[b] = 1;
      break;
    }
  }
}

}  // namespace blinkbert
