#pragma once

#include <limits>
#include <vector>

namespace blinkbert {

/// No epoch trains it.
inline constexpr int no_epoch = std::numeric_limits<int>::max();

/// The epoch (from 1) from which a group trains: a pure function of the configuration. Groups: 0 embedding, 1..n encoder
/// blocks, n + 1 head. The head always trains; `unfreeze` lists the epochs of the top block, the next, ...; what it does
/// not reach stays frozen.
inline int first_trained_epoch(int group, int blocks, const std::vector<int>& unfreeze) {
  if (group == blocks + 1) return 1;
  const int from_top = blocks - group;
  return group > 0 && from_top < static_cast<int>(unfreeze.size()) ? unfreeze[static_cast<std::size_t>(from_top)]
                                                                   : no_epoch;
}

/// The lowest group that trains in an epoch; everything below it needs no backward pass.
inline int lowest_trained_group(int epoch, int blocks, const std::vector<int>& unfreeze) {
  int lowest = blocks + 1;
  while (lowest > 0 && first_trained_epoch(lowest - 1, blocks, unfreeze) <= epoch) --lowest;
  return lowest;
}

}  // namespace blinkbert
