#pragma once

// The front door for devices: the one place that knows every op. An op is a struct (what); a backend is an overload of
// `run` for each (how), found by argument-dependent lookup. A missing `run` is a compile error here, by name.

#include <concepts>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include <blinkbert/ops/activation.hpp>
#include <blinkbert/ops/adamw.hpp>
#include <blinkbert/ops/append_statistics.hpp>
#include <blinkbert/ops/batch_norm.hpp>
#include <blinkbert/ops/embed_rows.hpp>
#include <blinkbert/ops/gather_rows.hpp>
#include <blinkbert/ops/gathered_attention.hpp>
#include <blinkbert/ops/layer_norm.hpp>
#include <blinkbert/ops/linear.hpp>
#include <blinkbert/ops/masked_attention.hpp>
#include <blinkbert/ops/masked_loss.hpp>
#include <blinkbert/ops/mean_rows.hpp>
#include <blinkbert/ops/narrow_block.hpp>
#include <blinkbert/ops/narrowing.hpp>
#include <blinkbert/ops/residual_norm.hpp>
#include <blinkbert/ops/row_masks.hpp>
#include <blinkbert/ops/score_loss.hpp>
#include <blinkbert/ops/sum_of_squares.hpp>
#include <blinkbert/ops/zero_padding.hpp>

