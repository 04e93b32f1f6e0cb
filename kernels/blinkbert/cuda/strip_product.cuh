#pragma once

// strip_product.cuh -- products of small matrices between shared memory and the registers of a warp.
//
//   Tile      [rows, width] in shared memory, the width a multiple of DC = 16, 32 or 64. Chunks of 16 bytes are swizzled
//             (exclusive or with the row) so that tensor core loads of 8 rows, asynchronous copies and rows read by 8 lanes
//             touch every bank once.
//   Strip     16 rows and C columns in registers, as the tensor cores keep sums (mma.m16n8k16 of the PTX manual): with
//             g = lane / 4, t = lane % 4, element r of part n is row g + 8 (r / 2), column 8 n + 2 t + r % 2.
//   Weights   a strip ready to be multiplied from the left: rounded to bf16 and packed, or kept in fp32.
//
// bf16 goes through the tensor cores with fp32 sums. fp32 has the same layout and strict fp32 products.

#include <blinkbert/dev/warp.hpp>

namespace blinkbert::kernels {
using namespace dev;

template <class Real, int DC>
struct Tile {
  static constexpr int chunk = 16 / static_cast<int>(sizeof(Real));  // elements
  Shared<Real> elements;                                             // [rows, width]
  int width;

  BB_DEVICE SharedPlace<Real> operator()(int row, int column) const {
    // With fewer than 8 chunks in DC columns the width is DC, and some rows together fill 128 bytes.
    constexpr int chunks = DC / chunk;
    constexpr int rows_together = chunks >= 8 ? 1 : 8 / chunks;
    constexpr int mask = chunks >= 8 ? 7 : chunks - 1;
    return at(elements, row * width + (column / chunk ^ (row / rows_together & mask)) * chunk + column % chunk);
  }
};

/// The width of tiles for rows of D elements, and the class DC of that width.
constexpr int tile_width(int D) { return D <= 16 ? 16 : D <= 32 ? 32 : ceil_div(D, 64) * 64; }
template <class Body>
void dispatch_tile(int D, const Body& body) {
  const int width = tile_width(D);
  dispatch<16, 32, 64>("tile width", width < 64 ? width : 64, body);
}

template <int C>
struct Strip {
  float part[C / 8][4];
};

template <int C>
BB_DEVICE void clear(Strip<C>& strip) {
  BB_UNROLL
  for (int n = 0; n < C / 8; ++n) {
    BB_UNROLL
    for (int r = 0; r < 4; ++r) strip.part[n][r] = 0;
  }
}

BB_DEVICE int strip_row(int r) { return lane() / 4 + 8 * (r / 2); }
BB_DEVICE int strip_column(int n, int r) { return 8 * n + 2 * (lane() % 4) + r % 2; }

/// Fills `rows` rows of a tile, with the threads me, me + team, ...: row r from `source(r, column)` where is_wanted(r) and
/// column < D, zeros elsewhere, and nothing read there. By asynchronous copies where D allows it; the caller commits and
/// waits in any case.
template <class Real, int DC, class Wanted, class Source>
BB_DEVICE void load_tile(const Tile<Real, DC>& tile, int rows, int D, int me, int team, const Wanted& is_wanted,
                         const Source& source) {
  constexpr int chunk = Tile<Real, DC>::chunk;
  if (D % chunk == 0) {
    const int chunks = tile.width / chunk;
    for (int i = me; i < rows * chunks; i += team) {
      const int row = i / chunks, column = i % chunks * chunk;
      if (column < D && is_wanted(row)) {
        copy_async(tile(row, column), source(row, column), true);
      } else {
        store(tile(row, column), Vector<Real, chunk>{});
      }
    }
  } else {
    for (int i = me; i < rows * tile.width; i += team) {
      const int row = i / tile.width, column = i % tile.width;
      store(tile(row, column), column < D && is_wanted(row) ? load(source(row, column)) : Real(0.0f));
    }
  }
}

// --- sum += A B^T: rows `first` .. + 16 of A, the first `limit` rows of B (rounded up to 16) ---------------------------

template <int C, int DC>
BB_DEVICE void multiply_transposed(Strip<C>& sum, const Tile<bf16, DC>& A, int first, const Tile<bf16, DC>& B,
                                   int limit) {
  const int l = lane();
  BB_UNROLL_BY(DC / 16)
  for (int k = 0; k < A.width; k += 16) {
    std::uint32_t a[4];
    load_matrix(a, A(first + l % 16, k + l / 16 * 8));
    BB_UNROLL
    for (int n = 0; n < C / 16; ++n) {
      if (16 * n >= limit) continue;
      std::uint32_t b[4];
      load_matrix(b, B(16 * n + l % 8 + l / 16 * 8, k + l / 8 % 2 * 8));
      multiply_add(sum.part[2 * n], a, b[0], b[1]);
      multiply_add(sum.part[2 * n + 1], a, b[2], b[3]);
    }
  }
}

template <int C, int DC>
BB_DEVICE void multiply_transposed(Strip<C>& sum, const Tile<float, DC>& A, int first, const Tile<float, DC>& B,
                                   int limit) {
  BB_UNROLL_BY(1)
  for (int k = 0; k < A.width; k += 4) {
    const auto upper = load<4>(A(first + strip_row(0), k)), lower = load<4>(A(first + strip_row(2), k));
    BB_UNROLL
    for (int n = 0; n < C / 8; ++n) {
      if (8 * n >= limit) continue;
      BB_UNROLL
      for (int c = 0; c < 2; ++c) {
        const auto b = load<4>(B(strip_column(n, c), k));
        BB_UNROLL
        for (int i = 0; i < 4; ++i) {
          sum.part[n][c] += upper[i] * b[i];
          sum.part[n][2 + c] += lower[i] * b[i];
        }
      }
    }
  }
}

// --- sum += weights B: the columns of the weights below `limit` (rounded up to 16), columns `first` .. + C of B ---------

template <class Real, int LT>
struct Weights;

template <int LT>
struct Weights<bf16, LT> {
  std::uint32_t part[LT / 16][4];

