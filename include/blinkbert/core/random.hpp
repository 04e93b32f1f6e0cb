#pragma once

// Counters to random bits: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), by Random123.
// Every random decision is a pure function of (seed, purpose, layer, step, sequence, index), equal on every backend, so
// any step can be replayed alone and no decision depends on threads, devices or on how a batch is cut.

#include <cstddef>
#include <cstdint>

#include <Random123/philox.h>

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// Who asks. One list for the whole library; a number is never used again for something else.
enum class Purpose : std::uint32_t {
  initial_values = 1,    // sequence = ordinal of the parameter
  order_of_windows = 2,  // index = window, sequence = epoch
  chosen_rows = 3,       // index = row
  actions = 4,           // index = row
  noise = 5,             // index = (feature / 4) * 65536 + row
  attention_dropout = 6,
  attention_residual_dropout = 7,
  feed_forward_residual_dropout = 8,
  head_dropout = 9,
  simulator = 10,
  bootstrap = 11,
  split = 12,
  evaluation_chosen_rows = 13,  // validation and test: step 0, sequence = window of the file
  evaluation_actions = 14,
  evaluation_noise = 15,
};

/// The layer of the upscaling block in a counter; encoder block i and hidden layer i of the head use i.
inline constexpr std::uint32_t upscaling_layer = 255;

struct RandomWords {
  std::uint32_t word[4];
  BLINKBERT_HOST_DEVICE std::uint32_t operator[](std::size_t i) const { return word[i]; }
};

/// What changes from one optimizer step to the next, where the device reads it: ops that are issued once and run many times
/// see the values of the step they run in.
struct alignas(16) StepValues {
  std::int64_t step = 0;  // t, from 0 over the whole run; skipped steps count
  float rate = 0;         // learning rate
};

/// One stream of counters: everything but index and sequence.
struct RandomStream {
  std::uint64_t seed = 0;
  Purpose purpose = Purpose::initial_values;
  std::uint32_t layer = 0;
  std::uint32_t step = 0;
  View<const StepValues, 1> now = {};  // [1]  not empty: its step counts instead

  BLINKBERT_HOST_DEVICE std::uint32_t current_step() const {
    return now ? static_cast<std::uint32_t>(now(0).step) : step;
  }

  /// Four words for the counter {index, sequence, step, purpose << 8 | layer}.
  BLINKBERT_HOST_DEVICE RandomWords words(std::uint32_t index, std::uint32_t sequence) const {
    const r123::Philox4x32::ctr_type counter{
        {index, sequence, current_step(), static_cast<std::uint32_t>(purpose) << 8 | layer}};
    const r123::Philox4x32::key_type key{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
    const r123::Philox4x32::ctr_type out = r123::Philox4x32()(counter, key);
    return {{out[0], out[1], out[2], out[3]}};
  }

  BLINKBERT_HOST_DEVICE std::uint32_t word(std::uint32_t index, std::uint32_t sequence) const {
    return words(index, sequence)[0];
  }
};

/// A word as a number in [0, 1): word * 2^-32.
BLINKBERT_HOST_DEVICE inline double unit_interval(std::uint32_t word) { return word * 0x1p-32; }

}  // namespace blinkbert
