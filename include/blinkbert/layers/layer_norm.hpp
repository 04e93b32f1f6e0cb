#pragma once

#include <blinkbert/core/arena.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/layers/parameters.hpp>

namespace blinkbert {

/// The gain and shift of a layer norm, alone or after a residual sum. Owns `weight` and `bias` [E]; formulas in
/// ops/layer_norm.hpp and ops/residual_norm.hpp.
template <Backend Device>
class LayerNorm {
 public:
  using Real = typename Device::Real;

  struct Saved {
    View<const Real, 2> x;           // [T, E]  what was normalised; borrowed
    View<Wide<Real>, 1> mean, rstd;  // [T]
  };

  LayerNorm(ParameterSet<Device>& set, const std::string& name, int width)
      : gamma_(set.add(name + ".weight", {width}, Init::constant(1), Decay::no)),
        beta_(set.add(name + ".bias", {width}, Init::constant(0), Decay::no)) {}

  Saved plan(Arena<Device>& arena, int T) const {
    return {.x = {}, .mean = arena.template take<Wide<Real>>(T), .rstd = arena.template take<Wide<Real>>(T)};
  }

  /// x [R, E] with R <= T planned rows, here and below.
  void forward(Device& device, const Pass&, View<Real, 2> y, View<const Real, 2> x, Saved& saved) const {
    saved.x = x;
    run(device, LayerNormForward<Real>{.y = y,
                                       .mean = saved.mean.rows(0, x.extent(0)),
                                       .rstd = saved.rstd.rows(0, x.extent(0)),
                                       .x = x,
                                       .gamma = gamma_.template value<1>(),
                                       .beta = beta_.template value<1>()});
  }

  void backward(Device& device, const Pass&, View<Real, 2> dx, View<const Real, 2> dy, const Saved& saved,
                View<const Real, 2> residual = {}) const {
    run(device, LayerNormBackward<Real>{.dx = dx,
                                        .dgamma = gamma_.template gradient<1>(),
                                        .dbeta = beta_.template gradient<1>(),
                                        .dy = dy,
                                        .x = saved.x,
                                        .residual = residual,
                                        .mean = saved.mean.rows(0, dy.extent(0)),
                                        .rstd = saved.rstd.rows(0, dy.extent(0)),
                                        .gamma = gamma_.template value<1>()});
  }

  /// z = x + dropout(branch), y = LN(z). `rows`: t of each row where rows were gathered, else empty.
  void forward_after_residual(Device& device, const Pass& pass, View<Real, 2> y, View<Real, 2> z, View<const Real, 2> x,
                              View<const Real, 2> branch, View<const int, 1> rows, const Dropout& dropout,
                              Saved& saved) const {
    saved.x = z;
    run(device, ResidualNormForward<Real>{.z = z,
                                          .y = y,
                                          .mean = saved.mean.rows(0, x.extent(0)),
                                          .rstd = saved.rstd.rows(0, x.extent(0)),
                                          .x = x,
                                          .branch = branch,
                                          .gamma = gamma_.template value<1>(),
                                          .beta = beta_.template value<1>(),
                                          .rows = rows,
                                          .dropout = dropout,
                                          .L = pass.L});
  }

  /// Gradients of x and branch; `dz` is what reaches z directly (empty in a post-norm block).
  void backward_after_residual(Device& device, const Pass& pass, View<Real, 2> dx, View<Real, 2> dbranch,
                               View<const Real, 2> dy, View<const Real, 2> dz, View<const int, 1> rows,
                               const Dropout& dropout, const Saved& saved) const {
    run(device, ResidualNormBackward<Real>{.dx = dx,
                                           .dbranch = dbranch,
                                           .dgamma = gamma_.template gradient<1>(),
                                           .dbeta = beta_.template gradient<1>(),
                                           .dy = dy,
                                           .dz = dz,
                                           .z = saved.x,
                                           .mean = saved.mean.rows(0, dy.extent(0)),
                                           .rstd = saved.rstd.rows(0, dy.extent(0)),
                                           .gamma = gamma_.template value<1>(),
                                           .rows = rows,
                                           .dropout = dropout,
                                           .L = pass.L});
  }

  const Parameter<Device>& gamma() const { return gamma_; }
  const Parameter<Device>& beta() const { return beta_; }

 private:
  Parameter<Device> gamma_, beta_;  // [E]
};

}  // namespace blinkbert
