#pragma once

#include <vector>

#include <blinkbert/layers/embedding.hpp>

namespace blinkbert {

/// The backbone: embedding, then n encoder blocks. Parameters are named `backbone.*` and grouped for freezing:
/// 0 embedding, i block i (from 1).
template <Backend Device>
class Encoder {
 public:
  using Real = typename Device::Real;

  struct Saved {
    typename Embedding<Device>::Saved embedding;
    std::vector<typename EncoderBlock<Device>::Saved> blocks;
    std::vector<View<Real, 2>> outputs;  // [T, E]  of the embedding and of each block
    typename Embedding<Device>::Scratch embedding_scratch;
    typename EncoderBlock<Device>::Scratch block_scratch;
    View<Real, 2> gradients[2];  // [T, E]  in turns
  };

  Encoder(Device& device, ParameterSet<Device>& set, int features, const ModelConfig& config)
      : features_(features),
        width_(config.width),
        embedding_((set.enter_group(0), Embedding<Device>(device, set, "backbone", features, config))) {
    blocks_.reserve(static_cast<std::size_t>(config.blocks));
    for (int i = 0; i < config.blocks; ++i) {
      set.enter_group(i + 1);
      blocks_.emplace_back(set, text("backbone.encoder.layers.", i), config.width, config,
                           static_cast<std::uint32_t>(i));
    }
    set.enter_group(config.blocks + 1);
  }

  int features() const { return features_; }
  int width() const { return width_; }
  /// Numbers in the widest row between the layers.
  int widest() const { return feed_forward_factor * width_; }
  int blocks() const { return static_cast<int>(blocks_.size()); }

  Saved plan(Arena<Device>& arena, int T, LastBlock last_block, PassPlan passes) const {
    Saved saved;
    saved.embedding = embedding_.plan(arena, T);
    saved.outputs.push_back(arena.template take<Real>(T, width_));
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (passes == PassPlan::inference && i > 0) {
        saved.blocks.push_back(saved.blocks[0]);
        saved.outputs.push_back(saved.outputs[i - 1]);  // what the block before read
        continue;
      }
      const bool reads_rows =
          last_block == LastBlock::read && (passes == PassPlan::inference || i + 1 == blocks_.size());
      saved.blocks.push_back(reads_rows ? blocks_[i].plan_read(arena, T, passes) : blocks_[i].plan(arena, T, passes));
      saved.outputs.push_back(arena.template take<Real>(T, width_));
    }
    saved.embedding_scratch = embedding_.plan_scratch(arena, T);
    saved.block_scratch = blocks_[0].plan_scratch(arena, T);
    if (passes == PassPlan::inference) return saved;
    for (View<Real, 2>& gradient : saved.gradients) gradient = arena.template take<Real>(T, width_);
    return saved;
  }

  /// x [T, N] to the last block's output, which stays in `saved`: [T, E], or [M, E] for the rows read.
  View<const Real, 2> forward(Device& device, const Pass& pass, View<const Real, 2> x, const RowsRead& read,
                              Saved& saved) const {
    embedding_.forward(device, pass, saved.outputs[0], x, saved.embedding, saved.embedding_scratch);
    View<Real, 2> y = saved.outputs[0];
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      y = saved.outputs[i + 1].rows(0, rows_of(i, read).count(pass.T()));
      blocks_[i].forward(device, pass, y, saved.outputs[i], rows_of(i, read), saved.blocks[i], saved.block_scratch);
    }
    return y;
  }

  /// Down to the lowest group that trains; what is below costs nothing. `dy`, as forward's result, may be in
  /// `saved.gradients[0]`.
  void backward(Device& device, const Pass& pass, View<const Real, 2> dy, const RowsRead& read, const Saved& saved,
                int lowest_trained_group) const {
    int place = 1;
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      const int group = static_cast<int>(i) + 1;
      if (group < lowest_trained_group) return;
      const View<Real, 2> dx = group > lowest_trained_group ? saved.gradients[place] : View<Real, 2>{};
      blocks_[i].backward(device, pass, dx, dy, rows_of(i, read), saved.blocks[i], saved.block_scratch);
      dy = dx;
      place = 1 - place;
    }
    if (lowest_trained_group == 0) embedding_.backward(device, pass, dy, saved.embedding, saved.embedding_scratch);
  }

 private:
  /// The rows that block i is computed for: what is read of the last one, all of the others.
  RowsRead rows_of(std::size_t i, const RowsRead& read) const { return i + 1 == blocks_.size() ? read : RowsRead{}; }

  int features_, width_;
  Embedding<Device> embedding_;
  std::vector<EncoderBlock<Device>> blocks_;
};

}  // namespace blinkbert
