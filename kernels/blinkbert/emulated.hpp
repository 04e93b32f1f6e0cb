#pragma once

// Emulated: a backend that runs the CUDA kernels' own source on the host (dev/emulator.hpp). Slow and strict: for tests.

#include <cstring>
#include <vector>

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/backend/cpu/linear.hpp>
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

  /// Runs a matrix product; for bf16, widened before and rounded after.
  Cpu<Wide<Real>>& cpu() { return cpu_; }

 private:
  dev::emulator::Machine machine_;
  Memory workspace_;
  Cpu<Wide<Real>> cpu_{1};
};

namespace emulated_detail {

/// An operand of a product on the host: the device's memory, or a wide copy of it.
template <class Real, int Rank>
class Operand {
 public:
  using Number = std::remove_const_t<Real>;

  Operand(Emulated<Number>& device, View<Real, Rank> view) : device_(device), view_(view) {
    if constexpr (!std::is_same_v<Number, Wide<Number>>) wide_.resize(static_cast<std::size_t>(view.size()));
  }

  /// To be read: what nobody wrote is a fault.
  View<const Wide<Number>, Rank> in() {
    if (!view_) return {};
    device_.machine().memory()->require_written(view_.data(), bytes(), "a matrix product");
    if constexpr (std::is_same_v<Number, Wide<Number>>) {
      return view_;
    } else {
      std::copy_n(view_.data(), wide_.size(), wide_.begin());
      return {wide_.data(), view_.extents()};
    }
  }
  /// To be overwritten; `finish` rounds.
  View<Wide<Number>, Rank> out() {
    if (!view_) return {};
    if constexpr (std::is_same_v<Number, Wide<Number>>) {
      return view_;
    } else {
      return {wide_.data(), view_.extents()};
    }
  }
  void finish() {
    if (!view_) return;
    if constexpr (!std::is_same_v<Number, Wide<Number>>) {
      std::transform(wide_.begin(), wide_.end(), view_.data(), [](Wide<Number> value) { return Number(value); });
    }
    device_.machine().memory()->note_written(view_.data(), bytes());
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(view_.size()) * sizeof(Number); }

  Emulated<Number>& device_;
  View<Real, Rank> view_;
  std::vector<Wide<Number>> wide_;
};

}  // namespace emulated_detail

template <class Real>
void run(Emulated<Real>& gpu, const LinearForward<Real>& op) {
  using emulated_detail::Operand;
  op.check();
  Operand y(gpu, op.y), pre_activation(gpu, op.pre_activation);
  Operand x(gpu, op.x), weight(gpu, op.weight), bias(gpu, op.bias);
  run(gpu.cpu(), LinearForward<Wide<Real>>{.y = y.out(),
                                           .pre_activation = pre_activation.out(),
                                           .x = x.in(),
                                           .weight = weight.in(),
                                           .bias = bias.in(),
                                           .activation = op.activation});
  y.finish();
  pre_activation.finish();
}

template <class Real>
void run(Emulated<Real>& gpu, const LinearInputGradient<Real>& op) {
  using emulated_detail::Operand;
  op.check();
  Operand dx(gpu, op.dx), dy(gpu, op.dy), weight(gpu, op.weight);
  Operand pre_activation(gpu, op.pre_activation), residual(gpu, op.residual);
  run(gpu.cpu(), LinearInputGradient<Wide<Real>>{.dx = dx.out(),
                                                 .dy = dy.in(),
                                                 .weight = weight.in(),
                                                 .pre_activation = pre_activation.in(),
                                                 .residual = residual.in()});
  dx.finish();
}

template <class Real>
void run(Emulated<Real>& gpu, const LinearWeightGradient<Real>& op) {
  using emulated_detail::Operand;
  op.check();
  Operand dy(gpu, op.dy), x(gpu, op.x);
  const auto& memory = gpu.machine().memory();
  const auto bytes = [](const auto& sum) { return static_cast<std::size_t>(sum.view().size()) * sizeof(Wide<Real>); };
  memory->require_written(op.dweight.data(), bytes(op.dweight), "a matrix product");
  memory->require_written(op.dbias.data(), bytes(op.dbias), "a matrix product");
  run(gpu.cpu(),
      LinearWeightGradient<Wide<Real>>{.dweight = op.dweight, .dbias = op.dbias, .dy = dy.in(), .x = x.in()});
}

}  // namespace blinkbert

#include <blinkbert/cuda/activation.cuh>
#include <blinkbert/cuda/adamw.cuh>
#include <blinkbert/cuda/batch_norm.cuh>
#include <blinkbert/cuda/embed_rows.cuh>
#include <blinkbert/cuda/gather_rows.cuh>
#include <blinkbert/cuda/gathered_attention.cuh>
#include <blinkbert/cuda/layer_norm.cuh>
#include <blinkbert/cuda/masked_attention.cuh>
#include <blinkbert/cuda/masked_loss.cuh>
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
