// What the emulator finds wrong with a kernel's use of shared memory, and what it lets pass.

#include <random>

#include <tests/emulator/machine.hpp>

namespace blinkbert::test {
namespace {

using namespace dev;
using emulator::Access;

std::string line(const std::string& what) { return line_with(__FILE__, what); }

/// The message of the thread that comes second.
std::string race(const char* act, const std::string& at, int byte, const char* other, const std::string& other_at,
                 const char* by) {
  return text("race: ", act, " at ", at, " of byte ", byte, " of shared memory after a ", other, " at ", other_at,
              " by ", by, ", with no barrier between them");
}

// --- two steps of two threads ------------------------------------------------------------------------------------

/// What stands between the steps.
enum class Between { nothing, sync_block, sync_warp, group, other_group, shuffle, ballot, load_matrix, multiply_add };

template <Between between, class Tile>
void stand_between(const Tile& matrix) {
  std::uint32_t part[4] = {};
  float sum[4] = {};
  if constexpr (between == Between::sync_block) sync_block();
  if constexpr (between == Between::sync_warp) sync_warp();
  if constexpr (between == Between::group) sync_group<3>(64);
  if constexpr (between == Between::other_group) {
    if (warp() < 2) sync_group<3>(64);
    if (warp() >= 2) sync_group<4>(64);
  }
  if constexpr (between == Between::shuffle) (void)shuffle_xor(lane(), 1);
  if constexpr (between == Between::ballot) (void)ballot(true);
  if constexpr (between == Between::load_matrix) load_matrix(part, at(matrix, 8 * lane()));
  if constexpr (between == Between::multiply_add) multiply_add(sum, part, 0, 0);
}

/// Thread 0 takes the first step, thread `other` the second, at the same four bytes.
template <Access first, Access second, Between between>
BB_KERNEL(128, 1)
two_steps(View<float, 1> out, int other) {
  SharedMemory shared;
  const auto matrix = shared.take<bf16>(256);
  const auto tile = shared.take<float>(4);
  if (warp() == 0) store(at(matrix, 8 * lane()), Vector<bf16, 8>{});
  if (thread() == 0) store(at(tile, 1), 1.0f);
  sync_block();
  float value = 0;
  if (thread() == 0 && first == Access::write) store(at(tile, 1), 2.0f);  // <- first write
  if (thread() == 0 && first == Access::read) value = load(at(tile, 1));  // <- first read
  stand_between<between>(matrix);
  if (thread() == other && second == Access::write) store(at(tile, 1), 3.0f);  // <- second write
  if (thread() == other && second == Access::read) value = load(at(tile, 1));  // <- second read
  store(at(out, thread()), value);
}

constexpr LaunchShape with_matrix(int threads) { return {.blocks = 1, .threads = threads, .shared_bytes = 512 + 16}; }

template <Access first, Access second, Between between>
void require_race(int threads, int other) {
  const char* words[] = {"read", "write"};
  const char *one = words[first == Access::write], *two = words[second == Access::write];
  const std::string at_one = line(text("first ", one)), at_two = line(text("second ", two));
  INFO(one << " and " << two << ", something between them: " << static_cast<int>(between));
  const auto run = [&](Device& device) {
    launch<two_steps<first, second, between>>(device, with_matrix(threads), device.unwritten<float>(threads), other);
  };
  const std::string by = text("thread ", other);
  const std::string thread = text(other);
  const Words late{"two_steps", 0, thread, race(two, at_two, 516, one, at_one, "thread 0")};
  const Words early{"two_steps", 0, "0", race(one, at_one, 516, two, at_two, by.c_str())};
  // A rendezvous fixes who comes first, without making it known to the other.
  if (between == Between::nothing) require_each_of({late, early}, run);
  if (between == Between::other_group) require_one_of({late, early}, run);
  if (between != Between::nothing && between != Between::other_group) require_fault(late, run);
}

template <Access first, Access second, Between between>
void require_no_race(int threads, int other) {
  INFO("threads " << threads << ", other " << other << ", between " << static_cast<int>(between));
  require_sound([&](Device& device) {
    const auto out = device.unwritten<float>(threads);
    launch<two_steps<first, second, between>>(device, with_matrix(threads), out, other);
    if (first == Access::read) REQUIRE(values_of(out)[0] == 1);
    if (second == Access::read) {
      REQUIRE(values_of(out)[static_cast<std::size_t>(other)] == (first == Access::write ? 2 : 1));
    }
  });
}

template <Between missing, Between there>
void check_orders(int threads, int other) {
  require_race<Access::write, Access::read, missing>(threads, other);
  require_race<Access::read, Access::write, missing>(threads, other);
  require_race<Access::write, Access::write, missing>(threads, other);
  require_no_race<Access::write, Access::read, there>(threads, other);
  require_no_race<Access::read, Access::write, there>(threads, other);
  require_no_race<Access::write, Access::write, there>(threads, other);
  require_no_race<Access::read, Access::read, missing>(threads, other);
}

TEST_CASE("warps are ordered by barriers of the block and nothing else", "[emulator]") {
  check_orders<Between::nothing, Between::sync_block>(64, 32);
  check_orders<Between::nothing, Between::sync_block>(128, 127);
}

TEST_CASE("sync_warp does not order warps", "[emulator]") {
  // Either warp may come first here as well.
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    CHECK_THAT(fault_of(device,
                        [](Device& d) {
                          launch<two_steps<Access::write, Access::read, Between::sync_warp>>(
                              d, with_matrix(64), d.unwritten<float>(64), 32);
                        }),
               Catch::Contains("race: "));
  }
}

TEST_CASE("lanes are ordered by sync_warp and barriers", "[emulator]") {
  check_orders<Between::nothing, Between::sync_warp>(32, 1);
  check_orders<Between::nothing, Between::sync_block>(32, 31);
}

TEST_CASE("shuffles, ballots and matrix words order nothing", "[emulator]") {
  check_orders<Between::shuffle, Between::sync_warp>(32, 7);
  check_orders<Between::ballot, Between::sync_warp>(32, 7);
  check_orders<Between::multiply_add, Between::sync_warp>(32, 7);
  check_orders<Between::load_matrix, Between::sync_warp>(32, 7);
}

TEST_CASE("a barrier of a group orders its members only", "[emulator]") {
  check_orders<Between::nothing, Between::group>(64, 32);
  check_orders<Between::other_group, Between::sync_block>(128, 64);
  require_no_race<Access::write, Access::read, Between::other_group>(128, 32);
}

TEST_CASE("a thread needs no barrier for its own data", "[emulator]") {
  require_no_race<Access::write, Access::read, Between::nothing>(64, 0);
  require_no_race<Access::read, Access::write, Between::nothing>(64, 0);
}

// --- three warps: what a barrier tells of what others told --------------------------------------------------------

enum class Chain { closed, broken };

/// Warp 0 to warp 1 by one group barrier, warp 1 to warp 2 by another: warp 2 knows of warp 0.
template <Chain chain>
BB_KERNEL(96, 1)
relayed(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(1);
  if (thread() == 0) store(at(tile, 0), 5.0f);  // <- told
  if (chain == Chain::closed && warp() <= 1) sync_group<1>(64);
  if (warp() >= 1) sync_group<2>(64);
  if (chain == Chain::broken && warp() <= 1) sync_group<1>(64);
  if (thread() == 64) store(at(out, 0), load(at(tile, 0)));  // <- heard
}

TEST_CASE("what a warp knows it passes on", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 96, .shared_bytes = 16};
  require_sound([&](Device& device) {
    const auto out = device.unwritten<float>(1);
    launch<relayed<Chain::closed>>(device, shape, out);
    REQUIRE(values_of(out)[0] == 5);
  });
  require_one_of(
      {{"relayed", 0, "64", race("read", line("heard"), 0, "write", line("told"), "thread 0")},
       {"relayed", 0, "64", text("read at ", line("heard"), " of byte 0 of shared memory, which nobody wrote")}},
      [&](Device& device) { launch<relayed<Chain::broken>>(device, shape, device.unwritten<float>(1)); });
}

