#pragma once

// Gathering rows and scattering them back on the CPU: every row of the result is written once.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/gather_rows.hpp>

namespace blinkbert {
namespace cpu_detail {

/// to_r = from[rows_r], or zeros where rows_r = -1.
template <class Real>
void copy_rows(Cpu<Real>& cpu, const View<Real, 2>& to, const View<const Real, 2>& from,
               const View<const int, 1>& rows) {
  const int R = to.extent(0), E = to.extent(1);
  cpu.for_chunks(R, cpu.chunks(R, E), [&](int first, int last, int) {
    for (int r = first; r < last; ++r) {
      Real* row = &to.data()[std::int64_t{r} * E];
      if (rows(r) < 0) {
        std::fill_n(row, E, Real(0));
      } else {
        std::copy_n(&from.data()[std::int64_t{rows(r)} * E], E, row);
      }
    }
  });
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const GatherRowsForward<Real>& op) {
  op.check();
  cpu_detail::copy_rows(cpu, op.y, op.x, op.rows);
}

template <class Real>
void run(Cpu<Real>& cpu, const GatherRowsBackward<Real>& op) {
  op.check();
  cpu_detail::copy_rows(cpu, op.dx, op.dy, op.slots);
}

}  // namespace blinkbert
