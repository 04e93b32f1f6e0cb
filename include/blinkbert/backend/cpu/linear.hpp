#pragma once

// Linear layers on the CPU. Many rows of the result are split over the threads, few are not: then its columns are, so that
// no thread reads all of the weight. Bias and activation are applied to a block of the result while it is still in a cache.

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>

#include <blinkbert/backend/cpu/amx.hpp>
#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/elementary.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
#if defined(BLINKBERT_WITH_ONEDNN)
#include <blinkbert/backend/cpu/onednn.hpp>
#endif
#include <blinkbert/ops/linear.hpp>

namespace blinkbert {
namespace cpu_detail {

/// Rows for a thread from which on A is split: fewer, and each thread reads all of A and its own part of B.
inline constexpr int least_rows = 4 * gemm_tile_rows;

/// C [rows, columns] = A B + bias, or += A B, on all threads, then what `finish` says; `bias` [columns], null = none. Where
/// `is_weight`, a device that keeps weights packs B once.
template <class Multiplier, class Real, class Write>
void product_by(Cpu<Real>& cpu, const View<Real, 2>& c, const Operand<Real>& a, const Operand<Real>& b, int depth,
                Result result, bool is_weight, std::type_identity_t<const Real*> bias,
                const Finish<Real, Write>& finish) {
  using Packed = typename Multiplier::Packed;
  const int rows = c.extent(0), columns = c.extent(1);
  const int panels = (columns + Multiplier::panel_columns - 1) / Multiplier::panel_columns;
  const std::int64_t room_size = Multiplier::room_size(columns, depth);
  const std::int64_t packed_size = Multiplier::packed_size(columns, depth);
  const int chunks = cpu.chunks(rows, std::int64_t{columns} * depth);
  const auto pack_all = [&](Packed* to) {
    const std::int64_t panel_size = std::int64_t{Multiplier::panel_columns} * depth;
    cpu.for_chunks(panels, cpu.chunks(panels, panel_size), [&](int first_panel, int last_panel, int) {
      Multiplier::pack(to, b, columns, depth, first_panel, last_panel);
    });
  };
  const Packed* kept = nullptr;
  if (is_weight && cpu.kept_weights()) {
    kept =
        cpu.kept_weights()->template get<Packed>({b.data, columns, depth, Multiplier::format}, packed_size, pack_all);
  }
  Packed* room = cpu.template workspace<Packed>(room_size * chunks + (kept ? 0 : packed_size));
  Packed* own = room + room_size * chunks;
  const Packed* packed = kept ? kept : own;
  // The part of C from (first row, first column) on, by one thread.
  const auto multiply = [&](int first_row, int last_row, int first_panel, int last_panel, int chunk) {
    const int first = first_panel * Multiplier::panel_columns;
    const int last = std::min(columns, last_panel * Multiplier::panel_columns);
    const std::int64_t at = std::int64_t{first_row} * columns + first;
    const auto write = [&](int row, int column, const Real* sums, int count, const auto& writer) {
      finish.write(first_row + row, first + column, sums, count, writer);
    };
    Multiplier::multiply(
        c.data() + at, columns, a.at(first_row, 0), Multiplier::panel(packed, first_panel, depth), last_row - first_row,
        last - first, depth, result, bias ? bias + first : nullptr, room + chunk * room_size,
        Finish<Real, decltype(write)>{finish.copies, finish.reads ? finish.reads + at : nullptr, write});
  };
  if (chunks > 1 && rows < chunks * least_rows && panels >= chunks) {
    cpu.for_chunks(panels, chunks, [&](int first_panel, int last_panel, int chunk) {
      if (!kept) Multiplier::pack(own, b, columns, depth, first_panel, last_panel);
      multiply(0, rows, first_panel, last_panel, chunk);
    });
    return;
  }
  if (!kept) pack_all(own);
  cpu.for_chunks(rows, chunks, [&](int first, int last, int chunk) { multiply(first, last, 0, panels, chunk); });
}

#if defined(BLINKBERT_WITH_ONEDNN)
/// Whether oneDNN's product in float is the faster one: with large weights, and larger ones where A has to be transposed for it.
inline bool is_for_onednn(int rows, int columns, int depth, const Operand<float>& a) {
  const bool is_transposed = a.column_stride != 1;
  const std::int64_t weight = std::int64_t{columns} * (is_transposed ? rows : depth);
  return FloatFactors::is_there() && depth >= 32 && weight >= (is_transposed ? 1 << 17 : 1 << 15);
}
#endif

#if defined(BLINKBERT_HAS_AMX)
/// Whether the product of floats on the matrix units is the faster one: with large weights.
inline bool is_for_matrix_units(int rows, int columns, int depth, const Operand<float>& a) {
  const bool is_transposed = a.column_stride != 1;
  const std::int64_t weight = std::int64_t{columns} * (is_transposed ? rows : depth);
  return columns >= 64 && depth >= 64 && weight >= 1 << 15 && may_use_amx();
}
#endif

/// The product by the code that is right for it.
template <class Real, class Write>
void product(Cpu<Real>& cpu, const View<Real, 2>& c, const Operand<Real>& a, const Operand<Real>& b, int depth,
             Result result, bool is_weight, std::type_identity_t<const Real*> bias, const Finish<Real, Write>& finish) {
  if constexpr (std::is_same_v<Real, float>) {
    constexpr int least = 32;  // slivers stay in float
    const int rows = c.extent(0), columns = c.extent(1);
    const bool in_bf16 = cpu.multiplies_in_bf16() && columns >= least && depth >= least;
#if defined(BLINKBERT_HAS_AMX)
    if (cpu.products() >= Products::amx) {
      if (in_bf16 && may_use_amx()) {
        return product_by<AmxProducts<1>>(cpu, c, a, b, depth, result, is_weight, bias, finish);
      }
      if (!in_bf16 && is_for_matrix_units(rows, columns, depth, a)) {
        return product_by<AmxProducts<3>>(cpu, c, a, b, depth, result, is_weight, bias, finish);
      }
    }
#endif
#if defined(BLINKBERT_WITH_ONEDNN)
    if (cpu.products() >= Products::onednn) {
      if (in_bf16) {
        return product_by<OneDnnProducts<Bf16Factors>>(cpu, c, a, b, depth, result, is_weight, bias, finish);
      }
      if (is_for_onednn(rows, columns, depth, a)) {
        return product_by<OneDnnProducts<FloatFactors>>(cpu, c, a, b, depth, result, is_weight, bias, finish);
      }
    }
#endif
  }
  product_by<OwnProducts<Real>>(cpu, c, a, b, depth, result, is_weight, bias, finish);
}

}  // namespace cpu_detail

template <class Real>
std::string Cpu<Real>::bf16_obstacle() {
#if defined(BLINKBERT_HAS_AMX)
  if (cpu_detail::may_use_amx()) return {};
#endif
#if defined(BLINKBERT_WITH_ONEDNN)
  return cpu_detail::Bf16Factors::obstacle();
#else
  return "this build has neither the matrix units' code (a compiler for AMX) nor oneDNN (Debian: libdnnl-dev), which "
         "multiply in bf16";
#endif
}

template <class Real>
std::string Cpu<Real>::describe_products() const {
  std::string names;
  if constexpr (std::is_same_v<Real, float>) {
#if defined(BLINKBERT_HAS_AMX)
    if (products_ >= Products::amx && cpu_detail::may_use_amx()) names += "AMX, ";
#endif
#if defined(BLINKBERT_WITH_ONEDNN)
    if (products_ >= Products::onednn) names += "oneDNN, ";
#endif
  }
  return names + "portable code" + (multiplies_in_bf16_ ? "; in bf16" : "");
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearForward<Real>& op) {
  using cpu_detail::Pack;
  op.check();
  const int in = op.x.extent(1), out = op.weight.extent(0);
  const View<Real, 2> h = op.pre_activation ? op.pre_activation : op.y;
  const bool activates = op.activation != Activation::none, keeps_sums = !activates || op.pre_activation;
  const auto write = [&](int row, int column, const Real* sums, int count, const auto& writer) {
    const std::int64_t at = std::int64_t{row} * out + column;
    if (keeps_sums) writer.copy(h.data() + at, sums, count);
    // A lambda, because a function by its name would be called for every pack.
    if (activates)
      writer.map(
          op.y.data() + at, count, [](Pack<Real> sum) { return cpu_detail::gelu<Real>(sum); }, sums);
  };
  cpu_detail::product(cpu, h, cpu_detail::as_is(op.x.data(), in), cpu_detail::transposed(op.weight.data(), in), in,
                      cpu_detail::Result::overwrite, true, op.bias.data(),
                      cpu_detail::Finish<Real, decltype(write)>{!activates, nullptr, write});
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearInputGradient<Real>& op) {
  using cpu_detail::Pack;
  op.check();
  const int out = op.weight.extent(0), in = op.weight.extent(1);
  const bool adds = op.residual && op.residual.data() == op.dx.data();
  const Real* other = op.pre_activation ? op.pre_activation.data() : adds ? nullptr : op.residual.data();
  const auto write = [&](int row, int column, const Real* sums, int count, const auto& writer) {
    const std::int64_t at = std::int64_t{row} * in + column;
    Real* dx = op.dx.data() + at;
    if (op.pre_activation) {
      writer.map(
          dx, count, [](Pack<Real> sum, Pack<Real> h) { return sum * cpu_detail::gelu_slope<Real>(h); }, sums,
          other + at);
    } else if (other) {
      writer.map(
          dx, count, [](Pack<Real> sum, Pack<Real> residual) { return sum + residual; }, sums, other + at);
    } else {
      writer.copy(dx, sums, count);
    }
  };
  cpu_detail::product(cpu, op.dx, cpu_detail::as_is(op.dy.data(), out), cpu_detail::as_is(op.weight.data(), in), out,
                      adds ? cpu_detail::Result::add : cpu_detail::Result::overwrite, false, nullptr,
                      cpu_detail::Finish<Real, decltype(write)>{!other, other, write});
}

template <class Real>
void run(Cpu<Real>& cpu, const LinearWeightGradient<Real>& op) {
  op.check();
  const int T = op.x.extent(0), in = op.x.extent(1), out = op.dy.extent(1);
  const auto leave = [](int, int, const Real*, int, const auto&) {};
  cpu_detail::product(cpu, op.dweight.view(), cpu_detail::transposed(op.dy.data(), out),
                      cpu_detail::as_is(op.x.data(), in), T, cpu_detail::Result::add, false, nullptr,
                      cpu_detail::Finish<Real, decltype(leave)>{true, nullptr, leave});
  // A few rows at a time, each in the order in which it lies in memory.
  constexpr int pack = cpu_detail::pack_size<Real>;
  const int packs = (out + pack - 1) / pack;
  cpu.for_chunks(packs, cpu.chunks(packs, std::int64_t{pack} * T), [&](int first, int last, int) {
    const int begin = first * pack, count = std::min(out, last * pack) - begin;
    Wide<Real>* dbias = op.dbias.data() + begin;
    const auto row = [&](int t) { return op.dy.data() + std::int64_t{t} * out + begin; };
    int t = 0;
    for (; t + 4 <= T; t += 4) {
      cpu_detail::map_packs<Real>(
          dbias, count, [](auto sum, auto a, auto b, auto c, auto d) { return sum + ((a + b) + (c + d)); }, dbias,
          row(t), row(t + 1), row(t + 2), row(t + 3));
    }
    for (; t < T; ++t) {
      cpu_detail::map_packs<Real>(
          dbias, count, [](auto sum, auto a) { return sum + a; }, dbias, row(t));
    }
  });
}

}  // namespace blinkbert
