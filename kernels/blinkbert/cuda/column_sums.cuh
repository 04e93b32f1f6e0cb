#pragma once

// column_sums.cuh -- the second half of every sum over rows: partial sums of blocks, added up in a fixed order.
//
//   what       out_k(c) += sum_r partials(r, k width + c), k = 0 .. outputs
//   mapping    a block owns 32 columns; its 8 warps take the rows r = warp, warp + 8, ...
//   order      each warp its rows in ascending order, then the 8 warps in ascending order: the same input, the same bits
//   traffic    partials read once, coalesced

#include <blinkbert/dev/dev.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

/// Where the columns go: up to four outputs of `width` columns each, side by side.
template <class T>
struct ColumnSums {
  Acc<T, 1> out[4];           // [width]  out, added to; an empty one is not wanted
  View<const T, 2> partials;  // [rows, outputs width]
  int width = 0;
};

inline constexpr int column_sums_warps = 8;

template <class T>
BB_KERNEL(32 * column_sums_warps, 4)
column_sums(ColumnSums<T> op) {
  SharedMemory shared;
  const auto sums = shared.take<T>(32 * column_sums_warps);
  const int rows = op.partials.extent(0), columns = op.partials.extent(1);
  const int column = block() * 32 + lane();
  T sum = 0;
  if (column < columns) {
    for (int r = warp(); r < rows; r += column_sums_warps) sum += load(at(op.partials, r, column));
  }
  store(at(sums, thread()), sum);
  sync_block();
  if (warp() > 0 || column >= columns) return;
  T total = 0;
  for (int w = 0; w < column_sums_warps; ++w) total += load(at(sums, w * 32 + lane()));
  // Selected, not indexed: a kernel's arguments are no array to it.
  const int k = column / op.width;
  const Acc<T, 1> out = k == 0 ? op.out[0] : k == 1 ? op.out[1] : k == 2 ? op.out[2] : op.out[3];
  if (!out) return;
  const auto place = at(out, column % op.width);
  store(place, load(place) + total);
}

template <class Gpu, class T>
void add_column_sums(Gpu& gpu, const ColumnSums<T>& op) {
  dev::launch<column_sums<T>>(gpu,
                              {.blocks = ceil_div(op.partials.extent(1), 32),
                               .threads = 32 * column_sums_warps,
                               .shared_bytes = shared_bytes<T>(32 * column_sums_warps)},
                              op);
}

}  // namespace kernels
}  // namespace blinkbert
