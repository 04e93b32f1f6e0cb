#pragma once

// adamw.cuh -- one optimizer step over the flat parameter block.
//
//   what       formula: <blinkbert/ops/adamw.hpp>. Here: only how.
//   mapping    first one thread per segment: what the step does to it (powers and roots in double, clipping, skipping), into
//              a table of 32 bytes each. Then a warp takes a stretch of 128 elements (segments.cuh); warps walk over the
//              block. A step that is skipped, and a segment that does not train, are empty entries of the table; the
//              threads of a skipped step put the statistics back
//   staging    none
//   order      every element by itself: the same input gives the same bits on any device
//   traffic    values, both moments and gradients of what trains read once; values, moments and working copy written once:
//              28 bytes a parameter in float, 30 in bf16; nothing of frozen segments and of the gaps between

#include <blinkbert/cuda/segments.cuh>
#include <blinkbert/ops/adamw.hpp>

namespace blinkbert {
namespace kernels {

inline constexpr int adamw_warps = 8;
inline constexpr int adamw_residency = 6;  // blocks on a multiprocessor
inline constexpr int adamw_table_threads = 128;

/// What a step does to the elements [begin, end).
struct alignas(16) SegmentStep {
  int begin = 0, end = 0;
  float kept = 1;             // of a value, after decay
  float gradient_scale = 0;   // clipping
  float step_size = 0;        // rate / (1 - beta1^n)
  float root_correction = 0;  // 1 / sqrt(1 - beta2^n)
};

/// False for infinities and NaN. (The standard library's is not for device code.)
BLINKBERT_HOST_DEVICE constexpr bool is_finite(double x) { return x - x == 0; }

template <class Real>
BB_KERNEL(adamw_table_threads, 1)
adamw_table(AdamW<Real> op, View<SegmentStep, 1> table) {
  const int i = block() * threads() + thread();
  const double sum = load(at(op.sum_of_squares, 0));
  if (!is_finite(sum) && i == 0) {  // this thread alone reads and writes it; otherwise everybody reads it
    const auto place = at(op.skipped, 0);
    store(place, load(place) + 1);
  }
  if (!is_finite(sum)) {
    for (int s = i; s < op.statistics.extent(0); s += blocks() * threads()) {
      store(at(op.statistics, s), load(at(op.statistics_before, s)));
    }
  }
  if (i >= table.extent(0)) return;
  const Segment segment = load(at(op.segments, i));
  const StepValues now = load(at(op.now, 0));
  SegmentStep step;
  if (is_finite(sum) && segment.trains_at(now.step)) {
    const std::int64_t skipped = load(at(op.skipped, 0)) - segment.skips_before;
    const double steps = static_cast<double>(now.step - segment.first_trainable + 1 - skipped);
    const double ratio = static_cast<double>(op.clip) / (sqrt(sum) + 1e-6);
    step.begin = static_cast<int>(segment.begin);
    step.end = static_cast<int>(segment.end);
    if (segment.decays) step.kept = 1 - now.rate * op.weight_decay;
    step.gradient_scale = static_cast<float>(ratio < 1 ? ratio : 1);
    step.step_size =
        static_cast<float>(static_cast<double>(now.rate) / (1 - pow(static_cast<double>(op.beta1), steps)));
    step.root_correction = static_cast<float>(1 / sqrt(1 - pow(static_cast<double>(op.beta2), steps)));
  }
  store(at(table, i), step);
}

template <class Real>
BB_KERNEL(32 * adamw_warps, adamw_residency)
adamw(AdamW<Real> op, View<const SegmentStep, 1> table) {
  const int count = stretches(op.values.extent(0));
  const bool has_own_working =
      static_cast<const void*>(op.working.data()) != static_cast<const void*>(op.values.data());
  SegmentCursor<SegmentStep> segment(table);
  for (int s = block() * adamw_warps + warp(); s < count; s += blocks() * adamw_warps) {
    if (!segment.finds(s * stretch)) continue;
    const SegmentStep& step = segment.entry();
    const int first = s * stretch + 4 * lane(), end = step.end;
    const auto gradient = load_four(op.gradients, first, end);
    auto m = load_four(op.first_moment, first, end), v = load_four(op.second_moment, first, end);
    auto value = load_four(op.values, first, end);
    Vector<Real, 4> working;
    BB_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float g = step.gradient_scale * gradient[i];
      m[i] = op.beta1 * m[i] + (1 - op.beta1) * g;
      v[i] = op.beta2 * v[i] + (1 - op.beta2) * g * g;
      value[i] = step.kept * value[i] - step.step_size * m[i] / (step.root_correction * sqrtf(v[i]) + op.epsilon);
      working[i] = static_cast<Real>(value[i]);
    }
    store_four(op.first_moment, first, end, m);
    store_four(op.second_moment, first, end, v);
    store_four(op.values, first, end, value);
    if (has_own_working) store_four(op.working, first, end, working);
  }
}

}  // namespace kernels

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const AdamW<typename Gpu::Real>& op) {
  using Real = typename Gpu::Real;
  op.check();
  const int segments = op.segments.extent(0);
  const View<kernels::SegmentStep, 1> table = gpu.template workspace<kernels::SegmentStep>(segments);
  const int table_blocks =
      std::max(dev::ceil_div(segments, kernels::adamw_table_threads), 1);  // a skip is counted anyway
  dev::launch<kernels::adamw_table<Real>>(gpu, {.blocks = table_blocks, .threads = kernels::adamw_table_threads}, op,
                                          table);
  const int turns = dev::ceil_div(kernels::stretches(op.values.extent(0)), kernels::adamw_warps);
  dev::launch<kernels::adamw<Real>>(gpu,
                                    {.blocks = std::min(turns, kernels::adamw_residency * gpu.multiprocessors()),
                                     .threads = 32 * kernels::adamw_warps},
                                    op, View<const kernels::SegmentStep, 1>(table));
}

}  // namespace blinkbert
