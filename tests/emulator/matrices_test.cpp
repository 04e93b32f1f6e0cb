// load_matrix, load_matrix_transposed and multiply_add against the tables of the PTX manual ("Warp-level matrix load
// instruction: ldmatrix", "Matrix Fragments for mma.m16n8k16 with floating point type") and against plain products.

#include <cmath>
#include <limits>

#include <tests/emulator/machine.hpp>

namespace blinkbert::test {
namespace {

using namespace dev;

float low(std::uint32_t word) { return std::bit_cast<float>(word << 16); }
float high(std::uint32_t word) { return std::bit_cast<float>(word & 0xffff0000u); }

// --- load_matrix -------------------------------------------------------------------------------------------------

enum class Order { as_stored, transposed };

/// Lane l names row `order_of_rows` of l; what it gets goes to parts [32, 4].
template <Order order>
BB_KERNEL(32, 1)
loaded(View<std::uint32_t, 2> parts, View<bf16, 1> matrices) {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(256);
  store(at(tile, 8 * lane()), load<8>(at(matrices, 8 * lane())));
  sync_warp();
  std::uint32_t part[4];
  const int row = (lane() * 5 + 3) % 32;  // rows in any order
  if constexpr (order == Order::as_stored) load_matrix(part, at(tile, 8 * row));
  if constexpr (order == Order::transposed) load_matrix_transposed(part, at(tile, 8 * row));
  for (int m = 0; m < 4; ++m) store(at(parts, lane(), m), part[m]);
}

template <Order order>
void check_loaded() {
  std::vector<bf16> matrices;
  for (int i = 0; i < 256; ++i) matrices.push_back(bf16(static_cast<float>(i)));  // exact in bf16
  Device device;
  const View<std::uint32_t, 2> parts{device.unwritten<std::uint32_t>(128).data(), {32, 4}};
  launch<loaded<order>>(device, {.blocks = 1, .threads = 32, .shared_bytes = 512}, parts, device.holding(matrices));
  const std::vector<std::uint32_t> words = values_of(parts);
  // Element (r, c) of matrix m, whose row r lane 8 m + r has named.
  const auto element = [](int m, int r, int c) { return static_cast<float>(((8 * m + r) * 5 + 3) % 32 * 8 + c); };
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      INFO("lane " << lane << ", matrix " << m);
      const std::uint32_t word = words[static_cast<std::size_t>(4 * lane + m)];
      const int row = lane / 4, column = lane % 4 * 2;
      const bool is_plain = order == Order::as_stored;
      REQUIRE(low(word) == (is_plain ? element(m, row, column) : element(m, column, row)));
      REQUIRE(high(word) == (is_plain ? element(m, row, column + 1) : element(m, column + 1, row)));
    }
  }
}

TEST_CASE("every lane gets its elements of four matrices", "[emulator]") {
  check_loaded<Order::as_stored>();
  check_loaded<Order::transposed>();
}

// --- multiply_add ------------------------------------------------------------------------------------------------

/// Fragments are given and taken as they are: a [32, 4], b [32, 2], sum [32, 4].
BB_KERNEL(64, 1) multiplied(View<float, 2> sum, View<std::uint32_t, 2> a, View<std::uint32_t, 2> b) {
  const int t = thread();
  std::uint32_t left[4];
  float mine[4];
  for (int i = 0; i < 4; ++i) {
    left[i] = load(at(a, t, i));
    mine[i] = load(at(sum, t, i));
  }
  multiply_add(mine, left, load(at(b, t, 0)), load(at(b, t, 1)));
  for (int i = 0; i < 4; ++i) store(at(sum, t, i), mine[i]);
}

/// Small integers without a pattern.
float integer(int i) { return static_cast<float>((i * i * 7 + i * 13 + 5) % 17 - 8); }

std::uint32_t word_of(float low, float high) { return dev::pack(low, high); }

