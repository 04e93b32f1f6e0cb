#pragma once

#include <blinkbert/core/arena.hpp>
#include <blinkbert/core/pass.hpp>
#include <blinkbert/layers/options.hpp>
#include <blinkbert/layers/parameters.hpp>
#include <blinkbert/layers/rows_read.hpp>

namespace blinkbert {

/// Multi-head self-attention over the visible keys of each sequence. Owns `in_proj_weight` [3 H D, E], `in_proj_bias`,
/// `out_proj.weight` [E, H D], `out_proj.bias`, with D = ceil(E / H); formulas in ops/masked_attention.hpp, and for rows
/// that are read alone in ops/gathered_attention.hpp.
template <Backend Device>
class SelfAttention {
 public:
  using Real = typename Device::Real;

  struct Saved {
    View<const Real, 2> x;       // [T, E]      borrowed
    View<const Real, 2> x_read;  // [M, E]      borrowed; x itself where all rows are read
    View<Real, 2> qkv;           // [T, 3 H D]  where some are: the memory of q [M, H D] and kv [T, 2 H D]
    View<Real, 2> o;             // [T, H D]    the first M used
  };

  struct Scratch {
    View<Real, 2> output_gradient;  // [T, H D]    the first M used
    View<Real, 2> dqkv;             // [T, 3 H D]  as qkv
    View<Real, 2> dx_read;          // [T, E]      the first M used
  };

  SelfAttention(ParameterSet<Device>& set, const std::string& name, int width, int heads, double drop_probability,
                std::uint32_t layer)
      : width_(width),
        heads_(heads),
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
    return {.x = {},
            .x_read = {},
            .qkv = arena.template take<Real>(T, 3 * inner()),
            .o = arena.template take<Real>(T, inner())};
  }

  Scratch plan_scratch(Arena<Device>& arena, int T) const {
    return {.output_gradient = arena.template take<Real>(T, inner()),
            .dqkv = arena.template take<Real>(T, 3 * inner()),
            .dx_read = arena.template take<Real>(T, width_)};
  }

  /// Keys and values from x [T, E], queries from x_read: its rows that are read, x itself where all are. y as x_read.
  void forward(Device& device, const Pass& pass, View<Real, 2> y, View<const Real, 2> x, View<const Real, 2> x_read,
               const RowsRead& read, Saved& saved) const {
    saved.x = x;
    saved.x_read = x_read;
    const View<Real, 2> o = saved.o.rows(0, y.extent(0));
    if (read) {
      const auto [q, kv] = parts(pass, saved.qkv, read);
      project(device, q, x_read, 0);
      project(device, kv, x, inner());
      run(device, GatheredAttentionForward<Real>{.o = by_head(o),
                                                 .q = by_head(q),
                                                 .kv = by_part(pass, kv),
                                                 .rows = read.rows,
                                                 .offsets = read.offsets,
                                                 .visible = pass.visible,
                                                 .lengths = pass.lengths,
                                                 .dropout = dropout(pass)});
    } else {
      project(device, saved.qkv, x, 0);
      run(device, MaskedAttentionForward<Real>{.o = by_row(pass, o),
                                               .qkv = by_part(pass, saved.qkv),
                                               .visible = pass.visible,
                                               .lengths = pass.lengths,
                                               .dropout = dropout(pass)});
    }
    run(device,
        LinearForward<Real>{
            .y = y, .x = o, .weight = out_weight_.template working<2>(), .bias = out_bias_.template working<1>()});
  }

