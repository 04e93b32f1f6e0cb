#pragma once

// Emulated: a backend that runs the CUDA kernels' own source on the host (dev/emulator.hpp). Slow and strict: for tests.

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
#include <blinkbert/cuda/gelu.cuh>
#include <blinkbert/cuda/matrix_product.hpp>
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
  int multiprocessors() const { return 5; }
  int most_shared_bytes() const { return dev::emulator::most_shared_bytes; }

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

  // Everything is done when a call returns.
  struct Mark {};
  using Staging = HostMemory;
  static constexpr bool is_asynchronous = false;
  Staging stage(std::size_t bytes) { return Staging(bytes); }
  void upload_later(std::byte* to, const std::byte* from, std::size_t bytes) { upload(to, from, bytes); }
  void download_later(std::byte* to, const std::byte* from, std::size_t bytes) { download(to, from, bytes); }
  void record(Mark&) {}
  void wait(const Mark&) {}

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

namespace emulated_detail {

/// An operand of a product on the host: the device's memory, or a wide copy of it.
template <class Real>
class Operand {
 public:
  using Number = std::remove_const_t<Real>;

  Operand(dev::emulator::Machine& machine, View<Real, 2> view) : memory_(*machine.memory()), view_(view) {
    if constexpr (is_narrow) wide_.resize(static_cast<std::size_t>(view.size()));
  }

  /// To be read: what nobody wrote is a fault.
  const Wide<Number>* in() {
    memory_.require_written(view_.data(), bytes(), "a matrix product");
    if constexpr (is_narrow) {
      std::copy_n(view_.data(), wide_.size(), wide_.begin());
      return wide_.data();
    } else {
      return view_.data();
    }
  }
  /// To be overwritten; `finish` rounds.
  Wide<Number>* out() {
    if constexpr (is_narrow) {
      return wide_.data();
    } else {
      return view_.data();
    }
  }
  void finish() {
    if constexpr (is_narrow) {
      std::transform(wide_.begin(), wide_.end(), view_.data(), [](Wide<Number> value) { return Number(value); });
    }
    memory_.note_written(view_.data(), bytes());
  }

 private:
  static constexpr bool is_narrow = !std::is_same_v<Number, Wide<Number>>;
  std::size_t bytes() const { return static_cast<std::size_t>(view_.size()) * sizeof(Number); }

  dev::emulator::MemoryMap& memory_;
  View<Real, 2> view_;
  std::vector<Wide<Number>> wide_;
};

/// What a library does to the sums of a product before it rounds them.
template <class Real, class Sum>
void apply_epilogue(Emulated<Real>& gpu, const MatrixProduct<Real, Sum>& product, float* sums) {
  const Epilogue epilogue = product.epilogue;
  if (epilogue == Epilogue::none) return;
  const std::int64_t size = product.d.size(), N = product.d.extent(1);
  if (epilogue == Epilogue::times_gelu_slope) {
    Operand h(gpu.machine(), product.pre_activation);
    const float* const values = h.in();
    for (std::int64_t i = 0; i < size; ++i) sums[i] *= kernels::gelu_slope(values[i]);
    return;
  }
  Operand bias(gpu.machine(), View<const Real, 2>(product.bias.data(), {1, product.d.extent(1)}));
  const float* const values = bias.in();
  for (std::int64_t i = 0; i < size; ++i) sums[i] += values[i % N];
  if (epilogue == Epilogue::bias_gelu_kept) {
    Operand h(gpu.machine(), product.pre_activation);
    std::copy_n(sums, size, h.out());
    h.finish();
  }
  if (epilogue == Epilogue::bias) return;
  for (std::int64_t i = 0; i < size; ++i) sums[i] = kernels::gelu(sums[i]);
}

}  // namespace emulated_detail

/// By the CPU's product. As on a card, some products come with their epilogue (those of an even number of rows), others are
/// left to `finish`; small ones of odd depth are refused, so that tests see kernels multiply as well.
template <class Real, class Sum, class Finish>
bool multiply(Emulated<Real>& gpu, const MatrixProduct<Real, Sum>& product, const Finish& finish) {
  using emulated_detail::Operand;
  product.check();
  const int M = product.d.extent(0), N = product.d.extent(1), K = product.depth();
  if (K % 2 == 1 && std::int64_t{M} * N * K < 5000) return false;
  Operand d(gpu.machine(), product.d);
  Operand a(gpu.machine(), product.a), b(gpu.machine(), product.b);
  float* const sums = d.out();
  if (product.c) {
    Operand c(gpu.machine(), product.c);
    const float* const from = c.in();
    if (from != sums) std::copy_n(from, product.d.size(), sums);
  }
  const auto stored = [](const float* data, Storage storage, int columns, int rows) {
    return storage == Storage::as_is ? cpu_detail::as_is(data, columns) : cpu_detail::transposed(data, rows);
  };
  std::vector<float> room(static_cast<std::size_t>(cpu_detail::product_room<float>(N, K)));
  cpu_detail::multiply(sums, N, stored(a.in(), product.a_storage, K, M), stored(b.in(), product.b_storage, N, K), M, N,
                       K, product.c ? cpu_detail::Result::add : cpu_detail::Result::overwrite, room.data());
  const bool does_epilogue = M % 2 == 0;
  if (does_epilogue) emulated_detail::apply_epilogue(gpu, product, sums);
  d.finish();
  if (!does_epilogue) finish();
  return true;
}

}  // namespace blinkbert

#include <blinkbert/cuda/activation.cuh>
#include <blinkbert/cuda/adamw.cuh>
#include <blinkbert/cuda/append_statistics.cuh>
#include <blinkbert/cuda/batch_norm.cuh>
#include <blinkbert/cuda/embed_rows.cuh>
#include <blinkbert/cuda/gather_rows.cuh>
#include <blinkbert/cuda/gathered_attention.cuh>
#include <blinkbert/cuda/layer_norm.cuh>
#include <blinkbert/cuda/linear.cuh>
#include <blinkbert/cuda/masked_attention.cuh>
#include <blinkbert/cuda/masked_loss.cuh>
#include <blinkbert/cuda/mean_rows.cuh>
#include <blinkbert/cuda/narrow_block.cuh>
#include <blinkbert/cuda/narrowing.cuh>
#include <blinkbert/cuda/residual_norm.cuh>
#include <blinkbert/cuda/row_masks.cuh>
#include <blinkbert/cuda/score_loss.cuh>
#include <blinkbert/cuda/sum_of_squares.cuh>
#include <blinkbert/cuda/zero_padding.cuh>

namespace blinkbert {

static_assert(Backend<Emulated<float>>);
static_assert(Backend<Emulated<bf16>>);
static_assert(FusesNarrowBlocks<Emulated<float>> && FusesNarrowBlocks<Emulated<bf16>>);

}  // namespace blinkbert
