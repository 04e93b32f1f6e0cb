#pragma once

#include <vector>

#include <blinkbert/objective/device_batch.hpp>

namespace blinkbert {

/// The loss of fine-tuning over one optimizer step: the mean of w l over the step's sequences, w = 1, or the window's weight
/// with train.recording_weights (their mean over all training windows is 1).
template <Backend Device>
class Score {
 public:
  using Real = typename Device::Real;

  Score(Device& device, const Config& config)
      : kind_(config.train.loss),
        delta_(static_cast<Wide<Real>>(config.train.huber_delta)),
        is_weighted_(config.train.recording_weights) {
    const std::vector<Wide<Real>> edges(config.labels.edges.begin(), config.labels.edges.end());
    memory_ = device.allocate((1 + edges.size()) * sizeof(Wide<Real>));
    auto* data = reinterpret_cast<Wide<Real>*>(memory_.data());
    sum_ = {data, {1}};
    if (!is_over_levels(kind_)) return;
    edges_ = {data + 1, {static_cast<int>(edges.size())}};
    upload(device, edges_, edges.data());
  }

  /// Sequences over all micro-batches of the step.
  void begin_step(Device& device, std::int64_t sequences_in_step) {
    sequences_in_step_ = sequences_in_step;
    fill_zero(device, sum_);
  }

  /// Value into the step's sum, gradient into `doutput` (empty = not wanted).
  void run_loss(Device& device, const DeviceBatch<Device>& batch, HeadRows, View<Real, 2> doutput,
                View<const Real, 2> output) const {
    run(device, ScoreLoss<Real>{.dprediction = doutput,
                                .sum = Acc{sum_},
                                .prediction = output,
                                .target = batch.scores,
                                .edges = edges_,
                                .weights = is_weighted_ ? batch.weights : View<Wide<Real>, 1>{},
                                .lengths = batch.lengths,
                                .kind = kind_,
                                .delta = delta_,
                                .scale = static_cast<Wide<Real>>(1.0 / static_cast<double>(sequences_in_step_))});
  }

  /// [1]  the step's sum so far.
  View<const Wide<Real>, 1> sums() const { return sum_; }
  /// The loss of a step with this sum and so many sequences.
  double loss(const Wide<Real>* sums, std::int64_t sequences_in_step) const {
    return static_cast<double>(sums[0]) / static_cast<double>(sequences_in_step);
  }

 private:
  LossKind kind_;
  Wide<Real> delta_;
  bool is_weighted_;
  std::int64_t sequences_in_step_ = 1;
  typename Device::Memory memory_;
  View<Wide<Real>, 1> sum_;    // [1]
  View<Wide<Real>, 1> edges_;  // [K - 1]  over levels only
};

}  // namespace blinkbert
