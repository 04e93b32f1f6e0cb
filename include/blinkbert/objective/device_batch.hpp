#pragma once

// One batch on the device: what was uploaded, and what masking makes of it. Planned once per (B, L) bucket.

#include <blinkbert/core/arena.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/model/encoder_with_head.hpp>
#include <blinkbert/ops/row_masks.hpp>

namespace blinkbert {

template <Backend Device>
struct DeviceBatch {
  using Real = typename Device::Real;

  View<Real, 3> clean;               // [B, L, N]  before masking; zeros at padded rows
  View<Wide<Real>, 2> target;        // [T, N]     the same values, wide
  View<int, 1> lengths;              // [B]
  View<int, 1> offsets;              // [B + 1]    running sum of the chosen rows
  View<int, 1> last_offsets;         // [B + 1]    0, 1, ..., B: one last row a sequence
  View<std::uint32_t, 1> sequences;  // [B]        numbers in the counters of masking
  View<Wide<Real>, 1> scores;        // [B]        labels of the windows, KSS
  View<Real, 3> masked;              // [B, L, N]  after masking
  View<int, 1> rows;                 // [T]        the first M, or B, are used
  View<int, 1> slots;                // [T]
  View<int, 1> present;              // [B]        1 where the sequence has a last row
  View<RowAction, 1> actions;        // [T]        the first M are used
  View<std::uint32_t, 2> visible;    // [B, ceil(L/32)]
  int M = 0;                         // rows chosen

  static DeviceBatch plan(Arena<Device>& arena, int B, int L, int N) {
    const int T = B * L;
    DeviceBatch batch;
    batch.clean = arena.template take<Real>(B, L, N);
    batch.target = arena.template take<Wide<Real>>(T, N);
    batch.lengths = arena.template take<int>(B);
    batch.offsets = arena.template take<int>(B + 1);
    batch.last_offsets = arena.template take<int>(B + 1);
    batch.sequences = arena.template take<std::uint32_t>(B);
    batch.scores = arena.template take<Wide<Real>>(B);
    batch.masked = arena.template take<Real>(B, L, N);
    batch.rows = arena.template take<int>(T);
    batch.slots = arena.template take<int>(T);
    batch.present = arena.template take<int>(B);
    batch.actions = arena.template take<RowAction>(T);
    batch.visible = arena.template take<std::uint32_t>(B, visible_words(L));
    return batch;
  }

  int B() const { return clean.extent(0); }
  int L() const { return clean.extent(1); }

  Pass pass(Mode mode, std::uint64_t seed, std::uint32_t step, std::uint32_t first_sequence) const {
    return {.mode = mode,
            .seed = seed,
            .step = step,
            .first_sequence = first_sequence,
            .lengths = lengths,
            .visible = visible,
            .L = L()};
  }
};

}  // namespace blinkbert
