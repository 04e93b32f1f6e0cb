#pragma once

// The numerics of all programs are compiled once, in instantiations.cpp, and optimised there; what is left of a program is
// text and files, which its own translation unit compiles quickly.

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/train/trainer.hpp>

// clang-format off
#define BLINKBERT_INSTANTIATE(prefix)                                                         \
  prefix template class blinkbert::EncoderWithHead<blinkbert::Cpu<float>>;                    \
  prefix template class blinkbert::BatchLoader<blinkbert::Cpu<float>>;                        \
  prefix template class blinkbert::MaskedRows<blinkbert::Cpu<float>>;                         \
  prefix template class blinkbert::Score<blinkbert::Cpu<float>>;                              \
  prefix template class blinkbert::PretrainingStage<blinkbert::Cpu<float>>;                   \
  prefix template class blinkbert::FinetuningStage<blinkbert::Cpu<float>>;                    \
  prefix template class blinkbert::Trainer<blinkbert::PretrainingStage<blinkbert::Cpu<float>>>; \
  prefix template class blinkbert::Trainer<blinkbert::FinetuningStage<blinkbert::Cpu<float>>>;
// clang-format on

BLINKBERT_INSTANTIATE(extern)
