#pragma once

// What a step does with the whole block of parameters.

#include <type_traits>

#include "case.hpp"

namespace benchmarks {

/// Parameters of four encoder blocks, nearly all of the model.
inline constexpr int P = 4 * (12 * E * E + 13 * E);

template <class Device>
void add_optimizer(Cases<Device>& cases) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  const std::string shape = text("P ", P);
  const auto segments = [](Buffers<Device>& b) {
    return b.given(std::vector<Segment>{{.begin = 0, .end = P, .decays = true}}, 1);
  };
  const auto now = [](Buffers<Device>& b) {
    return b.given(std::vector<StepValues>{{.step = 1000, .rate = 6.2e-4f}}, 1);
  };
  add(cases, "sum_of_squares", shape, 4.0 * P, 0, [=](Buffers<Device>& b) {
    return SumOfSquares<Real>{
        .sum = b.template zeros<double>(1), .gradients = b.wide(P), .segments = segments(b), .now = now(b)};
  });
  constexpr bool is_narrow = !std::is_same_v<Real, Wide<Real>>;
  add(cases, "adamw", shape, (28.0 + (is_narrow ? number : 0)) * P, 0, [=](Buffers<Device>& b) {
    const auto values = b.wide(P);
    AdamW<Real> op{.values = values,
                   .working = {},
                   .first_moment = b.template zeros<Wide<Real>>(P),
                   .second_moment = b.template zeros<Wide<Real>>(P),
                   .skipped = b.template zeros<std::int64_t>(1),
                   .gradients = b.wide(P),
                   .segments = segments(b),
                   .sum_of_squares = b.given(std::vector<double>{1}, 1),
                   .now = now(b),
                   .weight_decay = 0.0095f};
    if constexpr (is_narrow) {
      op.working = b.real(P);
    } else {
      op.working = values;
    }
    return op;
  });
  if constexpr (is_narrow) {
    add(cases, "narrowing", shape, (4 + number) * P, 0,
        [](Buffers<Device>& b) { return Narrowing<Real>{.y = b.real(P), .x = b.wide(P)}; });
  }
}

}  // namespace benchmarks
