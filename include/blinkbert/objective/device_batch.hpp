#pragma once

// One batch on the device: what was uploaded, and what masking makes of it. Planned once per (B, L) bucket.

#include <blinkbert/core/arena.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/model/encoder_with_head.hpp>
#include <blinkbert/ops/row_masks.hpp>

namespace blinkbert {

/// What the host fills in, in one piece of memory, so that one copy brings it to the device.
template <class Number>
struct BatchInputs {
  using Real = Number;

  View<Real, 3> clean;               // [B, L, N]  before masking; zeros at padded rows
  View<Wide<Real>, 2> target;        // [T, N]     the same values, wide
  View<int, 1> lengths;              // [B]
  View<int, 1> offsets;              // [B + 1]    running sum of the chosen rows
  View<int, 1> last_offsets;         // [B + 1]    0, 1, ..., B: one last row a sequence
  View<std::uint32_t, 1> sequences;  // [B]        numbers in the counters of masking
  View<Wide<Real>, 1> scores;        // [B]        labels of the windows, KSS
  View<Wide<Real>, 1> weights;       // [B]        of the windows in the loss
  View<int, 1> rows;                 // [T]        the first M, or B, are used
  View<int, 1> slots;                // [T]
  View<int, 1> present;              // [B]        1 where the sequence has a last row
  View<std::uint32_t, 2> visible;    // [B, ceil(L/32)]

  /// The inputs of B sequences in `memory`, which has as many `bytes`.
  static BatchInputs at(std::byte* memory, int B, int L, int N) {
    std::size_t used = 0;
    return place_all(memory, used, B, L, N);
  }
  static std::size_t bytes(int B, int L, int N) {
    std::size_t used = 0;
    place_all(nullptr, used, B, L, N);
    return used;
  }

 private:
  static BatchInputs place_all(std::byte* memory, std::size_t& used, int B, int L, int N) {
    constexpr std::size_t alignment = 256;
    const int T = B * L;
    BatchInputs inputs;
    const auto place = [&]<class Element, int Rank>(View<Element, Rank>& view, auto... extents) {
      view = {memory == nullptr ? nullptr : reinterpret_cast<Element*>(memory + used), {extents...}};
      used += (static_cast<std::size_t>(view.size()) * sizeof(Element) + alignment - 1) / alignment * alignment;
    };
    place(inputs.clean, B, L, N);
    place(inputs.target, T, N);
    place(inputs.lengths, B);
    place(inputs.offsets, B + 1);
    place(inputs.last_offsets, B + 1);
    place(inputs.sequences, B);
    place(inputs.scores, B);
    place(inputs.weights, B);
    place(inputs.rows, T);
    place(inputs.slots, T);
    place(inputs.present, B);
    place(inputs.visible, B, visible_words(L));
    return inputs;
  }
};

template <Backend Device>
struct DeviceBatch : BatchInputs<typename Device::Real> {
  using Real = typename Device::Real;
  using Inputs = BatchInputs<Real>;

  View<std::byte, 1> inputs;   // all that BatchInputs has
  View<Real, 3> masked;        // [B, L, N]  after masking
  View<RowAction, 1> actions;  // [T]       the first M are used
  int M = 0;                   // rows chosen

  static DeviceBatch plan(Arena<Device>& arena, int B, int L, int N) {
    DeviceBatch batch;
    batch.inputs = arena.template take<std::byte>(static_cast<int>(Inputs::bytes(B, L, N)));
    static_cast<Inputs&>(batch) = Inputs::at(batch.inputs.data(), B, L, N);
    batch.masked = arena.template take<Real>(B, L, N);
    batch.actions = arena.template take<RowAction>(B * L);
    return batch;
  }

  int B() const { return this->clean.extent(0); }
  int L() const { return this->clean.extent(1); }

  Pass pass(Mode mode, std::uint64_t seed, std::uint32_t step, std::uint32_t first_sequence) const {
    return {.mode = mode,
            .seed = seed,
            .step = step,
            .first_sequence = first_sequence,
            .lengths = this->lengths,
            .visible = this->visible,
            .L = L()};
  }
};

}  // namespace blinkbert