  /// A strip of sums has the layout of a left factor already.
  BB_DEVICE explicit Weights(const Strip<LT>& strip) {
    BB_UNROLL
    for (int k = 0; k < LT / 16; ++k) {
      BB_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = strip.part[2 * k + i / 2];
        part[k][i] = pack(pair[2 * (i % 2)], pair[2 * (i % 2) + 1]);
      }
    }
  }
};

template <int LT>
struct Weights<float, LT> {
  Strip<LT> strip;
  BB_DEVICE explicit Weights(const Strip<LT>& sums) : strip(sums) {}
};

template <int C, int LT, int DC>
BB_DEVICE void multiply(Strip<C>& sum, const Weights<bf16, LT>& weights, const Tile<bf16, DC>& B, int first,
                        int limit) {
  const int l = lane();
  BB_UNROLL
  for (int k = 0; k < LT / 16; ++k) {
    if (16 * k >= limit) continue;
    BB_UNROLL
    for (int n = 0; n < C / 16; ++n) {
      std::uint32_t b[4];
      load_matrix_transposed(b, B(16 * k + l % 16, first + 16 * n + l / 16 * 8));
      multiply_add(sum.part[2 * n], weights.part[k], b[0], b[1]);
      multiply_add(sum.part[2 * n + 1], weights.part[k], b[2], b[3]);
    }
  }
}

