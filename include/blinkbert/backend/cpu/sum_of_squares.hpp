#pragma once

// The squared gradient norm on the CPU: one partial sum per piece, added in ascending order, whatever the threads.

#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/segments.hpp>
#include <blinkbert/ops/sum_of_squares.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const SumOfSquares<Real>& op) {
  op.check();
  const cpu_detail::Pieces pieces = cpu_detail::pieces(cpu, op.segments, op.now(0).step);
  cpu.for_chunks(pieces.count, cpu.chunks(pieces.count, cpu_detail::piece_elements), [&](int first, int last, int) {
    for (int p = first; p < last; ++p) {
      cpu_detail::Piece& piece = pieces.data[p];
      const Wide<Real>* gradients = op.gradients.data();
      double sum = 0;  // double: the square of a large float is not yet infinite, and memory is the limit here
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = piece.begin; i < piece.end; ++i) {
        const double gradient = static_cast<double>(gradients[i]);
        sum += gradient * gradient;
      }
      piece.sum = sum;
    }
  });
  double sum = 0;
  for (int p = 0; p < pieces.count; ++p) sum += pieces.data[p].sum;
  op.sum(0) = sum;
}

}  // namespace blinkbert
