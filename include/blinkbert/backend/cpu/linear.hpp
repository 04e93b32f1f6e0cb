#pragma once

// Linear layers on the CPU: rows of the result are split over the threads, each chunk is one product.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/elementary.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
#include <blinkbert/ops/linear.hpp>

namespace blinkbert {
namespace cpu_detail {

template <class T>
Panel<T> panel(const View<T, 2>& view) {
  return {view.data(), view.extent(0), view.extent(1), view.extent(1)};
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const LinearForward<Real>& op) {
  op.check();
  const int T = op.x.extent(0), in = op.x.extent(1), out = op.weight.extent(0);
  const View<Real, 2> h = op.pre_activation ? op.pre_activation : op.y;
  cpu.for_chunks(T, cpu.chunks(T, std::int64_t{in} * out), [&](int first, int last, int) {
    for (int t = first; t < last; ++t) std::copy_n(op.bias.data(), out, &h.data()[std::int64_t{t} * out]);
    cpu_detail::add_product_of_rows(cpu_detail::panel(h).row_range(first, last),
                                    cpu_detail::panel(op.x).row_range(first, last), cpu_detail::panel(op.weight));
    if (op.activation == Activation::gelu) {
      cpu_detail::map_packs(&op.y.data()[std::int64_t{first} * out], std::int64_t{last - first} * out,
                            cpu_detail::gelu<Real>, &h.data()[std::int64_t{first} * out]);
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearInputGradient<Real>& op) {
  op.check();
  const int T = op.dy.extent(0), out = op.weight.extent(0), in = op.weight.extent(1);
  cpu.for_chunks(T, cpu.chunks(T, std::int64_t{in} * out), [&](int first, int last, int) {
    Real* dx = op.dx.data();
    const std::int64_t begin = std::int64_t{first} * in, end = std::int64_t{last} * in;
    if (!op.residual) {
      std::fill(dx + begin, dx + end, Real(0));
    } else if (op.residual.data() != dx) {
      std::copy(op.residual.data() + begin, op.residual.data() + end, dx + begin);
    }
    cpu_detail::add_product(cpu_detail::panel(op.dx).row_range(first, last),
                            cpu_detail::panel(op.dy).row_range(first, last), cpu_detail::panel(op.weight));
    if (op.pre_activation) {
      const auto times_slope = [](auto gradient, auto h) { return gradient * cpu_detail::gelu_slope<Real>(h); };
      cpu_detail::map_packs<Real>(dx + begin, end - begin, times_slope, dx + begin, op.pre_activation.data() + begin);
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearWeightGradient<Real>& op) {
  op.check();
  const int T = op.x.extent(0), in = op.x.extent(1), out = op.dy.extent(1);
  Real* sums = cpu.template workspace<Real>(out);
  cpu.for_chunks(out, cpu.chunks(out, std::int64_t{T} * in), [&](int first, int last, int) {
    cpu_detail::add_product_of_columns(cpu_detail::panel(op.dweight.view()).row_range(first, last),
                                       cpu_detail::panel(op.dy).column_range(first, last), cpu_detail::panel(op.x));
    std::fill(sums + first, sums + last, Real(0));
    for (int t = 0; t < T; ++t) {
      const Real* dy = &op.dy.data()[std::int64_t{t} * out];
#pragma omp simd
      for (int o = first; o < last; ++o) sums[o] += dy[o];
    }
    for (int o = first; o < last; ++o) op.dbias(o) += sums[o];
  });
}

}  // namespace blinkbert
