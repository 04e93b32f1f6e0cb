#pragma once

// Features to the embedding width on the CPU. Padded rows may hold anything, NaN too: forward overwrites them after the
// product, backward multiplies only runs of real rows (sequences without padding between them make one run).

#include <algorithm>
#include <cstdint>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
#include <blinkbert/ops/embed_rows.hpp>

namespace blinkbert {
namespace cpu_detail {

/// Calls body(first, last) for each longest range of rows of [0, B L) without padding, in ascending order.
template <class Body>
void for_real_runs(const View<const int, 1>& lengths, int L, const Body& body) {
  int first = 0, last = 0;
  for (int b = 0; b < lengths.extent(0); ++b) {
    const int begin = b * L;
    if (last != begin) {
      if (last > first) body(first, last);
      first = begin;
    }
    last = begin + lengths(b);
  }
  if (last > first) body(first, last);
}

}  // namespace cpu_detail

template <class Real>
void run(Cpu<Real>& cpu, const EmbedRowsForward<Real>& op) {
  op.check();
  const int T = op.y.extent(0), E = op.y.extent(1), K = op.prefix ? op.prefix.extent(1) : 0;
  const int N = op.x ? op.x.extent(1) : 0;
  const int chunks = cpu.chunks(T, std::int64_t{E} * (N + 1));
  const std::int64_t room_size = cpu_detail::product_room<Real>(E - K, N);
  Real* room = cpu.template workspace<Real>(room_size * chunks);
  cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
    for (int t = first; t < last; ++t) {
      Real* y = &op.y.data()[std::int64_t{t} * E];
      const Wide<Real>* position = &op.position.data()[std::int64_t{t % op.L} * E];
      const Real* prefix = K > 0 ? &op.prefix.data()[std::int64_t{t} * K] : nullptr;
#pragma omp simd
      for (int e = 0; e < K; ++e) y[e] = prefix[e] + position[e];
      const Real* bias = op.bias.data();
#pragma omp simd
      for (int e = K; e < E; ++e) y[e] = bias[e - K] + position[e];
    }
    if (op.x) {
      cpu_detail::multiply(&op.y.data()[std::int64_t{first} * E + K], E,
                           cpu_detail::as_is(&op.x.data()[std::int64_t{first} * N], N),
                           cpu_detail::transposed(op.weight.data(), N), last - first, E - K, N, cpu_detail::Result::add,
                           room + chunk * room_size);
    }
    for (int t = first; t < last; ++t) {
      if (t % op.L >= op.lengths(t / op.L)) std::fill_n(&op.y.data()[std::int64_t{t} * E], E, Real(0));
    }
  });
}

template <class Real>
void run(Cpu<Real>& cpu, const EmbedRowsBackward<Real>& op) {
  op.check();
  const int B = op.lengths.extent(0), L = op.L, T = B * L, E = op.dy.extent(1), K = op.K;
  const int N = op.x ? op.x.extent(1) : 0;
  const Real* all_dy = op.dy.data();
  if (op.dposition) {
    cpu.for_chunks(L, cpu.chunks(L, std::int64_t{B} * E), [&](int first, int last, int) {
      for (int l = first; l < last; ++l) {
        Wide<Real>* dposition = &op.dposition.data()[std::int64_t{l} * E];
        for (int b = 0; b < B; ++b) {
          if (l >= op.lengths(b)) continue;
          const Real* dy = all_dy + (std::int64_t{b} * L + l) * E;
#pragma omp simd
          for (int e = 0; e < E; ++e) dposition[e] += dy[e];
        }
      }
    });
  }
  if (op.dprefix || op.dx) {
    const int chunks = cpu.chunks(T, K + std::int64_t{E} * N);
    const std::int64_t room_size = cpu_detail::product_room<Real>(N, E - K);
    Real* room = cpu.template workspace<Real>(room_size * chunks);
    cpu.for_chunks(T, chunks, [&](int first, int last, int chunk) {
      if (op.dx) {
        cpu_detail::multiply(&op.dx.data()[std::int64_t{first} * N], N,
                             cpu_detail::as_is(all_dy + std::int64_t{first} * E + K, E),
                             cpu_detail::as_is(op.weight.data(), N), last - first, N, E - K,
                             cpu_detail::Result::overwrite, room + chunk * room_size);
      }
      for (int t = first; t < last; ++t) {
        const bool is_padded = t % L >= op.lengths(t / L);
        if (op.dx && is_padded) std::fill_n(&op.dx.data()[std::int64_t{t} * N], N, Real(0));
        if (!op.dprefix) continue;
        Real* dprefix = &op.dprefix.data()[std::int64_t{t} * K];
        if (is_padded) {
          std::fill_n(dprefix, K, Real(0));
        } else {
          std::copy_n(all_dy + std::int64_t{t} * E, K, dprefix);
        }
      }
    });
  }
  if (op.x) {
    const int chunks = cpu.chunks(E - K, std::int64_t{T} * N);
    const std::int64_t room_size = cpu_detail::product_room<Real>(N, T);
    Real* sums = cpu.template workspace<Real>(cpu_detail::padded(E - K) + room_size * chunks);
    Real* room = sums + cpu_detail::padded(E - K);
    cpu.for_chunks(E - K, chunks, [&](int first, int last, int chunk) {
      std::fill(sums + first, sums + last, Real(0));
      cpu_detail::for_real_runs(op.lengths, L, [&](int begin, int end) {
        cpu_detail::multiply(&op.dweight.data()[std::int64_t{first} * N], N,
                             cpu_detail::transposed(all_dy + std::int64_t{begin} * E + K + first, E),
                             cpu_detail::as_is(&op.x.data()[std::int64_t{begin} * N], N), last - first, N, end - begin,
                             cpu_detail::Result::add, room + chunk * room_size);
        for (int t = begin; t < end; ++t) {
          const Real* dy = all_dy + std::int64_t{t} * E + K;
#pragma omp simd
          for (int o = first; o < last; ++o) sums[o] += dy[o];
        }
      });
      for (int o = first; o < last; ++o) op.dbias(o) += sums[o];
    });
  }
}

}  // namespace blinkbert