/// Several lanes have read what thread 64 overwrites.
BB_KERNEL(96, 1) overwritten_early(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(1);
  if (thread() == 64) store(at(tile, 0), 5.0f);
  sync_block();
  float value = 0;
  if (warp() == 0) value = load(at(tile, 0));  // <- read by a warp
  if (warp() != 1) sync_group<1>(64);
  if (thread() == 40) value = load(at(tile, 0));  // <- read by one more
  if (thread() == 64) store(at(tile, 0), 6.0f);   // <- overwritten
  store(at(out, thread()), value);
}
BB_KERNEL(64, 1) overwritten_by_a_reader(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(1);
  if (thread() == 0) store(at(tile, 0), 5.0f);
  sync_block();
  const float value = load(at(tile, 0));  // <- read by all
  (void)ballot(true);
  if (thread() == 0) store(at(tile, 0), 6.0f);  // <- overwritten by one of them
  store(at(out, thread()), value);
}

TEST_CASE("every reader counts", "[emulator]") {
  require_one_of({{"overwritten_early", 0, "64",
                   race("write", line("overwritten"), 0, "read", line("read by one more"), "thread 40")},
                  {"overwritten_early", 0, "40",
                   race("read", line("read by one more"), 0, "write", line("overwritten"), "thread 64")}},
                 [](Device& device) {
                   launch<overwritten_early>(device, {.blocks = 1, .threads = 96, .shared_bytes = 16},
                                             device.unwritten<float>(96));
                 });
  require_fault(
      {"overwritten_by_a_reader", 0, "0",
       race("write", line("overwritten by one of them"), 0, "read", line("read by all"), "several lanes of a warp")},
      [](Device& device) {
        launch<overwritten_by_a_reader>(device, {.blocks = 1, .threads = 32, .shared_bytes = 16},
                                        device.unwritten<float>(32));
      });
}

