#pragma once

#include <blinkbert/layers/feed_forward.hpp>
#include <blinkbert/layers/layer_norm.hpp>
#include <blinkbert/layers/self_attention.hpp>

namespace blinkbert {

/// One encoder block at width E. With a = attention, f = feed-forward, drop = dropout:
///   post-norm  u = LN1(x + drop(a(x))),        y = LN2(u + drop(f(u)))
///   pre-norm   u = x + drop(a(LN1(x))),        y = u + drop(f(LN2(u)))
/// Where only some rows of y are read, it is computed for them alone: keys and values come from every row of x, all else
/// from those read. A backend that has narrow blocks as one op (ops/narrow_block.hpp) runs them so where all rows are read.
/// Names below `name` are those of torch.nn.TransformerEncoderLayer.
/// Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1; pre-norm: Xiong et al. 2020, arXiv:2002.04745, table 1.
template <Backend Device>
class EncoderBlock {
 public:
  using Real = typename Device::Real;

  struct Saved {
    typename SelfAttention<Device>::Saved attention;
    typename FeedForward<Device>::Saved feed_forward;
    typename LayerNorm<Device>::Saved norm1, norm2;
    View<Real, 2> normed;       // [T, E]  pre: LN1(x)
    View<Real, 2> x_read;       // [T, E]  rows read of x; here and below the first M are used, where not all are
    View<Real, 2> normed_read;  // [T, E]  pre: rows read of `normed`
    View<Real, 2> sum1;         // [T, E]  x + drop(a)
    View<Real, 2> middle;       // [T, E]  what the feed-forward reads
    View<Real, 2> sum2;         // [T, E]  post: u + drop(f)
    View<const Real, 2> x;      // [T, E]  borrowed; where the block runs as one op
  };

  /// Memory that holds nothing between calls: one for all blocks of a width.
  struct Scratch {
    typename SelfAttention<Device>::Scratch attention;
    typename FeedForward<Device>::Scratch feed_forward;
    View<Real, 2> branch;      // [T, E]  forward: a or f; backward: the gradient of f
    View<Real, 2> dattention;  // [T, E]  the gradient of a
    View<Real, 2> dsum;        // [T, E]
    View<Real, 2> dmiddle;     // [T, E]
  };

  EncoderBlock(ParameterSet<Device>& set, const std::string& name, int width, const ModelConfig& config,
               std::uint32_t layer)
      : width_(width),
        norm_order_(config.norm),
        drop_probability_(config.dropout),
        layer_(layer),
        attention_(set, name + ".self_attn", width, config.heads, config.dropout, layer),
        feed_forward_(set, name, width),
        norm1_(set, name + ".norm1", width),
        norm2_(set, name + ".norm2", width) {}

  Saved plan(Arena<Device>& arena, int T, PassPlan passes = PassPlan::training) const {
    const bool pre = norm_order_ == NormOrder::pre;
    const auto rows = [&](bool wanted) { return wanted ? arena.template take<Real>(T, width_) : View<Real, 2>{}; };
    return {.attention = attention_.plan(arena, T),
            .feed_forward = feed_forward_.plan(arena, T, passes),
            .norm1 = norm1_.plan(arena, T),
            .norm2 = norm2_.plan(arena, T),
            .normed = rows(pre),
            .x_read = {},
            .normed_read = {},
            .sum1 = rows(true),
            .middle = rows(true),
            .sum2 = rows(!pre),
            .x = {}};
  }

  /// Where some rows may be read alone.
  Saved plan_read(Arena<Device>& arena, int T, PassPlan passes = PassPlan::training) const {
    Saved saved = plan(arena, T, passes);
    saved.x_read = arena.template take<Real>(T, width_);
    if (norm_order_ == NormOrder::pre) saved.normed_read = arena.template take<Real>(T, width_);
    return saved;
  }

  Scratch plan_scratch(Arena<Device>& arena, int T) const {
    return {.attention = attention_.plan_scratch(arena, T),
            .feed_forward = feed_forward_.plan_scratch(arena, T),
            .branch = arena.template take<Real>(T, width_),
            .dattention = arena.template take<Real>(T, width_),
            .dsum = arena.template take<Real>(T, width_),
            .dmiddle = arena.template take<Real>(T, width_)};
  }

