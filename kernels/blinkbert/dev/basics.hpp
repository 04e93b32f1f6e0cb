#pragma once

// What the device words are on every compiler: vectors, launch shapes, the choice among compiled sizes.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include <blinkbert/core/bf16.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert::dev {

inline constexpr int warp_size = 32;

/// N elements that are loaded and stored together: N * sizeof(T) is 2, 4, 8 or 16 bytes, the place aligned to them.
/// (For 8 floats two halves of 16 bytes are moved.)
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector {
  T element[N];
  BLINKBERT_HOST_DEVICE T& operator[](int i) { return element[i]; }
  BLINKBERT_HOST_DEVICE const T& operator[](int i) const { return element[i]; }
};

/// The halves of a packed word.
BLINKBERT_HOST_DEVICE inline bf16 low_bf16(std::uint32_t word) {
  bf16 half;
  half.bits = static_cast<std::uint16_t>(word);
  return half;
}
BLINKBERT_HOST_DEVICE inline bf16 high_bf16(std::uint32_t word) { return low_bf16(word >> 16); }

/// How many blocks of how many threads, and the bytes of shared memory of each.
struct LaunchShape {
  int blocks = 0;
  int threads = 0;
  int shared_bytes = 0;
};

/// What SharedMemory::take<T>(count) uses up: whole groups of 16 bytes.
template <class T>
BLINKBERT_HOST_DEVICE constexpr int shared_bytes(int count) {
  return (count * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
}

BLINKBERT_HOST_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Calls body(std::integral_constant<int, s>) for the first of the ascending `Sizes` that `size` fits into.
template <int... Sizes, class Body>
void dispatch(const char* what, int size, const Body& body) {
  const bool is_found = ((size <= Sizes ? (body(std::integral_constant<int, Sizes>{}), true) : false) || ...);
  if (!is_found) {
    std::string compiled;
    ((compiled += compiled.empty() ? text(Sizes) : text(", ", Sizes)), ...);
    throw ContractViolation(text(what, ' ', size, " has no kernel; compiled are those up to: ", compiled));
  }
}

}  // namespace blinkbert::dev

namespace blinkbert {

/// A backend whose ops are kernels: Cuda and Emulated. `multiprocessors` sizes grids of blocks that walk over their work,
/// `most_shared_bytes` is what a block can have; `workspace` is uninitialised and valid until the next call.
template <class Gpu>
concept LaunchesKernels = requires(Gpu& gpu) {
  typename Gpu::Real;
  { gpu.multiprocessors() } -> std::same_as<int>;
  { gpu.most_shared_bytes() } -> std::same_as<int>;
  { gpu.template workspace<float>(1, 1) } -> std::same_as<View<float, 2>>;
};

}  // namespace blinkbert
