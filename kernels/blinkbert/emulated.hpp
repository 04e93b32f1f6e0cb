#pragma once

// Emulated: a backend that runs the CUDA kernels' own source on the host (dev/emulator.hpp). Slow and strict: for tests.

#include <concepts>
#include <cstring>

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/dev/dev.hpp>

namespace blinkbert {

/// bf16 storage with fp32 sums, or fp32 (`Number`). Matrix products, which on a card are cuBLASLt's, are the CPU's.
template <class Number>
class Emulated {
 public:
  using Real = Number;
  using Memory = dev::emulator::DeviceMemory;

  explicit Emulated(int host_threads = 1)
      : machine_({.seed = dev::emulator::schedule_seed(), .host_threads = host_threads}) {}

  dev::emulator::Machine& machine() { return machine_; }
  /// Few and odd, so that blocks walk over more than one piece of work in small tests.
  int multiprocessors() const { return 3; }

  Memory allocate(std::size_t bytes) { return Memory(machine_.memory(), bytes); }
  void upload(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes == 0) return;
    std::memcpy(to, from, bytes);
    machine_.memory()->note_written(to, bytes);
  }
  void download(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes > 0) machine_.memory()->require_written(from, bytes, "a copy");
    upload(to, from, bytes);
  }
  void zero(std::byte* to, std::size_t bytes) {
    if (bytes == 0) return;
    std::memset(to, 0, bytes);
    machine_.memory()->note_written(to, bytes);
  }

  /// Uninitialised room, valid until the next call.
  template <class T, class... Extent>
  View<T, sizeof...(Extent)> workspace(Extent... extents) {
    const std::array<int, sizeof...(Extent)> shape{static_cast<int>(extents)...};
    workspace_ = allocate(static_cast<std::size_t>(element_count(shape)) * sizeof(T));
    return {reinterpret_cast<T*>(workspace_.data()), shape};
  }

 private:
  dev::emulator::Machine machine_;
  Memory workspace_;
};

}  // namespace blinkbert

#include <blinkbert/cuda/activation.cuh>
#include <blinkbert/cuda/batch_norm.cuh>
#include <blinkbert/cuda/embed_rows.cuh>
#include <blinkbert/cuda/gather_rows.cuh>
#include <blinkbert/cuda/layer_norm.cuh>
#include <blinkbert/cuda/zero_padding.cuh>
