// Schedules come from a seed and change no result of a sound kernel; a fault leaves nothing behind.

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <thread>

#include <blinkbert/cuda/column_sums.cuh>
#include <tests/emulator/machine.hpp>

namespace blinkbert::test {
namespace {

using namespace dev;

std::string line(const std::string& what) { return line_with(__FILE__, what); }

// --- seeds -------------------------------------------------------------------------------------------------------

/// The order in which threads come by, four times with a barrier between. Written without the words, which would rightly
/// call it a race.
BB_KERNEL(64, 1) order_of_arrival(View<int, 2> order) {
  SharedMemory shared;
  int& count = *shared.take<int>(1).data;
  if (thread() == 0) count = 0;
  sync_block();
  for (int round = 0; round < 4; ++round) {
    order(block(), count++) = thread();
    sync_block();
  }
}

std::vector<int> arrivals(Device& device, int blocks = 1) {
  const View<int, 2> order{device.unwritten<int>(blocks * 256).data(), {blocks, 256}};
  launch<order_of_arrival>(device, {.blocks = blocks, .threads = 64, .shared_bytes = 16}, order);
  return values_of(order);
}
std::vector<int> arrivals(const Options& options, int blocks = 1) {
  Device device(options);
  return arrivals(device, blocks);
}

TEST_CASE("the same seed gives the same schedule, another seed another", "[emulator]") {
  std::set<std::vector<int>> different;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<int> first = arrivals({.seed = seed});
    REQUIRE(first == arrivals({.seed = seed}));
    different.insert(first);
    for (int round = 0; round < 4; ++round) {
      const auto begin = first.begin() + 64 * round;
      std::vector<int> threads(begin, begin + 64);
      REQUIRE_FALSE(std::is_sorted(threads.begin(), threads.end()));
      std::sort(threads.begin(), threads.end());
      std::vector<int> all(64);
      std::iota(all.begin(), all.end(), 0);
      REQUIRE(threads == all);
    }
  }
  different.insert(arrivals({.seed = ~std::uint64_t{0}}));
  CHECK(different.size() == 51);
}

TEST_CASE("every block and every launch has a schedule of its own", "[emulator]") {
  Device device({.seed = 3});
  const std::vector<int> first = arrivals(device, 5), second = arrivals(device, 5);
  CHECK(first != second);
  std::set<std::vector<int>> different;
  for (int block = 0; block < 5; ++block)
    different.insert({first.begin() + 256 * block, first.begin() + 256 * (block + 1)});
  CHECK(different.size() == 5);
  // ... wherever and beside whomever it runs, and whatever ran before on the same fibres.
  CHECK(arrivals({.seed = 3, .host_threads = 2}, 5) == first);
  CHECK(arrivals({.seed = 3, .host_threads = 3}, 5) == first);
}

TEST_CASE("any thread may come first and last", "[emulator]") {
  std::set<int> first, last;
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    const std::vector<int> order = arrivals({.seed = seed});
    first.insert(order[64]);
    last.insert(order[255]);
  }
  CHECK(first.size() == 64);
  CHECK(last.size() == 64);
}

/// The variable as long as this lives.
struct SeedVariable {
  explicit SeedVariable(const char* value) {
    if (const char* before = std::getenv(name)) before_ = before;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  ~SeedVariable() { before_ ? setenv(name, before_->c_str(), 1) : unsetenv(name); }

  static constexpr const char* name = "BLINKBERT_SCHEDULE_SEED";
  std::optional<std::string> before_;
};

TEST_CASE("the seed is read from the environment", "[emulator]") {
  const auto seed_of = [](const char* value) {
    const SeedVariable variable(value);
    return emulator::schedule_seed();
  };
  CHECK(seed_of(nullptr) == 1);
  CHECK(seed_of("7") == 7);
  CHECK(seed_of("18446744073709551615") == ~std::uint64_t{0});
  for (const char* wrong : {"", "seven", "7 ", "7x", "-7", "18446744073709551616"}) {
    INFO(wrong);
    CHECK_THROWS_AS(seed_of(wrong), InputError);
  }
}

// --- results -----------------------------------------------------------------------------------------------------

/// Sums of rows of floats whose order matters, by blocks that walk over the rows.
BB_KERNEL(96, 1) row_sums(View<float, 1> sums, View<float, 2> rows) {
  SharedMemory shared;
  const auto scratch = shared.take<float>(threads() / warp_size);
  for (int r = block(); r < rows.extent(0); r += blocks()) {
    float sum = 0;
    for (int c = thread(); c < rows.extent(1); c += threads()) sum += load(at(rows, r, c));
    sum = block_sum(sum, scratch);
    if (thread() == r % threads()) store(at(sums, r), sum);
  }
}

TEST_CASE("results of sound kernels depend neither on the seed nor on the host's threads", "[emulator]") {
  constexpr int count = 37, width = 200;
  std::vector<float> values;
  for (int i = 0; i < count * width; ++i) values.push_back(1.0f / static_cast<float>(i % 1009 + 1));
  const auto run = [&](const Options& options) {
    Device device(options);
    const View<float, 2> rows{device.holding(values).data(), {count, width}};
    const auto sums = device.unwritten<float>(count);
    const auto columns = device.holding(std::vector<float>(width, 0.5f));
    launch<row_sums>(device, {.blocks = 7, .threads = 96, .shared_bytes = 16}, sums, rows);
    kernels::add_column_sums<Device, float>(device, {.out = {Acc{columns}}, .partials = rows, .width = width});
    std::vector<float> results = values_of(sums);
    for (const float sum : values_of(columns)) results.push_back(sum);
    return results;
  };
  const std::vector<float> expected = run({.seed = 1});
  float first_row = 0;
  for (int c = 0; c < width; ++c) first_row += values[static_cast<std::size_t>(c)];
  REQUIRE(expected[0] == Approx(first_row));
  for (const int host_threads : {1, 2, 3}) {
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      REQUIRE(run({.seed = seed, .host_threads = host_threads}) == expected);
    }
  }
}

