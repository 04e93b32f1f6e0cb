// What threads do together: the values of shuffles, ballots and sums, and what the emulator says of threads that do not
// come, come elsewhere, or leave.

#include <numeric>

#include <tests/emulator/machine.hpp>

namespace blinkbert::test {
namespace {

using namespace dev;

std::string line(const std::string& what) { return line_with(__FILE__, what); }

// --- values ------------------------------------------------------------------------------------------------------

template <class T>
T value_of(int thread) {
  return static_cast<T>(thread * 3 + 1);
}

template <class T>
BB_KERNEL(96, 1)
shuffled(View<T, 1> crossed, View<T, 1> taken, int mask) {
  const T value = value_of<T>(thread());
  store(at(crossed, thread()), shuffle_xor(value, mask));
  store(at(taken, thread()),
        shuffle(value, (5 * lane() + warp()) % 32));  // every lane another lane, in each warp another
}

TEMPLATE_TEST_CASE("shuffles move values within a warp", "[emulator]", int, std::uint32_t, float, double) {
  using T = TestType;
  for (const int mask : {0, 1, 2, 3, 4, 8, 16, 21, 31}) {
    Device device({.seed = static_cast<std::uint64_t>(mask)});
    const auto crossed = device.unwritten<T>(96), taken = device.unwritten<T>(96);
    launch<shuffled<T>>(device, {.blocks = 1, .threads = 96}, crossed, taken, mask);
    for (int t = 0; t < 96; ++t) {
      const int first = t / 32 * 32;
      INFO("thread " << t << ", mask " << mask);
      REQUIRE(values_of(crossed)[static_cast<std::size_t>(t)] == value_of<T>(first + ((t % 32) ^ mask)));
      REQUIRE(values_of(taken)[static_cast<std::size_t>(t)] == value_of<T>(first + (5 * (t % 32) + t / 32) % 32));
    }
  }
}

BB_KERNEL(64, 1) balloted(View<std::uint32_t, 1> votes, std::uint32_t pattern) {
  store(at(votes, thread()), ballot((pattern >> lane() & 1u) != static_cast<std::uint32_t>(warp())));
}

TEST_CASE("a ballot tells every lane the votes of all", "[emulator]") {
  for (const std::uint32_t pattern : {0u, ~0u, 1u, 0x80000000u, 0xdeadbeefu}) {
    Device device;
    const auto votes = device.unwritten<std::uint32_t>(64);
    launch<balloted>(device, {.blocks = 1, .threads = 64}, votes, pattern);
    for (std::size_t t = 0; t < 64; ++t) REQUIRE(values_of(votes)[t] == (t < 32 ? pattern : ~pattern));
  }
}

template <class T>
BB_KERNEL(1024, 1)
summed(View<T, 1> of_warp, View<T, 1> of_block) {
  SharedMemory shared;
  const auto scratch = shared.take<T>(threads() / warp_size);
  const T value = value_of<T>(thread());
  store(at(of_warp, thread()), warp_sum(value));
  T sum = 0;
  for (int round = 0; round < 3; ++round) sum = block_sum(static_cast<T>(value + static_cast<T>(round)), scratch);
  store(at(of_block, thread()), sum);
}

TEMPLATE_TEST_CASE("sums of warps and blocks reach every thread", "[emulator]", int, float, double) {
  using T = TestType;
  for (const int threads : {32, 96, 256, 1024}) {
    Device device({.seed = static_cast<std::uint64_t>(threads)});
    const auto of_warp = device.unwritten<T>(threads), of_block = device.unwritten<T>(threads);
    launch<summed<T>>(device, {.blocks = 1, .threads = threads, .shared_bytes = shared_bytes<T>(threads / 32)}, of_warp,
                      of_block);
    T block = 0;
    for (int t = 0; t < threads; ++t) block += value_of<T>(t) + 2;
    for (int t = 0; t < threads; ++t) {
      T warp = 0;
      for (int l = 0; l < 32; ++l) warp += value_of<T>(t / 32 * 32 + l);
      REQUIRE(values_of(of_warp)[static_cast<std::size_t>(t)] == warp);
      REQUIRE(values_of(of_block)[static_cast<std::size_t>(t)] == block);
    }
  }
}

BB_KERNEL(32, 1) shuffled_from_beyond(int from, int mask) {
  if (from != 0) (void)shuffle(1.0f, lane() == 4 ? from : 0);  // <- shuffles from afar
  (void)shuffle_xor(1.0f, mask);                               // <- crosses
}

TEST_CASE("a shuffle names a lane of its warp", "[emulator]") {
  const auto run = [](int from, int mask) {
    return [=](Device& device) { launch<shuffled_from_beyond>(device, {.blocks = 1, .threads = 32}, from, mask); };
  };
  require_sound(run(31, 31));
  require_fault({"shuffled_from_beyond", 0, "4", text("shuffle at ", line("shuffles from afar"), " from lane 32")},
                run(32, 1));
  require_fault({"shuffled_from_beyond", 0, "4", text("shuffle at ", line("shuffles from afar"), " from lane -1")},
                run(-1, 1));
  require_fault({"shuffled_from_beyond", 0, "*", text("shuffle_xor at ", line("crosses"), " from lane ")}, run(0, 32));
}

// --- a warp that is divided --------------------------------------------------------------------------------------

enum class Way { other_word, other_line, other_type, left, ballot_against_matrix };

/// Lanes from `parted` on go another way.
template <Way way>
BB_KERNEL(64, 1)
parted(View<float, 1> out, int parted) {
  float value = 1;
  std::uint32_t part[4] = {};
  float sum[4] = {};
  if (way == Way::left && thread() >= parted) return;
  if (lane() < parted) {
    if constexpr (way == Way::other_word) value = shuffle_xor(value, 1);             // <- shuffles
    if constexpr (way == Way::other_line) value = shuffle_xor(value, 1);             // <- shuffles here
    if constexpr (way == Way::other_type) sync_warp();                               // <- waits for the warp
    if constexpr (way == Way::ballot_against_matrix) multiply_add(sum, part, 0, 0);  // <- multiplies
  } else {
    if constexpr (way == Way::other_word) value = static_cast<float>(ballot(true));          // <- votes
    if constexpr (way == Way::other_line) value = shuffle_xor(value, 1);                     // <- shuffles there
    if constexpr (way == Way::other_type) value = shuffle(value, 0);                         // <- takes from lane 0
    if constexpr (way == Way::ballot_against_matrix) value = static_cast<float>(ballot(0));  // <- votes instead
  }
  if constexpr (way == Way::left) sync_warp();  // <- waits for all
  store(at(out, thread()), value);
}

template <Way way>
auto part(int parted_from) {
  return [=](Device& device) {
    launch<parted<way>>(device, {.blocks = 1, .threads = 64}, device.unwritten<float>(64), parted_from);
  };
}

template <Way way>
void check_parted(const char* one, const std::string& at_one, const char* two, const std::string& at_two) {
  // Which lane notices is the schedule's choice; the message names both.
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string message = fault_of(device, part<way>(20));
    INFO(message);
    const std::string here = "the warp is divided: this lane is in ";
    const bool is_one = message.find(text(here, one, " at ", at_one, ", thread ")) != message.npos &&
                        message.find(text(" in ", two, " at ", at_two)) != message.npos;
    const bool is_two = message.find(text(here, two, " at ", at_two, ", thread ")) != message.npos &&
                        message.find(text(" in ", one, " at ", at_one)) != message.npos;
    REQUIRE((is_one || is_two));
    REQUIRE_THAT(message, Catch::StartsWith("kernel parted") && Catch::Contains(", block 0, thread "));
  }
  require_sound(part<way>(32));  // all lanes of every warp the same way
  require_sound(part<way>(0));
}

TEST_CASE("all lanes reach the same word at the same line", "[emulator]") {
  check_parted<Way::other_word>("shuffle_xor", line("shuffles"), "ballot", line("votes"));
  check_parted<Way::other_line>("shuffle_xor", line("shuffles here"), "shuffle_xor", line("shuffles there"));
  check_parted<Way::other_type>("sync_warp", line("waits for the warp"), "shuffle", line("takes from lane 0"));
  check_parted<Way::ballot_against_matrix>("multiply_add", line("multiplies"), "ballot", line("votes instead"));
}

TEST_CASE("no lane leaves before the last word of its warp", "[emulator]") {
  require_each_of(
      {{"parted", 0, "*",
        text("sync_warp at ", line("waits for all"), " with lanes that have left the kernel, thread 31 first")},
       {"parted", 0, "31", "leaves the kernel while thread "}},
      [](Device& device) {
        launch<parted<Way::left>>(device, {.blocks = 1, .threads = 32}, device.unwritten<float>(32), 31);
      });
  require_sound(part<Way::left>(64));
  require_sound(part<Way::left>(32));  // a whole warp may leave
}

// --- barriers ----------------------------------------------------------------------------------------------------

enum class Meeting {
  everybody,
  at_two_lines,
  one_leaves,
  warp_leaves,
  lane_in_a_shuffle,
  lane_in_sync_warp,
  other_group
};

template <Meeting meeting>
BB_KERNEL(96, 1)
meeting_of() {
  if (meeting == Meeting::one_leaves && thread() == 70) return;
  if (meeting == Meeting::warp_leaves && warp() == 1) return;
  if (meeting == Meeting::lane_in_a_shuffle && thread() == 70) (void)shuffle_xor(1.0f, 1);  // <- shuffles alone
  if (meeting == Meeting::lane_in_sync_warp && thread() == 70) sync_warp();                 // <- syncs alone
  if (meeting == Meeting::at_two_lines && warp() == 2) {
    sync_block();  // <- meets there
  } else if (meeting == Meeting::other_group && warp() == 0) {
    sync_group<7>(64);  // <- meets the group
  } else {
    sync_block();  // <- meets here
  }
}

template <Meeting meeting>
auto meet() {
  return [](Device& device) { launch<meeting_of<meeting>>(device, {.blocks = 1, .threads = 96}); };
}

TEST_CASE("all threads reach the same barrier, or it is said who waits where", "[emulator]") {
  require_sound(meet<Meeting::everybody>());
  require_fault(
      {"meeting_of", 0, "",
       text("deadlock: threads 70 have left the kernel; threads 0-69 71-95 wait in barrier 0 at ", line("meets here"))},
      meet<Meeting::one_leaves>());
  require_fault({"meeting_of", 0, "",
                 text("deadlock: threads 32-63 have left the kernel; threads 0-31 64-95 wait in barrier 0 at ",
                      line("meets here"))},
                meet<Meeting::warp_leaves>());
  require_fault({"meeting_of", 0, "",
                 text("deadlock: threads 0-69 71-95 wait in barrier 0 at ", line("meets here"),
                      "; threads 70 wait in shuffle_xor at ", line("shuffles alone"))},
                meet<Meeting::lane_in_a_shuffle>());
  require_fault({"meeting_of", 0, "",
                 text("deadlock: threads 0-69 71-95 wait in barrier 0 at ", line("meets here"),
                      "; threads 70 wait in sync_warp at ", line("syncs alone"))},
                meet<Meeting::lane_in_sync_warp>());
  require_fault({"meeting_of", 0, "",
                 text("deadlock: threads 32-95 wait in barrier 0 at ", line("meets here"),
                      "; threads 0-31 wait in barrier 7 at ", line("meets the group"))},
                meet<Meeting::other_group>());
}

TEST_CASE("a barrier is one place in the source", "[emulator]") {
  const std::string here = line("meets here"), there = line("meets there");
  const std::string words = "the block is divided: this thread is in barrier 0 for 96 threads at ";
  require_each_of({{"meeting_of", 0, "*", text(words, here, ", thread ")}, {"meeting_of", 0, "*", text(words, there)}},
                  meet<Meeting::at_two_lines>());
  Device device;
  const std::string message = fault_of(device, meet<Meeting::at_two_lines>());
  CHECK_THAT(message, Catch::Contains(here) && Catch::Contains(text(" for 96 at ")) && Catch::Contains(there));
}

BB_KERNEL(128, 1) group_of(int members, int count) {
  if (thread() < members) sync_group<2>(count);  // <- meets in a group
}
BB_KERNEL(64, 1) group_of_halves() {
  sync_group<2>(64);
  if (lane() < 16) sync_group<2>(32);  // <- half of each warp
}
BB_KERNEL(128, 1) group_of_two_minds() {
  if (warp() < 2) sync_group<2>(warp() == 0 ? 64 : 96);  // <- counts differ
}

TEST_CASE("a group is whole warps of the block", "[emulator]") {
  const auto run = [](int members, int count) {
    return [=](Device& device) { launch<group_of>(device, {.blocks = 1, .threads = 128}, members, count); };
  };
  for (const int count : {32, 64, 96, 128}) require_sound(run(count, count));
  for (const int count : {48, 0, -32, 160, 1}) {
    require_fault({"group_of", 0, "*",
                   text("barrier 2 at ", line("meets in a group"), " is for ", count,
                        " threads: whole warps of a block of 128 are wanted")},
                  run(128, count));
  }
  require_one_of({{"group_of_halves", 0, "*",
                   text("barrier 2 at ", line("half of each warp"), " is full with a part of warp 0: thread ")}},
                 [](Device& device) { launch<group_of_halves>(device, {.blocks = 1, .threads = 64}); });
  const std::string words = text("the block is divided: this thread is in barrier 2 for ");
  require_each_of({{"group_of_two_minds", 0, "*", words + "64"}, {"group_of_two_minds", 0, "*", words + "96"}},
                  [](Device& device) { launch<group_of_two_minds>(device, {.blocks = 1, .threads = 128}); });
  require_fault({"group_of", 0, "",
                 text("deadlock: threads 64-127 have left the kernel; threads 0-63 wait in barrier 2 at ",
                      line("meets in a group"))},
                run(64, 96));
}

/// Groups meet again and again beside each other, and with the whole block in between.
BB_KERNEL(128, 1) groups_at_work(View<int, 1> out) {
  SharedMemory shared;
  const auto tile = shared.take<int>(threads());
  int sum = thread();
  for (int round = 0; round < 20; ++round) {
    store(at(tile, thread()), sum);
    const int half = thread() / 64;
    if (half == 0) sync_group<1>(64);
    if (half == 1) sync_group<15>(64);
    sum += load(at(tile, half * 64 + (thread() + 32) % 64));
    if (half == 0) sync_group<1>(64);
    if (half == 1) sync_group<15>(64);
    if (round % 7 == 0) sync_block();
  }
  store(at(out, thread()), sum);
}

TEST_CASE("barriers are used again at once", "[emulator]") {
  std::vector<int> sums(128);
  std::iota(sums.begin(), sums.end(), 0);
  for (int round = 0; round < 20; ++round) {
    const std::vector<int> before = sums;
    for (std::size_t t = 0; t < 128; ++t) sums[t] += before[t / 64 * 64 + (t + 32) % 64];
  }
  require_sound([&](Device& device) {
    const auto out = device.unwritten<int>(128);
    launch<groups_at_work>(device, {.blocks = 1, .threads = 128, .shared_bytes = 512}, out);
    REQUIRE(values_of(out) == sums);
  });
}

// --- shapes of launches ------------------------------------------------------------------------------------------

BB_KERNEL(32, 1) identified(View<int, 1> out) {
  store(at(out, block() * threads() + thread()),
        blocks() * 1000000 + threads() * 1000 + warp() * 100 + lane() * 2 + (thread() == warp() * 32 + lane() ? 1 : 0));
}

TEST_CASE("every thread of every block runs once and knows who it is", "[emulator]") {
  for (const LaunchShape shape : {LaunchShape{1, 32}, LaunchShape{3, 96}, LaunchShape{2, 1024}}) {
    Device device;
    const auto out = device.unwritten<int>(shape.blocks * shape.threads);
    launch<identified>(device, shape, out);
    for (int i = 0; i < shape.blocks * shape.threads; ++i) {
      const int t = i % shape.threads;
      REQUIRE(values_of(out)[static_cast<std::size_t>(i)] ==
              shape.blocks * 1000000 + shape.threads * 1000 + t / 32 * 100 + t % 32 * 2 + 1);
    }
  }
}

TEST_CASE("a launch that no device takes is refused", "[emulator]") {
  Device device;
  const auto run = [&](LaunchShape shape) { launch<group_of>(device, shape, 0, 32); };
  CHECK_THROWS_AS(run({1, 48}), ContractViolation);
  CHECK_THROWS_AS(run({1, 0}), ContractViolation);
  CHECK_THROWS_AS(run({1, 1056}), ContractViolation);
  CHECK_THROWS_AS(run({-1, 32}), ContractViolation);
  CHECK_THROWS_AS(run({1, 32, -16}), ContractViolation);
  CHECK_THROWS_AS(run({1, 32, 227 * 1024 + 16}), ContractViolation);
  CHECK_THROWS_AS(run({1 << 17, 32}), ContractViolation);
  run({0, 48});  // no blocks, nothing happens
  run({1, 1024, 227 * 1024});
}

}  // namespace
}  // namespace blinkbert::test
