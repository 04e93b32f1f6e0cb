#pragma once

#include <blinkbert/objective/device_batch.hpp>

namespace blinkbert {

/// The loss of fine-tuning over one optimizer step: the mean of l(prediction - KSS) over the step's sequences.
template <Backend Device>
class Score {
 public:
  using Real = typename Device::Real;

  Score(Device& device, const TrainConfig& train)
      : kind_(train.loss), delta_(static_cast<Wide<Real>>(train.huber_delta)) {
    memory_ = device.allocate(sizeof(Wide<Real>));
    sum_ = {reinterpret_cast<Wide<Real>*>(memory_.data()), {1}};
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
  std::int64_t sequences_in_step_ = 1;
  typename Device::Memory memory_;
  View<Wide<Real>, 1> sum_;  // [1]
};

}  // namespace blinkbert