// --- faults ------------------------------------------------------------------------------------------------------

/// Counts its living copies: what a fibre leaves behind.
struct Counted {
  static inline std::atomic<int> alive = 0;
  std::unique_ptr<int> room = std::make_unique<int>(1);  // a leak would show under AddressSanitizer
  Counted() { ++alive; }
  Counted(const Counted&) = delete;
  ~Counted() { --alive; }
};

enum class End { well, race, throws_a_number, throws_an_error, deadlock, in_a_collective, under_way };

void deeper(int depth, const Shared<float>& tile) {
  const Counted counted;
  if (depth > 0) return deeper(depth - 1, tile);
  sync_block();
  sync_warp();
}

template <End end>
BB_KERNEL(96, 1)
ended(View<float, 1> out, View<float, 1> from) {
  const Counted counted;
  SharedMemory shared;
  const auto tile = shared.take<float>(4 * threads());
  const auto rows = shared.take<bf16>(256);
  const bool is_last_block = block() == blocks() - 1;
  copy_async(at(tile, 4 * thread()), at(from, 4 * thread()), true);  // <- copies
  commit_copies();
  if (end == End::under_way && is_last_block && thread() == 50) (void)load(at(tile, 4 * 50));  // <- reads too early
  if (end == End::throws_a_number && is_last_block && thread() == 50) throw 42;
  if (end == End::throws_an_error && is_last_block && thread() == 50) throw std::runtime_error("of its own");
  wait_copies<0>();
  if (end == End::race && is_last_block) store(at(tile, 3), 1.0f);  // <- races
  if (end == End::deadlock && is_last_block && warp() == 1) return;
  deeper(3, tile);
  if (end == End::in_a_collective && is_last_block) {
    std::uint32_t part[4];
    load_matrix(part, at(rows, 8 * lane()));  // <- loads what nobody wrote
  }
  store(at(out, block() * threads() + thread()), load(at(tile, 4 * ((thread() + 50) % threads()))));
}

template <End end>
void run_to_the_end(Device& device, int blocks) {
  std::vector<float> from(4 * 96);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
  const auto out = device.unwritten<float>(blocks * 96);
  launch<ended<end>>(device, {.blocks = blocks, .threads = 96, .shared_bytes = 16 * 96 + 512}, out,
                     device.holding(from));
  std::vector<float> wanted;
  for (int i = 0; i < blocks * 96; ++i) wanted.push_back(static_cast<float>(4 * ((i % 96 + 50) % 96)));
  REQUIRE(values_of(out) == wanted);
}

/// Faults several times in a row, each time with a sound launch on the same machine after it.
template <End end, class Exception, class Check>
void check_end(const Check& check) {
  for (const int host_threads : {1, 2, 3}) {
    for (std::uint64_t seed = 1; seed <= seeds / 2; ++seed) {
      INFO("host threads " << host_threads << ", seed " << seed);
      Device device({.seed = seed, .host_threads = host_threads});
      for (int round = 0; round < 3; ++round) {
        std::optional<std::string> message;
        try {
          run_to_the_end<end>(device, 4);
        } catch (const Exception& exception) {
          message = check(exception);
        }
        REQUIRE(message);
        INFO(*message);
        REQUIRE(message->empty());
        REQUIRE(Counted::alive == 0);
        REQUIRE_NOTHROW(run_to_the_end<End::well>(device, 5));
        REQUIRE(Counted::alive == 0);
      }
    }
  }
}

/// Empty where the fault says all this; otherwise the whole message.
std::string unlike(const KernelFault& fault, const std::vector<std::string>& parts) {
  const std::string message = fault.what();
  for (const std::string& part : parts) {
    if (message.find(part) == message.npos) return message + "\nwithout: " + part;
  }
  return "";
}

