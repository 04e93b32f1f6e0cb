#pragma once

// The small door for scoring on the CPU:
//
//   const auto model = blinkbert::Model::load("best.safetensors");   // threads may share it
//   blinkbert::Session session(model);                               // one driver
//   session.push(features);                                          // each blink, in raw units
//   if (const auto kss = session.score()) ...                        // empty below the minimum length
//   session.begin_recording();                                       // clears the blinks, keeps the calibration

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/inference_model.hpp>

namespace blinkbert {

using Model = BasicModel<Cpu<float>>;
using Session = BasicSession<Cpu<float>>;

}  // namespace blinkbert
