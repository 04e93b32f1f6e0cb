#pragma once

// Zeros at padded rows on the CPU: real rows are copied, unless they are in place already.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/zero_padding.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const ZeroPadding<Real>& op) {
  op.check();
  const int T = op.x.extent(0), F = op.x.extent(1);
  cpu.for_chunks(T, cpu.chunks(T, F), [&](int first, int last, int) {
    for (int t = first; t < last; ++t) {
      Real* y = &op.y.data()[std::int64_t{t} * F];
      const Real* x = &op.x.data()[std::int64_t{t} * F];
      if (t % op.L >= op.lengths(t / op.L)) {
        std::fill_n(y, F, Real(0));
      } else if (y != x) {
        std::copy_n(x, F, y);
      }
    }
  });
}

}  // namespace blinkbert
