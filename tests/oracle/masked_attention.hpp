#pragma once

// Attention over the visible keys of each sequence, as plain loops.

#include <cmath>
#include <cstdint>
#include <vector>

#include <tests/oracle/dropout.hpp>
#include <tests/oracle/dual.hpp>

namespace blinkbert::oracle {

/// qkv [B, L, 3, H, D], visible[b][s] != 0 where key s of sequence b may be attended to, lengths [B] -> o [B, L, H, D],
/// zero in padded rows and in sequences without a visible key.
template <class Number>
std::vector<Number> masked_attention(const std::vector<Number>& qkv, const std::vector<std::vector<int>>& visible,
                                     const std::vector<int>& lengths, int L, int H, int D, const DropoutCase& dropout) {
  using std::exp;
  using std::sqrt;
  const int B = static_cast<int>(lengths.size());
  const auto at = [&](int b, int l, int which, int h, int d) { return qkv[(((b * L + l) * 3 + which) * H + h) * D + d]; };
  std::vector<Number> o(B * L * H * D, Number(0));
  for (int b = 0; b < B; ++b) {
    for (int h = 0; h < H; ++h) {
      for (int l = 0; l < lengths[b]; ++l) {
        std::vector<int> keys;
        std::vector<Number> scores;
        for (int s = 0; s < lengths[b]; ++s) {
          if (visible[b][s] == 0) continue;
          Number score = 0;
          for (int d = 0; d < D; ++d) score += at(b, l, 0, h, d) * at(b, s, 1, h, d);
          keys.push_back(s);
          scores.push_back(score / sqrt(Number(D)));
        }
        if (keys.empty()) continue;
        Number largest = scores[0];
        for (const Number& score : scores) largest = larger(score, largest);
        Number sum = 0;
        for (Number& score : scores) {
          score = exp(score - largest);
          sum += score;
        }
        for (std::size_t k = 0; k < keys.size(); ++k) {
          const Number weight = scores[k] / sum * Number(dropout.attention(b, h, H, l, keys[k]));
          for (int d = 0; d < D; ++d) o[((b * L + l) * H + h) * D + d] += weight * at(b, keys[k], 2, h, d);
        }
      }
    }
  }
  return o;
}

}  // namespace blinkbert::oracle
