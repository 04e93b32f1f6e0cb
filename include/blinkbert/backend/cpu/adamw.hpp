#pragma once

// One optimizer step on the CPU: one pass over the trained part of the flat blocks, piece by piece.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <Eigen/Core>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/segments.hpp>
#include <blinkbert/ops/adamw.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const AdamW<Real>& op) {
  op.check();
  if (!std::isfinite(op.sum_of_squares(0))) {
    op.skipped(0) += 1;
    std::copy_n(op.statistics_before.data(), op.statistics.size(), op.statistics.data());
    return;
  }
  using W = Wide<Real>;
  using Values = Eigen::Map<Eigen::Array<W, Eigen::Dynamic, 1>>;
  using ConstValues = Eigen::Map<const Eigen::Array<W, Eigen::Dynamic, 1>>;
  const double norm = std::sqrt(op.sum_of_squares(0));
  const W scale = static_cast<W>(std::min(1.0, static_cast<double>(op.clip) / (norm + 1e-6)));
  const W beta1 = static_cast<W>(op.beta1), beta2 = static_cast<W>(op.beta2), epsilon = static_cast<W>(op.epsilon);
  const auto [step, now_rate] = op.now(0);
  const W rate = static_cast<W>(now_rate), kept = 1 - rate * static_cast<W>(op.weight_decay);
  const cpu_detail::Pieces pieces = cpu_detail::pieces(cpu, op.segments, step);
  const std::int64_t skipped = op.skipped(0);
  cpu.for_chunks(pieces.count, cpu.chunks(pieces.count, 8 * cpu_detail::piece_elements), [&](int first, int last, int) {
    for (int p = first; p < last; ++p) {
      const cpu_detail::Piece& piece = pieces.data[p];
      const Segment& segment = op.segments(piece.segment);
      const double steps = static_cast<double>(step - segment.first_trainable + 1 - (skipped - segment.skips_before));
      const W correction1 = static_cast<W>(1 - std::pow(static_cast<double>(op.beta1), steps));
      const W correction2 = static_cast<W>(1 - std::pow(static_cast<double>(op.beta2), steps));
      const W decay = segment.decays ? kept : W(1);
      const W step_size = rate / correction1, root_correction = 1 / std::sqrt(correction2);
      // Eigen's square root is used because the compiler's sets errno and so stays scalar.
      const Eigen::Index count = piece.end - piece.begin;
      const ConstValues gradient(op.gradients.data() + piece.begin, count);
      Values value(op.values.data() + piece.begin, count);
      Values m(op.first_moment.data() + piece.begin, count), v(op.second_moment.data() + piece.begin, count);
      m = beta1 * m + ((1 - beta1) * scale) * gradient;
      v = beta2 * v + (1 - beta2) * (scale * gradient).square();
      value = decay * value - step_size * m / (root_correction * v.sqrt() + epsilon);
      const Real* from = op.values.data() + piece.begin;
      Real* working = op.working.data() + piece.begin;
      if (working != from) std::copy_n(from, count, working);
    }
  });
}

}  // namespace blinkbert
