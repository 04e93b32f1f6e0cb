#pragma once

// Segments of a flat block for the tests of the optimiser's ops: with gaps between them, as alignment leaves.

#include <cstdint>
#include <vector>

#include <blinkbert/core/segment.hpp>

namespace blinkbert::test {

inline std::int64_t aligned(std::int64_t end) {
  return (end + segment_alignment - 1) / segment_alignment * segment_alignment;
}

/// Segments of these sizes, aligned as the contract says; first_trainable, skips_before and decays are
/// taken in turn from what follows, so that decaying, trained late and frozen ones stand side by side.
inline std::vector<Segment> segments_of(const std::vector<int>& sizes) {
  const std::int64_t first_trainable[] = {0, never_trains, 0, 4, 0}, skips_before[] = {0, 0, 0, 1, 0};
  std::vector<Segment> segments;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    segments.push_back({.begin = begin,
                        .end = begin + sizes[i],
                        .first_trainable = first_trainable[i % 5],
                        .skips_before = skips_before[i % 5],
                        .group = static_cast<int>(i),
                        .decays = i % 2 == 0});
    begin = aligned(segments.back().end);
  }
  return segments;
}

inline int block_size(const std::vector<Segment>& segments) { return static_cast<int>(aligned(segments.back().end)); }

/// 1 for each element of a segment that `takes` accepts, 0 for others and for the gaps.
template <class Takes>
std::vector<int> elements_of(const std::vector<Segment>& segments, const Takes& takes) {
  std::vector<int> result(static_cast<std::size_t>(block_size(segments)), 0);
  for (const Segment& segment : segments) {
    for (std::int64_t p = segment.begin; p < segment.end && takes(segment); ++p)
      result[static_cast<std::size_t>(p)] = 1;
  }
  return result;
}

}  // namespace blinkbert::test