  /// x [T, E]; y [T, E], or [M, E] for the rows read.
  void forward(Device& device, const Pass& pass, View<Real, 2> y, View<const Real, 2> x, const RowsRead& read,
               Saved& saved, const Scratch& scratch) const {
    if constexpr (FusesNarrowBlocks<Device>) {
      if (is_fused(device, pass, read)) {
        saved.x = x;
        run(device, NarrowBlockForward<Real>{.y = y, .x = x, .weights = weights(), .setting = setting(pass)});
        return;
      }
    }
    const Dropout drop1 = dropout(pass, Purpose::attention_residual_dropout);
    const Dropout drop2 = dropout(pass, Purpose::feed_forward_residual_dropout);
    const int R = y.extent(0);
    const View<Real, 2> branch = scratch.branch.rows(0, R), sum1 = saved.sum1.rows(0, R),
                        middle = saved.middle.rows(0, R), sum2 = saved.sum2.rows(0, R);
    if (norm_order_ == NormOrder::post) {
      const View<const Real, 2> x_read = rows_read(device, saved.x_read, x, read);
      attention_.forward(device, pass, branch, x, x_read, read, saved.attention);
      norm1_.forward_after_residual(device, pass, middle, sum1, x_read, branch, read.rows, drop1, saved.norm1);
      feed_forward_.forward(device, pass, branch, middle, saved.feed_forward);
      norm2_.forward_after_residual(device, pass, y, sum2, middle, branch, read.rows, drop2, saved.norm2);
    } else {
      norm1_.forward(device, pass, saved.normed, x, saved.norm1);
      const View<const Real, 2> normed_read = rows_read(device, saved.normed_read, saved.normed, read);
      attention_.forward(device, pass, branch, saved.normed, normed_read, read, saved.attention);
      const View<const Real, 2> x_read = rows_read(device, saved.x_read, x, read);
      norm2_.forward_after_residual(device, pass, middle, sum1, x_read, branch, read.rows, drop1, saved.norm2);
      feed_forward_.forward(device, pass, branch, middle, saved.feed_forward);
      run(device, ResidualNormForward<Real>{
                      .z = y, .x = sum1, .branch = branch, .rows = read.rows, .dropout = drop2, .L = pass.L});
    }
  }

  /// dx [T, E]; an empty one is not wanted. dy as y.
  ///
  /// Weight gradients are made beside the other ops (run_beside). They read what forward saved, which stays, and the gradients
  /// of f, of its hidden rows, of a and of qkv. Each of these four has scratch memory of its own that is written once, before
  /// the weight gradient is issued, so nothing in here overwrites what is still read; the join at the end makes the scratch
  /// memory free for the next block. What they add to, nothing else in here touches.
  void backward(Device& device, const Pass& pass, View<Real, 2> dx, View<const Real, 2> dy, const RowsRead& read,
                const Saved& saved, const Scratch& scratch) const {
    if constexpr (FusesNarrowBlocks<Device>) {
      if (is_fused(device, pass, read)) {
        run(device, NarrowBlockBackward<Real>{.dx = dx,
                                              .gradients = gradients(),
                                              .dy = dy,
                                              .x = saved.x,
                                              .weights = weights(),
                                              .setting = setting(pass)});
        return;
      }
    }
    const Dropout drop1 = dropout(pass, Purpose::attention_residual_dropout);
    const Dropout drop2 = dropout(pass, Purpose::feed_forward_residual_dropout);
    const int R = dy.extent(0);
    const auto& [attention, feed_forward, all_branch, all_dattention, all_dsum, all_dmiddle] = scratch;
    const View<Real, 2> da = all_dattention.rows(0, R), df = all_branch.rows(0, R), dmiddle = all_dmiddle.rows(0, R);
    // Without dropout the gradient of a sum is that of its branch.
    const View<Real, 2> dbranch1 = drop1.is_active() ? da : View<Real, 2>{};
    const View<Real, 2> dbranch2 = drop2.is_active() ? df : View<Real, 2>{};
    const View<Real, 2> dsum1 = drop1.is_active() ? all_dsum.rows(0, R) : da;
    const View<Real, 2> dsum2 = drop2.is_active() ? all_dsum.rows(0, R) : df;
    if (norm_order_ == NormOrder::post) {
      norm2_.backward_after_residual(device, pass, dsum2, dbranch2, dy, {}, read.rows, drop2, saved.norm2);
      feed_forward_.backward(device, pass, dmiddle, df, saved.feed_forward, feed_forward, dsum2);
      norm1_.backward_after_residual(device, pass, dsum1, dbranch1, dmiddle, {}, read.rows, drop1, saved.norm1);
      attention_.backward(device, pass, dx, da, read, saved.attention, attention, dsum1);
    } else {
      run(device, ResidualNormBackward<Real>{
                      .dx = dsum2, .dbranch = dbranch2, .dz = dy, .rows = read.rows, .dropout = drop2, .L = pass.L});
      feed_forward_.backward(device, pass, dmiddle, df, saved.feed_forward, feed_forward);
      norm2_.backward_after_residual(device, pass, dsum1, dbranch1, dmiddle, dsum2, read.rows, drop1, saved.norm2);
      const View<Real, 2> dnormed = all_dmiddle;
      attention_.backward(device, pass, dnormed, da, read, saved.attention, attention);
      norm1_.backward(device, pass, dx, dnormed, saved.norm1, dx && !read ? dsum1 : View<Real, 2>{});
      if (dx && read) run(device, GatherRowsBackward<Real>{.dx = dx, .dy = dsum1, .slots = read.slots, .residual = dx});
    }
    join(device);
  }

