#pragma once

// row_slice.cuh -- a row of a matrix in the registers of one warp.
//
// A lane holds `Chunks` chunks of `Chunk` neighbouring columns: chunk k of lane l begins at column (32 k + l) Chunk. Chunks of
// 8 are moved 16 bytes at a time, which needs a width that is a multiple of 8; other widths go one column at a time.

#include <blinkbert/cuda/element_dropout.cuh>
#include <blinkbert/dev/warp.hpp>

namespace blinkbert::kernels {
using namespace dev;

template <int Chunk, int Chunks>
struct RowSlice {
  static constexpr int count = Chunk * Chunks;
  float element[count];

  BB_DEVICE float& operator[](int i) { return element[i]; }
  BB_DEVICE float operator[](int i) const { return element[i]; }

  /// The column of the lane's element i.
  BB_DEVICE static int column(int i) { return (i / Chunk * 32 + lane()) * Chunk + i % Chunk; }
};

/// Row t of `view`, zeros beyond its width.
template <int Chunk, int Chunks, class Real>
BB_DEVICE RowSlice<Chunk, Chunks> load_row(const View<Real, 2>& view, int t) {
  RowSlice<Chunk, Chunks> row;
  BB_UNROLL
  for (int i = 0; i < row.count; i += Chunk) {
    const int column = row.column(i);
    if (column < view.extent(1)) {
      const auto chunk = load<Chunk>(at(view, t, column));
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) row[i + j] = static_cast<float>(chunk[j]);
    } else {
      BB_UNROLL
      for (int j = 0; j < Chunk; ++j) row[i + j] = 0;
    }
  }
  return row;
}

/// A vector as wide as the rows.
template <int Chunk, int Chunks>
BB_DEVICE RowSlice<Chunk, Chunks> load_row(const View<const float, 1>& view) {
  RowSlice<Chunk, Chunks> row;
  BB_UNROLL
  for (int i = 0; i < row.count; i += Chunk) {
    const int column = row.column(i);
    const bool is_inside = column < view.extent(0);
    Vector<float, Chunk> chunk{};
    if (is_inside) chunk = load<Chunk>(at(view, column));
    BB_UNROLL
    for (int j = 0; j < Chunk; ++j) row[i + j] = chunk[j];
  }
  return row;
}

template <int Chunk, int Chunks, class Real>
BB_DEVICE void store_row(const View<Real, 2>& view, int t, const RowSlice<Chunk, Chunks>& row) {
  BB_UNROLL
  for (int i = 0; i < row.count; i += Chunk) {
    const int column = row.column(i);
    if (column >= view.extent(1)) continue;
    Vector<Real, Chunk> chunk;
    BB_UNROLL
    for (int j = 0; j < Chunk; ++j) chunk[j] = static_cast<Real>(row[i + j]);
    store(at(view, t, column), chunk);
  }
}

/// What dropout keeps of the lane's elements of row `row` of sequence b: a bit each.
template <int Chunk, int Chunks>
BB_DEVICE std::uint32_t kept_elements(const Dropout& dropout, int b, int row, int width) {
  static_assert(Chunk * Chunks <= 32);
  std::uint32_t kept = 0;
  BB_UNROLL
  for (int i = 0; i < Chunk * Chunks; i += Chunk) {
    kept |= kept_of_chunk<Chunk>(dropout, b, row, width, RowSlice<Chunk, Chunks>::column(i)) << i;
  }
  return kept;
}

/// Calls body(integral_constant Chunk, integral_constant Chunks) for rows of `width`.
template <class Body>
void dispatch_row(int width, const Body& body) {
  using std::integral_constant;
  if (width % 8 == 0) {
    dispatch<256, 512, 1024>("row width", width, [&](auto most) {
      body(integral_constant<int, 8>{}, integral_constant<int, most() / 256>{});
    });
  } else {
    dispatch<32, 256, 512>("row width that is no multiple of 8:", width, [&](auto most) {
      body(integral_constant<int, 1>{}, integral_constant<int, most() / 32>{});
    });
  }
}

}  // namespace blinkbert::kernels
