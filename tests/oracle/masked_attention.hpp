#pragma once

// Attention over the visible keys of each sequence, as plain loops.

#include <cmath>
#include <cstdint>
#include <vector>

#include <tests/oracle/dropout.hpp>
#include <tests/oracle/dual.hpp>
#include <tests/oracle/rounded.hpp>

namespace blinkbert::oracle {

/// qkv [B, L, 3, H, D], visible[b][s] != 0 where key s of sequence b may be attended to, lengths [B] -> o [B, L, H, D],
/// zero in padded rows and in sequences without a visible key.
template <class Number>
std::vector<Number> masked_attention(const std::vector<Number>& qkv, const std::vector<std::vector<int>>& visible,
                                     const std::vector<int>& lengths, int L, int H, int D, const DropoutCase& dropout) {
  using std::exp;
  using std::sqrt;
  const int B = static_cast<int>(lengths.size());
  const auto at = [&](int b, int l, int which, int h, int d) {
    return qkv[(((b * L + l) * 3 + which) * H + h) * D + d];
  };
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
          const Number weight = stored(scores[k] / sum) * Number(dropout.attention(b, h, H, l, keys[k]));
          for (int d = 0; d < D; ++d) o[((b * L + l) * H + h) * D + d] += weight * at(b, keys[k], 2, h, d);
        }
      }
    }
  }
  return o;
}

/// The gradient of dot(masked_attention(qkv), output_gradient) by the formula that every backend uses. Duals give the same
/// number with less rounding (where one key takes nearly all the weight they never subtract delta from dP), so the
/// rounding that has to be allowed for is that of this function; that its values are right, the duals say.
template <class Number>
std::vector<Number> masked_attention_gradient(const std::vector<Number>& qkv,
                                              const std::vector<Number>& output_gradient,
                                              const std::vector<std::vector<int>>& visible,
                                              const std::vector<int>& lengths, int L, int H, int D,
                                              const DropoutCase& dropout) {
  using std::exp;
  using std::sqrt;
  const int B = static_cast<int>(lengths.size());
  const auto place = [&](int b, int l, int which, int h, int d) { return (((b * L + l) * 3 + which) * H + h) * D + d; };
  std::vector<Number> dqkv(qkv.size(), Number(0));
  for (int b = 0; b < B; ++b) {
    for (int h = 0; h < H; ++h) {
      for (int l = 0; l < lengths[b]; ++l) {
        std::vector<Number> P(L, Number(0)), dP(L, Number(0));
        Number largest = 0, sum = 0, delta = 0;
        int seen = 0;
        for (int s = 0; s < lengths[b]; ++s) {
          if (visible[b][s] == 0) continue;
          for (int d = 0; d < D; ++d) {
            P[s] += qkv[place(b, l, 0, h, d)] * qkv[place(b, s, 1, h, d)];
            dP[s] += output_gradient[((b * L + l) * H + h) * D + d] * qkv[place(b, s, 2, h, d)];
          }
          P[s] = P[s] / sqrt(Number(D));
          dP[s] *= Number(dropout.attention(b, h, H, l, s));
          if (seen++ == 0 || P[s] > largest) largest = P[s];
        }
        for (int s = 0; s < lengths[b]; ++s) {
          if (visible[b][s] == 0) continue;
          P[s] = exp(P[s] - largest);
          sum += P[s];
        }
        for (int s = 0; s < lengths[b]; ++s) {
          if (visible[b][s] == 0) continue;
          P[s] = P[s] / sum;
          delta += P[s] * dP[s];
        }
        for (int s = 0; s < lengths[b]; ++s) {
          if (visible[b][s] == 0) continue;
          const Number dS = stored(P[s] * (dP[s] - delta)) / sqrt(Number(D));
          const Number dropped = stored(P[s] * Number(dropout.attention(b, h, H, l, s)));
          for (int d = 0; d < D; ++d) {
            dqkv[place(b, l, 0, h, d)] += dS * qkv[place(b, s, 1, h, d)];
            dqkv[place(b, s, 1, h, d)] += dS * qkv[place(b, l, 0, h, d)];
            dqkv[place(b, s, 2, h, d)] += dropped * output_gradient[((b * L + l) * H + h) * D + d];
          }
        }
      }
    }
  }
  return dqkv;
}

}  // namespace blinkbert::oracle
