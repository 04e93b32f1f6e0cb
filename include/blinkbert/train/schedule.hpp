#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// Learning rate at optimizer step t (from 0 over the whole run) in epoch e (from 1), n steps per epoch, W warm-up epochs:
///   rate * min(1, (t + 1) / (W n)) * decay^max(0, e - 1 - W),   the warm-up factor being 1 where W = 0.
inline double learning_rate(const TrainConfig& train, std::int64_t step, int epoch, std::int64_t steps_per_epoch) {
  const double warmup_steps = train.warmup * static_cast<double>(steps_per_epoch);
  const double warm = train.warmup == 0 ? 1.0 : std::min(1.0, static_cast<double>(step + 1) / warmup_steps);
  return train.rate * warm * std::pow(train.decay, std::max(0.0, epoch - 1 - train.warmup));
}

}  // namespace blinkbert
