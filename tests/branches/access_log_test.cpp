// The log of accesses: what it must find on every schedule, each beside a sibling that it must let pass.

#include <catch2/catch.hpp>

#include <blinkbert/backend/backend.hpp>
#include <tests/branches/access_log.hpp>
#include <tests/branches/op_accesses.hpp>

namespace blinkbert::test {
namespace {

/// Two branches over 64 bytes that were written before both.
struct Bench {
  std::array<std::byte, 64> memory{};
  AccessLog log;

  Bench() {
    write(0, "start", 0, 64);
    fork();
  }
  void touch(std::size_t branch, std::string_view who, Access::Kind kind, std::size_t first, std::size_t bytes) {
    log.add(branch, who, std::array{Access{kind, memory.data() + first, bytes}});
  }
  void read(std::size_t branch, std::string_view who, std::size_t first, std::size_t bytes) {
    touch(branch, who, Access::read, first, bytes);
  }
  void write(std::size_t branch, std::string_view who, std::size_t first, std::size_t bytes) {
    touch(branch, who, Access::write, first, bytes);
  }
  void fork() { log.wait(1, log.record(0)); }
  void join() { log.wait(0, log.record(1)); }
};

TEST_CASE("accesses of two branches need an event between them, if one writes", "[branches]") {
  for (const Access::Kind first : {Access::read, Access::write, Access::add}) {
    for (const Access::Kind second : {Access::read, Access::write, Access::add}) {
      for (const std::size_t early : {0u, 1u}) {  // the branch of the first
        INFO("kinds " << first << second << ", branch " << early);
        const bool may_meet = first == Access::read && second == Access::read;
        const auto both = [&](bool has_event, std::size_t from) {
          Bench bench;
          bench.touch(early, "first", first, 16, 16);
          if (has_event) early == 0 ? bench.fork() : bench.join();
          bench.touch(1 - early, "second", second, from, 16);
        };
        CHECK_NOTHROW(both(true, 16));
        CHECK_NOTHROW(both(false, 0));
        CHECK_NOTHROW(both(false, 32));
        for (const std::size_t from : {1u, 16u, 31u}) {
          if (may_meet) {
            CHECK_NOTHROW(both(false, from));
          } else {
            CHECK_THROWS_WITH(both(false, from), Catch::StartsWith("second on branch ") &&
                                                     Catch::Contains("what first on branch ") &&
                                                     Catch::EndsWith("without an event between them"));
          }
        }
      }
    }
  }
}

TEST_CASE("an event orders what came before it, and nothing later", "[branches]") {
  Bench bench;
  bench.write(1, "beside", 0, 8);
  const AccessLog::Clock event = bench.log.record(1);
  bench.write(1, "later", 8, 8);
  bench.log.wait(0, event);
  CHECK_NOTHROW(bench.read(0, "reader", 0, 8));
  CHECK_THROWS_AS(bench.read(0, "reader", 8, 8), BranchFault);
}

TEST_CASE("the way may lead over a third branch", "[branches]") {
  Bench bench;
  bench.write(1, "beside", 0, 8);
  CHECK_THROWS_AS(bench.write(2, "third", 0, 8), BranchFault);
  bench.join();
  bench.log.wait(2, bench.log.record(0));
  CHECK_NOTHROW(bench.write(2, "third", 0, 8));
}

TEST_CASE("both branches' reads are remembered", "[branches]") {
  for (const std::size_t last : {0u, 1u}) {
    Bench bench;
    bench.read(1 - last, "reader", 0, 8);
    bench.read(last, "reader", 0, 8);
    CHECK_THROWS_AS(bench.write(0, "writer", 4, 8), BranchFault);
    Bench other;
    other.read(1 - last, "reader", 0, 8);
    other.read(last, "reader", 0, 8);
    CHECK_THROWS_AS(other.write(1, "writer", 4, 8), BranchFault);
  }
}

TEST_CASE("new memory must be written before it is read", "[branches]") {
  Bench bench;
  bench.log.allocate(bench.memory.data() + 16, 16);
  CHECK_NOTHROW(bench.read(0, "reader", 0, 16));
  CHECK_NOTHROW(bench.read(0, "reader", 32, 32));
  CHECK_THROWS_WITH(bench.read(0, "reader", 15, 2), "reader reads what nobody wrote");
  CHECK_THROWS_WITH(bench.touch(0, "adder", Access::add, 31, 2), "adder reads what nobody wrote");
  bench.write(0, "writer", 16, 8);
  CHECK_NOTHROW(bench.read(0, "reader", 16, 8));
  CHECK_THROWS_AS(bench.read(0, "reader", 16, 9), BranchFault);
}

TEST_CASE("an op's accesses are those of its fields", "[branches]") {
  std::array<float, 64> numbers{};
  const auto view = [&](int first, int T, int E) { return View<float, 2>(numbers.data() + first, {T, E}); };
  const auto check = [&](const std::vector<Access>& found, std::vector<std::array<int, 3>> expected) {
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].kind == expected[i][0]);
      CHECK(found[i].begin == reinterpret_cast<const std::byte*>(numbers.data() + expected[i][1]));
      CHECK(found[i].bytes == static_cast<std::size_t>(expected[i][2]) * sizeof(float));
    }
  };
  check(accesses_of(LinearWeightGradient<float>{.dweight = Acc{view(0, 2, 3)},
                                                .dbias = Acc{View<float, 1>(numbers.data() + 6, {2})},
                                                .dy = view(8, 4, 2),
                                                .x = view(16, 4, 3)}),
        {{Access::read, 8, 8}, {Access::read, 16, 12}, {Access::add, 0, 6}, {Access::add, 6, 2}});
  check(accesses_of(LinearInputGradient<float>{
            .dx = view(0, 2, 3), .dy = view(8, 2, 2), .weight = view(16, 2, 3), .residual = view(0, 2, 3)}),
        {{Access::read, 8, 4}, {Access::read, 16, 6}, {Access::read, 0, 6}, {Access::write, 0, 6}});
  // Through fields of fields, and what a dropout reads.
  StepValues now;
  const Dropout dropout({.now = View<const StepValues, 1>(&now, {1})}, 0, 0.5);
  const auto activation = accesses_of(
      ActivationForward<float>{.y = view(0, 2, 3), .x = view(8, 2, 3), .rows = {}, .dropout = dropout, .L = 2});
  REQUIRE(activation.size() == 3);
  CHECK(activation[1].begin == reinterpret_cast<const std::byte*>(&now));
  NarrowBlockBackward<float> block{.gradients = {}, .dy = {}, .x = {}, .weights = {}, .setting = {}};
  CHECK(accesses_of(block).empty());
  block.weights.bias1 = View<float, 1>(numbers.data() + 3, {5});
  block.gradients.gamma2 = Acc{View<float, 1>(numbers.data() + 9, {7})};
  check(accesses_of(block), {{Access::read, 3, 5}, {Access::add, 9, 7}});
  CHECK(name_of_op<LinearWeightGradient<float>>() == "blinkbert::LinearWeightGradient<float>");
}

}  // namespace
}  // namespace blinkbert::test
