#include <catch2/catch.hpp>

#include <blinkbert/train/freezing.hpp>

namespace blinkbert {
namespace {

constexpr int never = no_epoch;

TEST_CASE("the first epoch of each group, bottom to top") {
  struct Case {
    int blocks;
    std::vector<int> unfreeze;
    std::vector<int> first;  // group 0 embedding, 1..n blocks, n + 1 head
  };
  const std::vector<Case> cases{
      {4, {4, 6}, {never, never, never, 6, 4, 1}},  // the source's
      {4, {}, {never, never, never, never, never, 1}},
      {2, {1, 1}, {never, 1, 1, 1}},
      {2, {3, 5}, {never, 5, 3, 1}},
      {1, {2}, {never, 2, 1}},
      {3, {7}, {never, never, never, 7, 1}},
  };
  for (const Case& one : cases) {
    INFO(one.blocks << " blocks, " << one.unfreeze.size() << " epochs listed");
    for (std::size_t group = 0; group < one.first.size(); ++group) {
      INFO("group " << group);
      CHECK(first_trained_epoch(static_cast<int>(group), one.blocks, one.unfreeze) == one.first[group]);
    }
    // The lowest group that trains: by looking, epoch by epoch.
    for (int epoch = 1; epoch <= 8; ++epoch) {
      INFO("epoch " << epoch);
      int lowest = one.blocks + 1;
      for (int group = one.blocks + 1; group >= 0; --group) {
        if (one.first[static_cast<std::size_t>(group)] <= epoch) lowest = group;
      }
      CHECK(lowest_trained_group(epoch, one.blocks, one.unfreeze) == lowest);
    }
  }
}

TEST_CASE("the lowest trained group of the source's schedule") {
  const std::vector<int> unfreeze{4, 6};
  const std::vector<int> wanted{5, 5, 5, 4, 4, 3, 3};  // epochs 1 to 7 of a model with four blocks
  for (int epoch = 1; epoch <= 7; ++epoch) {
    CHECK(lowest_trained_group(epoch, 4, unfreeze) == wanted[static_cast<std::size_t>(epoch - 1)]);
  }
}

}  // namespace
}  // namespace blinkbert
