#pragma once

// Matrix products of linear layers.

#include "case.hpp"

namespace benchmarks {

template <class Device>
void add_square_product(Cases<Device>& cases, int n) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  add(cases, "linear_input_gradient", text(n, " x ", n, " x ", n), 3 * number * n * n, 2.0 * n * n * n,
      [n](Buffers<Device>& b) {
        return LinearInputGradient<Real>{.dx = b.real(n, n), .dy = b.real(n, n), .weight = b.real(n, n)};
      });
}

template <class Device>
void add_linear(Cases<Device>& cases, int T, int in, int out, bool has_gelu, bool adds_residual, bool follows_gelu) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  const double x = number * T * in, y = number * T * out, weight = 1.0 * in * out, flops = 2.0 * T * in * out;
  const auto shape = [&](const char* epilogue) { return text("T ", T, ", ", in, " to ", out, epilogue); };
  add(
      cases, "linear_forward", shape(has_gelu ? ", bias, GELU, h kept" : ", bias"),
      x + (has_gelu ? 2 : 1) * y + number * weight, flops,
      [=](Buffers<Device>& b) {
        return LinearForward<Real>{.y = b.real(T, out),
                                   .pre_activation = has_gelu ? b.real(T, out) : View<Real, 2>{},
                                   .x = b.real(T, in),
                                   .weight = b.real(out, in),
                                   .bias = b.real(out),
                                   .activation = has_gelu ? Activation::gelu : Activation::none};
      },
      T);
  add(
      cases, "linear_input_gradient",
      shape(adds_residual  ? ", residual"
            : follows_gelu ? ", slope of GELU"
                           : ""),
      (adds_residual || follows_gelu ? 2 : 1) * x + y + number * weight, flops,
      [=](Buffers<Device>& b) {
        return LinearInputGradient<Real>{.dx = b.real(T, in),
                                         .dy = b.real(T, out),
                                         .weight = b.real(out, in),
                                         .pre_activation = follows_gelu ? b.real(T, in) : View<Real, 2>{},
                                         .residual = adds_residual ? b.real(T, in) : View<Real, 2>{}};
      },
      T);
  add(
      cases, "linear_weight_gradient", shape(", bias"), x + y + 2 * sizeof(Wide<Real>) * weight, flops,
      [=](Buffers<Device>& b) {
        return LinearWeightGradient<Real>{.dweight = Acc{b.template zeros<Wide<Real>>(out, in)},
                                          .dbias = Acc{b.template zeros<Wide<Real>>(out)},
                                          .dy = b.real(T, out),
                                          .x = b.real(T, in)};
      },
      T);
}

/// The twelve products of an encoder block, with the epilogues that they have there.
template <class Device>
void add_products(Cases<Device>& cases, int T) {
  struct Layer {
    int in, out;
    bool has_gelu, adds_residual, follows_gelu;
  };
  for (const auto& [in, out, has_gelu, adds_residual, follows_gelu] :
       {Layer{E, 3 * E, false, true, false}, Layer{E, E, false, false, false}, Layer{E, 4 * E, true, true, false},
        Layer{4 * E, E, false, false, true}}) {
    add_linear(cases, T, in, out, has_gelu, adds_residual, follows_gelu);
  }
}

}  // namespace benchmarks
