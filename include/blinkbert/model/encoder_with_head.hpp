#pragma once

#include <blinkbert/layers/head.hpp>
#include <blinkbert/model/config.hpp>
#include <blinkbert/model/encoder.hpp>

namespace blinkbert {

/// What a model reads, on the device.
template <class Real>
struct ModelInput {
  View<const Real, 3> x;  // [B, L, N]
  // What a head on chosen rows reads; one on all rows ignores it.
  View<const int, 1> rows = {};     // [R]      t of each row, ascending, or -1
  View<const int, 1> slots = {};    // [T]      place of row t in rows, or -1
  View<const int, 1> offsets = {};  // [B + 1]  rows [offsets_b, offsets_b+1) are those of sequence b
  View<const int, 1> present = {};  // [R]      1 = the row is real, 0 = there is none (-1); empty = all are
};

/// Encoder and head: the one structure of both models, which differ in what the head reads and in its width. With
/// LastBlock::read the encoder's last block makes the rows that the head reads and no others. With Pool::mean the head reads
/// one mean row a sequence, and a row of `input` only names it (for dropout). With data.window_statistics the encoder reads
/// these beside the N features.
template <Backend Device>
class EncoderWithHead {
 public:
  using Real = typename Device::Real;

  struct Saved {
    typename Encoder<Device>::Saved encoder;
    typename Head<Device>::Saved head;
    View<Real, 3> appended;   // [B, L, 4 N]  what the encoder reads; only with window statistics
    View<Real, 2> gathered;   // [T, E]  first R rows used; only where the head gathers or pools
    View<Real, 2> dgathered;  // [T, E]
    View<Real, 2> output;     // [R, out]
    View<Real, 2> doutput;    // [R, out]  for the objective
    ModelInput<Real> input;
  };

  EncoderWithHead(Device& device, const Config& config, int outputs, HeadRows rows, LastBlock last_block,
                  Pool pool = Pool::last)
      : rows_(rows),
        last_block_(last_block),
        pool_(pool),
        features_(model_features(config.data)),
        outputs_(outputs),
        encoder_(device, parameters_, encoder_inputs(config.data), config.model),
        head_(parameters_, "head", config.model.width, outputs, config.head) {
    BLINKBERT_EXPECTS(last_block == LastBlock::all || rows == HeadRows::masked);
    BLINKBERT_EXPECTS(pool == Pool::last || (last_block == LastBlock::all && rows == HeadRows::masked));
    parameters_.allocate(device, config.train.seed);
  }

  ParameterSet<Device>& parameters() { return parameters_; }
  const ParameterSet<Device>& parameters() const { return parameters_; }
  HeadRows rows() const { return rows_; }
  LastBlock last_block() const { return last_block_; }
  /// N: of a row of the input.
  int features() const { return features_; }
  int outputs() const { return outputs_; }
  int blocks() const { return encoder_.blocks(); }
  int widest() const { return encoder_.widest(); }

  Saved plan(Arena<Device>& arena, int B, int L, PassPlan passes = PassPlan::training) const {
    const int T = B * L;
    Saved saved;
    if (appends()) saved.appended = arena.template take<Real>(B, L, encoder_.features());
    saved.encoder = encoder_.plan(arena, T, last_block_, passes);
    if (gathers()) {
      saved.gathered = arena.template take<Real>(T, encoder_.width());
      saved.dgathered = arena.template take<Real>(T, encoder_.width());
    }
    saved.head = head_.plan(arena, T);
    saved.output = arena.template take<Real>(T, outputs_);
    saved.doutput = arena.template take<Real>(T, outputs_);
    return saved;
  }

