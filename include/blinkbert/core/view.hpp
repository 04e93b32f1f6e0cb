#pragma once

// View and Acc: a pointer with extents, on the host and on a device. Row-major and contiguous, always.
//
//   B  sequences in a batch      L  rows (blinks) per sequence    T  = B L, all rows of a batch
//   N  features of a blink       E  embedding width               H  heads      D  head width      F  feed-forward width
//   M  rows chosen by MLM        P  parameters                    s  a key row
//
// A loop index is the lower-case letter of the extent it runs over.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <blinkbert/core/expects.hpp>

#if defined(__CUDACC__)
#define BLINKBERT_HOST_DEVICE __host__ __device__
#else
#define BLINKBERT_HOST_DEVICE
#endif

namespace blinkbert {

/// Elements addressed by `extents`; 64 bits, since T E of a large batch passes 2^31.
template <std::size_t Rank>
constexpr std::int64_t element_count(const std::array<int, Rank>& extents) {
  std::int64_t count = 1;
  for (std::size_t axis = 0; axis < Rank; ++axis) count *= extents[axis];
  return count;
}

/// A pointer and its extents; owns nothing. An output of type View is overwritten. A default-constructed view is empty
/// and means "not wanted" or "not given".
template <class T, int Rank>
class View {
 public:
  using Element = T;
  static constexpr int rank = Rank;

  View() = default;
  View(T* data, std::array<int, Rank> extents) : data_(data) { std::copy_n(extents.begin(), Rank, extents_); }

  /// View<T> converts to View<const T>.
  template <class U>
  requires(std::is_const_v<T>&& std::is_same_v<U, std::remove_const_t<T>>) View(const View<U, Rank>& other)
      : View(other.data(), other.extents()) {}

  BLINKBERT_HOST_DEVICE T* data() const { return data_; }
  BLINKBERT_HOST_DEVICE int extent(int axis) const { return extents_[axis]; }
  std::array<int, Rank> extents() const {
    std::array<int, Rank> copy{};
    std::copy_n(extents_, Rank, copy.begin());
    return copy;
  }
  BLINKBERT_HOST_DEVICE std::int64_t size() const {
    std::int64_t count = 1;
    for (int axis = 0; axis < Rank; ++axis) count *= extents_[axis];
    return count;
  }
  BLINKBERT_HOST_DEVICE explicit operator bool() const { return data_ != nullptr; }

  /// Offset of an element: ((i0 * extent1 + i1) * extent2 + i2) ...
  template <class... Index>
  requires(sizeof...(Index) == Rank) BLINKBERT_HOST_DEVICE T& operator()(Index... index) const {
    std::int64_t offset = 0;
    int axis = 0;
    ((offset = offset * extents_[axis++] + index), ...);
    return data_[offset];
  }

  /// The rows [first, first + count) of the leading axis.
  BLINKBERT_HOST_DEVICE View rows(int first, int count) const {
    View part = *this;
    part.data_ += extents_[0] == 0 ? 0 : size() / extents_[0] * first;
    part.extents_[0] = count;
    return part;
  }

 private:
  T* data_ = nullptr;
  int extents_[Rank] = {};  // not std::array, whose functions device code cannot call
};

/// A view that is added to. Only made on purpose: `Acc{view}`.
template <class T, int Rank>
class Acc {
 public:
  Acc() = default;
  BLINKBERT_HOST_DEVICE explicit Acc(View<T, Rank> view) : view_(view) {}

  BLINKBERT_HOST_DEVICE const View<T, Rank>& view() const { return view_; }
  BLINKBERT_HOST_DEVICE T* data() const { return view_.data(); }
  BLINKBERT_HOST_DEVICE int extent(int axis) const { return view_.extent(axis); }
  BLINKBERT_HOST_DEVICE explicit operator bool() const { return static_cast<bool>(view_); }
  BLINKBERT_HOST_DEVICE Acc rows(int first, int count) const { return Acc{view_.rows(first, count)}; }

  template <class... Index>
  BLINKBERT_HOST_DEVICE T& operator()(Index... index) const {
    return view_(index...);
  }

 private:
  View<T, Rank> view_;
};

template <class T, int Rank>
Acc(View<T, Rank>) -> Acc<T, Rank>;

/// The same elements under other extents; their number must agree.
template <class T, int Rank, std::size_t NewRank>
View<T, static_cast<int>(NewRank)> reshape(const View<T, Rank>& view, const int (&extents)[NewRank]) {
  std::array<int, NewRank> to{};
  for (std::size_t axis = 0; axis < NewRank; ++axis) to[axis] = extents[axis];
  if (!view) return {};
  BLINKBERT_EXPECTS(element_count(to) == view.size(), element_count(to), view.size());
  return {view.data(), to};
}

/// True where the view is there and has exactly these extents.
template <class AnyView, class... Extent>
bool has_shape(const AnyView& view, Extent... extents) {
  const std::array<int, sizeof...(Extent)> wanted{static_cast<int>(extents)...};
  bool equal = static_cast<bool>(view) || ((extents == 0) || ...);
  for (std::size_t axis = 0; axis < wanted.size(); ++axis)
    equal = equal && view.extent(static_cast<int>(axis)) == wanted[axis];
  return equal;
}

/// has_shape, or empty: for outputs that may be "not wanted" and inputs that may be "not given".
template <class AnyView, class... Extent>
bool has_shape_or_is_empty(const AnyView& view, Extent... extents) {
  return !view || has_shape(view, extents...);
}

/// The type sums over Real are kept in: float for bf16 and float, double for double.
template <class Real>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <class Real>
using Wide = typename WideOf<std::remove_const_t<Real>>::type;

}  // namespace blinkbert