TEST_CASE("fragments lie as in the PTX manual, and products of integers are exact", "[emulator]") {
  // Two warps multiply different matrices.
  std::vector<std::uint32_t> a(64 * 4), b(64 * 2);
  std::vector<float> sum(64 * 4), wanted(64 * 4);
  for (int warp = 0; warp < 2; ++warp) {
    const auto left = [&](int row, int k) { return integer(warp * 1000 + row * 16 + k); };
    const auto right = [&](int k, int column) { return integer(warp * 1000 + 500 + k * 8 + column); };
    const auto before = [&](int row, int column) { return integer(warp * 1000 + 700 + row * 8 + column); };
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, in_group = lane % 4;  // groupID and threadID_in_group of the manual
      const auto t = static_cast<std::size_t>(32 * warp + lane);
      for (int i = 0; i < 8; i += 2) {  // a0 .. a7
        const int row = i % 4 < 2 ? group : group + 8;
        const int column = in_group * 2 + (i >= 4 ? 8 : 0);
        a[4 * t + static_cast<std::size_t>(i / 2)] = word_of(left(row, column), left(row, column + 1));
      }
      for (int i = 0; i < 4; i += 2) {  // b0 .. b3
        const int row = in_group * 2 + (i >= 2 ? 8 : 0);
        b[2 * t + static_cast<std::size_t>(i / 2)] = word_of(right(row, group), right(row + 1, group));
      }
      for (int i = 0; i < 4; ++i) {  // c0 .. c3
        const int row = i < 2 ? group : group + 8, column = in_group * 2 + i % 2;
        float product = before(row, column);
        for (int k = 0; k < 16; ++k) product += left(row, k) * right(k, column);
        sum[4 * t + static_cast<std::size_t>(i)] = before(row, column);
        wanted[4 * t + static_cast<std::size_t>(i)] = product;
      }
    }
  }
  require_sound([&](Device& device) {
    const View<float, 2> out{device.holding(sum).data(), {64, 4}};
    launch<multiplied>(device, {.blocks = 1, .threads = 64}, out,
                       View<std::uint32_t, 2>{device.holding(a).data(), {64, 4}},
                       View<std::uint32_t, 2>{device.holding(b).data(), {64, 2}});
    REQUIRE(values_of(out) == wanted);
  });
}

TEST_CASE("every single place of a product", "[emulator]") {
  // One 1 in a [16, 16] and one 3 in b [16, 8]: the sum has one 3, where the inner indices agree.
  const auto run = [](int row, int k, int other_k, int column) {
    std::vector<std::uint32_t> a(128), b(64);
    const auto half = [](int index, float value) { return index % 2 == 0 ? word_of(value, 0) : word_of(0, value); };
    a[static_cast<std::size_t>(4 * (row % 8 * 4 + k % 8 / 2) + row / 8 + 2 * (k / 8))] = half(k, 1);
    b[static_cast<std::size_t>(2 * (column * 4 + other_k % 8 / 2) + other_k / 8)] = half(other_k, 3);
    Device device;
    const View<float, 2> out{device.holding(std::vector<float>(128, 0.0f)).data(), {32, 4}};
    launch<multiplied>(device, {.blocks = 1, .threads = 32}, out,
                       View<std::uint32_t, 2>{device.holding(a).data(), {32, 4}},
                       View<std::uint32_t, 2>{device.holding(b).data(), {32, 2}});
    std::vector<float> wanted(128, 0.0f);
    if (k == other_k) wanted[static_cast<std::size_t>(4 * (row % 8 * 4 + column / 2) + row / 8 * 2 + column % 2)] = 3;
    return values_of(out) == wanted;
  };
  for (int k = 0; k < 16; ++k) {
    for (int i = 0; i < 16; ++i) REQUIRE(run(i, k, k, (i + k) % 8));
    REQUIRE(run(k, k, (k + 5) % 16, k % 8));
    REQUIRE(run(15 - k, k, 15 - k, k % 8));
  }
}

TEST_CASE("products keep infinities and what is not a number", "[emulator]") {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<std::uint32_t> a(128, word_of(1, 1)), b(64, word_of(0, 0));
  a[4 * 4] = word_of(infinity, 1);  // row 1
  Device device;
  const View<float, 2> out{device.holding(std::vector<float>(128, 0.0f)).data(), {32, 4}};
  launch<multiplied>(device, {.blocks = 1, .threads = 32}, out,
                     View<std::uint32_t, 2>{device.holding(a).data(), {32, 4}},
                     View<std::uint32_t, 2>{device.holding(b).data(), {32, 2}});
  const std::vector<float> values = values_of(out);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool is_row_1 = i / 16 == 1 && i % 4 < 2;
    REQUIRE(std::isnan(values[i]) == is_row_1);  // infinity times zero
  }
}

// --- a product of matrices in shared memory -----------------------------------------------------------------------