namespace blinkbert {

template <class Device, class Op>
concept Runs = requires(Device& device, const Op& op) {
  run(device, op);
};

template <class Device, class... Ops>
concept RunsAll = (Runs<Device, Ops> && ...);

/// Memory of the device and the way to and from it. `run` never synchronises; `download` waits for what was issued.
///
/// `stage` gives host memory that the device copies from and to while the host goes on: what `upload_later` reads must stay
/// as it is, and what `download_later` writes is not there, until `wait` returned for a mark that was recorded after it.
/// `wait` returns at once for a mark that was never recorded. `is_asynchronous`: whether ops are done later than `run`.
template <class Device>
concept OwnsMemory = requires(Device& device, std::byte* on_device, std::byte* on_host, std::size_t bytes,
                              typename Device::Mark& mark) {
  { device.allocate(bytes) } -> std::same_as<typename Device::Memory>;
  device.upload(on_device, static_cast<const std::byte*>(on_host), bytes);
  device.download(on_host, static_cast<const std::byte*>(on_device), bytes);
  device.copy(on_device, static_cast<const std::byte*>(on_device), bytes);
  device.zero(on_device, bytes);
  { device.stage(bytes) } -> std::same_as<typename Device::Staging>;
  device.upload_later(on_device, static_cast<const std::byte*>(on_host), bytes);
  device.download_later(on_host, static_cast<const std::byte*>(on_device), bytes);
  device.record(mark);
  device.wait(mark);
  { Device::is_asynchronous } -> std::convertible_to<bool>;
};

/// What a backend need not have: ops that are issued once and run many times. `capture(body)` issues what the body issues
/// without running it; `replay` runs it.
template <class Device>
concept CapturesGraphs = requires(Device& device, void (*body)(), const typename Device::Graph& graph) {
  { device.capture(body) } -> std::same_as<typename Device::Graph>;
  device.replay(graph);
};

/// What a backend need not have: a second branch of work. What the body of `beside(body)` issues begins when all that was
/// issued before is done, and may be done beside all that is issued after it, up to `join()`. Between the two nothing may
/// overwrite what the body reads, nor touch what it writes; bodies among themselves are done in the order of the calls, so sums
/// that only they add to are added in that order. All is joined before a graph begins, and before it ends. `download` joins.
template <class Device>
concept HasSecondBranch = requires(Device& device, void (*body)()) {
  device.beside(body);
  device.join();
};

/// What a backend need not have: weights kept in the form that its products read, where they stay as they are.
template <class Device>
concept KeepsWeights = requires(Device& device, std::shared_ptr<typename Device::KeptWeights> kept) {
  device.keep_weights(kept);
};

/// What a backend need not have: a number of rows, each of so many numbers, that stay near the processor from op to op. A pass
/// over more of them spends its time on memory.
template <class Device>
concept HoldsRowsNear = requires(const Device& device) {
  { device.near_rows(1) } -> std::same_as<int>;
};

/// Those of one model; nothing where the backend keeps none.
template <class Device>
struct KeptWeightsOf {};
template <KeepsWeights Device>
struct KeptWeightsOf<Device> {
  std::shared_ptr<typename Device::KeptWeights> shared = std::make_shared<typename Device::KeptWeights>();
};

/// What a backend need not have: products that round their factors to bf16, beside those in its own number type.
template <class Device>
concept RoundsProducts = requires(Device& device) {
  { Device::bf16_obstacle() } -> std::same_as<std::string>;
  device.multiply_in_bf16();
};

template <class Device, class Real = typename Device::Real>
concept Backend = OwnsMemory<Device> &&
    RunsAll<Device, LinearForward<Real>, LinearInputGradient<Real>, LinearWeightGradient<Real>,  //
            LayerNormForward<Real>, LayerNormBackward<Real>,                                     //
            ResidualNormForward<Real>, ResidualNormBackward<Real>,                               //
            MaskedAttentionForward<Real>, MaskedAttentionBackward<Real>,                         //
            GatheredAttentionForward<Real>, GatheredAttentionBackward<Real>,                     //
            EmbedRowsForward<Real>, EmbedRowsBackward<Real>,                                     //
            GatherRowsForward<Real>, GatherRowsBackward<Real>,                                   //
            MeanRowsForward<Real>, MeanRowsBackward<Real>, AppendStatistics<Real>,               //
            ActivationForward<Real>, ActivationBackward<Real>,                                   //
            BatchNormForward<Real>, BatchNormBackward<Real>,                                     //
            ZeroPadding<Real>, RowMasks<Real>, MaskedLoss<Real>, ScoreLoss<Real>, SumOfSquares<Real>, AdamW<Real>,
            Narrowing<Real>>;

/// What a backend need not have: a narrow encoder block as one op. `fuses_narrow_block(device, N, H, D, L)` says whether
/// it can run that size.
template <class Device, class Real = typename Device::Real>
concept FusesNarrowBlocks = RunsAll<Device, NarrowBlockForward<Real>, NarrowBlockBackward<Real>> &&
    requires(const Device& device) {
  { fuses_narrow_block(device, 1, 1, 1, 1) } -> std::same_as<bool>;
};

/// An op that need only be done at the next `join`: on the second branch of a device that has one.
template <class Device, class Op>
void run_beside(Device& device, const Op& op) {
  if constexpr (HasSecondBranch<Device>) {
    device.beside([&] { run(device, op); });
  } else {
    run(device, op);
  }
}

/// From here on, what was run beside is done.
template <class Device>
void join(Device& device) {
  if constexpr (HasSecondBranch<Device>) device.join();
}

/// Zeros over a whole view.
template <class Device, class T, int Rank>
void fill_zero(Device& device, View<T, Rank> view) {
  device.zero(reinterpret_cast<std::byte*>(view.data()), static_cast<std::size_t>(view.size()) * sizeof(T));
}

/// View on the device from as many elements on the host.
template <class Device, class T, int Rank>
void upload(Device& device, View<T, Rank> to, const T* from) {
  device.upload(reinterpret_cast<std::byte*>(to.data()), reinterpret_cast<const std::byte*>(from),
                static_cast<std::size_t>(to.size()) * sizeof(T));
}

/// Elements on the host from a view on the device; waits.
template <class Device, class T, int Rank>
void download(Device& device, std::remove_const_t<T>* to, View<T, Rank> from) {
  device.download(reinterpret_cast<std::byte*>(to), reinterpret_cast<const std::byte*>(from.data()),
                  static_cast<std::size_t>(from.size()) * sizeof(T));
}

/// Elements from one view of the device to another of the same shape.
template <class Device, class T, int Rank>
void copy(Device& device, View<T, Rank> to, std::type_identity_t<View<const T, Rank>> from) {
  BLINKBERT_EXPECTS(to.extents() == from.extents());
  device.copy(reinterpret_cast<std::byte*>(to.data()), reinterpret_cast<const std::byte*>(from.data()),
              static_cast<std::size_t>(to.size()) * sizeof(T));
}

}  // namespace blinkbert