 private:
  /// The rows read of x, gathered into `room`; x itself where all are.
  static View<const Real, 2> rows_read(Device& device, View<Real, 2> room, View<const Real, 2> x,
                                       const RowsRead& read) {
    if (!read) return x;
    const View<Real, 2> gathered = room.rows(0, read.count(x.extent(0)));
    run(device, GatherRowsForward<Real>{.y = gathered, .x = x, .rows = read.rows});
    return gathered;
  }

  bool is_fused(const Device& device, const Pass& pass, const RowsRead& read) const {
    return !read && fuses_narrow_block(device, width_, attention_.heads(), attention_.width_of_head(), pass.L);
  }
  BlockWeights<Real> weights() const {
    const Linear<Device>&first = feed_forward_.first(), &second = feed_forward_.second();
    return {.in_weight = attention_.in_weight().template working<2>(),
            .in_bias = attention_.in_bias().template working<1>(),
            .out_weight = attention_.out_weight().template working<2>(),
            .out_bias = attention_.out_bias().template working<1>(),
            .weight1 = first.weight().template working<2>(),
            .bias1 = first.bias().template working<1>(),
            .weight2 = second.weight().template working<2>(),
            .bias2 = second.bias().template working<1>(),
            .gamma1 = norm1_.gamma().template value<1>(),
            .beta1 = norm1_.beta().template value<1>(),
            .gamma2 = norm2_.gamma().template value<1>(),
            .beta2 = norm2_.beta().template value<1>()};
  }
  BlockGradients<Real> gradients() const {
    const Linear<Device>&first = feed_forward_.first(), &second = feed_forward_.second();
    return {.in_weight = attention_.in_weight().template gradient<2>(),
            .in_bias = attention_.in_bias().template gradient<1>(),
            .out_weight = attention_.out_weight().template gradient<2>(),
            .out_bias = attention_.out_bias().template gradient<1>(),
            .weight1 = first.weight().template gradient<2>(),
            .bias1 = first.bias().template gradient<1>(),
            .weight2 = second.weight().template gradient<2>(),
            .bias2 = second.bias().template gradient<1>(),
            .gamma1 = norm1_.gamma().template gradient<1>(),
            .beta1 = norm1_.beta().template gradient<1>(),
            .gamma2 = norm2_.gamma().template gradient<1>(),
            .beta2 = norm2_.beta().template gradient<1>()};
  }
  BlockSetting<Real> setting(const Pass& pass) const {
    return {.visible = pass.visible,
            .lengths = pass.lengths,
            .L = pass.L,
            .H = attention_.heads(),
            .order = norm_order_,
            .attention = attention_.dropout(pass),
            .after_attention = dropout(pass, Purpose::attention_residual_dropout),
            .after_feed_forward = dropout(pass, Purpose::feed_forward_residual_dropout)};
  }

  Dropout dropout(const Pass& pass, Purpose purpose) const { return pass.dropout(purpose, layer_, drop_probability_); }

  int width_;
  NormOrder norm_order_;
  double drop_probability_;
  std::uint32_t layer_;
  SelfAttention<Device> attention_;
  FeedForward<Device> feed_forward_;
  LayerNorm<Device> norm1_, norm2_;
};

}  // namespace blinkbert