// --- matrices are read for the whole warp -------------------------------------------------------------------------

template <Between between>
BB_KERNEL(32, 1)
matrix_of_own_rows(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(256);
  std::uint32_t part[4];
  store(at(tile, 8 * lane()), Vector<bf16, 8>{});  // <- row written
  if constexpr (between == Between::sync_warp) sync_warp();
  load_matrix(part, at(tile, 8 * lane()));  // <- rows read
  if constexpr (between == Between::sync_warp) sync_warp();
  store(at(tile, 8 * lane()), Vector<bf16, 8>{});
  store(at(out, thread()), static_cast<float>(part[0]));
}
BB_KERNEL(32, 1) rows_written_again() {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(256);
  std::uint32_t part[4];
  store(at(tile, 8 * lane()), Vector<bf16, 8>{});
  sync_warp();
  load_matrix(part, at(tile, 8 * lane()));         // <- rows read once
  store(at(tile, 8 * lane()), Vector<bf16, 8>{});  // <- row written again
}

TEST_CASE("a matrix is read by all lanes, whoever names the row", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 32, .shared_bytes = 512};
  require_fault(
      {"matrix_of_own_rows", 0, "0", race("read", line("rows read"), 0, "write", line("row written"), "thread 0")},
      [&](Device& device) {
        launch<matrix_of_own_rows<Between::nothing>>(device, shape, device.unwritten<float>(32));
      });
  require_sound([&](Device& device) {
    launch<matrix_of_own_rows<Between::sync_warp>>(device, shape, device.unwritten<float>(32));
  });
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string message = fault_of(device, [&](Device& d) { launch<rows_written_again>(d, shape); });
    CHECK_THAT(message, Catch::Contains(text("race: write at ", line("row written again"))));
    CHECK_THAT(message,
               Catch::Contains(text("after a read at ", line("rows read once"), " by several lanes of a warp")));
  }
}

// --- what nobody wrote, and what is not there ---------------------------------------------------------------------

BB_KERNEL(64, 1) filled_in_part(View<float, 1> out, int first) {
  SharedMemory shared;
  const auto tile = shared.take<float>(64);
  if (thread() >= first) store(at(tile, thread()), 1.0f);
  sync_block();
  store(at(out, thread()), load(at(tile, thread())));  // <- read of all
}
/// A block is not told what the block before it wrote.
BB_KERNEL(32, 1) left_by_the_block_before(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(32);
  if (block() == 0) store(at(tile, thread()), 1.0f);
  store(at(out, block() * threads() + thread()), load(at(tile, thread())));  // <- read in every block
}
BB_KERNEL(32, 1) matrix_with_a_hole() {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(256);
  std::uint32_t part[4];
  for (int i = lane(); i < 256; i += 32) {
    if (i != 77) store(at(tile, i), bf16(1.0f));
  }
  sync_warp();
  load_matrix(part, at(tile, 8 * lane()));  // <- read with a hole
}

