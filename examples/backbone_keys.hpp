#pragma once

#include <string_view>

namespace programs {

/// Whether a fine-tuning run takes this key over from its backbone: what a row is, what a window is, and the model.
inline bool comes_from_backbone(std::string_view key) {
  return key == "data.features" || key == "data.calibration" || key == "data.calibration_blinks" ||
         key == "data.increments" || key == "data.transform" || key == "data.transform_scale" || key == "data.scaler" ||
         key == "data.scaler_weight" || key == "data.tail_bound" || key == "data.window" ||
         key == "data.window_statistics" || key.starts_with("model.");
}

}  // namespace programs
