#pragma once

#include <blinkbert/model/encoder_with_head.hpp>

namespace blinkbert {

/// Encoder and a head on each sequence: on its last real row, which alone the last block is computed for, or with
/// head.pool = mean on the mean of its real rows. One KSS value, not clamped, or the outputs of a loss over levels.
template <Backend Device>
class FinetuningModel : public EncoderWithHead<Device> {
 public:
  FinetuningModel(Device& device, const Config& config)
      : EncoderWithHead<Device>(device, config, score_outputs(config), HeadRows::masked,
                                config.head.pool == Pool::mean ? LastBlock::all : LastBlock::read, config.head.pool) {}
};

}  // namespace blinkbert
