#pragma once

// Chosen rows, their actions and the noise, written from the contract of the random numbers, sorting instead of ranking.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <tests/oracle/dropout.hpp>

namespace blinkbert::oracle {

enum class Hidden { chosen, replaced, none };

struct RowMasksCase {
  std::uint64_t seed = 0;
  std::uint32_t chosen_purpose = 3, action_purpose = 4, noise_purpose = 5, step = 0;
  double replace_share = .8, noise_share = .1;
  float value = -1, noise_low = .5f, noise_high = 1.5f;
  Hidden hidden = Hidden::chosen;

  /// Thresholds on a word.
  std::uint64_t replace_below() const { return static_cast<std::uint64_t>(std::llround(replace_share * 4294967296.0)); }
  std::uint64_t noise_below() const {
    return static_cast<std::uint64_t>(std::llround((replace_share + noise_share) * 4294967296.0));
  }
};

template <class Real>
struct MaskedRows {
  std::vector<Real> x;                 // [B, L, N]
  std::vector<int> rows, slots;        // [M], [B L]
  std::vector<int> actions;            // [M]  0 replace, 1 noise, 2 keep
  std::vector<std::uint32_t> visible;  // [B, ceil(L / 32)]
};

/// clean [B, L, N]; counts[b] rows of sequence b are chosen, numbers[b] is its number in the counters.
template <class Real>
MaskedRows<Real> row_masks(const std::vector<Real>& clean, const std::vector<int>& lengths,
                           const std::vector<int>& counts, const std::vector<std::uint32_t>& numbers, int L, int N,
                           const RowMasksCase& how) {
  const int B = static_cast<int>(lengths.size()), words_per_sequence = (L + 31) / 32;
  MaskedRows<Real> result{std::vector<Real>(B * L * N, Real(0)),
                          {},
                          std::vector<int>(B * L, -1),
                          {},
                          std::vector<std::uint32_t>(B * words_per_sequence, 0)};
  for (int b = 0; b < B; ++b) {
    std::vector<std::pair<std::uint32_t, int>> order;
    for (int l = 0; l < lengths[b]; ++l) {
      const Words words = philox(how.seed, static_cast<std::uint32_t>(l), numbers[b], how.step, how.chosen_purpose, 0);
      order.emplace_back(words[0], l);
    }
    std::sort(order.begin(), order.end());
    std::vector<int> is_chosen(L, 0);
    for (int c = 0; c < counts[b]; ++c) is_chosen[order[c].second] = 1;

    for (int l = 0; l < lengths[b]; ++l) {
      const auto row = static_cast<std::uint32_t>(l);
      int action = 2;
      if (is_chosen[l] != 0) {
        const std::uint64_t word = philox(how.seed, row, numbers[b], how.step, how.action_purpose, 0)[0];
        action = word < how.replace_below() ? 0 : word < how.noise_below() ? 1 : 2;
        result.slots[b * L + l] = static_cast<int>(result.rows.size());
        result.rows.push_back(b * L + l);
        result.actions.push_back(action);
      }
      for (int n = 0; n < N; ++n) {
        Real& x = result.x[(b * L + l) * N + n];
        x = clean[(b * L + l) * N + n];
        if (is_chosen[l] != 0 && action == 0) x = static_cast<Real>(how.value);
        if (is_chosen[l] != 0 && action == 1) {
          const auto quarter = static_cast<std::uint32_t>(n / 4);
          const Words words = philox(how.seed, quarter * 65536 + row, numbers[b], how.step, how.noise_purpose, 0);
          const float u =
              static_cast<float>(static_cast<double>(words[static_cast<std::size_t>(n % 4)]) / 4294967296.0);
          x *= static_cast<Real>(std::fma(u, how.noise_high - how.noise_low, how.noise_low));
        }
      }
      const bool is_hidden =
          is_chosen[l] != 0 && (how.hidden == Hidden::chosen || (how.hidden == Hidden::replaced && action == 0));
      if (!is_hidden) result.visible[b * words_per_sequence + l / 32] |= std::uint32_t{1} << (l % 32);
    }
  }
  return result;
}

}  // namespace blinkbert::oracle
