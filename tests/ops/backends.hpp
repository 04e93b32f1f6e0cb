#pragma once

// The backends that every op test runs on, and the stage an op is run on: guarded memory on the device, every op run twice.
// Every test is compiled for the CPU, with BLINKBERT_TEST_EMULATED for the CUDA kernels on the emulator, and, where nvcc is
// found, with BLINKBERT_TEST_CUDA for the kernels on a card (gpu_tests).

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#if defined(BLINKBERT_TEST_EMULATED)
#include <blinkbert/emulated.hpp>
#elif defined(BLINKBERT_TEST_CUDA)
#include <blinkbert/cuda.hpp>
#else
#include <blinkbert/backend/cpu.hpp>
#endif

namespace blinkbert::test {

template <class Device>
struct BackendName;

#if defined(BLINKBERT_TEST_EMULATED)
using Backends = std::tuple<Emulated<float>, Emulated<bf16>>;
template <>
struct BackendName<Emulated<float>> {
  static constexpr const char* value = "Emulated<float>";
};
template <>
struct BackendName<Emulated<bf16>> {
  static constexpr const char* value = "Emulated<bf16>";
};
#elif defined(BLINKBERT_TEST_CUDA)
using Backends = std::tuple<Cuda<float>, Cuda<bf16>>;
template <>
struct BackendName<Cuda<float>> {
  static constexpr const char* value = "Cuda<float>";
};
template <>
struct BackendName<Cuda<bf16>> {
  static constexpr const char* value = "Cuda<bf16>";
};
#else
using Backends = std::tuple<Cpu<float>, Cpu<double>>;
template <>
struct BackendName<Cpu<float>> {
  static constexpr const char* value = "Cpu<float>";
};
template <>
struct BackendName<Cpu<double>> {
  static constexpr const char* value = "Cpu<double>";
};
#endif

/// Thread counts every case runs with.
template <class Device>
std::vector<int> thread_counts() {
#if defined(BLINKBERT_TEST_EMULATED) || defined(BLINKBERT_TEST_CUDA)
  return {1};  // threads decide nothing there (tests/emulator/); on the emulator the two runs have different schedules
#else
  return {1, 2};
#endif
}

/// One op's device and memory. Every buffer lies between guards of 256 bytes, filled with NaN (0x7f in integers).
/// `run_twice` runs the op from two different poisonings of its outputs and requires the same bits, intact guards and
/// untouched inputs.
template <class Device>
class Stage {
 public:
  Device device;

  explicit Stage(int threads) : device(threads) {}

  template <class T, class... Extent>
  View<T, sizeof...(Extent)> input(const std::vector<T>& values, Extent... extents) {
    return add(Role::input, values, std::array<int, sizeof...(Extent)>{extents...});
  }

  /// Overwritten: starts as NaN in the first run and as another value in the second.
  template <class T, class... Extent>
  View<T, sizeof...(Extent)> output(Extent... extents) {
    const std::array<int, sizeof...(Extent)> shape{extents...};
    return add(Role::output, std::vector<T>(static_cast<std::size_t>(element_count(shape))), shape);
  }

  /// Read and written (also two arguments in the same memory): starts as `values` in both runs.
  template <class T, class... Extent>
  View<T, sizeof...(Extent)> in_and_out(const std::vector<T>& values, Extent... extents) {
    return add(Role::in_and_out, values, std::array<int, sizeof...(Extent)>{extents...});
  }

  View<StepValues, 1> now(std::int64_t step, float rate = 0) {
    return input(std::vector<StepValues>{{.step = step, .rate = rate}}, 1);
  }

  /// Added to: starts as `values` in both runs.
  template <class T, class... Extent>
  Acc<T, sizeof...(Extent)> sum(const std::vector<T>& values, Extent... extents) {
    return Acc{in_and_out(values, extents...)};
  }

