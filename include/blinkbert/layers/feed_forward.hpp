#pragma once

#include <blinkbert/layers/linear.hpp>

namespace blinkbert {

/// F / E.
inline constexpr int feed_forward_factor = 4;

/// y = W2 gelu(W1 x + b1) + b2, F = 4 E wide inside. Owns `linear1` and `linear2`.
/// Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 2, with GELU in the place of ReLU.
template <Backend Device>
class FeedForward {
 public:
  using Real = typename Device::Real;

  struct Saved {
    typename Linear<Device>::Saved first, second;
    View<Real, 2> activated;  // [T, F]
  };

  struct Scratch {
    View<Real, 2> dhidden;  // [T, F]
  };

  FeedForward(ParameterSet<Device>& set, const std::string& name, int width)
      : hidden_(feed_forward_factor * width),
        first_(set, name + ".linear1", width, hidden_, Init::fan_in_uniform(width), Init::fan_in_uniform(width),
               Activation::gelu),
        second_(set, name + ".linear2", hidden_, width, Init::fan_in_uniform(hidden_), Init::fan_in_uniform(hidden_)) {}

  Saved plan(Arena<Device>& arena, int T, PassPlan passes) const {
    return {.first = first_.plan(arena, T, passes),
            .second = second_.plan(arena, T, passes),
            .activated = arena.template take<Real>(T, hidden_)};
  }

  Scratch plan_scratch(Arena<Device>& arena, int T) const { return {.dhidden = arena.template take<Real>(T, hidden_)}; }

  /// x [R, E] with R <= T planned rows.
  void forward(Device& device, const Pass& pass, View<Real, 2> y, View<const Real, 2> x, Saved& saved) const {
    const View<Real, 2> activated = saved.activated.rows(0, x.extent(0));
    first_.forward(device, pass, activated, x, saved.first);
    second_.forward(device, pass, y, activated, saved.second);
  }

  /// Until the next `join`, dy and the scratch memory must stay.
  void backward(Device& device, const Pass& pass, View<Real, 2> dx, View<const Real, 2> dy, const Saved& saved,
                const Scratch& scratch, View<const Real, 2> residual = {}) const {
    const int R = dy.extent(0);
    const View<Real, 2> dhidden = scratch.dhidden.rows(0, R);
    second_.backward(device, pass, dhidden, dy, saved.second, {}, saved.first.pre_activation.rows(0, R));
    first_.backward(device, pass, dx, dhidden, saved.first, residual);
  }

  const Linear<Device>& first() const { return first_; }
  const Linear<Device>& second() const { return second_; }

 private:
  int hidden_;
  Linear<Device> first_, second_;
};

}  // namespace blinkbert
