#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include <blinkbert/layers/encoder_block.hpp>

namespace blinkbert {

/// The bottom of the encoder: upscaling from N features to width E, and the position. Owns `upscaling.block.*`,
/// `upscaling.linear.{weight,bias}` and `position.weight` [max_length, E], each where the configuration has it; which
/// way feeds what into the sum is in ops/embed_rows.hpp.
template <Backend Device>
class Embedding {
 public:
  using Real = typename Device::Real;

  struct Saved {
    View<Real, 2> clean;         // [T, N]  x with zeros at padded rows: what the block reads
    View<Real, 2> block_output;  // [T, N]
    typename EncoderBlock<Device>::Saved block;
    View<const Real, 2> x;  // [T, N]  what the linear part reads; borrowed
  };

  struct Scratch {
    typename EncoderBlock<Device>::Scratch block;
    View<Real, 2> dblock_output;  // [T, N]
  };

  Embedding(Device& device, ParameterSet<Device>& set, const std::string& name, int features, const ModelConfig& config)
      : features_(features), width_(config.width), upscaling_(config.upscaling) {
    if (has_block()) block_.emplace(set, name + ".upscaling.block", features, config, upscaling_layer);
    if (upscaling_ != Upscaling::none) {
      const int out = width_ - prefix_width();
      BLINKBERT_EXPECTS(out > 0, width_, features);
      weight_ = set.add(name + ".upscaling.linear.weight", {out, features}, Init::fan_in_uniform(features), Decay::yes);
      bias_ = set.add(name + ".upscaling.linear.bias", {out}, Init::fan_in_uniform(features), Decay::no);
    } else {
      BLINKBERT_EXPECTS(width_ == features, width_, features);
    }
    if (config.position == Position::learned) {
      position_ = set.add(name + ".position.weight", {config.max_length, width_}, Init::normal(0.02), Decay::no);
    } else {
      fill_sinusoidal(device, config.max_length);
    }
  }

  Saved plan(Arena<Device>& arena, int T) const {
    if (!has_block()) return {};
    return {.clean = arena.template take<Real>(T, features_),
            .block_output = arena.template take<Real>(T, features_),
            .block = block_->plan(arena, T),
            .x = {}};
  }

  Scratch plan_scratch(Arena<Device>& arena, int T) const {
    if (!has_block()) return {};
    return {.block = block_->plan_scratch(arena, T), .dblock_output = arena.template take<Real>(T, features_)};
  }

  void forward(Device& device, const Pass& pass, View<Real, 2> y, View<const Real, 2> x, Saved& saved,
               const Scratch& scratch) const {
    if (has_block()) {
      run(device, ZeroPadding<Real>{.y = saved.clean, .x = x, .lengths = pass.lengths, .L = pass.L});
      block_->forward(device, pass, saved.block_output, saved.clean, {}, saved.block, scratch.block);
    }
    saved.x = linear_input(x, saved);
    run(device, EmbedRowsForward<Real>{.y = y,
                                       .x = saved.x,
                                       .prefix = prefix(x, saved),
                                       .weight = weight_ ? weight_.template working<2>() : View<const Real, 2>{},
                                       .bias = bias_ ? bias_.template working<1>() : View<const Real, 1>{},
                                       .position = position(),
                                       .lengths = pass.lengths,
                                       .L = pass.L});
  }

  /// The input is data, so nothing is returned.
  void backward(Device& device, const Pass& pass, View<const Real, 2> dy, const Saved& saved,
                const Scratch& scratch) const {
    const bool concatenates = upscaling_ == Upscaling::attention_concatenation;
    const View<Real, 2> dblock = scratch.dblock_output;
    run(device,
        EmbedRowsBackward<Real>{.dx = upscaling_ == Upscaling::attention_linear ? dblock : View<Real, 2>{},
                                .dprefix = concatenates ? dblock : View<Real, 2>{},
                                .dweight = weight_ ? weight_.template gradient<2>() : Acc<Wide<Real>, 2>{},
                                .dbias = bias_ ? bias_.template gradient<1>() : Acc<Wide<Real>, 1>{},
                                .dposition = position_ ? position_.template gradient<2>() : Acc<Wide<Real>, 2>{},
                                .dy = dy,
                                .x = saved.x,
                                .weight = weight_ ? weight_.template working<2>() : View<const Real, 2>{},
                                .lengths = pass.lengths,
                                .K = prefix_width(),
                                .L = pass.L});
    if (has_block()) block_->backward(device, pass, {}, dblock, {}, saved.block, scratch.block);
  }

 private:
  bool has_block() const {
    return upscaling_ == Upscaling::attention_linear || upscaling_ == Upscaling::attention_concatenation;
  }
  int prefix_width() const {
    return upscaling_ == Upscaling::none || upscaling_ == Upscaling::attention_concatenation ? features_ : 0;
  }
  View<const Real, 2> linear_input(View<const Real, 2> x, const Saved& saved) const {
    switch (upscaling_) {
      case Upscaling::none:
        return {};
      case Upscaling::linear:
        return x;
      case Upscaling::attention_linear:
        return saved.block_output;
      case Upscaling::attention_concatenation:
        return saved.clean;
    }
    return {};
  }
  View<const Real, 2> prefix(View<const Real, 2> x, const Saved& saved) const {
    if (upscaling_ == Upscaling::none) return x;
    if (upscaling_ == Upscaling::attention_concatenation) return saved.block_output;
    return {};
  }
  View<const Wide<Real>, 2> position() const {
    if (position_) return position_.template value<2>();
    return {reinterpret_cast<const Wide<Real>*>(table_.data()), {table_length_, width_}};
  }

  /// position[l][2 i] = sin(l / 10000^(2 i / E)), position[l][2 i + 1] = cos(the same).
  /// Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
  void fill_sinusoidal(Device& device, int max_length) {
    std::vector<Wide<Real>> table(static_cast<std::size_t>(max_length) * static_cast<std::size_t>(width_));
    for (int l = 0; l < max_length; ++l) {
      for (int e = 0; e < width_; ++e) {
        const double angle = l / std::pow(10000.0, static_cast<double>(e / 2 * 2) / width_);
        table[static_cast<std::size_t>(l * width_ + e)] =
            static_cast<Wide<Real>>(e % 2 == 0 ? std::sin(angle) : std::cos(angle));
      }
    }
    table_length_ = max_length;
    table_ = device.allocate(table.size() * sizeof(Wide<Real>));
    upload(device, View<Wide<Real>, 2>{reinterpret_cast<Wide<Real>*>(table_.data()), {max_length, width_}},
           table.data());
  }

  int features_, width_;
  Upscaling upscaling_;
  std::optional<EncoderBlock<Device>> block_;
  Parameter<Device> weight_, bias_;  // [E - K, N], [E - K]
  Parameter<Device> position_;       // [max_length, E]; none where sinusoidal
  typename Device::Memory table_;    // the sinusoidal table
  int table_length_ = 0;
};

}  // namespace blinkbert
