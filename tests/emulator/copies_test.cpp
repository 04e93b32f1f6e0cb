// Asynchronous copies: they arrive at once or as late as the wait allows, and until the wait their place is theirs.

#include <numeric>

#include <tests/emulator/machine.hpp>

namespace blinkbert::test {
namespace {

using namespace dev;

std::string line(const std::string& what) { return line_with(__FILE__, what); }

std::vector<float> counted(int count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

// --- one copy ----------------------------------------------------------------------------------------------------

enum class Step {
  sound,
  read_early,
  written_early,
  copied_over,
  no_wait,
  no_commit,
  no_barrier,
  barrier_before_wait,
  source_written,
  source_written_late
};

/// Every thread copies 16 bytes and reads those of its neighbour in the next warp.
template <Step step>
BB_KERNEL(64, 1)
copied(View<float, 1> out, View<float, 1> from) {
  SharedMemory shared;
  const auto tile = shared.take<float>(4 * threads());
  const int place = 4 * thread(), next = 4 * ((thread() + 32) % threads());
  copy_async(at(tile, place), at(from, place), true);                                           // <- copies
  if constexpr (step == Step::read_early) (void)load(at(tile, place + 3));                      // <- reads early
  if constexpr (step == Step::written_early) store(at(tile, place + 1), 1.0f);                  // <- writes early
  if constexpr (step == Step::copied_over) copy_async(at(tile, place), at(from, place), true);  // <- copies again
  if constexpr (step == Step::source_written) store(at(from, place + 2), -1.0f);
  if constexpr (step != Step::no_commit) commit_copies();
  if constexpr (step == Step::barrier_before_wait) sync_block();
  if constexpr (step != Step::no_wait) wait_copies<0>();  // <- waits
  if constexpr (step == Step::source_written_late) store(at(from, place + 2), -1.0f);
  if constexpr (step != Step::no_barrier && step != Step::barrier_before_wait) sync_block();
  if constexpr (step != Step::no_wait && step != Step::no_commit) {
    store(at(out, thread()), load(at(tile, next)));  // <- reads
  }
}

template <Step step>
auto copy_as(int threads = 64) {
  return [threads](Device& device) {
    const auto out = device.unwritten<float>(threads);
    launch<copied<step>>(device, {.blocks = 1, .threads = threads, .shared_bytes = threads * 16}, out,
                         device.holding(counted(4 * threads)));
    for (int t = 0; t < threads; ++t) {
      REQUIRE(values_of(out)[static_cast<std::size_t>(t)] == static_cast<float>(4 * ((t + 32) % threads) + 1));
    }
  };
}

TEST_CASE("copies that are waited for and passed on by a barrier are sound", "[emulator]") {
  require_sound(copy_as<Step::sound>());
  require_sound(copy_as<Step::source_written_late>());
}

TEST_CASE("until the wait the place belongs to the copy", "[emulator]") {
  const auto words = [](const char* act, const char* mark, const char* other) {
    return text(act, " at ", line(mark), " of byte ", "@",
                " of shared memory while a copy is under way to it, begun at ", line(other), " by thread ");
  };
  const auto check = [&](const auto& run, const std::string& what) {
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      Device device({.seed = seed});
      const std::string message = fault_of(device, run);
      INFO(message << "\nwanted: " << what);
      const std::size_t hole = what.find('@');
      REQUIRE(message.find(what.substr(0, hole)) != message.npos);
      REQUIRE(message.find(what.substr(hole + 1)) != message.npos);
    }
  };
  check(copy_as<Step::read_early>(), words("read", "reads early", "copies"));
  check(copy_as<Step::written_early>(), words("write", "writes early", "copies"));
  check(copy_as<Step::copied_over>(), words("write", "copies again", "copies"));
}

/// What a thread has read before, it may not read while it is copied over.
BB_KERNEL(32, 1) read_before_and_after(View<float, 1> from) {
  SharedMemory shared;
  const auto tile = shared.take<float>(4 * threads());
  const int place = 4 * thread();
  store(at(tile, place), Vector<float, 4>{});
  (void)load<4>(at(tile, place));
  copy_async(at(tile, place), at(from, place), true);  // <- copies over what was read
  commit_copies();
  (void)load<4>(at(tile, place));  // <- reads it again
  wait_copies<0>();
}

TEST_CASE("a copy ends what was known of its place", "[emulator]") {
  require_fault({"read_before_and_after", 0, "*", text("read at ", line("reads it again"), " of byte ")},
                [](Device& device) {
                  launch<read_before_and_after>(device, {.blocks = 1, .threads = 32, .shared_bytes = 512},
                                                device.holding(counted(128)));
                });
}

/// The odd bytes as well.
BB_KERNEL(32, 1) bytes_copied(View<std::uint8_t, 1> from, int byte) {
  SharedMemory shared;
  const auto tile = shared.take<std::uint8_t>(16);
  if (thread() != 4) return;
  copy_async(at(tile, 0), at(from, 0), true);
  commit_copies();
  (void)load(at(tile, byte));  // <- reads a byte
  wait_copies<0>();
}

TEST_CASE("every byte belongs to the copy", "[emulator]") {
  for (const int byte : {0, 1, 14, 15}) {
    require_fault({"bytes_copied", 0, "4",
                   text("read at ", line("reads a byte"), " of byte ", byte,
                        " of shared memory while a copy is under way to it, begun at ")},
                  [&](Device& device) {
                    launch<bytes_copied>(device, {.blocks = 1, .threads = 32, .shared_bytes = 16},
                                         device.holding(std::vector<std::uint8_t>(16, 1)), byte);
                  });
  }
}

TEST_CASE("a copy is waited for before its thread leaves", "[emulator]") {
  const std::string words = text("leaves the kernel with a copy under way that began at ", line("copies"));
  require_fault({"copied", 0, "*", words}, copy_as<Step::no_wait>());
  require_fault({"copied", 0, "*", words}, copy_as<Step::no_commit>());
}

TEST_CASE("the wait is the thread's own, others need a barrier after it", "[emulator]") {
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string no_barrier = fault_of(device, copy_as<Step::no_barrier>());
    INFO(no_barrier);
    // The neighbour has not copied yet, has not waited yet, or has waited: never is it sound.
    REQUIRE((no_barrier.find(text("read at ", line("reads"), " of byte ")) != no_barrier.npos ||
             no_barrier.find(text("write at ", line("copies"), " of byte ")) != no_barrier.npos));
  }
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string early = fault_of(device, copy_as<Step::barrier_before_wait>());
    INFO(early);
    const bool is_under_way =
        early.find(text("read at ", line("reads"))) != early.npos &&
        early.find(text("while a copy is under way to it, begun at ", line("copies"))) != early.npos;
    const bool is_race = early.find(text("race: read at ", line("reads"))) != early.npos &&
                         early.find(text("after a write at ", line("copies"), " by thread ")) != early.npos;
    REQUIRE((is_under_way || is_race));
  }
  // The same within a warp.
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    launch<copied<Step::no_barrier>>(device, {.blocks = 1, .threads = 32, .shared_bytes = 512},
                                     device.unwritten<float>(32), device.holding(counted(128)));  // each reads its own
  }
}

