#pragma once

#include <blinkbert/core/arena.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/layers/options.hpp>
#include <blinkbert/layers/parameters.hpp>

namespace blinkbert {

/// Multi-head self-attention over the visible keys of each sequence. Owns `in_proj_weight` [3 H D, E], `in_proj_bias`,
/// `out_proj.weight` [E, H D], `out_proj.bias`, with D = ceil(E / H); formulas in ops/masked_attention.hpp.
template <Backend Device>
class SelfAttention {
 public:
  using Real = typename Device::Real;

  struct Saved {
    View<const Real, 2> x;  // [T, E]      borrowed
    View<Real, 2> qkv;      // [T, 3 H D]
    View<Real, 2> o;        // [T, H D]
  };

  struct Scratch {
    View<Real, 2> output_gradient;  // [T, H D]
    View<Real, 2> dqkv;             // [T, 3 H D]
  };

  SelfAttention(ParameterSet<Device>& set, const std::string& name, int width, int heads, double drop_probability,
                std::uint32_t layer)
      : heads_(heads),
        head_width_(head_width(width, heads)),
        drop_probability_(drop_probability),
        layer_(layer),
        in_weight_(set.add(name + ".in_proj_weight", {3 * heads * head_width_, width},
                           Init::xavier_uniform(width, 3 * heads * head_width_), Decay::yes)),
        in_bias_(set.add(name + ".in_proj_bias", {3 * heads * head_width_}, Init::constant(0), Decay::no)),
        out_weight_(set.add(name + ".out_proj.weight", {width, heads * head_width_},
                            Init::fan_in_uniform(heads * head_width_), Decay::yes)),
        out_bias_(set.add(name + ".out_proj.bias", {width}, Init::constant(0), Decay::no)) {}

  Saved plan(Arena<Device>& arena, int T) const {
    const int inner = heads_ * head_width_;
    return {.x = {}, .qkv = arena.template take<Real>(T, 3 * inner), .o = arena.template take<Real>(T, inner)};
  }

  Scratch plan_scratch(Arena<Device>& arena, int T) const {
    const int inner = heads_ * head_width_;
    return {.output_gradient = arena.template take<Real>(T, inner), .dqkv = arena.template take<Real>(T, 3 * inner)};
  }

  void forward(Device& device, const Pass& pass, View<Real, 2> y, View<const Real, 2> x, Saved& saved) const {
    saved.x = x;
    run(device, LinearForward<Real>{.y = saved.qkv,
                                    .x = x,
                                    .weight = in_weight_.template working<2>(),
                                    .bias = in_bias_.template working<1>()});
    run(device, MaskedAttentionForward<Real>{.o = by_head(pass, saved.o),
                                             .qkv = by_part(pass, saved.qkv),
                                             .visible = pass.visible,
                                             .lengths = pass.lengths,
                                             .dropout = dropout(pass)});
    run(device, LinearForward<Real>{.y = y,
                                    .x = saved.o,
                                    .weight = out_weight_.template working<2>(),
                                    .bias = out_bias_.template working<1>()});
  }

  /// An empty `dx` is not wanted; `residual` is added to it.
  void backward(Device& device, const Pass& pass, View<Real, 2> dx, View<const Real, 2> dy, const Saved& saved,
                const Scratch& scratch, View<const Real, 2> residual = {}) const {
    run(device, LinearInputGradient<Real>{
                    .dx = scratch.output_gradient, .dy = dy, .weight = out_weight_.template working<2>()});
    run(device, LinearWeightGradient<Real>{.dweight = out_weight_.template gradient<2>(),
                                           .dbias = out_bias_.template gradient<1>(),
                                           .dy = dy,
                                           .x = saved.o});
    run(device, MaskedAttentionBackward<Real>{.dqkv = by_part(pass, scratch.dqkv),
                                              .output_gradient = by_head(pass, scratch.output_gradient),
                                              .qkv = by_part(pass, saved.qkv),
                                              .visible = pass.visible,
                                              .lengths = pass.lengths,
                                              .dropout = dropout(pass)});
    if (dx) {
      run(device, LinearInputGradient<Real>{
                      .dx = dx, .dy = scratch.dqkv, .weight = in_weight_.template working<2>(), .residual = residual});
    }
    run(device, LinearWeightGradient<Real>{.dweight = in_weight_.template gradient<2>(),
                                           .dbias = in_bias_.template gradient<1>(),
                                           .dy = scratch.dqkv,
                                           .x = saved.x});
  }

 private:
  Dropout dropout(const Pass& pass) const {
    return pass.dropout(Purpose::attention_dropout, layer_, drop_probability_);
  }
  View<Real, 4> by_head(const Pass& pass, View<Real, 2> rows) const {
    return reshape(rows, {pass.B(), pass.L, heads_, head_width_});
  }
  View<Real, 5> by_part(const Pass& pass, View<Real, 2> rows) const {
    return reshape(rows, {pass.B(), pass.L, 3, heads_, head_width_});
  }

  int heads_, head_width_;
  double drop_probability_;
  std::uint32_t layer_;
  Parameter<Device> in_weight_, in_bias_;    // [3 H D, E], [3 H D]
  Parameter<Device> out_weight_, out_bias_;  // [E, H D], [E]
};

}  // namespace blinkbert
