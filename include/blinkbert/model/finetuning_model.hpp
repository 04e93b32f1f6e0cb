#pragma once

#include <blinkbert/model/encoder_with_head.hpp>

namespace blinkbert {

/// Encoder and a head on the last real row of each sequence, which alone the last block is computed for: one KSS value,
/// not clamped.
template <Backend Device>
class FinetuningModel : public EncoderWithHead<Device> {
 public:
  FinetuningModel(Device& device, const Config& config)
      : EncoderWithHead<Device>(device, config, 1, HeadRows::masked, LastBlock::read) {}
};

}  // namespace blinkbert
