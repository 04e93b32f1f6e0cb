#pragma once

// The mean of a sequence's real rows on the CPU: sequences are shared out to threads, sums are kept in double.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/mean_rows.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const MeanRowsForward<Real>& op) {
  op.check();
  const int B = op.lengths.extent(0), E = op.x.extent(1), chunks = cpu.chunks(B, op.L * E);
  const std::int64_t room = cpu_detail::padded(E);
  double* all_sums = cpu.template workspace<double>(chunks * room);
  cpu.for_chunks(B, chunks, [&](int first, int last, int chunk) {
    double* sums = all_sums + chunk * room;
    for (int b = first; b < last; ++b) {
      const int length = op.lengths(b);
      std::fill_n(sums, E, 0.0);
      for (int l = 0; l < length; ++l) {
        const Real* x = &op.x.data()[(std::int64_t{b} * op.L + l) * E];
#pragma omp simd
        for (int e = 0; e < E; ++e) sums[e] += static_cast<double>(x[e]);
      }
      Real* y = &op.y.data()[std::int64_t{b} * E];
      for (int e = 0; e < E; ++e) y[e] = length > 0 ? static_cast<Real>(sums[e] / length) : Real(0);
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const MeanRowsBackward<Real>& op) {
  op.check();
  const int T = op.lengths.extent(0) * op.L, E = op.dy.extent(1);
  cpu.for_chunks(T, cpu.chunks(T, E), [&](int first, int last, int) {
    for (int t = first; t < last; ++t) {
      const int b = t / op.L, length = op.lengths(b);
      Real* dx = &op.dx.data()[std::int64_t{t} * E];
      if (t % op.L >= length) {
        std::fill_n(dx, E, Real(0));
        continue;
      }
      const Real* dy = &op.dy.data()[std::int64_t{b} * E];
      for (int e = 0; e < E; ++e) dx[e] = dy[e] / static_cast<Real>(length);
    }
  });
}

}  // namespace blinkbert
