#pragma once

// The numerics of all programs are compiled once, in instantiations.cpp, and optimised there; what is left of a program is
// text and files, which its own translation unit compiles quickly.

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/train/trainer.hpp>

// clang-format off
#define BLINKBERT_INSTANTIATE_FOR(prefix, Device)                                 \
  prefix template class blinkbert::EncoderWithHead<Device>;                       \
  prefix template class blinkbert::BatchLoader<Device>;                           \
  prefix template class blinkbert::MaskedRows<Device>;                            \
  prefix template class blinkbert::Score<Device>;                                 \
  prefix template class blinkbert::PretrainingStage<Device>;                      \
  prefix template class blinkbert::FinetuningStage<Device>;                       \
  prefix template class blinkbert::Trainer<blinkbert::PretrainingStage<Device>>;  \
  prefix template class blinkbert::Trainer<blinkbert::FinetuningStage<Device>>;
// clang-format on
#define BLINKBERT_INSTANTIATE(prefix) BLINKBERT_INSTANTIATE_FOR(prefix, blinkbert::Cpu<float>)

BLINKBERT_INSTANTIATE(extern)

#if defined(BLINKBERT_WITH_CUDA)
#include <blinkbert/cuda.hpp>

BLINKBERT_INSTANTIATE_FOR(extern, blinkbert::Cuda<blinkbert::bf16>)
BLINKBERT_INSTANTIATE_FOR(extern, blinkbert::Cuda<float>)
#endif