TEST_CASE("the source stays as it is until the wait", "[emulator]") {
  require_fault({"copied", 0, "*",
                 text("the wait at ", line("waits"), " ends a copy from ", line("copies"),
                      " whose source was written while it was under way")},
                copy_as<Step::source_written>());
}

// --- groups of copies --------------------------------------------------------------------------------------------

constexpr int rounds = 5;

/// Two stages of a pipeline: the second copy is under way while the first is used.
enum class Told { nobody, warp };
template <int UnderWay, Told told>
BB_KERNEL(32, 1)
pipelined(View<float, 1> out, View<float, 1> from) {
  SharedMemory shared;
  const auto tile = shared.take<float>(2 * 4 * threads());
  const int place = 4 * thread();
  const auto half = [&](int round) { return tile.from(round % 2 * 4 * threads()); };
  const auto begin = [&](int round) {
    if (round < rounds) copy_async(at(half(round), place), at(from, round * 4 * threads() + place), true);  // <- stages
    commit_copies();  // an empty group counts as well
  };
  begin(0);
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    begin(round + 1);
    wait_copies<UnderWay>();
    if constexpr (told == Told::warp) sync_warp();
    sum += load(at(half(round), 4 * ((thread() + 1) % threads())));  // <- uses
    sync_warp();
  }
  wait_copies<0>();
  store(at(out, thread()), sum);
}

TEST_CASE("a wait leaves as many groups under way as it says", "[emulator]") {
  const auto run = []<int UnderWay, Told told = Told::warp>(std::integral_constant<int, UnderWay>,
                                                            std::integral_constant<Told, told> = {}) {
    return [](Device& device) {
      const auto out = device.unwritten<float>(32);
      launch<pipelined<UnderWay, told>>(device, {.blocks = 1, .threads = 32, .shared_bytes = 2 * 512}, out,
                                        device.holding(counted(rounds * 128)));
      for (int t = 0; t < 32; ++t) {
        float sum = 0;
        for (int round = 0; round < rounds; ++round) sum += static_cast<float>(round * 128 + 4 * ((t + 1) % 32) + 1);
        REQUIRE(values_of(out)[static_cast<std::size_t>(t)] == sum);
      }
    };
  };
  using std::integral_constant;
  require_sound(run(integral_constant<int, 1>{}));
  require_sound(run(integral_constant<int, 0>{}));
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string message = fault_of(device, run(integral_constant<int, 2>{}));
    INFO(message);
    REQUIRE(message.find(text("read at ", line("uses"))) != message.npos);
    REQUIRE(message.find(text("while a copy is under way to it, begun at ", line("stages"))) != message.npos);
  }
  // What a lane has waited for is not yet the other lanes'.
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string message =
        fault_of(device, run(integral_constant<int, 1>{}, integral_constant<Told, Told::nobody>{}));
    INFO(message);
    REQUIRE((message.find(text("read at ", line("uses"))) != message.npos ||
             message.find(text("write at ", line("stages"))) != message.npos));
  }
}

// --- copies that are not wanted, places that do not fit -----------------------------------------------------------

