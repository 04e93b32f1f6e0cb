#pragma once

// The flat parameter block cut into pieces that end where a segment ends: what sum_of_squares and adamw walk over.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/core/segment.hpp>

namespace blinkbert::cpu_detail {

/// Elements [begin, end) of one segment that trains, and what was summed over them.
struct Piece {
  std::int64_t begin = 0, end = 0;
  int segment = 0;
  double sum = 0;
};

struct Pieces {
  Piece* data = nullptr;
  int count = 0;
};

inline constexpr std::int64_t piece_elements = 1024;  // four float operands of a piece take half of the first cache

/// Pieces of the segments that train at `step`, in ascending order, in the workspace; the same for any number of threads.
template <class Real>
Pieces pieces(Cpu<Real>& cpu, const View<const Segment, 1>& segments, std::int64_t step) {
  const auto pieces_of = [&](const Segment& segment) {
    return segment.trains_at(step) ? (segment.end - segment.begin + piece_elements - 1) / piece_elements : 0;
  };
  std::int64_t count = 0;
  for (int i = 0; i < segments.extent(0); ++i) count += pieces_of(segments(i));
  Piece* data = cpu.template workspace<Piece>(count);
  Piece* next = data;
  for (int i = 0; i < segments.extent(0); ++i) {
    for (std::int64_t k = 0; k < pieces_of(segments(i)); ++k) {
      const std::int64_t begin = segments(i).begin + k * piece_elements;
      *next++ = {.begin = begin, .end = std::min(begin + piece_elements, segments(i).end), .segment = i};
    }
  }
  return {data, static_cast<int>(count)};
}

}  // namespace blinkbert::cpu_detail