TEST_CASE("reading shared memory that nobody wrote is a fault", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 64, .shared_bytes = 256};
  require_fault({"filled_in_part", 0, "0",
                 text("read at ", line("read of all"), " of byte 0 of shared memory, which nobody wrote")},
                [&](Device& device) { launch<filled_in_part>(device, shape, device.unwritten<float>(64), 1); });
  require_sound([&](Device& device) { launch<filled_in_part>(device, shape, device.unwritten<float>(64), 0); });
  require_fault({"left_by_the_block_before", 1, "*", text("read at ", line("read in every block"), " of byte ")},
                [&](Device& device) {
                  launch<left_by_the_block_before>(device, {.blocks = 2, .threads = 32, .shared_bytes = 128},
                                                   device.unwritten<float>(64));
                });
  require_fault(
      {"matrix_with_a_hole", 0, "9",
       text("read at ", line("read with a hole"), " of byte 154 of shared memory, which nobody wrote")},
      [&](Device& device) { launch<matrix_with_a_hole>(device, {.blocks = 1, .threads = 32, .shared_bytes = 512}); });
}

enum class Reach { element, vector, vector_store, copy, matrix, cut, nested_cut };

template <Reach reach>
BB_KERNEL(32, 1)
reaching(View<float, 1> from, int place) {
  SharedMemory shared;
  const auto tile = shared.take<float>(64);
  const auto rows = shared.take<bf16>(256 + 8);
  for (int i = lane(); i < 64; i += 32) store(at(tile, i), 1.0f);
  for (int i = lane(); i < 264; i += 32) store(at(rows, i), bf16(1.0f));
  sync_warp();
  if (lane() == 3 || reach == Reach::matrix) {
    const int there = lane() == 3 ? place : 0;
    std::uint32_t part[4];
    if constexpr (reach == Reach::element) (void)load(at(tile, there));                       // <- reaches an element
    if constexpr (reach == Reach::vector) (void)load<4>(at(tile, there));                     // <- reaches a vector
    if constexpr (reach == Reach::vector_store) store(at(tile, there), Vector<float, 2>{});   // <- reaches to store
    if constexpr (reach == Reach::copy) copy_async(at(tile, there), at(from, 0), true);       // <- reaches to copy
    if constexpr (reach == Reach::matrix) load_matrix(part, at(rows, there));                 // <- reaches a row
    if constexpr (reach == Reach::cut) store(at(tile.from(there), 0), 1.0f);                  // <- cuts
    if constexpr (reach == Reach::nested_cut) store(at(tile.from(60).from(there), 1), 1.0f);  // <- cuts again
  }
  commit_copies();
  wait_copies<0>();
}

template <Reach reach>
void check_reach(const char* mark, std::vector<int> good, std::vector<std::pair<int, std::string>> bad) {
  const LaunchShape shape{.blocks = 1, .threads = 32, .shared_bytes = shared_bytes<float>(64) + 528};
  const auto run = [&](Device& device, int place) {
    launch<reaching<reach>>(device, shape, device.holding(std::vector<float>(4, 1.0f)), place);
  };
  for (const int place : good) require_sound([&](Device& device) { run(device, place); });
  for (const auto& [place, words] : bad) {
    std::string what = words;
    if (const std::size_t hole = what.find('@'); hole != what.npos) what.replace(hole, 1, line(mark));
    require_fault({"reaching", 0, "3", what}, [&, to = place](Device& device) { run(device, to); });
  }
}

TEST_CASE("every access stays in its tile, and vectors where the device can move them", "[emulator]") {
  check_reach<Reach::element>("reaches an element", {0, 63},
                              {{64, "element (64) of a tile of (64) accessed at @"},
                               {-1, "element (-1) of a tile of (64) accessed at @"},
                               {1 << 30, "element (1073741824) of a tile of (64) accessed at @"}});
  check_reach<Reach::vector>("reaches a vector", {0, 60},
                             {{61, "vector of 4 at @ with 3 elements left in the row"},
                              {64, "element (64) of a tile of (64) accessed at @"},
                              {2, "vector of 4 at @ is at an address that is not a multiple of 16"}});
  check_reach<Reach::vector_store>("reaches to store", {0, 2, 62},
                                   {{63, "vector of 2 at @ with 1 elements left in the row"},
                                    {1, "vector of 2 at @ is at an address that is not a multiple of 8"}});
  check_reach<Reach::copy>("reaches to copy", {0, 60},
                           {{61, "vector of 4 at @ with 3 elements left in the row"},
                            {62, "vector of 4 at @ with 2 elements left in the row"},
                            {2, "vector of 4 at @ is at an address that is not a multiple of 16"}});
  check_reach<Reach::matrix>("reaches a row", {0, 256},
                             {{257, "vector of 8 at @ with 7 elements left in the row"},
                              {4, "vector of 8 at @ is at an address that is not a multiple of 16"}});
  check_reach<Reach::cut>("cuts", {0, 63},
                          {{64, "element (0) of a tile of (0) accessed at @"},
                           {65, "tile of 64 elements cut at 65 at @"},
                           {-1, "tile of 64 elements cut at -1 at @"}});
  check_reach<Reach::nested_cut>(
      "cuts again", {0, 2},
      {{3, "element (1) of a tile of (1) accessed at @"}, {5, "tile of 4 elements cut at 5 at @"}});
}

