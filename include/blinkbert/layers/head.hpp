#pragma once

#include <vector>

#include <blinkbert/layers/linear.hpp>
#include <blinkbert/layers/options.hpp>

namespace blinkbert {

/// [Linear, batch norm, ReLU, dropout] per hidden size, then Linear: the masked rows' head and the score's.
/// Owns `hidden.{i}.{weight,bias}`, `norm.{i}.{weight,bias,running_mean,running_var}`, `output.{weight,bias}`.
template <Backend Device>
class Head {
 public:
  using Real = typename Device::Real;

  /// What the head's rows are.
  struct Rows {
    View<const int, 1> rows;     // [R]  t of each gathered row, or -1; empty = all rows of the batch
    View<const int, 1> lengths;  // [.]  real rows: as Pass::lengths, or 1 and 0 for gathered rows
    int L = 1;                   // rows per entry of `lengths`; 1 for gathered rows
  };

  struct HiddenSaved {
    typename Linear<Device>::Saved linear;
    View<Real, 2> projected;         // [R, F]  after the linear layer
    View<Real, 2> normed;            // [R, F]  after batch norm; the same memory without it
    View<Real, 2> activated;         // [R, F]
    View<Wide<Real>, 1> mean, rstd;  // [F]
    View<Real, 2> gradient;          // [R, F]  of `activated`, then of what is below it
  };

  struct Saved {
    std::vector<HiddenSaved> hidden;
    typename Linear<Device>::Saved output;
  };

  Head(ParameterSet<Device>& set, const std::string& name, int in, int out, const HeadConfig& config)
      : drop_probability_(config.dropout) {
    for (std::size_t i = 0; i < config.hidden.size(); ++i) {
      const int size = config.hidden[i];
      Hidden hidden{.linear = Linear<Device>(set, text(name, ".hidden.", i), in, size, Init::fan_in_uniform(in),
                                             Init::fan_in_uniform(in)),
                    .gamma = {},
                    .beta = {},
                    .running_mean = {},
                    .running_variance = {},
                    .width = size};
      if (config.batch_norm) {
        const std::string norm = text(name, ".norm.", i);
        hidden.gamma = set.add(norm + ".weight", {size}, Init::constant(1), Decay::no);
        hidden.beta = set.add(norm + ".bias", {size}, Init::constant(0), Decay::no);
        hidden.running_mean = set.add_statistic(norm + ".running_mean", size, 0);
        hidden.running_variance = set.add_statistic(norm + ".running_var", size, 1);
      }
      hidden_.push_back(std::move(hidden));
      in = size;
    }
    output_.emplace_back(set, name + ".output", in, out, Init::fan_in_uniform(in), Init::fan_in_uniform(in));
  }

  Saved plan(Arena<Device>& arena, int R) const {
    Saved saved;
    for (const Hidden& hidden : hidden_) {
      HiddenSaved one;
      one.linear = hidden.linear.plan(arena, R);
      one.projected = arena.template take<Real>(R, hidden.width);
      one.normed = hidden.gamma ? arena.template take<Real>(R, hidden.width) : one.projected;
      one.activated = arena.template take<Real>(R, hidden.width);
      one.mean = arena.template take<Wide<Real>>(hidden.width);
      one.rstd = arena.template take<Wide<Real>>(hidden.width);
      one.gradient = arena.template take<Real>(R, hidden.width);
      saved.hidden.push_back(one);
    }
    saved.output = output_[0].plan(arena, R);
    return saved;
  }

  /// x [R', in] with R' <= R planned rows. Rows that are not real become zeros in y.
  void forward(Device& device, const Pass& pass, View<Real, 2> y, View<const Real, 2> x, const Rows& rows,
               Saved& saved) const {
    const int R = x.extent(0);
    for (std::size_t i = 0; i < hidden_.size(); ++i) {
      const Hidden& hidden = hidden_[i];
      HiddenSaved& one = saved.hidden[i];
      hidden.linear.forward(device, pass, one.projected.rows(0, R), x, one.linear);
      if (hidden.gamma) {
        run(device, BatchNormForward<Real>{.y = one.normed.rows(0, R),
                                           .mean = one.mean,
                                           .rstd = one.rstd,
                                           .running_mean = hidden.running_mean.value(),
                                           .running_variance = hidden.running_variance.value(),
                                           .x = one.projected.rows(0, R),
                                           .gamma = hidden.gamma.template value<1>(),
                                           .beta = hidden.beta.template value<1>(),
                                           .lengths = rows.lengths,
                                           .L = rows.L,
                                           .statistics = statistics(pass)});
      }
      run(device, ActivationForward<Real>{.y = one.activated.rows(0, R),
                                          .x = one.normed.rows(0, R),
                                          .rows = rows.rows,
                                          .dropout = dropout(pass, i),
                                          .L = pass.L});
      x = one.activated.rows(0, R);
    }
    output_[0].forward(device, pass, y, x, saved.output);
    if (rows.lengths) run(device, ZeroPadding<Real>{.y = y, .x = y, .lengths = rows.lengths, .L = rows.L});
  }

  /// `dy` must be zero at rows that are not real, and stay until the next `join`, as must what is saved. An empty `dx` is not
  /// wanted.
  void backward(Device& device, const Pass& pass, View<Real, 2> dx, View<const Real, 2> dy, const Rows& rows,
                const Saved& saved) const {
    const int R = dy.extent(0);
    const auto gradient_below = [&](std::size_t i) { return i == 0 ? dx : saved.hidden[i - 1].gradient.rows(0, R); };
    output_[0].backward(device, pass, gradient_below(hidden_.size()), dy, saved.output);
    for (std::size_t i = hidden_.size(); i-- > 0;) {
      const Hidden& hidden = hidden_[i];
      const HiddenSaved& one = saved.hidden[i];
      const View<Real, 2> gradient = one.gradient.rows(0, R);
      run(device, ActivationBackward<Real>{.dx = gradient,
                                           .dy = gradient,
                                           .x = one.normed.rows(0, R),
                                           .rows = rows.rows,
                                           .dropout = dropout(pass, i),
                                           .L = pass.L});
      if (hidden.gamma) {
        run(device, BatchNormBackward<Real>{.dx = gradient,
                                            .dgamma = hidden.gamma.template gradient<1>(),
                                            .dbeta = hidden.beta.template gradient<1>(),
                                            .dy = gradient,
                                            .x = one.projected.rows(0, R),
                                            .mean = one.mean,
                                            .rstd = one.rstd,
                                            .gamma = hidden.gamma.template value<1>(),
                                            .lengths = rows.lengths,
                                            .L = rows.L,
                                            .statistics = statistics(pass)});
      }
      hidden.linear.backward(device, pass, gradient_below(i), gradient, one.linear);
    }
  }

 private:
  struct Hidden {
    Linear<Device> linear;
    Parameter<Device> gamma, beta;                     // [F]; none without batch norm
    Statistic<Device> running_mean, running_variance;  // [F]
    int width = 0;
  };

  static BatchStatistics statistics(const Pass& pass) {
    return pass.mode == Mode::training ? BatchStatistics::batch : BatchStatistics::running;
  }
  Dropout dropout(const Pass& pass, std::size_t i) const {
    return pass.dropout(Purpose::head_dropout, static_cast<std::uint32_t>(i), drop_probability_);
  }

  double drop_probability_;
  std::vector<Hidden> hidden_;
  std::vector<Linear<Device>> output_;  // exactly one, added after the hidden layers
};

}  // namespace blinkbert
