#pragma once

// The loss over chosen rows, per feature, as plain loops.

#include <vector>

namespace blinkbert::oracle {

enum class Loss { squared, absolute, huber };

/// e^2, |e|, or Huber's: e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2).
template <class Number>
Number loss(Loss kind, double delta, const Number& e) {
  const Number size = e > Number(0) ? e : e < Number(0) ? -e : Number(0);  // slope 0 at 0
  if (kind == Loss::squared) return e * e;
  if (kind == Loss::absolute) return size;
  if (size <= Number(delta)) return e * e / Number(2);
  return Number(delta) * (size - Number(delta) / Number(2));
}

/// prediction [R, N], target [T, N]; row r counts where target_row[r] >= 0 and is compared with that row of target.
/// Returns the sums over the rows, [N].
template <class Number>
std::vector<Number> masked_loss(const std::vector<Number>& prediction, const std::vector<Number>& target,
                                const std::vector<int>& target_row, int N, Loss kind, double delta) {
  std::vector<Number> sums(N, Number(0));
  for (int n = 0; n < N; ++n) {
    for (int r = 0; r < static_cast<int>(target_row.size()); ++r) {
      if (target_row[r] >= 0) sums[n] += loss(kind, delta, prediction[r * N + n] - target[target_row[r] * N + n]);
    }
  }
  return sums;
}

}  // namespace blinkbert::oracle
