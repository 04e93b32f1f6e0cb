#pragma once

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// The rows of a batch that are read above a layer, which is then computed for them alone. Default-constructed: all rows.
struct RowsRead {
  View<const int, 1> rows = {};     // [M]      t = b L + l of each, ascending, or -1 = none
  View<const int, 1> slots = {};    // [T]      place m of row t in rows, or -1
  View<const int, 1> offsets = {};  // [B + 1]  rows [offsets_b, offsets_b+1) are those of sequence b

  explicit operator bool() const { return static_cast<bool>(rows); }
  /// M, or T where all rows are read.
  int count(int T) const { return rows ? rows.extent(0) : T; }
};

}  // namespace blinkbert
