#pragma once

// Norms over the width of a row.

#include "case.hpp"

namespace benchmarks {

template <class Device>
void add_norms(Cases<Device>& cases, int T) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  constexpr int L = 30;
  const double TE = number * T * E, statistics = 2.0 * sizeof(Wide<Real>) * T;
  const std::string shape = text("T ", T, ", E ", E);
  add(cases, "residual_norm_forward", shape, 4 * TE + statistics, 0, [T](Buffers<Device>& b) {
    return ResidualNormForward<Real>{.z = b.real(T, E),
                                     .y = b.real(T, E),
                                     .mean = b.wide(T),
                                     .rstd = b.wide(T),
                                     .x = b.real(T, E),
                                     .branch = b.real(T, E),
                                     .gamma = b.wide(E),
                                     .beta = b.wide(E),
                                     .dropout = dropout(Purpose::attention_residual_dropout),
                                     .L = L};
  });
  add(cases, "residual_norm_backward", shape, 4 * TE + statistics, 0, [T](Buffers<Device>& b) {
    return ResidualNormBackward<Real>{.dx = b.real(T, E),
                                      .dbranch = b.real(T, E),
                                      .dgamma = Acc{b.template zeros<Wide<Real>>(E)},
                                      .dbeta = Acc{b.template zeros<Wide<Real>>(E)},
                                      .dy = b.real(T, E),
                                      .z = b.real(T, E),
                                      .mean = b.wide(T),
                                      .rstd = b.wide(T),
                                      .gamma = b.wide(E),
                                      .dropout = dropout(Purpose::attention_residual_dropout),
                                      .L = L};
  });
  add(cases, "layer_norm_forward", shape, 2 * TE + statistics, 0, [T](Buffers<Device>& b) {
    return LayerNormForward<Real>{.y = b.real(T, E),
                                  .mean = b.wide(T),
                                  .rstd = b.wide(T),
                                  .x = b.real(T, E),
                                  .gamma = b.wide(E),
                                  .beta = b.wide(E)};
  });
  add(cases, "layer_norm_backward", shape, 3 * TE + statistics, 0, [T](Buffers<Device>& b) {
    return LayerNormBackward<Real>{.dx = b.real(T, E),
                                   .dgamma = Acc{b.template zeros<Wide<Real>>(E)},
                                   .dbeta = Acc{b.template zeros<Wide<Real>>(E)},
                                   .dy = b.real(T, E),
                                   .x = b.real(T, E),
                                   .mean = b.wide(T),
                                   .rstd = b.wide(T),
                                   .gamma = b.wide(E)};
  });
}

}  // namespace benchmarks