BB_KERNEL(32, 1) greedy(int first, int second) {
  SharedMemory shared;
  (void)shared.take<bf16>(first);
  (void)shared.take<float>(second);  // <- takes
}

TEST_CASE("no more shared memory is taken than a block was launched with", "[emulator]") {
  const auto run = [](int bytes, int first, int second) {
    return [=](Device& device) {
      launch<greedy>(device, {.blocks = 1, .threads = 32, .shared_bytes = bytes}, first, second);
    };
  };
  require_sound(run(32, 8, 4));
  require_sound(run(32, 1, 1));  // each begins at a multiple of 16 bytes
  require_sound(run(0, 0, 0));
  const Words words{"greedy", 0, "*", text("48 bytes of shared memory taken at ", line("takes"), ", launched with 32")};
  require_fault(words, run(32, 9, 4));
  require_fault(words, run(32, 8, 5));
  require_fault({"greedy", 0, "*", text("16 bytes of shared memory taken at ", line("takes"), ", launched with 0")},
                run(0, 0, 1));
}

// --- what is sound -----------------------------------------------------------------------------------------------

enum class Buffers { one = 1, two = 2 };

/// Each round every thread hands a value to its neighbour, one barrier a round.
template <Buffers buffers>
BB_KERNEL(96, 1)
handed_round(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(static_cast<int>(buffers) * threads());
  float value = static_cast<float>(thread());
  for (int round = 0; round < 8; ++round) {
    const auto half = tile.from(round % static_cast<int>(buffers) * threads());
    store(at(half, thread()), value);  // <- hands on
    sync_block();
    value = load(at(half, (thread() + 1) % threads()));
  }
  store(at(out, thread()), value);
}

TEST_CASE("two buffers need one barrier a round, one buffer two", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 96, .shared_bytes = 2 * 96 * 4};
  require_sound([&](Device& device) {
    const auto out = device.unwritten<float>(96);
    launch<handed_round<Buffers::two>>(device, shape, out);
    for (int t = 0; t < 96; ++t)
      REQUIRE(values_of(out)[static_cast<std::size_t>(t)] == static_cast<float>((t + 8) % 96));
  });
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    CHECK_THAT(
        fault_of(device, [&](Device& d) { launch<handed_round<Buffers::one>>(d, shape, d.unwritten<float>(96)); }),
        Catch::Contains("race: ") && Catch::Contains(line("hands on")));
  }
}

template <class T>
BB_KERNEL(128, 1)
neighbours(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<T>(threads() + 1);
  if (thread() == 0) store(at(tile, threads()), static_cast<T>(5));
  store(at(tile, thread()), static_cast<T>(thread() % 7));  // neighbours of one word, from different lanes and warps
  const float own = static_cast<float>(load(at(tile, thread())));
  sync_block();
  const float next = static_cast<float>(load(at(tile, thread() + 1)));
  const float shared_by_all = static_cast<float>(load(at(tile, threads())));  // a broadcast
  store(at(out, thread()), 100 * own + 10 * next + shared_by_all);
}

TEMPLATE_TEST_CASE("neighbouring elements of any size belong to different threads", "[emulator]", std::uint8_t, bf16,
                   float, double) {
  require_sound([](Device& device) {
    const auto out = device.unwritten<float>(128);
    launch<neighbours<TestType>>(device, {.blocks = 1, .threads = 128, .shared_bytes = shared_bytes<TestType>(129)},
                                 out);
    for (int t = 0; t < 128; ++t) {
      const int next = t == 127 ? 5 : (t + 1) % 7;
      REQUIRE(values_of(out)[static_cast<std::size_t>(t)] == static_cast<float>(100 * (t % 7) + 10 * next + 5));
    }
  });
}