  /// dx [T, E]; an empty one is not wanted. `residual` [M, E] is added to its rows read. Until the next `join`, dy and the
  /// scratch memory must stay.
  void backward(Device& device, const Pass& pass, View<Real, 2> dx, View<const Real, 2> dy, const RowsRead& read,
                const Saved& saved, const Scratch& scratch, View<const Real, 2> residual = {}) const {
    const View<Real, 2> output_gradient = scratch.output_gradient.rows(0, dy.extent(0));
    run_beside(device, LinearWeightGradient<Real>{.dweight = out_weight_.template gradient<2>(),
                                                  .dbias = out_bias_.template gradient<1>(),
                                                  .dy = dy,
                                                  .x = saved.o.rows(0, dy.extent(0))});
    run(device,
        LinearInputGradient<Real>{.dx = output_gradient, .dy = dy, .weight = out_weight_.template working<2>()});
    if (read) {
      const auto [q, kv] = parts(pass, saved.qkv, read);
      const auto [dq, dkv] = parts(pass, scratch.dqkv, read);
      const View<Real, 2> dx_read = dx ? scratch.dx_read.rows(0, dy.extent(0)) : View<Real, 2>{};
      run(device, GatheredAttentionBackward<Real>{.dq = by_head(dq),
                                                  .dkv = by_part(pass, dkv),
                                                  .output_gradient = by_head(output_gradient),
                                                  .q = by_head(q),
                                                  .kv = by_part(pass, kv),
                                                  .rows = read.rows,
                                                  .offsets = read.offsets,
                                                  .visible = pass.visible,
                                                  .lengths = pass.lengths,
                                                  .dropout = dropout(pass)});
      project_backward(device, dx_read, dq, saved.x_read, 0, residual);
      project_backward(device, dx, dkv, saved.x, inner(), {});
      if (dx) run(device, GatherRowsBackward<Real>{.dx = dx, .dy = dx_read, .slots = read.slots, .residual = dx});
    } else {
      run(device, MaskedAttentionBackward<Real>{.dqkv = by_part(pass, scratch.dqkv),
                                                .output_gradient = by_row(pass, output_gradient),
                                                .qkv = by_part(pass, saved.qkv),
                                                .visible = pass.visible,
                                                .lengths = pass.lengths,
                                                .dropout = dropout(pass)});
      project_backward(device, dx, scratch.dqkv, saved.x, 0, residual);
    }
  }

  int heads() const { return heads_; }
  int width_of_head() const { return head_width_; }
  const Parameter<Device>& in_weight() const { return in_weight_; }
  const Parameter<Device>& in_bias() const { return in_bias_; }
  const Parameter<Device>& out_weight() const { return out_weight_; }
  const Parameter<Device>& out_bias() const { return out_bias_; }
  Dropout dropout(const Pass& pass) const {
    return pass.dropout(Purpose::attention_dropout, layer_, drop_probability_);
  }

 private:
  struct Parts {
    View<Real, 2> q;   // [M, H D]
    View<Real, 2> kv;  // [T, 2 H D]
  };

  int inner() const { return heads_ * head_width_; }

  /// q and kv in the memory of qkv.
  Parts parts(const Pass& pass, View<Real, 2> qkv, const RowsRead& read) const {
    const int T = pass.T();
    return {.q = {qkv.data(), {read.count(T), inner()}},
            .kv = {qkv.data() + std::int64_t{T} * inner(), {T, 2 * inner()}}};
  }

  /// y = x times the rows of in_proj from `first` on: the first H D make queries, the others keys and values.
  void project(Device& device, View<Real, 2> y, View<const Real, 2> x, int first) const {
    run(device, LinearForward<Real>{.y = y,
                                    .x = x,
                                    .weight = in_weight_.template working<2>().rows(first, y.extent(1)),
                                    .bias = in_bias_.template working<1>().rows(first, y.extent(1))});
  }

  void project_backward(Device& device, View<Real, 2> dx, View<const Real, 2> dy, View<const Real, 2> x, int first,
                        View<const Real, 2> residual) const {
    const int count = dy.extent(1);
    run_beside(device, LinearWeightGradient<Real>{.dweight = in_weight_.template gradient<2>().rows(first, count),
                                                  .dbias = in_bias_.template gradient<1>().rows(first, count),
                                                  .dy = dy,
                                                  .x = x});
    if (dx) {
      run(device,
          LinearInputGradient<Real>{
              .dx = dx, .dy = dy, .weight = in_weight_.template working<2>().rows(first, count), .residual = residual});
    }
  }

  View<Real, 3> by_head(View<Real, 2> rows) const { return reshape(rows, {rows.extent(0), heads_, head_width_}); }
  View<Real, 4> by_row(const Pass& pass, View<Real, 2> rows) const {
    return reshape(rows, {pass.B(), pass.L, heads_, head_width_});
  }
  View<Real, 5> by_part(const Pass& pass, View<Real, 2> rows) const {
    return reshape(rows, {pass.B(), pass.L, rows.extent(1) / inner(), heads_, head_width_});
  }

  int width_, heads_, head_width_;
  double drop_probability_;
  std::uint32_t layer_;
  Parameter<Device> in_weight_, in_bias_;    // [3 H D, E], [3 H D]
  Parameter<Device> out_weight_, out_bias_;  // [E, H D], [E]
};

}  // namespace blinkbert