  template <class Op>
  void run_twice(const Op& op) {
    for (Buffer& buffer : buffers_) write(buffer, buffer.first_start);
    run(device, op);
    std::vector<std::vector<std::byte>> first;
    for (Buffer& buffer : buffers_) first.push_back(read(buffer));
    for (Buffer& buffer : buffers_) write(buffer, buffer.second_start);
    run(device, op);
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      const Buffer& buffer = buffers_[i];
      INFO("buffer " << i << " of this op, in the order of creation");
      const std::vector<std::byte> second = read(buffer);
      const std::size_t body_end = guard + buffer.bytes;
      for (const std::vector<std::byte>* after : {&std::as_const(first[i]), &second}) {
        REQUIRE(std::memcmp(after->data(), buffer.first_start.data(), guard) == 0);
        REQUIRE(std::memcmp(after->data() + body_end, buffer.first_start.data() + body_end, guard) == 0);
      }
      // An output that neither run touched belongs to another variant of the op; where it should have been written, the
      // comparison of its values fails.
      const bool is_untouched = first[i] == buffer.first_start && second == buffer.second_start;
      const bool is_read_only = buffer.role == Role::input;
      REQUIRE((is_untouched || !is_read_only));
      const bool has_same_bits = second == first[i];
      REQUIRE((is_untouched || has_same_bits));
    }
  }

  template <class T, int Rank>
  std::vector<std::remove_const_t<T>> values(View<T, Rank> view) {
    std::vector<std::remove_const_t<T>> result(static_cast<std::size_t>(view.size()));
    download(device, result.data(), view);
    return result;
  }
  template <class T, int Rank>
  std::vector<T> values(const Acc<T, Rank>& sum) {
    return values(sum.view());
  }

 private:
  enum class Role { input, output, in_and_out };
  static constexpr std::size_t guard = 256;

  struct Buffer {
    typename Device::Memory memory;
    Role role;
    std::size_t bytes;
    std::vector<std::byte> first_start, second_start;  // guards included
  };

  template <class T, std::size_t Rank>
  View<T, static_cast<int>(Rank)> add(Role role, const std::vector<T>& values, const std::array<int, Rank>& shape) {
    REQUIRE(static_cast<std::int64_t>(values.size()) == element_count(shape));
    const std::size_t bytes = values.size() * sizeof(T);
    const std::byte poison{!std::is_integral_v<T> && !std::is_enum_v<T> ? std::uint8_t{0xff} : std::uint8_t{0x7f}};
    Buffer buffer{
        device.allocate(guard + bytes + guard), role, bytes, std::vector<std::byte>(guard + bytes + guard, poison), {}};
    if (role != Role::output && bytes > 0) std::memcpy(buffer.first_start.data() + guard, values.data(), bytes);
    buffer.second_start = buffer.first_start;
    if (role == Role::output && bytes > 0) std::memset(buffer.second_start.data() + guard, 0x42, bytes);
    buffers_.push_back(std::move(buffer));
    Buffer& kept = buffers_.back();
    write(kept, kept.first_start);
    return {reinterpret_cast<T*>(kept.memory.data() + guard), shape};
  }

  void write(Buffer& buffer, const std::vector<std::byte>& bytes) {
    device.upload(buffer.memory.data(), bytes.data(), bytes.size());
  }
  std::vector<std::byte> read(const Buffer& buffer) {
    std::vector<std::byte> bytes(buffer.first_start.size());
    device.download(bytes.data(), const_cast<Buffer&>(buffer).memory.data(), bytes.size());
    return bytes;
  }

  std::vector<Buffer> buffers_;
};

/// Requires that `run` refuses the op after `spoil` changed a copy of it.
template <class Device, class Op, class Spoil>
void check_rejects(Device& device, const Op& op, const char* what, Spoil spoil) {
  INFO("must be refused: " << what);
  Op spoilt = op;
  spoil(spoilt);
  CHECK_THROWS_AS(run(device, spoilt), ContractViolation);
}

}  // namespace blinkbert::test