struct Three {
  float x, y, z;
};
template <Between between>
BB_KERNEL(64, 1)
structures(View<Three, 1> out, View<Three, 1> from) {
  SharedMemory shared;
  const auto tile = shared.take<Three>(threads());
  store(at(tile, thread()), load(at(from, thread())));  // <- structure in
  if constexpr (between == Between::sync_block) sync_block();
  store(at(out, thread()), load(at(tile, 63 - thread())));  // <- structure out
}

TEST_CASE("a structure is one element", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 64, .shared_bytes = shared_bytes<Three>(64)};
  std::vector<Three> from;
  for (int i = 0; i < 64; ++i) from.push_back({static_cast<float>(i), 1, static_cast<float>(-i)});
  require_sound([&](Device& device) {
    const auto out = device.unwritten<Three>(64);
    launch<structures<Between::sync_block>>(device, shape, out, device.holding(from));
    for (std::size_t i = 0; i < 64; ++i) REQUIRE(std::memcmp(&values_of(out)[i], &from[63 - i], sizeof(Three)) == 0);
  });
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    CHECK_THAT(fault_of(device,
                        [&](Device& d) {
                          launch<structures<Between::nothing>>(d, shape, d.unwritten<Three>(64), d.holding(from));
                        }),
               Catch::Contains(line("structure out")));
  }
}

/// Bytes are watched one by one: this race is on an odd one.
BB_KERNEL(64, 1) bytes_in_a_race(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<std::uint8_t>(64);
  store(at(tile, thread()), std::uint8_t{1});
  if (thread() == 40) store(at(tile, 7), std::uint8_t{2});  // <- another's byte
  store(at(out, thread()), 1.0f);
}

TEST_CASE("a race on a single byte is found", "[emulator]") {
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string message = fault_of(device, [](Device& d) {
      launch<bytes_in_a_race>(d, {.blocks = 1, .threads = 64, .shared_bytes = 64}, d.unwritten<float>(64));
    });
    CHECK_THAT(message, Catch::Contains("of byte 7 of shared memory") && Catch::Contains(line("another's byte")));
  }
}

/// A vector races where one of its elements does, in whatever order the other side wrote them.
template <Between between>
BB_KERNEL(64, 1)
vector_over_elements(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(8);
  if (thread() == 0) store(at(tile, 0), Vector<bf16, 8>{});
  sync_block();
  if (thread() == 5) store(at(tile, 5), bf16(2.0f));  // <- one element
  if constexpr (between == Between::sync_block) sync_block();
  if (thread() == 32) store(at(out, 0), static_cast<float>(load<8>(at(tile, 0))[5]));  // <- all of them
}

TEST_CASE("a vector is as many elements", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 64, .shared_bytes = 16};
  require_each_of({{"vector_over_elements", 0, "32",
                    race("read", line("all of them"), 10, "write", line("one element"), "thread 5")},
                   {"vector_over_elements", 0, "5",
                    race("write", line("one element"), 10, "read", line("all of them"), "thread 32")}},
                  [&](Device& device) {
                    launch<vector_over_elements<Between::nothing>>(device, shape, device.unwritten<float>(1));
                  });
  require_sound([&](Device& device) {
    const auto out = device.unwritten<float>(1);
    launch<vector_over_elements<Between::sync_block>>(device, shape, out);
    REQUIRE(values_of(out)[0] == 2);
  });
}

/// All elements have the same readers, one of them a later read.
template <Between between>
BB_KERNEL(64, 1)
vector_over_readers(View<float, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<bf16>(8);
  if (thread() == 0) store(at(tile, 0), Vector<bf16, 8>{});
  sync_block();
  float value = 0;
  if (thread() == 32) value = static_cast<float>(load<8>(at(tile, 0))[0]);
  sync_block();
  if (thread() == 32) value += static_cast<float>(load(at(tile, 5)));  // <- reads one again
  if constexpr (between == Between::sync_block) sync_block();
  if (thread() == 0) store(at(tile, 0), Vector<bf16, 8>{});  // <- overwrites all
  store(at(out, thread()), value);
}

