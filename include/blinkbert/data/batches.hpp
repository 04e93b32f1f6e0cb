#pragma once

// From windows to a batch on the device: order, padding, upload.

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <blinkbert/data/windows.hpp>
#include <blinkbert/objective/device_batch.hpp>

namespace blinkbert {

/// All rows of a file as the model sees them: calibrated, scaled, tails bounded.
struct RowTable {
  int N = 0;             // features of the model
  std::vector<float> x;  // [rows, N]

  const float* row(int index) const { return x.data() + static_cast<std::size_t>(index) * static_cast<std::size_t>(N); }
};

/// A window and its number among all windows of its file at the same stride, counted before any splitting or filtering.
struct NumberedWindow {
  Window window;
  std::uint32_t number = 0;
};

/// The order of training windows in an epoch: by (word of (window, epoch), window). Indices into `windows`.
inline std::vector<int> order_of_windows(std::span<const NumberedWindow> windows, std::uint64_t seed,
                                         std::uint32_t epoch) {
  const RandomStream stream{.seed = seed, .purpose = Purpose::order_of_windows};
  std::vector<std::pair<std::uint64_t, int>> keys(windows.size());
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const std::uint32_t number = windows[i].number;
    keys[i] = {std::uint64_t{stream.word(number, epoch)} << 32 | number, static_cast<int>(i)};
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int> order(windows.size());
  std::transform(keys.begin(), keys.end(), order.begin(), [](const auto& key) { return key.second; });
  return order;
}

/// Longest first inside each optimizer step, so that micro-batches of neighbours are padded little. Stable. By
/// insertion: std::stable_sort allocates, and nearly all windows are equally long.
inline void sort_by_length(std::span<const NumberedWindow> windows, std::span<int> step) {
  const auto is_longer = [&](int a, int b) {
    return windows[static_cast<std::size_t>(a)].window.length > windows[static_cast<std::size_t>(b)].window.length;
  };
  for (auto next = step.begin(); next != step.end(); ++next) {
    std::rotate(std::upper_bound(step.begin(), next, *next, is_longer), next, next + 1);
  }
}

/// One sequence of a batch.
struct BatchItem {
  Window window;
  int chosen = 0;              // rows that masking will choose in it
  std::uint32_t sequence = 0;  // its number in masking's counters
};

inline int longest(std::span<const BatchItem> items) {
  int length = 1;
  for (const BatchItem& item : items) length = std::max(length, item.window.length);
  return length;
}

/// Assembles batches on the host and uploads them. Keeps its staging memory, so that loading allocates nothing after the
/// largest batch. A device that copies later still reads one batch while the next is assembled.
template <Backend Device>
class BatchLoader {
 public:
  using Real = typename Device::Real;

  explicit BatchLoader(const RowTable& table) : table_(&table) {}

  /// Fills everything of `batch` but what masking writes. The rows that a score head reads (`rows`, `slots`, `present`,
  /// `last_offsets`) and `visible` are those of unmasked sequences until masking overwrites `rows`, `slots`, `visible`.
  void load(Device& device, DeviceBatch<Device>& batch, std::span<const BatchItem> items) {
    const int B = batch.B(), L = batch.L(), N = table_->N;
    BLINKBERT_EXPECTS(static_cast<int>(items.size()) == B && longest(items) <= L, items.size(), B, L);
    Slot& slot = slots_[next_++ % slots_.size()];
    device.wait(slot.is_read);
    const auto bytes = static_cast<std::size_t>(batch.inputs.size());
    if (bytes > slot.bytes) slot.memory = device.stage(slot.bytes = bytes);
    batch.M = fill(BatchInputs<Real>::at(slot.memory.data(), B, L, N), items);
    device.upload_later(batch.inputs.data(), slot.memory.data(), bytes);
    device.record(slot.is_read);
  }

 private:
  struct Slot {
    typename Device::Staging memory;
    std::size_t bytes = 0;
    typename Device::Mark is_read;
  };

  /// Returns the rows chosen.
  int fill(const BatchInputs<Real>& inputs, std::span<const BatchItem> items) const {
    const int B = inputs.clean.extent(0), L = inputs.clean.extent(1), N = table_->N;
    const auto assign = [](const auto& view, auto value) { std::fill_n(view.data(), view.size(), value); };
    assign(inputs.rows, -1);
    assign(inputs.slots, -1);
    assign(inputs.visible, std::uint32_t{0});
    inputs.offsets(0) = inputs.last_offsets(0) = 0;
    Real* narrow = inputs.clean.data();
    Wide<Real>* wide = inputs.target.data();
    for (int b = 0; b < B; ++b) {
      const BatchItem& item = items[static_cast<std::size_t>(b)];
      const int length = item.window.length, real = length * N;
      const float* from = length > 0 ? table_->row(item.window.start) : nullptr;
      for (int i = 0; i < L * N; ++i) {
        const float value = i < real ? from[i] : 0;
        *wide++ = static_cast<Wide<Real>>(value);
        *narrow++ = static_cast<Real>(static_cast<Wide<Real>>(value));
      }
      for (int l = 0; l < length; ++l) inputs.visible(b, l / 32) |= std::uint32_t{1} << l % 32;
      inputs.lengths(b) = length;
      inputs.offsets(b + 1) = inputs.offsets(b) + item.chosen;
      inputs.last_offsets(b + 1) = b + 1;
      inputs.sequences(b) = item.sequence;
      inputs.scores(b) = static_cast<Wide<Real>>(item.window.label);
      inputs.weights(b) = static_cast<Wide<Real>>(item.window.weight);
      inputs.present(b) = length > 0 ? 1 : 0;
      if (length > 0) {
        inputs.rows(b) = b * L + length - 1;
        inputs.slots(inputs.rows(b)) = b;
      }
    }
    return inputs.offsets(B);
  }

  const RowTable* table_;
  std::array<Slot, Device::is_asynchronous ? 2 : 1> slots_;
  std::size_t next_ = 0;
};

}  // namespace blinkbert
