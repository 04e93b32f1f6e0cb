#pragma once

// row_masks.cuh -- which rows of a batch are chosen, and what the model sees of them.
//
//   what       formula, shapes, counters: <blinkbert/ops/row_masks.hpp>. Here: only how.
//   mapping    a warp per sequence: first a lane takes the rows lane, lane + 32, ..., then the elements in the same way
//   staging    the drawn words of the sequence in shared memory, later what is done with each row in their place
//   choice     the count-th smallest word is found bit by bit from the highest: with the candidate's bit set, are fewer words
//              than `count` below it? 32 rounds of ballots, no sorting. Of the rows that drew exactly that word (in practice
//              one) the first are chosen, so that rank is by (word, row)
//   order      integers, and one product for an element with noise: the CPU's bits
//   traffic    real rows of clean read once, x written once; below a megabyte for the largest batches

#include <blinkbert/dev/dev.hpp>
#include <blinkbert/ops/row_masks.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

inline constexpr int row_masks_warps = 4;     // sequences of a block
inline constexpr int row_masks_elements = 4;  // of a lane, whose reads are under way together

/// What is done with a row; in shared memory.
enum class RowFate : std::uint32_t { padded, unchanged, replaced, noisy };

/// The factor of feature n of a row.
BB_DEVICE float noise_factor(const RandomStream& stream, std::uint32_t row, std::uint32_t sequence, int n, float low,
                             float high) {
  const RandomWords words = stream.words(static_cast<std::uint32_t>(n / 4) * 65536 + row, sequence);
  // No index that is known at run time only: the words would leave the registers.
  const std::uint32_t left = n % 2 == 0 ? words[0] : words[1], right = n % 2 == 0 ? words[2] : words[3];
  return fmaf(static_cast<float>(unit_interval(n % 4 < 2 ? left : right)), high - low, low);
}

template <class Real>
BB_KERNEL(32 * row_masks_warps, 8)
row_masks(RowMasks<Real> op) {
  const int B = op.clean.extent(0), L = op.clean.extent(1), N = op.clean.extent(2), groups = op.visible.extent(1);
  const int b = block() * (threads() / warp_size) + warp();
  if (b >= B) return;  // a whole warp; nothing below waits for other warps
  SharedMemory shared;
  const auto rows = shared.take<std::uint32_t>(threads() * groups).from(warp() * warp_size * groups);
  const int length = load(at(op.lengths, b)), before = load(at(op.offsets, b));
  const int count = load(at(op.offsets, b + 1)) - before;
  const std::uint32_t sequence = load(at(op.sequences, b));

  for (int l = lane(); l < length; l += warp_size) {
    store(at(rows, l), op.chosen_stream.word(static_cast<std::uint32_t>(l), sequence));
  }
  std::uint32_t threshold = 0;
  int below = 0;  // rows that drew less than the threshold
  if (count > 0) {
    for (std::uint32_t bit = 1u << 31; bit > 0; bit >>= 1) {
      int smaller = 0;
      for (int group = 0; group < ceil_div(length, warp_size); ++group) {
        const int l = group * warp_size + lane();
        smaller += popcount(ballot(l < length && load(at(rows, l)) < (threshold | bit)));
      }
      if (smaller >= count) continue;
      threshold |= bit;
      below = smaller;
    }
  }

  const std::uint32_t lanes_before = (1u << lane()) - 1;
  int equal = 0, chosen = 0;  // rows up to here that drew the threshold; that are chosen
  for (int group = 0; group < groups; ++group) {
    const int l = group * warp_size + lane();
    const auto row = static_cast<std::uint32_t>(l);
    const bool is_real = l < length;
    const std::uint32_t word = is_real ? load(at(rows, l)) : 0;
    const std::uint32_t equals = ballot(is_real && word == threshold);
    const bool is_among_first = equal + popcount(equals & lanes_before) < count - below;
    const bool is_chosen = is_real && (word < threshold || (word == threshold && is_among_first));
    const std::uint32_t choice = ballot(is_chosen);
    const int m = before + chosen + popcount(choice & lanes_before);

    RowFate fate = is_real ? RowFate::unchanged : RowFate::padded;
    bool is_hidden = false;
    if (is_chosen) {
      const std::uint64_t action_word = op.action_stream.word(row, sequence);
      const RowAction action = action_word < op.replace_below ? RowAction::replace
                               : action_word < op.noise_below ? RowAction::noise
                                                              : RowAction::keep;
      if (action == RowAction::replace) fate = RowFate::replaced;
      if (action == RowAction::noise) fate = RowFate::noisy;
      is_hidden = op.hide == Hide::chosen || (op.hide == Hide::replaced && action == RowAction::replace);
      store(at(op.rows, m), b * L + l);
      store(at(op.actions, m), action);
    }
    if (l < L) store(at(op.slots, b * L + l), is_chosen ? m : -1);
    const std::uint32_t visible = ballot(is_real && !is_hidden);
    if (lane() == 0) store(at(op.visible, b, group), visible);
    store(at(rows, l), static_cast<std::uint32_t>(fate));
    equal += popcount(equals);
    chosen += popcount(choice);
  }
  sync_warp();  // before the fates of other lanes' rows are read

  for (int begin = lane(); begin < L * N; begin += row_masks_elements * warp_size) {
    float x[row_masks_elements];
    BB_UNROLL
    for (int k = 0; k < row_masks_elements; ++k) {
      const int i = begin + k * warp_size, l = i / N, n = i - l * N;
      x[k] = 0;
      if (i >= L * N) continue;
      const auto fate = static_cast<RowFate>(load(at(rows, l)));
      if (fate == RowFate::replaced) x[k] = op.value;
      if (fate == RowFate::unchanged || fate == RowFate::noisy) x[k] = static_cast<float>(load(at(op.clean, b, l, n)));
    }
    BB_UNROLL
    for (int k = 0; k < row_masks_elements; ++k) {
      const int i = begin + k * warp_size, l = i / N, n = i - l * N;
      if (i >= L * N) continue;
      if (static_cast<RowFate>(load(at(rows, l))) == RowFate::noisy) {
        x[k] *= noise_factor(op.noise_stream, static_cast<std::uint32_t>(l), sequence, n, op.noise_low, op.noise_high);
      }
      store(at(op.x, b, l, n), static_cast<Real>(x[k]));
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const RowMasks<typename Gpu::Real>& op) {
  op.check();
  const int B = op.clean.extent(0), groups = op.visible.extent(1);
  // A row takes four bytes of shared memory: long sequences get a block of their own, the longest do not fit.
  dev::dispatch<2048, 32768>("rows of a sequence to choose from:", op.clean.extent(1), [&](auto most) {
    const int warps = most() == 2048 ? kernels::row_masks_warps : 1, threads = warps * dev::warp_size;
    dev::launch<kernels::row_masks<typename Gpu::Real>>(
        gpu,
        {.blocks = dev::ceil_div(B, warps),
         .threads = threads,
         .shared_bytes = dev::shared_bytes<std::uint32_t>(threads * groups)},
        op);
  });
}

}  // namespace blinkbert
