#pragma once

// From windows to a batch on the device: order, padding, upload.

#include <algorithm>
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
/// largest batch.
template <Backend Device>
class BatchLoader {
 public:
  using Real = typename Device::Real;

  explicit BatchLoader(const RowTable& table) : table_(&table) {}

  /// Fills everything of `batch` but what masking writes. The rows that a score head reads (`rows`, `slots`, `present`,
  /// `last_offsets`) and `visible` are those of unmasked sequences until masking overwrites `rows`, `slots`, `visible`.
  void load(Device& device, DeviceBatch<Device>& batch, std::span<const BatchItem> items) {
    const int B = batch.B(), L = batch.L(), N = table_->N, words = visible_words(L);
    BLINKBERT_EXPECTS(static_cast<int>(items.size()) == B && longest(items) <= L, items.size(), B, L);
    const auto assign = [](auto& values, int count, auto value) {
      values.assign(static_cast<std::size_t>(count), value);
    };
    assign(wide_, B * L * N, Wide<Real>{0});
    assign(lengths_, B, 0);
    assign(offsets_, B + 1, 0);
    assign(last_offsets_, B + 1, 0);
    assign(sequences_, B, std::uint32_t{0});
    assign(scores_, B, Wide<Real>{0});
    assign(rows_, B * L, -1);
    assign(slots_, B * L, -1);
    assign(present_, B, 0);
    assign(visible_, B * words, std::uint32_t{0});
    for (int b = 0; b < B; ++b) {
      const auto at = static_cast<std::size_t>(b);
      const BatchItem& item = items[at];
      const int length = item.window.length;
      for (int l = 0; l < length; ++l) {
        const float* from = table_->row(item.window.start + l);
        std::copy(from, from + N, wide_.begin() + static_cast<std::ptrdiff_t>(b * L + l) * N);
        visible_[static_cast<std::size_t>(b * words + l / 32)] |= std::uint32_t{1} << l % 32;
      }
      lengths_[at] = length;
      offsets_[at + 1] = offsets_[at] + item.chosen;
      last_offsets_[at + 1] = b + 1;
      sequences_[at] = item.sequence;
      scores_[at] = static_cast<Wide<Real>>(item.window.label);
      if (length > 0) {
        rows_[at] = b * L + length - 1;
        slots_[static_cast<std::size_t>(rows_[at])] = b;
        present_[at] = 1;
      }
    }
    batch.M = offsets_.back();
    upload(device, batch.target, wide_.data());
    if constexpr (std::is_same_v<Real, Wide<Real>>) {
      upload(device, batch.clean, wide_.data());
    } else {
      narrow_.resize(wide_.size());
      std::transform(wide_.begin(), wide_.end(), narrow_.begin(),
                     [](Wide<Real> value) { return static_cast<Real>(value); });
      upload(device, batch.clean, narrow_.data());
    }
    upload(device, batch.lengths, lengths_.data());
    upload(device, batch.offsets, offsets_.data());
    upload(device, batch.last_offsets, last_offsets_.data());
    upload(device, batch.sequences, sequences_.data());
    upload(device, batch.scores, scores_.data());
    upload(device, batch.rows, rows_.data());
    upload(device, batch.slots, slots_.data());
    upload(device, batch.present, present_.data());
    upload(device, batch.visible, visible_.data());
  }

 private:
  const RowTable* table_;
  std::vector<Wide<Real>> wide_, scores_;
  std::vector<Real> narrow_;
  std::vector<int> lengths_, offsets_, last_offsets_, rows_, slots_, present_;
  std::vector<std::uint32_t> sequences_, visible_;
};

}  // namespace blinkbert
