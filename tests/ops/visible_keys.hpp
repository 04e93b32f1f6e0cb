#pragma once

// Which keys the tests of attention let be seen, as the oracle takes them and as the ops do.

#include <cstdint>
#include <vector>

#include <blinkbert/core/pass.hpp>

namespace blinkbert::test {

enum class Keys { all, half, one, late, none_in_first, none };

struct VisibleKeys {
  std::vector<std::vector<int>> visible;  // [B][L]
  std::vector<std::uint32_t> bits;        // [B, words]

  VisibleKeys(Keys keys, const std::vector<int>& lengths, int L)
      : bits(lengths.size() * static_cast<std::size_t>(visible_words(L))) {
    for (int b = 0; b < static_cast<int>(lengths.size()); ++b) {
      visible.emplace_back(L, 0);
      for (int s = 0; s < lengths[b]; ++s) {
        const bool is_visible = keys == Keys::all || (keys == Keys::none_in_first && b > 0) ||
                                (keys == Keys::one && s == 1) || (keys == Keys::late && s >= 65) ||
                                (keys == Keys::half && (s * s + b) % 5 < 2);
        if (!is_visible) continue;
        visible[b][s] = 1;
        bits[b * visible_words(L) + s / 32] |= std::uint32_t{1} << (s % 32);
      }
    }
  }
};

}  // namespace blinkbert::test
