#pragma once

#include <blinkbert/core/arena.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/layers/parameters.hpp>

namespace blinkbert {

/// y = activation(x W^T + b). Owns `weight` [out, in] and `bias` [out]; formulas in ops/linear.hpp.
template <Backend Device>
class Linear {
 public:
  using Real = typename Device::Real;

  struct Saved {
    View<const Real, 2> x;         // [T, in]   borrowed: the caller keeps x alive
    View<Real, 2> pre_activation;  // [T, out]  where there is an activation; training
  };

  Linear(ParameterSet<Device>& set, const std::string& name, int in, int out, Init weight, Init bias,
         Activation activation = Activation::none)
      : weight_(set.add(name + ".weight", {out, in}, weight, Decay::yes)),
        bias_(set.add(name + ".bias", {out}, bias, Decay::no)),
        out_(out),
        activation_(activation) {}

  Saved plan(Arena<Device>& arena, int T, PassPlan passes = PassPlan::training) const {
    if (activation_ == Activation::none || passes == PassPlan::inference) return {};
    return {.x = {}, .pre_activation = arena.template take<Real>(T, out_)};
  }

  /// x [R, in] with R <= T planned rows.
  void forward(Device& device, const Pass&, View<Real, 2> y, View<const Real, 2> x, Saved& saved) const {
    saved.x = x;
    run(device, LinearForward<Real>{.y = y,
                                    .pre_activation = saved.pre_activation ? saved.pre_activation.rows(0, x.extent(0))
                                                                           : View<Real, 2>{},
                                    .x = x,
                                    .weight = weight_.template working<2>(),
                                    .bias = bias_.template working<1>(),
                                    .activation = activation_});
  }

  /// `dy` is the gradient of the product's result, before an activation (the layer above gives it so). An empty `dx` is
  /// not wanted. `below` is the pre-activation of the layer that made x, where it has one; `residual` is added to dx.
  /// The gradients of weight and bias are made beside what follows: until the next `join`, dy and x must stay.
  void backward(Device& device, const Pass&, View<Real, 2> dx, View<const Real, 2> dy, const Saved& saved,
                View<const Real, 2> residual = {}, View<const Real, 2> below = {}) const {
    run_beside(
        device,
        LinearWeightGradient<Real>{
            .dweight = weight_.template gradient<2>(), .dbias = bias_.template gradient<1>(), .dy = dy, .x = saved.x});
    if (dx) {
      run(device, LinearInputGradient<Real>{.dx = dx,
                                            .dy = dy,
                                            .weight = weight_.template working<2>(),
                                            .pre_activation = below,
                                            .residual = residual});
    }
  }

  const Parameter<Device>& weight() const { return weight_; }
  const Parameter<Device>& bias() const { return bias_; }

 private:
  Parameter<Device> weight_;  // [out, in]
  Parameter<Device> bias_;    // [out]
  int out_;
  Activation activation_;
};

}  // namespace blinkbert
