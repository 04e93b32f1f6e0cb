#pragma once

// Linear layers on the CPU: rows of the result are split over the threads, each chunk is one product; bias and activation
// are applied to a block of the result while it is still in a cache.

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/elementary.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
#include <blinkbert/ops/linear.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>& cpu, const LinearForward<Real>& op) {
  using cpu_detail::Pack;
  op.check();
  const int T = op.x.extent(0), in = op.x.extent(1), out = op.weight.extent(0);
  const int chunks = cpu.chunks(T, std::int64_t{in} * out);
  const std::int64_t room_size = cpu_detail::gemm_room<Real>(out, in);
  Real* room = cpu.template workspace<Real>(room_size * chunks);
  cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
    Real* y = &op.y.data()[std::int64_t{first} * out];
    Real* h = op.pre_activation ? &op.pre_activation.data()[std::int64_t{first} * out] : y;
    const auto finish = [&](int first_row, int last_row, int first_column, int last_column) {
      for (int t = first_row; t < last_row; ++t) {
        const std::int64_t row = std::int64_t{t} * out + first_column, width = last_column - first_column;
        cpu_detail::map_packs<Real>(
            h + row, width, [](Pack<Real> sum, Pack<Real> bias) { return sum + bias; }, h + row,
            op.bias.data() + first_column);
        if (op.activation == Activation::gelu)
          cpu_detail::map_packs<Real>(y + row, width, cpu_detail::gelu<Real>, h + row);
      }
    };
    cpu_detail::multiply(h, out, cpu_detail::as_is(&op.x.data()[std::int64_t{first} * in], in),
                         cpu_detail::transposed(op.weight.data(), in), last - first, out, in,
                         cpu_detail::Result::overwrite, room + chunk * room_size, finish);
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearInputGradient<Real>& op) {
  using cpu_detail::Pack;
  op.check();
  const int T = op.dy.extent(0), out = op.weight.extent(0), in = op.weight.extent(1);
  const int chunks = cpu.chunks(T, std::int64_t{in} * out);
  const std::int64_t room_size = cpu_detail::gemm_room<Real>(in, out);
  Real* room = cpu.template workspace<Real>(room_size * chunks);
  cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
    const std::int64_t begin = std::int64_t{first} * in;
    Real* dx = op.dx.data() + begin;
    if (op.residual && op.residual.data() != op.dx.data()) {
      std::copy_n(op.residual.data() + begin, std::int64_t{last - first} * in, dx);
    }
    const auto finish = [&](int first_row, int last_row, int first_column, int last_column) {
      if (!op.pre_activation) return;
      for (int t = first_row; t < last_row; ++t) {
        const std::int64_t row = std::int64_t{t} * in + first_column;
        cpu_detail::map_packs<Real>(
            dx + row, last_column - first_column,
            [](Pack<Real> sum, Pack<Real> h) { return sum * cpu_detail::gelu_slope<Real>(h); }, dx + row,
            op.pre_activation.data() + begin + row);
      }
    };
    cpu_detail::multiply(dx, in, cpu_detail::as_is(&op.dy.data()[std::int64_t{first} * out], out),
                         cpu_detail::as_is(op.weight.data(), in), last - first, in, out,
                         op.residual ? cpu_detail::Result::add : cpu_detail::Result::overwrite,
                         room + chunk * room_size, finish);
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearWeightGradient<Real>& op) {
  op.check();
  const int T = op.x.extent(0), in = op.x.extent(1), out = op.dy.extent(1);
  const int chunks = cpu.chunks(out, std::int64_t{T} * in);
  const std::int64_t room_size = cpu_detail::gemm_room<Real>(in, T);
  Real* sums = cpu.template workspace<Real>(cpu_detail::padded(out) + room_size * chunks);
  Real* room = sums + cpu_detail::padded(out);
  cpu.for_chunks(out, chunks, [&](int first, int last, int chunk) {
    cpu_detail::multiply(&op.dweight.data()[std::int64_t{first} * in], in,
                         cpu_detail::transposed(op.dy.data() + first, out), cpu_detail::as_is(op.x.data(), in),
                         last - first, in, T, cpu_detail::Result::add, room + chunk * room_size,
                         cpu_detail::NoFinish{});
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
