#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <blinkbert/train/buckets.hpp>
#include <blinkbert/train/stage.hpp>

namespace blinkbert {

/// What a model says of one window, on the host.
struct WindowPrediction {
  const NumberedWindow* window = nullptr;
  std::span<const int> rows;      // rows of the window that were chosen; fine-tuning: empty
  std::span<const float> values;  // pre-training: [chosen rows, N]; fine-tuning: the head's outputs
};

/// Runs the model in evaluation mode over windows in their order and calls `visit(WindowPrediction)` for each. Masks, where
/// there are any, depend on the seed and the windows' numbers only.
template <class Stage, class Visit>
void predict(typename Stage::Device& device, const typename Stage::Model& model, const Stage& stage,
             Buckets<typename Stage::Model, typename Stage::Device>& buckets,
             BatchLoader<typename Stage::Device>& loader, std::span<const NumberedWindow> windows, int batch_size,
             Visit&& visit) {
  using Real = typename Stage::Real;
  std::vector<int> lengths;
  std::vector<std::uint32_t> sequences;
  for (const NumberedWindow& one : windows) {
    lengths.push_back(one.window.length);
    sequences.push_back(one.number);
  }
  std::vector<int> chosen;
  stage.chosen_rows(chosen, lengths, sequences, Draw::evaluation, 0);

  std::vector<BatchItem> items;
  std::vector<int> rows;
  std::vector<Real> output;
  std::vector<float> values;
  const int available = static_cast<int>(std::min(static_cast<std::size_t>(batch_size), windows.size()));
  const auto at_once = static_cast<std::size_t>(
      available > 0 ? buckets.windows_at_once(device, available, *std::ranges::max_element(lengths)) : 1);
  for (std::size_t first = 0; first < windows.size(); first += at_once) {
    const std::size_t count = std::min(at_once, windows.size() - first);
    items.clear();
    for (std::size_t i = first; i < first + count; ++i) {
      items.push_back({.window = windows[i].window, .chosen = chosen[i], .sequence = sequences[i]});
    }
    const int B = static_cast<int>(count), L = longest(items);
    auto& bucket = buckets(B, L);
    loader.load(device, bucket.batch, items);
    const ModelInput<Real> input = stage.prepare(device, bucket.batch);
    const Pass pass = bucket.batch.pass(Mode::evaluation, 0, 0, 0);
    const View<const Real, 2> prediction = model.forward(device, pass, input, bucket.saved);
    const int N = prediction.extent(1);
    output.resize(static_cast<std::size_t>(prediction.size()));
    download(device, output.data(), prediction);

    rows.resize(static_cast<std::size_t>(bucket.batch.M));
    download(device, rows.data(), bucket.batch.rows.rows(0, bucket.batch.M));
    std::size_t place = 0;
    for (int b = 0; b < B; ++b) {
      const std::size_t at = first + static_cast<std::size_t>(b);
      const std::size_t chosen_here = static_cast<std::size_t>(chosen[at]);
      values.clear();
      if constexpr (Stage::predicts_rows) {
        for (std::size_t m = place; m < place + chosen_here; ++m) {
          const int source = model.rows() == HeadRows::all ? rows[m] : static_cast<int>(m);
          for (int n = 0; n < N; ++n)
            values.push_back(static_cast<float>(output[static_cast<std::size_t>(source * N + n)]));
          rows[m] -= b * L;
        }
      } else {
        for (int n = 0; n < N; ++n) values.push_back(static_cast<float>(output[static_cast<std::size_t>(b * N + n)]));
      }
      visit(WindowPrediction{
          .window = &windows[at], .rows = std::span<const int>(rows).subspan(place, chosen_here), .values = values});
      place += chosen_here;
    }
  }
}

}  // namespace blinkbert
