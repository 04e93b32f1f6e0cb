#pragma once

// narrowing.cuh -- values rounded to the type that the ops compute with.
//
//   what       formula: <blinkbert/ops/narrowing.hpp>. Here: only how.
//   mapping    a thread takes eight neighbouring elements at a time; threads walk over the block
//   staging    none
//   order      every element by itself: the same input gives the same bits
//   traffic    x read once, y written once, 16 bytes at a time

#include <blinkbert/dev/dev.hpp>
#include <blinkbert/ops/narrowing.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

inline constexpr int narrowing_threads = 256;
inline constexpr int narrowing_residency = 8;  // blocks on a multiprocessor
inline constexpr int narrowing_elements = 8;   // of a thread at a time

BLINKBERT_HOST_DEVICE constexpr int narrowing_chunks(int P) {
  return P / narrowing_elements + (P % narrowing_elements > 0 ? 1 : 0);
}

template <class Real>
BB_KERNEL(narrowing_threads, narrowing_residency)
narrowing(Narrowing<Real> op) {
  const int P = op.x.extent(0);
  for (int chunk = block() * threads() + thread(); chunk < narrowing_chunks(P); chunk += blocks() * threads()) {
    const int first = chunk * narrowing_elements;
    if (P - first >= narrowing_elements) {
      const auto x = load<narrowing_elements>(at(op.x, first));
      Vector<Real, narrowing_elements> y;
      BB_UNROLL
      for (int i = 0; i < narrowing_elements; ++i) y[i] = static_cast<Real>(x[i]);
      store(at(op.y, first), y);
    } else {
      for (int p = first; p < P; ++p) store(at(op.y, p), static_cast<Real>(load(at(op.x, p))));
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const Narrowing<typename Gpu::Real>& op) {
  op.check();
  const int turns = dev::ceil_div(kernels::narrowing_chunks(op.x.extent(0)), kernels::narrowing_threads);
  dev::launch<kernels::narrowing<typename Gpu::Real>>(
      gpu,
      {.blocks = std::min(turns, kernels::narrowing_residency * gpu.multiprocessors()),
       .threads = kernels::narrowing_threads},
      op);
}

}  // namespace blinkbert