TEST_CASE("a fault unwinds every thread, and the machine goes on", "[emulator]") {
  check_end<End::race, KernelFault>([](const KernelFault& fault) {
    return unlike(fault, {"kernel ended<", ", block 3, thread ", line("races")});
  });
  check_end<End::under_way, KernelFault>([](const KernelFault& fault) {
    return unlike(fault, {", block 3, thread 50, ", text("read at ", line("reads too early"), " of byte 800"),
                          text("begun at ", line("copies"), " by thread 50")});
  });
  check_end<End::deadlock, KernelFault>([](const KernelFault& fault) {
    return unlike(
        fault, {", block 3, ", "deadlock: threads 32-63 have left the kernel; threads 0-31 64-95 wait in barrier 0"});
  });
  check_end<End::in_a_collective, KernelFault>([](const KernelFault& fault) {
    return unlike(fault,
                  {", block 3, thread ", text("read at ", line("loads what nobody wrote")), "which nobody wrote"});
  });
}

TEST_CASE("what a kernel throws itself is passed on", "[emulator]") {
  check_end<End::throws_a_number, int>([](int number) { return number == 42 ? "" : "another number"; });
  check_end<End::throws_an_error, std::runtime_error>(
      [](const std::runtime_error& error) { return std::string(error.what()) == "of its own" ? "" : error.what(); });
}

/// Fails in block 2 and all after it; block 2 takes the longest.
BB_KERNEL(32, 1) failing_from_the_third(int rounds) {
  if (block() == 2) {
    for (int round = 0; round < rounds; ++round) sync_warp();
  }
  if (block() >= 2) (void)shuffle(1.0f, 32 + block());
}

TEST_CASE("the first block that fails is reported, on any number of host threads", "[emulator]") {
  for (const int host_threads : {1, 2, 3}) {
    for (int round = 0; round < 10; ++round) {
      Device device({.host_threads = host_threads});
      CHECK_THAT(
          fault_of(device, [](Device& d) { launch<failing_from_the_third>(d, {.blocks = 12, .threads = 32}, 500); }),
          Catch::Contains(", block 2, ") && Catch::Contains("from lane 34"));
    }
  }
}

TEST_CASE("kernels are called by their names", "[emulator]") {
  // A template, a function, one in a namespace of the library: the name without namespaces.
  Device device;
  const auto name_of = [&](const auto& run) {
    const std::string message = fault_of(device, run);
    return message.substr(0, message.find(", block "));
  };
  CHECK(name_of([](Device& d) { launch<failing_from_the_third>(d, {.blocks = 3, .threads = 32}, 0); }) ==
        "kernel failing_from_the_third");
  CHECK_THAT(name_of([](Device& d) { run_to_the_end<End::race>(d, 1); }), Catch::StartsWith("kernel ended<"));
  CHECK(name_of([](Device& d) {
          launch<kernels::column_sums<float>>(d, {.blocks = 1, .threads = 256, .shared_bytes = 16},
                                              kernels::ColumnSums<float>{});
        }) == "kernel column_sums<float>");
}

// --- fibres ------------------------------------------------------------------------------------------------------

/// Much on the stack of each thread, and deep calls.
int sum_down(int depth) {
  volatile int room[100];
  room[depth % 100] = depth;
  return depth == 0 ? 0 : room[depth % 100] + sum_down(depth - 1);
}
BB_KERNEL(256, 1) deep(View<int, 1> out) {
  volatile float room[16 * 1024];
  for (int i = 0; i < 16 * 1024; i += 64) room[i] = static_cast<float>(i + thread());
  sync_block();
  float sum = 0;
  for (int i = 0; i < 16 * 1024; i += 64) sum += room[i] - static_cast<float>(i);
  store(at(out, thread()), static_cast<int>(sum) / 256 + sum_down(50));
}

TEST_CASE("threads have room on their stacks", "[emulator]") {
  Device device;
  const auto out = device.unwritten<int>(256);
  launch<deep>(device, {.blocks = 1, .threads = 256}, out);
  for (int t = 0; t < 256; ++t) REQUIRE(values_of(out)[static_cast<std::size_t>(t)] == t + 1275);
}

TEST_CASE("a machine may be moved, and used by one host thread after another", "[emulator]") {
  Device first;
  run_to_the_end<End::well>(first, 2);
  Device device = std::move(first);
  run_to_the_end<End::well>(device, 2);
  for (int round = 0; round < 3; ++round) {
    std::string message;
    std::thread([&] {
      message = fault_of(device, [](Device& d) { run_to_the_end<End::race>(d, 2); });
      run_to_the_end<End::well>(device, 2);
    }).join();
    CHECK_THAT(message, Catch::Contains(line("races")));
    run_to_the_end<End::well>(device, 2);
  }
}

}  // namespace
}  // namespace blinkbert::test
