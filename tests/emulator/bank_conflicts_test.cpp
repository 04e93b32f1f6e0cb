// The counter of bank conflicts, on patterns whose counts are known.

#include <tests/emulator/machine.hpp>

namespace blinkbert::test {
namespace {

using namespace dev;

struct Count {
  std::int64_t turns, conflicts;
  bool operator==(const Count&) const = default;
};
std::ostream& operator<<(std::ostream& stream, const Count& count) {
  return stream << count.turns << " turns, " << count.conflicts << " conflicts";
}

/// The count of the line of this file with that remark.
Count counted(Device& device, const std::string& what) {
  const emulator::BankCounts& counts = device.machine().bank_counts();
  const auto found = counts.find(line_with(__FILE__, what));
  REQUIRE(found != counts.end());
  return {found->second.turns, found->second.conflicts};
}

Device counting(std::uint64_t seed = 1) { return Device({.seed = seed, .counts_bank_conflicts = true}); }

// --- loads and stores --------------------------------------------------------------------------------------------

/// Every lane stores and loads N elements, `stride` elements from the lane before, from `first` on.
template <class T, int N>
BB_KERNEL(32, 1)
strided(int stride, int first) {
  SharedMemory shared;
  const auto tile = shared.take<T>(first + 31 * stride + N);
  store(at(tile, first + lane() * stride), Vector<T, N>{});  // <- stored
  (void)load<N>(at(tile, first + lane() * stride));          // <- loaded
}

template <class T, int N>
void check_strided(int stride, Count wanted, int first = 0) {
  INFO("elements of " << sizeof(T) << " bytes, vectors of " << N << ", stride " << stride << ", first " << first);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    Device device = counting(seed);
    launch<strided<T, N>>(
        device, {.blocks = 1, .threads = 32, .shared_bytes = shared_bytes<T>(first + 31 * stride + N)}, stride, first);
    CHECK(counted(device, "stored") == wanted);
    CHECK(counted(device, "loaded") == wanted);
  }
}

TEST_CASE("words of four bytes: 32 banks, one turn", "[emulator]") {
  check_strided<float, 1>(1, {1, 0});
  check_strided<float, 1>(2, {1, 1});
  check_strided<float, 1>(3, {1, 0});
  check_strided<float, 1>(4, {1, 3});
  check_strided<float, 1>(8, {1, 7});
  check_strided<float, 1>(16, {1, 15});
  check_strided<float, 1>(32, {1, 31});
  check_strided<float, 1>(33, {1, 0});
  check_strided<float, 1>(34, {1, 1});
  check_strided<float, 1>(1, {1, 0}, 17);
  check_strided<int, 1>(32, {1, 31});
}

TEST_CASE("halves and bytes share words", "[emulator]") {
  check_strided<bf16, 1>(1, {1, 0});  // two lanes, one word
  check_strided<bf16, 1>(2, {1, 0});
  check_strided<bf16, 1>(2, {1, 0}, 1);  // the upper halves
  check_strided<bf16, 1>(64, {1, 31});
  check_strided<bf16, 1>(66, {1, 0});
  check_strided<bf16, 2>(2, {1, 0});
  check_strided<bf16, 2>(64, {1, 31});
  check_strided<std::uint8_t, 2>(2, {1, 0});
}

TEST_CASE("vectors take turns of 128 bytes", "[emulator]") {
  check_strided<float, 2>(2, {2, 0});
  check_strided<float, 2>(4, {2, 1 + 1});
  check_strided<float, 2>(32, {2, 15 + 15});
  check_strided<float, 4>(4, {4, 0});
  check_strided<float, 4>(8, {4, 4 * 1});
  check_strided<float, 4>(32, {4, 4 * 7});
  check_strided<float, 4>(36, {4, 0});
  check_strided<bf16, 8>(8, {4, 0});
  check_strided<bf16, 8>(64, {4, 4 * 7});
  check_strided<bf16, 4>(4, {2, 0});
  // 32 bytes are moved in two halves, each 32 bytes from the next lane's.
  check_strided<float, 8>(8, {8, 8 * 1});
  check_strided<bf16, 16>(16, {8, 8 * 1});
}

struct Three {
  float x, y, z;
};
BB_KERNEL(32, 1) structures() {
  SharedMemory shared;
  const auto tile = shared.take<Three>(32);
  store(at(tile, lane()), Three{1, 2, 3});  // <- three words
}

TEST_CASE("a structure is moved word by word", "[emulator]") {
  Device device = counting();
  launch<structures>(device, {.blocks = 1, .threads = 32, .shared_bytes = shared_bytes<Three>(32)});
  CHECK(counted(device, "three words") == Count{3, 0});
}

BB_KERNEL(32, 1) broadcast() {
  SharedMemory shared;
  const auto tile = shared.take<float>(64);
  store(at(tile, lane()), 1.0f);
  store(at(tile, lane() + 32), 1.0f);
  sync_warp();
  (void)load(at(tile, 7));                               // <- one word
  (void)load(at(tile, lane() / 8 * 8));                  // <- four words
  (void)load(at(tile, lane() % 2 * 32));                 // <- two words of a bank
  if (lane() < 5) (void)load(at(tile, lane()));          // <- a few lanes
  if (lane() % 8 == 0) (void)load<4>(at(tile, lane()));  // <- a lane of each turn
}

TEST_CASE("lanes that read the same word do not meet", "[emulator]") {
  Device device = counting();
  launch<broadcast>(device, {.blocks = 1, .threads = 32, .shared_bytes = 256});
  CHECK(counted(device, "one word") == Count{1, 0});
  CHECK(counted(device, "four words") == Count{1, 0});
  CHECK(counted(device, "two words of a bank") == Count{1, 1});
  CHECK(counted(device, "a few lanes") == Count{1, 0});
  CHECK(counted(device, "a lane of each turn") == Count{4, 0});
}

// --- matrices and copies -----------------------------------------------------------------------------------------

enum class Layout { plain, swizzled };

/// Element (row, column) of rows of `width` bf16: chunks of 16 bytes, exchanged by the row so that eight rows lie in eight
/// different groups of banks.
template <Layout layout>
int place_of(int row, int column, int width) {
  int chunk = column / 8;
  if (layout == Layout::swizzled) {
    if (width >= 64) chunk ^= row & 7;
    if (width == 32) chunk ^= row >> 1 & 3;
    if (width == 16) chunk ^= row >> 2 & 1;
  }
  return row * width + chunk * 8 + column % 8;
}

/// 16 rows: brought in by copies, read as a 16 x 16 matrix, both ways.
template <Layout layout>
BB_KERNEL(32, 1)
matrix_of(View<bf16, 1> from, int width) {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(16 * width);
  for (int chunk = lane(); chunk < 16 * width / 8; chunk += 32) {
    const int row = chunk * 8 / width, column = chunk * 8 % width;
    copy_async(at(tile, place_of<layout>(row, column, width)), at(from, chunk * 8), true);  // <- copied in rows
  }
  commit_copies();
  wait_copies<0>();
  sync_warp();
  std::uint32_t part[4];
  const int row = lane() % 16, column = lane() / 16 * 8;
  load_matrix(part, at(tile, place_of<layout>(row, column, width)));             // <- loaded as stored
  load_matrix_transposed(part, at(tile, place_of<layout>(row, column, width)));  // <- loaded transposed
}

/// Each lane copies into another row.
template <Layout layout>
BB_KERNEL(32, 1)
copied_down(View<bf16, 1> from, int width) {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(32 * width);
  copy_async(at(tile, place_of<layout>(lane(), 0, width)), at(from, 8 * lane()), true);  // <- copied down
  commit_copies();
  wait_copies<0>();
}

template <Layout layout>
void check_matrix(int width, std::int64_t matrix_conflicts, std::int64_t down_conflicts) {
  INFO("rows of " << 2 * width << " bytes, " << (layout == Layout::plain ? "plain" : "swizzled"));
  Device device = counting();
  const auto from = device.holding(std::vector<bf16>(static_cast<std::size_t>(16 * width), bf16(1.0f)));
  launch<matrix_of<layout>>(device, {.blocks = 1, .threads = 32, .shared_bytes = 32 * width}, from, width);
  CHECK(counted(device, "loaded as stored") == Count{4, matrix_conflicts});
  CHECK(counted(device, "loaded transposed") == Count{4, matrix_conflicts});
  CHECK(counted(device, "copied in rows") == Count{16 * width / 64, 0});
  launch<copied_down<layout>>(device, {.blocks = 1, .threads = 32, .shared_bytes = 64 * width}, from, width);
  CHECK(counted(device, "copied down") == Count{4, down_conflicts});
}

TEST_CASE("matrices on plain and on swizzled rows", "[emulator]") {
  check_matrix<Layout::plain>(16, 4 * 1, 4 * 1);
  check_matrix<Layout::plain>(32, 4 * 3, 4 * 3);
  check_matrix<Layout::plain>(64, 4 * 7, 4 * 7);
  check_matrix<Layout::plain>(128, 4 * 7, 4 * 7);
  for (const int width : {16, 32, 64, 128}) check_matrix<Layout::swizzled>(width, 0, 0);
}

// --- sums over lines, warps, blocks, launches ---------------------------------------------------------------------

BB_KERNEL(64, 1) repeated(int rounds) {
  SharedMemory shared;
  const auto tile = shared.take<float>(64 * 64);
  for (int round = 0; round < rounds; ++round) {
    store(at(tile, warp() * 2048 + lane() * 32 + round), 1.0f);             // <- in a column
    for (int i = 0; i < 2; ++i) store(at(tile, thread() * 32 + 31), 2.0f);  // <- twice
  }
}

TEST_CASE("counts add up by line until they are forgotten", "[emulator]") {
  for (const int host_threads : {1, 2}) {
    Device device({.host_threads = host_threads, .counts_bank_conflicts = true});
    const LaunchShape shape{.blocks = 5, .threads = 64, .shared_bytes = 64 * 64 * 4};
    launch<repeated>(device, shape, 3);
    const std::int64_t turns = 5 * 2 * 3;  // blocks, warps, rounds
    CHECK(counted(device, "in a column") == Count{turns, 31 * turns});
    CHECK(counted(device, "twice") == Count{2 * turns, 2 * 31 * turns});
    launch<repeated>(device, shape, 1);
    CHECK(counted(device, "in a column") == Count{turns + 10, 31 * (turns + 10)});
    device.machine().forget_bank_counts();
    CHECK(device.machine().bank_counts().empty());
    launch<repeated>(device, shape, 1);
    CHECK(counted(device, "in a column") == Count{10, 310});
    device.machine().options().counts_bank_conflicts = false;
    launch<repeated>(device, shape, 1);
    CHECK(counted(device, "in a column") == Count{10, 310});
  }
  Device device;
  launch<repeated>(device, {.blocks = 1, .threads = 64, .shared_bytes = 64 * 64 * 4}, 1);
  CHECK(device.machine().bank_counts().empty());
}

}  // namespace
}  // namespace blinkbert::test
