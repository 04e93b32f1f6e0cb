#pragma once

// append_statistics.cuh -- statistics of a window as further channels of its rows.
//
//   what       formula, shapes: <blinkbert/ops/append_statistics.hpp>. Here: only how.
//   mapping    a block takes a sequence, a thread a feature: N is some tens. It adds the feature up over the visible rows, then
//              the squares of its deviations, and writes its four channels of every row
//   order      rows in ascending order: the same input gives the same bits
//   traffic    x read three times, twice from cache; y written once. Padded rows are not read

#include <blinkbert/dev/dev.hpp>
#include <blinkbert/ops/append_statistics.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

inline constexpr int append_statistics_threads = 128;

template <class Real>
BB_KERNEL(append_statistics_threads, 1)
append_statistics(AppendStatistics<Real> op) {
  const int b = block(), L = op.x.extent(1), N = op.x.extent(2), length = load(at(op.lengths, b));
  for (int n = thread(); n < N; n += threads()) {
    const auto is_visible = [&](int l) { return (load(at(op.visible, b, l / 32)) >> l % 32 & 1u) != 0; };
    const auto x = [&](int l) { return static_cast<float>(load(at(op.x, b, l, n))); };
    float sum = 0, size = 0, squares = 0;
    int count = 0;
    for (int l = 0; l < length; ++l) {
      if (!is_visible(l)) continue;
      const float value = x(l);
      ++count;
      sum += value;
      size += value < 0 ? -value : value;
    }
    const float share = count > 0 ? 1 / static_cast<float>(count) : 0, mean = sum * share;
    for (int l = 0; l < length; ++l) {
      if (is_visible(l)) squares += (x(l) - mean) * (x(l) - mean);
    }
    const float statistics[] = {mean, size * share, sqrtf(squares * share)};
    const Real zero = static_cast<Real>(0.0f);
    for (int l = 0; l < L; ++l) {
      const bool is_real = l < length;
      store(at(op.y, b, l, n), is_real ? load(at(op.x, b, l, n)) : zero);
      BB_UNROLL
      for (int i = 0; i < 3; ++i) {
        store(at(op.y, b, l, (i + 1) * N + n), is_real ? static_cast<Real>(statistics[i]) : zero);
      }
    }
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const AppendStatistics<typename Gpu::Real>& op) {
  op.check();
  const int B = op.x.extent(0), N = op.x.extent(2);
  const int threads = std::min(dev::ceil_div(N, dev::warp_size) * dev::warp_size, kernels::append_statistics_threads);
  dev::launch<kernels::append_statistics<typename Gpu::Real>>(gpu, {.blocks = B, .threads = threads}, op);
}

}  // namespace blinkbert
