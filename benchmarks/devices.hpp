#pragma once

// On which of this build's backends a benchmark runs.

#include <type_traits>

#include "../examples/instantiations.hpp"
#include "measure.hpp"

#if defined(BLINKBERT_WITH_CUDA)
#include "card.hpp"
#endif

namespace benchmarks {

/// Calls body(std::type_identity<Device>()) with the backend that the flags name; throws InputError where it is not there.
template <class Body>
void on_device(const Timing& timing, const Body& body) {
  if (timing.device == "cpu") {
    if (timing.dtype == "bf16") {
      if (const std::string obstacle = Cpu<float>::bf16_obstacle(); !obstacle.empty())
        throw InputError("--dtype bf16: " + obstacle);
    } else if (timing.dtype != "fp32") {
      throw InputError("--dtype " + timing.dtype + ": the CPU multiplies in fp32 or bf16");
    }
    return body(std::type_identity<Cpu<float>>());
  }
#if defined(BLINKBERT_WITH_CUDA)
  if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) throw InputError("--device cuda: " + obstacle);
  if (timing.dtype == "bf16") return body(std::type_identity<Cuda<bf16>>());
  return body(std::type_identity<Cuda<float>>());
#else
  throw InputError("--device cuda: this build has no CUDA (cmake --preset cuda has)");
#endif
}

}  // namespace benchmarks