  /// The prediction [R, out]: R = T rows (all), or one per entry of `input.rows` (masked). Zeros where there is no row.
  View<const Real, 2> forward(Device& device, const Pass& pass, const ModelInput<Real>& input, Saved& saved) const {
    saved.input = input;
    View<const Real, 3> x = input.x;
    if (appends()) {
      run(device,
          AppendStatistics<Real>{.y = saved.appended, .x = x, .lengths = pass.lengths, .visible = pass.visible});
      x = saved.appended;
    }
    const View<const Real, 2> rows = reshape(x, {pass.T(), encoder_.features()});
    View<const Real, 2> y = encoder_.forward(device, pass, rows, rows_of_last_block(input), saved.encoder);
    const int R = head_row_count(pass, input);
    if (gathers()) {
      const View<Real, 2> gathered = saved.gathered.rows(0, R);
      if (pool_ == Pool::mean) {
        run(device, MeanRowsForward<Real>{.y = gathered, .x = y, .lengths = pass.lengths, .L = pass.L});
      } else {
        run(device, GatherRowsForward<Real>{.y = gathered, .x = y, .rows = input.rows});
      }
      y = gathered;
    }
    const View<Real, 2> output = saved.output.rows(0, R);
    head_.forward(device, pass, output, y, head_rows(pass, input), saved.head);
    return output;
  }

  /// Gradients of everything from group `lowest_trained_group` up, given dy = dLoss/dprediction in `saved.doutput`. All that
  /// ran beside is joined at the end: what the head's weight gradients read is in `saved`, and the next forward pass, the next
  /// weight gradients and the optimizer come later.
  void backward(Device& device, const Pass& pass, const Saved& saved, int lowest_trained_group = 0) const {
    const ModelInput<Real>& input = saved.input;
    const int R = head_row_count(pass, input);
    const bool is_encoder_trained = lowest_trained_group <= encoder_.blocks();
    const View<Real, 2> dencoded = gathers() ? saved.encoder.gradients[0] : saved.encoder.gradients[0].rows(0, R);
    View<Real, 2> dx;
    if (is_encoder_trained) dx = gathers() ? saved.dgathered.rows(0, R) : dencoded;
    head_.backward(device, pass, dx, saved.doutput.rows(0, R), head_rows(pass, input), saved.head);
    if (is_encoder_trained) encoder_backward(device, pass, dencoded, dx, saved, lowest_trained_group);
    join(device);
  }

  int head_row_count(const Pass& pass, const ModelInput<Real>& input) const {
    return rows_ == HeadRows::all ? pass.T() : input.rows.extent(0);
  }

 private:
  /// `dx`: gradient of what the head reads; `dencoded`: room for that of the encoder's output.
  void encoder_backward(Device& device, const Pass& pass, View<Real, 2> dencoded, View<const Real, 2> dx,
                        const Saved& saved, int lowest_trained_group) const {
    const ModelInput<Real>& input = saved.input;
    if (pool_ == Pool::mean) {
      run(device, MeanRowsBackward<Real>{.dx = dencoded, .dy = dx, .lengths = pass.lengths, .L = pass.L});
    } else if (gathers()) {
      run(device, GatherRowsBackward<Real>{.dx = dencoded, .dy = dx, .slots = input.slots});
    }
    encoder_.backward(device, pass, dencoded, rows_of_last_block(input), saved.encoder, lowest_trained_group);
  }

  /// Before the encoder.
  bool appends() const { return encoder_.features() != features_; }
  /// Between encoder and head; or pools.
  bool gathers() const { return rows_ == HeadRows::masked && last_block_ == LastBlock::all; }
  RowsRead rows_of_last_block(const ModelInput<Real>& input) const {
    if (last_block_ == LastBlock::all) return {};
    return {.rows = input.rows, .slots = input.slots, .offsets = input.offsets};
  }
  typename Head<Device>::Rows head_rows(const Pass& pass, const ModelInput<Real>& input) const {
    if (rows_ == HeadRows::all) return {.rows = {}, .lengths = pass.lengths, .L = pass.L};
    return {.rows = input.rows, .lengths = input.present, .L = 1};
  }

  HeadRows rows_;
  LastBlock last_block_;
  Pool pool_;
  int features_, outputs_;
  ParameterSet<Device> parameters_;
  Encoder<Device> encoder_;
  Head<Device> head_;
};

}  // namespace blinkbert
