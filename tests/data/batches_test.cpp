// Order of windows, sorting inside a step, and what a loaded batch holds.

#include <catch2/catch.hpp>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/data/batches.hpp>
#include <tests/oracle/dropout.hpp>

namespace blinkbert {
namespace {

std::vector<NumberedWindow> windows_of_lengths(const std::vector<int>& lengths, std::uint32_t first_number = 0) {
  std::vector<NumberedWindow> windows;
  int start = 0;
  for (const int length : lengths) {
    const auto number = first_number + static_cast<std::uint32_t>(windows.size());
    windows.push_back(
        {.window = {.recording = 0, .start = start, .length = length, .label = 1.5 + start}, .number = number});
    start += length;
  }
  return windows;
}

TEST_CASE("the order of windows is that of their words") {
  const std::vector<NumberedWindow> windows = windows_of_lengths(std::vector<int>(40, 3), 100);
  for (const std::uint32_t epoch : {1u, 2u}) {
    const std::vector<int> order = order_of_windows(windows, 7, epoch);
    std::vector<std::pair<std::uint32_t, std::uint32_t>> keys;
    for (const int index : order) {
      const std::uint32_t number = windows[static_cast<std::size_t>(index)].number;
      keys.emplace_back(oracle::philox(7, number, epoch, 0, 2, 0)[0], number);
    }
    CHECK(std::is_sorted(keys.begin(), keys.end()));
    std::vector<int> every = order;
    std::sort(every.begin(), every.end());
    std::vector<int> wanted(windows.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    CHECK(every == wanted);
    CHECK(order == order_of_windows(windows, 7, epoch));
    CHECK(order != order_of_windows(windows, 8, epoch));
    CHECK(order != order_of_windows(windows, 7, epoch + 1));
  }
}

TEST_CASE("a window's place depends on its number, not on which other windows take part") {
  const std::vector<NumberedWindow> all = windows_of_lengths(std::vector<int>(30, 3));
  std::vector<NumberedWindow> some;
  for (std::size_t i = 0; i < all.size(); i += 3) some.push_back(all[i]);
  std::vector<std::uint32_t> expected, found;
  for (const int index : order_of_windows(all, 3, 1)) {
    if (index % 3 == 0) expected.push_back(all[static_cast<std::size_t>(index)].number);
  }
  for (const int index : order_of_windows(some, 3, 1)) found.push_back(some[static_cast<std::size_t>(index)].number);
  CHECK(found == expected);
}

TEST_CASE("inside a step the longest come first, equal ones in the order they had") {
  const std::vector<NumberedWindow> windows = windows_of_lengths({5, 9, 5, 9, 1, 12, 5});
  std::vector<int> order{6, 4, 3, 0, 1, 2, 5};
  sort_by_length(windows, std::span<int>(order).first(6));
  CHECK(order == std::vector<int>{3, 1, 6, 0, 2, 4, 5});  // the seventh is not in the step
  sort_by_length(windows, std::span<int>(order).first(0));
  CHECK(order == std::vector<int>{3, 1, 6, 0, 2, 4, 5});
}

template <class T, int Rank>
std::vector<T> host(View<T, Rank> view) {
  return {view.data(), view.data() + view.size()};
}

TEMPLATE_TEST_CASE("a batch holds its windows, padded with zeros", "", float, double) {
  Cpu<TestType> device(1);
  RowTable table{.N = 2, .x = {}};
  for (int i = 0; i < 20; ++i) table.x.push_back(static_cast<float>(i) + 0.25f);
  BatchLoader<Cpu<TestType>> loader(table);
  Arena<Cpu<TestType>> arena(device);
  auto batch = DeviceBatch<Cpu<TestType>>::plan(arena, 3, 4, 2);
  const auto check = [&] {
    const std::vector<TestType> rows{4.25,  5.25,  6.25, 7.25, 8.25, 9.25, 0, 0,   // rows 2, 3, 4
                                     0,     0,     0,    0,    0,    0,    0, 0,   // none
                                     12.25, 13.25, 0,    0,    0,    0,    0, 0};  // row 6
    CHECK(host(batch.clean) == rows);
    CHECK(host(batch.target) == rows);
    CHECK(host(batch.lengths) == std::vector<int>{3, 0, 1});
    CHECK(host(batch.offsets) == std::vector<int>{0, 2, 2, 3});
    CHECK(host(batch.last_offsets) == std::vector<int>{0, 1, 2, 3});
    CHECK(batch.M == 3);
    CHECK(host(batch.sequences) == std::vector<std::uint32_t>{8, 9, 10});
    CHECK(host(batch.scores) == std::vector<TestType>{3, 4, 5.5});
    CHECK(host(batch.weights) == std::vector<TestType>{0.5, 1, 1});
    CHECK(host(batch.rows.rows(0, 3)) == std::vector<int>{2, -1, 8});
    CHECK(host(batch.slots) == std::vector<int>{-1, -1, 0, -1, -1, -1, -1, -1, 2, -1, -1, -1});
    CHECK(host(batch.present) == std::vector<int>{1, 0, 1});
    CHECK(host(batch.visible) == std::vector<std::uint32_t>{7, 0, 1});
  };
  const std::vector<BatchItem> items{
      {.window = {.recording = 0, .start = 2, .length = 3, .label = 3, .weight = 0.5}, .chosen = 2, .sequence = 8},
      {.window = {.recording = 0, .start = 0, .length = 0, .label = 4}, .chosen = 0, .sequence = 9},
      {.window = {.recording = 0, .start = 6, .length = 1, .label = 5.5}, .chosen = 1, .sequence = 10}};
  loader.load(device, batch, items);
  check();

  // A larger batch in between leaves nothing behind.
  auto larger = DeviceBatch<Cpu<TestType>>::plan(arena, 4, 5, 2);
  const std::vector<BatchItem> full(
      4, {.window = {.recording = 0, .start = 1, .length = 5, .label = 9}, .chosen = 5, .sequence = 1});
  loader.load(device, larger, full);
  CHECK(larger.M == 20);
  CHECK(longest(full) == 5);
  loader.load(device, batch, items);
  check();

  CHECK_THROWS_AS(loader.load(device, batch, full), ContractViolation);
  CHECK_THROWS_AS(loader.load(device, batch, std::span(full).first(3)), ContractViolation);  // too long
}

TEST_CASE("visible bits go on in a second word") {
  Cpu<float> device(1);
  RowTable table{.N = 1, .x = std::vector<float>(40, 1.0f)};
  BatchLoader<Cpu<float>> loader(table);
  Arena<Cpu<float>> arena(device);
  auto batch = DeviceBatch<Cpu<float>>::plan(arena, 2, 40, 1);
  const std::vector<BatchItem> items{
      {.window = {.recording = 0, .start = 0, .length = 35, .label = 0}, .chosen = 0, .sequence = 0},
      {.window = {.recording = 0, .start = 0, .length = 32, .label = 0}, .chosen = 0, .sequence = 1}};
  loader.load(device, batch, items);
  CHECK(host(batch.visible) == std::vector<std::uint32_t>{0xffffffffu, 7, 0xffffffffu, 0});
}

}  // namespace
}  // namespace blinkbert