/// Rows beyond `rows` are filled with zeros.
template <class T>
BB_KERNEL(32, 1)
padded(View<T, 1> out, View<T, 2> from) {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  SharedMemory shared;
  const auto tile = shared.take<T>(width * threads());
  copy_async(at(tile, width * thread()), at(from, thread(), 0), thread() < from.extent(0));
  commit_copies();
  wait_copies<0>();
  for (int i = width * thread(); i < width * (thread() + 1); ++i) store(at(out, i), load(at(tile, i)));
}

TEMPLATE_TEST_CASE("a copy that is not wanted writes zeros and reads nothing", "[emulator]", std::uint8_t, bf16, float,
                   double) {
  using T = TestType;
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  for (const int rows : {0, 1, 31, 32}) {
    require_sound([&](Device& device) {
      std::vector<T> values;
      for (int i = 0; i < rows * width; ++i) values.push_back(static_cast<T>(i % 100 + 1));
      const View<T, 2> from{device.holding(values).data(), {rows, width}};
      const auto out = device.unwritten<T>(32 * width);
      launch<padded<T>>(device, {.blocks = 1, .threads = 32, .shared_bytes = 512}, out, from);
      for (int i = 0; i < 32 * width; ++i) {
        const float wanted = i < rows * width ? static_cast<float>(i % 100 + 1) : 0.0f;
        REQUIRE(static_cast<float>(values_of(out)[static_cast<std::size_t>(i)]) == wanted);
      }
    });
  }
}

BB_KERNEL(32, 1) copied_from(View<float, 2> from, int row, int column, int place) {
  SharedMemory shared;
  const auto tile = shared.take<float>(16);
  if (thread() == 9) copy_async(at(tile, place), at(from, row, column), true);  // <- copies from
  commit_copies();
  wait_copies<0>();
}

TEST_CASE("a copy is 16 bytes at places that are multiples of 16", "[emulator]") {
  const auto run = [](int row, int column, int place) {
    return [=](Device& device) {
      const View<float, 2> from{device.holding(counted(24)).data(), {3, 8}};
      launch<copied_from>(device, {.blocks = 1, .threads = 32, .shared_bytes = 64}, from, row, column, place);
    };
  };
  const std::string at_copy = line("copies from");
  require_sound(run(2, 4, 12));
  require_fault({"copied_from", 0, "9", text("vector of 4 at ", at_copy, " with 2 elements left in the row")},
                run(1, 6, 0));
  require_fault(
      {"copied_from", 0, "9", text("vector of 4 at ", at_copy, " is at an address that is not a multiple of 16")},
      run(1, 2, 0));
  require_fault(
      {"copied_from", 0, "9", text("vector of 4 at ", at_copy, " is at an address that is not a multiple of 16")},
      run(1, 0, 2));
  require_fault({"copied_from", 0, "9", text("element (3, 0) of a view of (3, 8) accessed at ", at_copy)},
                run(3, 0, 0));
  require_fault(
      {"copied_from", 0, "9", text("read at ", at_copy, " of byte 0 of an allocation of 96, which nobody wrote")},
      [](Device& device) {
        const View<float, 2> from{device.unwritten<float>(24).data(), {3, 8}};
        launch<copied_from>(device, {.blocks = 1, .threads = 32, .shared_bytes = 64}, from, 0, 0, 0);
      });
}

// --- when the data arrive ----------------------------------------------------------------------------------------

/// Looks at the bytes without the words, which would rightly call it a fault.
BB_KERNEL(32, 1) watched(View<int, 1> arrivals, View<float, 1> from) {
  SharedMemory shared;
  const auto tile = shared.take<float>(4 * threads());
  float* const bytes = tile.data + 4 * thread();
  store(at(tile, 4 * thread()), Vector<float, 4>{});
  copy_async(at(tile, 4 * thread()), at(from, 4 * thread()), true);
  const bool is_early = bytes[0] == static_cast<float>(4 * thread() + 1);
  const bool is_poison = bytes[0] != bytes[0];
  commit_copies();
  sync_warp();
  const bool is_still_the_same = is_early == (bytes[3] == static_cast<float>(4 * thread() + 4));
  wait_copies<0>();
  const bool is_there =
      bytes[0] == static_cast<float>(4 * thread() + 1) && bytes[3] == static_cast<float>(4 * thread() + 4);
  store(at(arrivals, thread()), (is_early ? 1 : 0) + (is_poison ? 2 : 0) + (is_still_the_same && is_there ? 4 : 0));
}

TEST_CASE("copies arrive early and late", "[emulator]") {
  int early = 0, late = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const auto arrivals = device.unwritten<int>(32);
    launch<watched>(device, {.blocks = 1, .threads = 32, .shared_bytes = 512}, arrivals, device.holding(counted(128)));
    for (const int arrival : values_of(arrivals)) {
      REQUIRE((arrival == 5 || arrival == 6));
      ++(arrival == 5 ? early : late);
    }
  }
  const int all = static_cast<int>(seeds) * 32;
  CHECK(early > all / 3);
  CHECK(late > all / 3);
}

}  // namespace
}  // namespace blinkbert::test
