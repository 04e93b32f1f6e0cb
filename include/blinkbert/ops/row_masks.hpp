#pragma once

// Which rows of a batch are chosen for prediction, and what happens to them. Counts are known beforehand
// (data/row_masks.hpp), so M and all offsets are known to the host before any random number is drawn.
// Source: Devlin et al. 2018, arXiv:1810.04805, section 3.1, task 1, carried over to rows of numbers.

#include <cstdint>

#include <blinkbert/core/pass.hpp>
#include <blinkbert/core/random.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

enum class RowAction : std::uint8_t { replace = 0, noise = 1, keep = 2 };

/// Which chosen rows attention does not see as keys.
enum class Hide { chosen, replaced, none };

/// In sequence b the offsets[b+1] - offsets[b] real rows with the smallest (word 0 of index = row, row) are chosen.
/// With w = word 0 of the row's action counter:  w < replace_below: every feature = value;  else w < noise_below: feature
/// n *= fma(u_n, noise_high - noise_low, noise_low), u_n = word[n % 4] of index (n / 4) * 65536 + row, times 2^-32;
/// else unchanged. Padded rows of x become zeros.
template <class Real>
struct RowMasks {
  View<Real, 3> x;                                             // [B, L, N]        out: the batch as the model sees it
  View<int, 1> rows;                                           // [M]              out: t = b L + l of each chosen row, ascending
  View<int, 1> slots;                                          // [T]              out: place m of row t in rows, or -1
  View<RowAction, 1> actions;                                  // [M]              out
  View<std::uint32_t, 2> visible;                              // [B, ceil(L/32)]  out: real rows that are not hidden
  View<const Real, 3> clean;                                   // [B, L, N]        before masking
  View<const int, 1> lengths;                                  // [B]
  View<const int, 1> offsets;                                  // [B + 1]          running sum of the counts; last = M
  View<const std::uint32_t, 1> sequences;                      // [B]              number of each sequence in the counters
  RandomStream chosen_stream, action_stream, noise_stream;
  std::uint64_t replace_below = 0, noise_below = 0;            // round(a0 2^32), round((a0 + a1) 2^32)
  float value = -1;
  float noise_low = 0.5f, noise_high = 1.5f;
  Hide hide = Hide::chosen;

  void check() const {
    const int B = clean.extent(0), L = clean.extent(1), N = clean.extent(2), M = rows.extent(0);
    BLINKBERT_EXPECTS(has_shape(x, B, L, N) && has_shape(lengths, B) && has_shape(offsets, B + 1), B, L, N);
    BLINKBERT_EXPECTS(has_shape(sequences, B) && has_shape(slots, B * L) && has_shape(visible, B, visible_words(L)), B, L);
    BLINKBERT_EXPECTS(has_shape(rows, M) && has_shape(actions, M) && L <= 65536, M, L);
    BLINKBERT_EXPECTS(replace_below <= noise_below, replace_below, noise_below);
  }
};

}  // namespace blinkbert
