#pragma once

// segments.cuh -- a walk over the flat parameter block, in stretches of 128 elements.
//
// Segments begin at multiples of 128 elements (core/segment.hpp), so a stretch belongs to one segment at most. A warp works
// on a stretch at a time, a lane on four neighbouring elements: 16 bytes of float. The stretches of a warp ascend, so it
// finds their segments by going through the table once, beside its work; no host has to cut the block for the grid.

#include <blinkbert/core/segment.hpp>
#include <blinkbert/dev/dev.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

inline constexpr int stretch = 4 * warp_size;
static_assert(segment_alignment % stretch == 0);

BLINKBERT_HOST_DEVICE constexpr int stretches(int P) { return P / stretch + (P % stretch > 0 ? 1 : 0); }

/// A place in a table of segments; `Entry` holds begin and end.
template <class Entry>
class SegmentCursor {
 public:
  BB_DEVICE explicit SegmentCursor(const View<const Entry, 1>& table) : table_(table) {}

  /// Goes on to the segment that holds the element and returns true, or false where no segment does. Elements ascend from
  /// call to call.
  BB_DEVICE bool finds(int element) {
    while (entry_.end <= element && next_ < table_.extent(0)) entry_ = load(at(table_, next_++));
    return entry_.begin <= element && element < entry_.end;
  }
  BB_DEVICE const Entry& entry() const { return entry_; }

 private:
  View<const Entry, 1> table_;
  Entry entry_{};
  int next_ = 0;
};

/// Four elements from `first` on; zeros from `end` on, where nothing is read.
template <class T>
BB_DEVICE Vector<std::remove_const_t<T>, 4> load_four(const View<T, 1>& block, int first, int end) {
  if (end - first >= 4) return load<4>(at(block, first));
  Vector<std::remove_const_t<T>, 4> four{};
  BB_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (first + i < end) four[i] = load(at(block, first + i));
  }
  return four;
}

/// Those of four elements from `first` on that lie before `end`.
template <class T>
BB_DEVICE void store_four(const View<T, 1>& block, int first, int end, const Vector<T, 4>& four) {
  if (end - first >= 4) {
    store(at(block, first), four);
    return;
  }
  BB_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (first + i < end) store(at(block, first + i), four[i]);
  }
}

}  // namespace kernels
}  // namespace blinkbert
