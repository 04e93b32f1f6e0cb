#pragma once

// Pass: what every forward and backward of one pass knows.

#include <cstdint>

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

enum class Mode { training, evaluation };  // evaluation: no dropout, batch norm with its running values

/// What memory is planned for. A plan for inference keeps nothing for backward: its blocks share theirs.
enum class PassPlan { training, inference };

/// Lengths and visible bits live where the pass runs (host or device).
struct Pass {
  Mode mode = Mode::evaluation;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;                     // optimizer steps since the start of the run
  std::uint32_t first_sequence = 0;           // number of this micro-batch's first sequence within the optimizer step
  View<const int, 1> lengths = {};            // [B]     real rows of each sequence
  View<const std::uint32_t, 2> visible = {};  // [B, ceil(L/32)]  bit s % 32 of word s / 32: key s may be attended to
  int L = 0;                                  // rows per sequence, padding included
  View<const StepValues, 1> now = {};         // [1]     not empty: its step counts instead of `step`

  int B() const { return lengths.extent(0); }
  int T() const { return B() * L; }

  Dropout dropout(Purpose purpose, std::uint32_t layer, double drop_probability) const {
    if (mode == Mode::evaluation) return {};
    return {RandomStream{.seed = seed, .purpose = purpose, .layer = layer, .step = step, .now = now}, first_sequence,
            drop_probability};
  }
};

/// Words of visible bits per sequence of L rows.
constexpr int visible_words(int L) { return (L + 31) / 32; }

}  // namespace blinkbert
