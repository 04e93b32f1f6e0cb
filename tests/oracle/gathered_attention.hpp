#pragma once

// Attention of gathered queries, said as attention of all rows: the queries are put where they belong, zeros elsewhere, and
// only their results are taken. What other rows' queries are changes nothing.

#include <vector>

#include <tests/oracle/masked_attention.hpp>

namespace blinkbert::oracle {

/// q [M, H, D] of the rows [M] (t = b L + l, or -1) and kv [B, L, 2, H, D] -> qkv [B, L, 3, H, D].
template <class Number>
std::vector<Number> joined_queries(const std::vector<Number>& q, const std::vector<Number>& kv,
                                   const std::vector<int>& rows, int HD) {
  const int T = static_cast<int>(kv.size()) / (2 * HD);
  std::vector<Number> qkv(3 * T * HD, Number(0));
  for (int t = 0; t < T; ++t) {
    for (int i = 0; i < 2 * HD; ++i) qkv[3 * t * HD + HD + i] = kv[2 * t * HD + i];
  }
  for (std::size_t m = 0; m < rows.size(); ++m) {
    for (int i = 0; i < HD && rows[m] >= 0; ++i) qkv[3 * rows[m] * HD + i] = q[static_cast<int>(m) * HD + i];
  }
  return qkv;
}

/// The rows' part of all [T, stride, H D], zeros for rows of -1.
template <class Number>
std::vector<Number> taken_rows(const std::vector<Number>& all, const std::vector<int>& rows, int stride, int HD) {
  std::vector<Number> taken;
  for (const int row : rows) {
    for (int i = 0; i < HD; ++i) taken.push_back(row < 0 ? Number(0) : all[row * stride * HD + i]);
  }
  return taken;
}

/// -> o [M, H, D].
template <class Number>
std::vector<Number> gathered_attention(const std::vector<Number>& q, const std::vector<Number>& kv,
                                       const std::vector<int>& rows, const std::vector<std::vector<int>>& visible,
                                       const std::vector<int>& lengths, int L, int H, int D,
                                       const DropoutCase& dropout) {
  return taken_rows(masked_attention(joined_queries(q, kv, rows, H * D), visible, lengths, L, H, D, dropout), rows, 1,
                    H * D);
}

template <class Number>
struct GatheredAttentionGradient {
  std::vector<Number> dq;   // [M, H, D]
  std::vector<Number> dkv;  // [B, L, 2, H, D]
};

/// By the formula of masked_attention_gradient.
template <class Number>
GatheredAttentionGradient<Number> gathered_attention_gradient(
    const std::vector<Number>& q, const std::vector<Number>& kv, const std::vector<Number>& output_gradient,
    const std::vector<int>& rows, const std::vector<std::vector<int>>& visible, const std::vector<int>& lengths, int L,
    int H, int D, const DropoutCase& dropout) {
  const int HD = H * D, T = static_cast<int>(lengths.size()) * L;
  std::vector<Number> all_gradients(T * HD, Number(0));
  for (std::size_t m = 0; m < rows.size(); ++m) {
    for (int i = 0; i < HD && rows[m] >= 0; ++i) {
      all_gradients[rows[m] * HD + i] = output_gradient[static_cast<int>(m) * HD + i];
    }
  }
  const std::vector<Number> dqkv =
      masked_attention_gradient(joined_queries(q, kv, rows, HD), all_gradients, visible, lengths, L, H, D, dropout);
  GatheredAttentionGradient<Number> gradient{taken_rows(dqkv, rows, 3, HD), {}};
  for (int t = 0; t < T; ++t) {
    for (int i = 0; i < 2 * HD; ++i) gradient.dkv.push_back(dqkv[3 * t * HD + HD + i]);
  }
  return gradient;
}

}  // namespace blinkbert::oracle