TEST_CASE("a vector that is written looks at the readers of every element", "[emulator]") {
  const LaunchShape shape{.blocks = 1, .threads = 64, .shared_bytes = 16};
  require_each_of({{"vector_over_readers", 0, "0",
                    race("write", line("overwrites all"), 10, "read", line("reads one again"), "thread 32")},
                   {"vector_over_readers", 0, "32",
                    race("read", line("reads one again"), 10, "write", line("overwrites all"), "thread 0")}},
                  [&](Device& device) {
                    launch<vector_over_readers<Between::nothing>>(device, shape, device.unwritten<float>(64));
                  });
  require_sound([&](Device& device) {
    launch<vector_over_readers<Between::sync_block>>(device, shape, device.unwritten<float>(64));
  });
}

/// Warps of many launches, shapes and sizes in a row: what one left behind is no other's business.
TEST_CASE("launches of other shapes do not disturb each other", "[emulator]") {
  Device device;
  for (int round = 0; round < 3; ++round) {
    for (const int threads : {1024, 32, 512, 96}) {
      const auto out = device.unwritten<float>(threads);
      launch<neighbours<bf16>>(device,
                               {.blocks = 1, .threads = threads, .shared_bytes = shared_bytes<bf16>(threads + 1)},
                               device.unwritten<float>(threads));
      launch<two_steps<Access::write, Access::read, Between::sync_block>>(device, with_matrix(threads), out, 9);
      REQUIRE(values_of(out)[9] == 2);
    }
  }
  // From many warps on little memory to one warp on much.
  LaunchShape shape = with_matrix(1024);
  launch<two_steps<Access::read, Access::read, Between::nothing>>(device, shape, device.unwritten<float>(1024), 1000);
  shape = with_matrix(32);
  shape.shared_bytes = 200 * 1024;
  launch<two_steps<Access::read, Access::write, Between::sync_warp>>(device, shape, device.unwritten<float>(32), 9);
}

// --- the detector against one that forgets nothing ----------------------------------------------------------------

/// Keeps every access, and for every thread the accesses that it knows of. The matrix words of a warp act as one more thread
/// of it.
class FullHistory {
 public:
  explicit FullHistory(int warps) : known_(static_cast<std::size_t>(warps * per_warp)) {}

  static constexpr int per_warp = 33;

  /// What SharedWatch should find: the first pair of bytes that another access has touched of which `actor` knows nothing.
  emulator::SharedWatch::Finding touch(int actor, int offset, int bytes, Access access) {
    using Finding = emulator::SharedWatch::Finding;
    for (int byte = offset; byte < offset + bytes; byte += 2) {
      Finding found;
      if (under_way_.contains(byte / 16)) found.kind = Finding::under_way;
      for (std::size_t i = 0; i < accesses_.size() && found.kind != Finding::under_way; ++i) {
        const Past& past = accesses_[i];
        if (byte < past.offset || byte >= past.offset + past.bytes ||
            known_[static_cast<std::size_t>(actor)].contains(i))
          continue;
        if (past.access == Access::write) {
          found.kind = Finding::written;
        } else if (access == Access::write && found.kind == Finding::nothing) {
          found.kind = Finding::read;
        }
      }
      found.offset = static_cast<std::size_t>(byte);
      if (found.kind != Finding::nothing) return found;
    }
    known_[static_cast<std::size_t>(actor)].insert(accesses_.size());
    accesses_.push_back({offset, bytes, access});
    return {};
  }
  /// The 16 bytes that `actor` has just touched for writing are written again when the copy ends.
  void begin_copy(int offset) { under_way_.insert(offset / 16); }
  void end_copy(int actor, int offset) {
    under_way_.erase(offset / 16);
    known_[static_cast<std::size_t>(actor)].insert(accesses_.size());
    accesses_.push_back({offset, 16, Access::write});
  }
  void meet(std::uint32_t warps) {
    std::set<std::size_t> all;
    const auto for_each = [&](const auto& visit) {
      for (std::size_t a = 0; a < known_.size(); ++a) {
        if ((warps >> a / per_warp & 1u) != 0) visit(known_[a]);
      }
    };
    for_each([&](const auto& known) { all.insert(known.begin(), known.end()); });
    for_each([&](auto& known) { known = all; });
  }

 private:
  struct Past {
    int offset, bytes;
    Access access;
  };
  std::vector<Past> accesses_;
  std::vector<std::set<std::size_t>> known_;
  std::set<int> under_way_;
};

