#pragma once

// bf16: the upper half of a float (8 bits of exponent, 8 of precision). A storage type: arithmetic is done in float.

#include <bit>
#include <cstdint>

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// Bits of the nearest bf16, ties to even; any NaN becomes 0x7fff, as on the device.
BLINKBERT_HOST_DEVICE inline std::uint16_t bf16_bits(float value) {
#if defined(__CUDA_ARCH__)
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const auto word = std::bit_cast<std::uint32_t>(value);
  if ((word & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<std::uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
#endif
}

struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  BLINKBERT_HOST_DEVICE explicit bf16(float value) : bits(bf16_bits(value)) {}
  explicit bf16(double value) : bf16(static_cast<float>(value)) {}
  explicit bf16(int value) : bf16(static_cast<float>(value)) {}

  BLINKBERT_HOST_DEVICE operator float() const {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
#if defined(__CUDA_ARCH__)
    return __uint_as_float(word);
#else
    return std::bit_cast<float>(word);
#endif
  }
};

}  // namespace blinkbert
