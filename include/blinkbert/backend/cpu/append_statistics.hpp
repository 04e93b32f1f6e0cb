#pragma once

// Statistics of a window on the CPU: sequences are shared out to threads, sums are kept in double.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/append_statistics.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const AppendStatistics<Real>& op) {
  op.check();
  const int B = op.x.extent(0), L = op.x.extent(1), N = op.x.extent(2), chunks = cpu.chunks(B, 4 * L * N);
  const std::int64_t room = cpu_detail::padded(3 * N);
  double* all_sums = cpu.template workspace<double>(chunks * room);
  cpu.for_chunks(B, chunks, [&](int first, int last, int chunk) {
    double* sums = all_sums + chunk * room;  // of x, of |x|, of (x - mean)^2
    for (int b = first; b < last; ++b) {
      const int length = op.lengths(b);
      const auto is_visible = [&](int l) { return (op.visible(b, l / 32) >> l % 32 & 1) != 0; };
      int count = 0;
      std::fill_n(sums, 3 * N, 0.0);
      for (int l = 0; l < length; ++l) {
        if (!is_visible(l)) continue;
        ++count;
        for (int n = 0; n < N; ++n) {
          const auto value = static_cast<double>(op.x(b, l, n));
          sums[n] += value;
          sums[N + n] += std::abs(value);
        }
      }
      for (int l = 0; l < length; ++l) {
        if (!is_visible(l)) continue;
        for (int n = 0; n < N; ++n) {
          const double deviation = static_cast<double>(op.x(b, l, n)) - sums[n] / count;
          sums[2 * N + n] += deviation * deviation;
        }
      }
      for (int l = 0; l < L; ++l) {
        Real* y = &op.y.data()[(std::int64_t{b} * L + l) * statistics_inputs * N];
        if (l >= length) {
          std::fill_n(y, statistics_inputs * N, Real(0));
          continue;
        }
        std::copy_n(&op.x.data()[(std::int64_t{b} * L + l) * N], N, y);
        std::fill_n(y + N, 3 * N, Real(0));
        for (int n = 0; n < N && count > 0; ++n) {
          y[N + n] = static_cast<Real>(sums[n] / count);
          y[2 * N + n] = static_cast<Real>(sums[N + n] / count);
          y[3 * N + n] = static_cast<Real>(std::sqrt(sums[2 * N + n] / count));
        }
      }
    }
  });
}

}  // namespace blinkbert