TEST_CASE("the race detector finds what a full history shows", "[emulator]") {
  using Finding = emulator::SharedWatch::Finding;
  std::mt19937 random(5);
  const auto draw = [&](int count) { return static_cast<int>(random() % static_cast<unsigned>(count)); };
  emulator::SharedWatch watch;
  int found = 0, steps = 0;
  for (int sequence = 0; sequence < 3000; ++sequence) {
    // Shapes change now and then, and what the sequences before left in the shadow stays there.
    const bool is_new_shape = sequence % 3 == 0;
    const int warps = is_new_shape ? 1 + draw(4) : 4, room = is_new_shape ? 32 << draw(2) : 64;
    const int lanes_in_use = 1 + draw(3), most_steps = 5 + draw(60), sync_share = 1 + draw(9);
    watch.begin_launch(static_cast<std::size_t>(room), warps);
    watch.begin_block();
    FullHistory history(warps);
    for (int byte = 0; byte < room; byte += 16) {  // somebody wrote everything
      REQUIRE(watch.touch<Access::write>(0, 0, static_cast<std::size_t>(byte), 16, 2, emulator::Where::current()));
      (void)history.touch(0, byte, 16, Access::write);
    }
    const std::uint32_t everybody = (1u << warps) - 1;
    watch.sync_warps(everybody);
    history.meet(everybody);
    struct Copy {
      int thread, actor, place;
    };
    std::vector<Copy> copies;
    for (int step = 0; step < most_steps; ++step) {
      ++steps;
      const int warp = draw(warps), lane = draw(lanes_in_use);
      const auto w = static_cast<std::size_t>(warp);
      if (draw(10) < sync_share) {
        const std::uint32_t met = draw(3) == 0 ? everybody : 1u << warp | 1u << draw(warps);
        if (draw(2) == 0) {
          watch.sync_warp(w);
          history.meet(1u << warp);
        } else {
          watch.sync_warps(met);
          history.meet(met);
        }
        continue;
      }
      const int size = 2 << draw(5), offset = draw(room / size) * size;
      const auto from = static_cast<std::size_t>(offset), count = static_cast<std::size_t>(size);
      const emulator::Where where = emulator::Where::current();
      enum Kind { read, write, read_by_warp, begin_copy, end_copy, kinds };
      const int kind = draw(kinds), thread = warp * 32 + lane, actor = warp * FullHistory::per_warp + lane;
      bool is_sound = true;
      Finding wanted;
      switch (kind) {
        case read:
          is_sound = watch.touch<Access::read>(thread, w, from, count, 2, where);
          wanted = history.touch(actor, offset, size, Access::read);
          break;
        case write:
          is_sound = watch.touch<Access::write>(thread, w, from, count, 2, where);
          wanted = history.touch(actor, offset, size, Access::write);
          break;
        case read_by_warp:
          is_sound = watch.touch<Access::read>(emulator::SharedWatch::whole_warp, w, from, count, 2, where);
          wanted = history.touch(warp * FullHistory::per_warp + 32, offset, size, Access::read);
          break;
        case begin_copy: {
          const int place = offset / 16 * 16;
          is_sound = watch.touch<Access::write>(thread, w, static_cast<std::size_t>(place), 16, 2, where);
          wanted = history.touch(actor, place, 16, Access::write);
          if (!is_sound) break;
          watch.begin_copy(static_cast<std::size_t>(place), 2);
          history.begin_copy(place);
          copies.push_back({thread, actor, place});
          break;
        }
        case end_copy:
          if (copies.empty()) break;
          watch.end_copy(static_cast<std::size_t>(copies[0].thread / 32), static_cast<std::size_t>(copies[0].place), 2);
          history.end_copy(copies[0].actor, copies[0].place);
          copies.erase(copies.begin());
          break;
      }
      INFO("sequence " << sequence << ", step " << step << ", kind " << kind);
      REQUIRE(is_sound == (wanted.kind == Finding::nothing));
      if (is_sound) continue;
      ++found;
      REQUIRE(watch.finding().kind == wanted.kind);
      REQUIRE(watch.finding().offset == wanted.offset);
      break;
    }
    if (!copies.empty()) watch.forget();
  }
  CHECK(found > 1000);
  CHECK(found < 2900);
  CHECK(steps > 20000);
}

}  // namespace
}  // namespace blinkbert::test
