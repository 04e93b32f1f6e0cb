#pragma once

// Segment: one parameter's place in the flat blocks, and how the optimizer treats it.

#include <cstdint>
#include <limits>

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// Segments begin at multiples of this many elements: 256 bytes in the narrowest type, so one offset fits all blocks.
inline constexpr int segment_alignment = 128;

/// A segment that no step trains.
inline constexpr std::int64_t never_trains = std::numeric_limits<std::int64_t>::max();

/// Aligned so that a kernel reads 16 bytes at a time.
struct alignas(16) Segment {
  std::int64_t begin = 0;            // first element, a multiple of segment_alignment
  std::int64_t end = 0;              // one past the last element, without the alignment's filling
  std::int64_t first_trainable = 0;  // first optimizer step that trains it; `never_trains` = frozen for good
  std::int64_t skips_before = 0;     // skipped steps of the run when it became trainable
  int group = 0;                     // 0 embedding, 1..n encoder blocks, n + 1 head
  bool decays = false;               // takes part in weight decay

  BLINKBERT_HOST_DEVICE bool trains_at(std::int64_t step) const { return step >= first_trainable; }
};

}  // namespace blinkbert
