#pragma once

// What the two stages of training do differently with a batch: which rows are chosen and masked, what the head reads,
// what the loss is divided by. The loop itself (trainer.hpp) is the same.

#include <numeric>
#include <span>
#include <vector>

#include <blinkbert/data/batches.hpp>
#include <blinkbert/data/row_masks.hpp>
#include <blinkbert/model/finetuning_model.hpp>
#include <blinkbert/model/pretraining_model.hpp>
#include <blinkbert/objective/masked_rows.hpp>
#include <blinkbert/objective/score.hpp>

namespace blinkbert {

/// Rows are masked and predicted.
template <Backend DeviceType>
class PretrainingStage {
 public:
  using Device = DeviceType;
  using Real = typename Device::Real;
  using Model = PretrainingModel<Device>;
  using Objective = MaskedRows<Device>;
  static constexpr bool predicts_rows = true;

  PretrainingStage(Device& device, const Config& config)
      : mask_(config.mask), seed_(config.train.seed), objective_(device, weights(config), config.train) {}

  Objective& objective() { return objective_; }

  /// Rows chosen in each of the sequences that share a count, written to `counts`.
  void chosen_rows(std::vector<int>& counts, std::span<const int> lengths, std::span<const std::uint32_t> sequences,
                   Draw draw, std::uint32_t step) const {
    masked_row_counts(counts, lengths, sequences, mask_, mask_streams(draw, seed_, step).chosen);
  }

  /// What a step's loss is divided by: its chosen rows.
  static std::int64_t normaliser(std::span<const int> chosen) {
    return std::accumulate(chosen.begin(), chosen.end(), std::int64_t{0});
  }

  /// Masks a loaded batch for evaluation, or for the training step of `now`.
  ModelInput<Real> prepare(Device& device, DeviceBatch<Device>& batch, View<const StepValues, 1> now = {}) const {
    const MaskStreams streams = mask_streams(now ? Draw::training : Draw::evaluation, seed_, 0, now);
    run(device, RowMasks<Real>{.x = batch.masked,
                               .rows = batch.rows.rows(0, batch.M),
                               .slots = batch.slots,
                               .actions = batch.actions.rows(0, batch.M),
                               .visible = batch.visible,
                               .clean = batch.clean,
                               .lengths = batch.lengths,
                               .offsets = batch.offsets,
                               .sequences = batch.sequences,
                               .chosen_stream = streams.chosen,
                               .action_stream = streams.actions,
                               .noise_stream = streams.noise,
                               .replace_below = threshold(mask_.actions[0]),
                               .noise_below = threshold(mask_.actions[0] + mask_.actions[1]),
                               .value = static_cast<float>(mask_.value),
                               .noise_low = static_cast<float>(mask_.noise[0]),
                               .noise_high = static_cast<float>(mask_.noise[1]),
                               .hide = mask_.hide});
    return {.x = batch.masked,
            .rows = batch.rows.rows(0, batch.M),
            .slots = batch.slots,
            .offsets = batch.offsets,
            .present = {}};
  }

  /// 1 for each original feature, mask.calibration_weight for each calibration feature.
  static std::vector<double> weights(const Config& config) {
    std::vector<double> weights(static_cast<std::size_t>(model_features(config.data)), config.mask.calibration_weight);
    std::fill_n(weights.begin(), config.data.features.size(), 1.0);
    return weights;
  }

 private:
  static std::uint64_t threshold(double share) { return static_cast<std::uint64_t>(std::llround(share * 0x1p32)); }

  MaskConfig mask_;
  std::uint64_t seed_;
  Objective objective_;
};

/// Nothing is masked.
template <Backend DeviceType>
class FinetuningStage {
 public:
  using Device = DeviceType;
  using Real = typename Device::Real;
  using Model = FinetuningModel<Device>;
  using Objective = Score<Device>;
  static constexpr bool predicts_rows = false;

  FinetuningStage(Device& device, const Config& config) : objective_(device, config) {}

  Objective& objective() { return objective_; }

  void chosen_rows(std::vector<int>& counts, std::span<const int> lengths, std::span<const std::uint32_t>, Draw,
                   std::uint32_t) const {
    counts.assign(lengths.size(), 0);
  }

  /// What a step's loss is divided by: its sequences.
  static std::int64_t normaliser(std::span<const int> chosen) { return static_cast<std::int64_t>(chosen.size()); }

  ModelInput<Real> prepare(Device&, DeviceBatch<Device>& batch, View<const StepValues, 1> = {}) const {
    return {.x = batch.clean,
            .rows = batch.rows.rows(0, batch.B()),
            .slots = batch.slots,
            .offsets = batch.last_offsets,
            .present = batch.present};
  }

 private:
  Objective objective_;
};

}  // namespace blinkbert
