#pragma once

#include <cmath>
#include <vector>

#include <blinkbert/objective/device_batch.hpp>

namespace blinkbert {

/// The loss of pre-training over one optimizer step:
///   sum over chosen rows and features of w_n l(e) / (M sum_n w_n),
/// M over the whole step, however it is cut into micro-batches; w_n = 1 for original features,
/// mask.calibration_weight for calibration features.
template <Backend Device>
class MaskedRows {
 public:
  using Real = typename Device::Real;

  /// `weights` per feature of the model.
  MaskedRows(Device& device, std::vector<double> weights, const TrainConfig& train)
      : kind_(train.loss), delta_(static_cast<Wide<Real>>(train.huber_delta)), host_weights_(std::move(weights)) {
    const auto count = static_cast<int>(host_weights_.size());
    std::vector<Wide<Real>> narrowed(host_weights_.begin(), host_weights_.end());
    for (const double weight : host_weights_) weight_sum_ += weight;
    if (!(weight_sum_ > 0)) throw InputError("mask.calibration_weight: the weights of all features add up to 0");
    memory_ = device.allocate(2 * narrowed.size() * sizeof(Wide<Real>));
    auto* data = reinterpret_cast<Wide<Real>*>(memory_.data());
    weights_ = {data, {count}};
    sums_ = {data + count, {count}};
    upload(device, weights_, narrowed.data());
  }

  /// `rows_in_step` = M, over all micro-batches of the step.
  void begin_step(Device& device, std::int64_t rows_in_step) {
    rows_in_step_ = rows_in_step;
    fill_zero(device, sums_);
  }

  /// Value into the step's sums, gradient into `doutput` (empty = not wanted).
  void run_loss(Device& device, const DeviceBatch<Device>& batch, HeadRows rows, View<Real, 2> doutput,
                View<const Real, 2> output) const {
    const double scale = rows_in_step_ == 0 ? 0 : 1 / (static_cast<double>(rows_in_step_) * weight_sum_);
    run(device, MaskedLoss<Real>{.dprediction = doutput,
                                 .sums = Acc{sums_},
                                 .prediction = output,
                                 .target = batch.target,
                                 .selected = rows == HeadRows::all ? View<const int, 1>(batch.slots)
                                                                   : View<const int, 1>(batch.rows.rows(0, batch.M)),
                                 .weights = weights_,
                                 .rows = rows,
                                 .kind = kind_,
                                 .delta = delta_,
                                 .scale = static_cast<Wide<Real>>(scale)});
  }

  /// [N]  unweighted sums of the step so far, per feature.
  View<const Wide<Real>, 1> sums() const { return sums_; }
  /// The loss of a step with these sums and chosen rows.
  double loss(const Wide<Real>* sums, std::int64_t rows_in_step) const {
    double sum = 0;
    for (std::size_t n = 0; n < host_weights_.size(); ++n) sum += host_weights_[n] * static_cast<double>(sums[n]);
    return rows_in_step == 0 ? 0 : sum / (static_cast<double>(rows_in_step) * weight_sum_);
  }

 private:
  LossKind kind_;
  Wide<Real> delta_;
  std::vector<double> host_weights_;
  double weight_sum_ = 0;
  std::int64_t rows_in_step_ = 0;
  typename Device::Memory memory_;
  View<Wide<Real>, 1> weights_, sums_;  // [N]
};

}  // namespace blinkbert
