#pragma once

// The tensor core words in plain C++: what each lane holds is as in the PTX manual, sections "Matrix Fragments for
// mma.m16n8k16" and "ldmatrix".

#include <blinkbert/dev/emulator.hpp>

namespace blinkbert::dev {

namespace emulator {

inline float low_half(std::uint32_t word) { return std::bit_cast<float>(word << 16); }
inline float high_half(std::uint32_t word) { return std::bit_cast<float>(word & 0xffff0000u); }

enum class Order { as_stored, transposed };

/// Four 8 x 8 matrices; lane l names row l % 8 of matrix l / 8.
template <Order order>
void load_matrix(std::uint32_t (&part)[4], const SharedPlace<bf16>& row, const char* what, Where where) {
  struct Arguments {
    const bf16* row;
    std::uint32_t* part;
  } mine{row.vector<8>(where), part};
  Block& block = current();
  block.collective(what, where, mine, [&](const auto& lane) {
    for (std::size_t matrix = 0; matrix < 4; ++matrix) {
      std::array<const void*, 8> rows{};
      for (std::size_t r = 0; r < 8; ++r) rows[r] = lane[8 * matrix + r]->row;
      block.touch_matrix(rows, static_cast<int>(8 * matrix), where);
      for (std::size_t l = 0; l < 32; ++l) {
        const std::size_t a = l / 4, b = 2 * (l % 4);
        const auto element = [&](std::size_t r, std::size_t c) { return lane[8 * matrix + r]->row[c].bits; };
        const std::uint32_t low = order == Order::as_stored ? element(a, b) : element(b, a);
        const std::uint32_t high = order == Order::as_stored ? element(a, b + 1) : element(b + 1, a);
        lane[l]->part[matrix] = low | high << 16;
      }
    }
  });
}

}  // namespace emulator

inline void load_matrix(std::uint32_t (&part)[4], const SharedPlace<bf16>& row, Where where = Where::current()) {
  emulator::load_matrix<emulator::Order::as_stored>(part, row, "load_matrix", where);
}
inline void load_matrix_transposed(std::uint32_t (&part)[4], const SharedPlace<bf16>& row,
                                   Where where = Where::current()) {
  emulator::load_matrix<emulator::Order::transposed>(part, row, "load_matrix_transposed", where);
}

/// sum [16, 8] += a [16, 16] b [16, 8]. Products are exact; a device adds them up in an order of its own.
inline void multiply_add(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                         Where where = Where::current()) {
  struct Arguments {
    float* sum;
    const std::uint32_t* a;
    std::uint32_t b[2];
  } mine{sum, a, {b0, b1}};
  emulator::current().collective("multiply_add", where, mine, [](const auto& lane) {
    float left[16][16], right[16][8];
    for (int l = 0; l < 32; ++l) {
      const Arguments& one = *lane[static_cast<std::size_t>(l)];
      const int row = l / 4, column = 2 * (l % 4);
      for (int part = 0; part < 4; ++part) {  // lower rows in parts 1 and 3, right columns in 2 and 3
        float* place = &left[row + 8 * (part % 2)][column + 8 * (part / 2)];
        place[0] = emulator::low_half(one.a[part]);
        place[1] = emulator::high_half(one.a[part]);
      }
      for (int part = 0; part < 2; ++part) {
        right[column + 8 * part][row] = emulator::low_half(one.b[part]);
        right[column + 8 * part + 1][row] = emulator::high_half(one.b[part]);
      }
    }
    float product[16][8] = {};
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < 16; ++k) {
        for (int j = 0; j < 8; ++j) product[i][j] += left[i][k] * right[k][j];
      }
    }
    for (int l = 0; l < 32; ++l) {
      float* out = lane[static_cast<std::size_t>(l)]->sum;
      const int row = l / 4, column = 2 * (l % 4);
      for (int part = 0; part < 4; ++part) out[part] += product[row + 8 * (part / 2)][column + part % 2];
    }
  });
}

}  // namespace blinkbert::dev