/// How b lies in shared memory: [k, n] is loaded transposed, [n, k] as it is.
enum class Right { k_by_n, n_by_k };

/// out [16 warps, 8] = a [16 warps, depth] b [depth, 8]
template <Right right>
BB_KERNEL(64, 1)
product(View<float, 2> out, View<bf16, 2> a, View<bf16, 2> b, int depth) {
  SharedMemory shared;
  const auto left = shared.take<bf16>(16 * threads() / 32 * depth), other = shared.take<bf16>(8 * depth);
  for (int i = thread(); i < left.count; i += threads()) store(at(left, i), load(at(a, i / depth, i % depth)));
  for (int i = thread(); i < other.count; i += threads()) {
    store(at(other, i), right == Right::k_by_n ? load(at(b, i / 8, i % 8)) : load(at(b, i / depth, i % depth)));
  }
  sync_block();
  float sum[4] = {};
  for (int k = 0; k < depth; k += 32) {
    std::uint32_t of_b[4];  // 32 rows of k
    if constexpr (right == Right::k_by_n) {
      load_matrix_transposed(of_b, at(other, (k + lane()) * 8));
    } else {
      load_matrix(of_b, at(other, lane() % 8 * depth + k + lane() / 8 * 8));
    }
    for (int half = 0; half < 2; ++half) {
      std::uint32_t of_a[4];
      load_matrix(of_a, at(left, (warp() * 16 + lane() % 16) * depth + k + 16 * half + lane() / 16 * 8));
      multiply_add(sum, of_a, of_b[2 * half], of_b[2 * half + 1]);
    }
  }
  for (int i = 0; i < 4; ++i) store(at(out, warp() * 16 + lane() / 4 + i / 2 * 8, lane() % 4 * 2 + i % 2), sum[i]);
}

template <Right right>
void check_product(int depth) {
  INFO("depth " << depth);
  std::vector<bf16> a, b(static_cast<std::size_t>(8 * depth));
  for (int i = 0; i < 32 * depth; ++i) a.push_back(bf16(integer(i)));
  for (int k = 0; k < depth; ++k) {
    for (int n = 0; n < 8; ++n) {
      b[static_cast<std::size_t>(right == Right::k_by_n ? k * 8 + n : n * depth + k)] = bf16(integer(3000 + k * 8 + n));
    }
  }
  std::vector<float> wanted;
  for (int row = 0; row < 32; ++row) {
    for (int n = 0; n < 8; ++n) {
      float sum = 0;
      for (int k = 0; k < depth; ++k) sum += integer(row * depth + k) * integer(3000 + k * 8 + n);
      wanted.push_back(sum);
    }
  }
  require_sound([&](Device& device) {
    const View<float, 2> out{device.unwritten<float>(256).data(), {32, 8}};
    const View<bf16, 2> left{device.holding(a).data(), {32, depth}};
    const View<bf16, 2> other{device.holding(b).data(),
                              {right == Right::k_by_n ? depth : 8, right == Right::k_by_n ? 8 : depth}};
    launch<product<right>>(device, {.blocks = 1, .threads = 64, .shared_bytes = 80 * depth}, out, left, other, depth);
    REQUIRE(values_of(out) == wanted);
  });
}

TEST_CASE("products of matrices of small integers are exact", "[emulator]") {
  for (const int depth : {32, 64, 128}) {
    check_product<Right::k_by_n>(depth);
    check_product<Right::n_by_k>(depth);
  }
}

// --- words on numbers --------------------------------------------------------------------------------------------

TEST_CASE("pack puts the first number into the lower half", "[emulator]") {
  CHECK(dev::pack(1.0f, -2.0f) == 0xc0003f80u);
  CHECK(dev::pack(1.00390625f, 1.01171875f) == 0x3f823f80u);  // ties go to even
  CHECK(low(dev::pack(3.0f, 5.0f)) == 3.0f);
  CHECK(high(dev::pack(3.0f, 5.0f)) == 5.0f);
}

TEST_CASE("powers and logarithms of two", "[emulator]") {
  CHECK(dev::exp2(-3.0f) == 0.125f);
  CHECK(dev::log2(32.0f) == 5.0f);
  CHECK(dev::exp2(-std::numeric_limits<float>::infinity()) == 0.0f);
}

}  // namespace
}  // namespace blinkbert::test
