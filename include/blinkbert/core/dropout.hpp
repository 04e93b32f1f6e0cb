#pragma once

// Dropout with 16-bit decisions, replayed from counters instead of stored.
//
// An element is dropped where its half word is below round(65536 p); kept values are scaled by
// 65536 / (65536 - round(65536 p)), the inverse of the keep probability that is really used, so the mean is exact.
// (8 bits would drop 1.17 % where 1 % is asked for.)

#include <cmath>
#include <cstdint>

#include <blinkbert/core/random.hpp>

namespace blinkbert {

/// Half word k = bits 16 (k % 2) and up of word k / 2. The word is selected, not indexed: k may vary, registers cannot.
BLINKBERT_HOST_DEVICE inline std::uint32_t half_word(const RandomWords& words, int k) {
  const std::uint32_t word = k < 4 ? (k < 2 ? words[0] : words[1]) : (k < 6 ? words[2] : words[3]);
  return word >> (16 * (k % 2)) & 0xffffu;
}

/// One dropout of one layer in one step. A default-constructed one keeps everything.
struct Dropout {
  RandomStream stream;
  std::uint32_t threshold = 0;       // dropped if half word < threshold
  std::uint32_t first_sequence = 0;  // number of the batch's first sequence within the optimizer step

  Dropout() = default;
  Dropout(RandomStream bits, std::uint32_t first, double drop_probability) : stream(bits), first_sequence(first) {
    BLINKBERT_EXPECTS(drop_probability >= 0 && drop_probability < 1, drop_probability);
    threshold = static_cast<std::uint32_t>(std::lround(65536 * drop_probability));
    BLINKBERT_EXPECTS(threshold < 65536, drop_probability);
  }

  BLINKBERT_HOST_DEVICE bool is_active() const { return threshold > 0; }
  BLINKBERT_HOST_DEVICE float keep_scale() const { return 65536.0f / static_cast<float>(65536 - threshold); }

  /// The four words that decide the elements [8 index, 8 index + 8) of sequence b; element = row * width + column,
  /// the row being the row in its sequence also where rows were gathered.
  BLINKBERT_HOST_DEVICE RandomWords element_words(int b, std::uint32_t index) const {
    return stream.words(index, first_sequence + static_cast<std::uint32_t>(b));
  }

  BLINKBERT_HOST_DEVICE bool keeps(int b, int row, int width, int column) const {
    const std::uint32_t flat =
        static_cast<std::uint32_t>(row) * static_cast<std::uint32_t>(width) + static_cast<std::uint32_t>(column);
    return half_word(element_words(b, flat / 8), static_cast<int>(flat % 8)) >= threshold;
  }

  /// Attention weight of query i on key j in head h of H. One call of the generator serves the eight elements
  /// {i, i + 8} x {j, j + 1, j + 8, j + 9}, which is what one lane of a 16 x 16 tensor-core tile holds.
  BLINKBERT_HOST_DEVICE bool keeps_attention(int b, int h, int heads, int i, int j) const {
    const int index = ((i / 16) * 32 + j / 16) * 32 + (i % 8) * 4 + (j % 8) / 2;
    const int half = ((i % 16) / 8) * 4 + ((j % 16) / 8) * 2 + j % 2;
    return half_word(stream.words(static_cast<std::uint32_t>(index), attention_sequence(b, h, heads)), half) >= threshold;
  }
  /// What stands in the place of the sequence in the counter of an attention weight.
  BLINKBERT_HOST_DEVICE std::uint32_t attention_sequence(int b, int h, int heads) const {
    return (first_sequence + static_cast<std::uint32_t>(b)) * static_cast<std::uint32_t>(heads) +
           static_cast<std::uint32_t>(h);
  }
};

}  // namespace blinkbert