template <int C, int LT, int DC>
BB_DEVICE void multiply(Strip<C>& sum, const Weights<float, LT>& weights, const Tile<float, DC>& B, int first,
                        int limit) {
  BB_UNROLL
  for (int k = 0; k < LT / 8; ++k) {
    if (8 * k >= limit) continue;
    BB_UNROLL_BY(1)
    for (int t = 0; t < 4; ++t) {  // the four lanes that hold a row
      BB_UNROLL
      for (int c = 0; c < 2; ++c) {
        const float upper = shuffle(weights.strip.part[k][c], lane() / 4 * 4 + t);
        const float lower = shuffle(weights.strip.part[k][2 + c], lane() / 4 * 4 + t);
        BB_UNROLL
        for (int n = 0; n < C / 8; ++n) {
          const auto b = load<2>(B(8 * k + 2 * t + c, first + strip_column(n, 0)));
          BB_UNROLL
          for (int i = 0; i < 2; ++i) {
            sum.part[n][i] += upper * b[i];
            sum.part[n][2 + i] += lower * b[i];
          }
        }
      }
    }
  }
}

// --- a strip to global memory ------------------------------------------------------------------------------------------

/// Writes factor[half] * sum to rows `first_row` + 0 .. 16 that are below `rows`, columns `first` .. + C that are below D;
/// half 0 and 1 are the rows g and g + 8 of a lane. `target(row, column)` is the place of an element.
template <int C, class Target>
BB_DEVICE void store_strip(const Strip<C>& sum, const float (&factor)[2], int first_row, int rows, int first, int D,
                           const Target& target, bf16) {
  const bool is_odd = lane() % 2 == 1;
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + strip_row(2 * half);
    BB_UNROLL
    for (int n = 0; n < C / 8; n += 2) {
      const float(&left)[4] = sum.part[n];
      const float(&right)[4] = sum.part[n + 1];
      if (D % 4 == 0) {
        // Neighbouring lanes swap halves, so that each has four neighbouring columns: 8 bytes.
        const std::uint32_t a = pack(left[2 * half] * factor[half], left[2 * half + 1] * factor[half]);
        const std::uint32_t b = pack(right[2 * half] * factor[half], right[2 * half + 1] * factor[half]);
        const std::uint32_t taken = shuffle_xor(is_odd ? a : b, 1);
        const int column = first + 8 * (n + (is_odd ? 1 : 0)) + lane() % 4 / 2 * 4;
        const std::uint32_t low = is_odd ? taken : a, high = is_odd ? b : taken;
        const Vector<bf16, 4> four{{low_bf16(low), high_bf16(low), low_bf16(high), high_bf16(high)}};
        if (row < rows && column < D) store(target(row, column), four);
      } else {
        BB_UNROLL
        for (int c = 0; c < 2; ++c) {
          const int column = first + strip_column(n, c);
          if (row < rows && column < D) store(target(row, column), bf16(left[2 * half + c] * factor[half]));
          if (row < rows && column + 8 < D) store(target(row, column + 8), bf16(right[2 * half + c] * factor[half]));
        }
      }
    }
  }
}

template <int C, class Target>
BB_DEVICE void store_strip(const Strip<C>& sum, const float (&factor)[2], int first_row, int rows, int first, int D,
                           const Target& target, float) {
  BB_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + strip_row(2 * half);
    BB_UNROLL
    for (int n = 0; n < C / 8; ++n) {
      const int column = first + strip_column(n, 0);
      const Vector<float, 2> pair{{sum.part[n][2 * half] * factor[half], sum.part[n][2 * half + 1] * factor[half]}};
      if (row >= rows) continue;
      if (D % 2 == 0) {
        if (column < D) store(target(row, column), pair);
      } else {
        if (column < D) store(target(row, column), pair[0]);
        if (column + 1 < D) store(target(row, column + 1), pair[1]);
      }
    }
  }
}

/// target = factor * weights B, DC columns at a time.
template <class Real, int LT, int DC, class Target>
BB_DEVICE void multiply_and_store(const Weights<Real, LT>& weights, const Tile<Real, DC>& B, int limit,
                                  const float (&factor)[2], int first_row, int rows, int D, const Target& target) {
  BB_UNROLL_BY(1)
  for (int first = 0; first < B.width; first += DC) {
    Strip<DC> sum;
    clear(sum);
    multiply(sum, weights, B, first, limit);
    store_strip(sum, factor, first_row, rows, first, D, target, Real(0.0f));
  }
}

}  // namespace blinkbert::kernels
