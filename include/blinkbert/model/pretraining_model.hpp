#pragma once

#include <blinkbert/model/encoder_with_head.hpp>

namespace blinkbert {

/// Encoder and a head back to the N features, on all rows (head.rows = all, as in the source) or on the chosen ones.
/// The loss reads the chosen rows; model.last_block says whether the last block is computed for others too.
template <Backend Device>
class PretrainingModel : public EncoderWithHead<Device> {
 public:
  PretrainingModel(Device& device, const Config& config)
      : EncoderWithHead<Device>(device, config, model_features(config.data), config.head.rows,
                                config.model.last_block) {}
};

}  // namespace blinkbert
