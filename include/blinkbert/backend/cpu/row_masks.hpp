#pragma once

// Choosing and changing rows on the CPU: every sequence by itself, from its own counters.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/row_masks.hpp>

namespace blinkbert {
namespace cpu_detail {

/// One sequence of RowMasks; `keys` is room for L numbers.
template <class Real>
void mask_sequence(const RowMasks<Real>& op, int b, std::uint64_t* keys) {
  const int L = op.clean.extent(1), N = op.clean.extent(2), length = op.lengths(b);
  const int begin = op.offsets(b), count = op.offsets(b + 1) - begin;
  const std::uint32_t sequence = op.sequences(b);
  const std::int64_t rows_before = std::int64_t{b} * L;
  std::copy_n(&op.clean.data()[rows_before * N], std::int64_t{length} * N, &op.x.data()[rows_before * N]);
  std::fill_n(&op.x.data()[(rows_before + length) * N], std::int64_t{L - length} * N, Real(0));
  std::fill_n(&op.slots.data()[rows_before], L, -1);
  for (int word = 0; word < visible_words(L); ++word) {
    const int real = std::clamp(length - 32 * word, 0, 32);
    op.visible(b, word) = static_cast<std::uint32_t>((std::uint64_t{1} << real) - 1);
  }

  // Word and row in one number, so that equal words are ordered by row.
  for (int l = 0; l < length; ++l) {
    const std::uint32_t row = static_cast<std::uint32_t>(l);
    keys[l] = std::uint64_t{op.chosen_stream.word(row, sequence)} << 32 | row;
  }
  std::nth_element(keys, keys + count, keys + length);
  for (int i = 0; i < count; ++i) keys[i] &= 0xffffffffu;
  std::sort(keys, keys + count);

  for (int i = 0; i < count; ++i) {
    const std::uint32_t row = static_cast<std::uint32_t>(keys[i]);
    const int l = static_cast<int>(row), m = begin + i;
    const std::uint64_t word = op.action_stream.word(row, sequence);
    const RowAction action = word < op.replace_below ? RowAction::replace
                             : word < op.noise_below ? RowAction::noise
                                                     : RowAction::keep;
    op.rows(m) = b * L + l;
    op.slots(b * L + l) = m;
    op.actions(m) = action;
    if (op.hide == Hide::chosen || (op.hide == Hide::replaced && action == RowAction::replace)) {
      op.visible(b, l / 32) &= ~(std::uint32_t{1} << (l % 32));
    }
    if (action == RowAction::replace) {
      for (int n = 0; n < N; ++n) op.x(b, l, n) = static_cast<Real>(op.value);
    } else if (action == RowAction::noise) {
      RandomWords words{};
      for (int n = 0; n < N; ++n) {
        if (n % 4 == 0) words = op.noise_stream.words(static_cast<std::uint32_t>(n / 4) * 65536 + row, sequence);
        const float u = static_cast<float>(unit_interval(words[static_cast<std::size_t>(n % 4)]));
        op.x(b, l, n) *= static_cast<Real>(std::fma(u, op.noise_high - op.noise_low, op.noise_low));
      }
    }
  }
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const RowMasks<Real>& op) {
  op.check();
  const int B = op.clean.extent(0), L = op.clean.extent(1), N = op.clean.extent(2), M = op.rows.extent(0);
  BLINKBERT_EXPECTS(op.offsets(0) == 0 && op.offsets(B) == M, op.offsets(0), op.offsets(B), M);
  for (int b = 0; b < B; ++b) {
    const int length = op.lengths(b), count = op.offsets(b + 1) - op.offsets(b);
    BLINKBERT_EXPECTS(length >= 0 && length <= L && count >= 0 && count <= length, b, length, count, L);
  }
  const int chunks = cpu.chunks(B, std::int64_t{L} * (32 + N));
  const std::int64_t stride = cpu_detail::padded(L);
  std::uint64_t* keys = cpu.template workspace<std::uint64_t>(stride * chunks);
  cpu.for_chunks(B, chunks, [&](int first, int last, int chunk) {
    for (int b = first; b < last; ++b) cpu_detail::mask_sequence(op, b, keys + chunk * stride);
  });
}

}  // namespace blinkbert
