#pragma once

// Gathering rows and scattering them back on the CPU: every row of the result is written once.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/gather_rows.hpp>

namespace blinkbert {
namespace cpu_detail {

/// to_r = residual_r + from[rows_r], without the second where rows_r = -1. An empty residual is zeros, without a sum.
template <class Real>
void copy_rows(Cpu<Real>& cpu, const View<Real, 2>& to, const View<const Real, 2>& from, const View<const int, 1>& rows,
               const View<const Real, 2>& residual) {
  const int R = to.extent(0), E = to.extent(1);
  cpu.for_chunks(R, cpu.chunks(R, E), [&](int first, int last, int) {
    for (int r = first; r < last; ++r) {
      Real* row = &to.data()[std::int64_t{r} * E];
      const Real* source = rows(r) < 0 ? nullptr : &from.data()[std::int64_t{rows(r)} * E];
      const Real* before = residual ? &residual.data()[std::int64_t{r} * E] : nullptr;
      if (source && before) {
#pragma omp simd
        for (int e = 0; e < E; ++e) row[e] = before[e] + source[e];
      } else if (source) {
        std::copy_n(source, E, row);
      } else if (!before) {
        std::fill_n(row, E, Real(0));
      } else if (before != row) {
        std::copy_n(before, E, row);
      }
    }
  });
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const GatherRowsForward<Real>& op) {
  op.check();
  cpu_detail::copy_rows(cpu, op.y, op.x, op.rows, {});
}

template <class Real>
void run(Cpu<Real>& cpu, const GatherRowsBackward<Real>& op) {
  op.check();
  cpu_detail::copy_rows(cpu, op.dx, op.dy, op.slots, op.residual);
}

}  // namespace blinkbert
