#pragma once

// Attention, over all rows and over the chosen ones, and the narrow block that has it inside.

#include "../flops.hpp"
#include "case.hpp"

namespace benchmarks {

template <class Device>
void add_attention(Cases<Device>& cases, const Sequences& of) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  const double TE = 1.0 * of.T() * E, masks = 4.0 * of.B * (1 + visible_words(of.L));
  const std::string shape = text(of.name(), ", H ", H, ", D ", D);
  add(cases, "masked_attention_forward", shape, 4 * number * TE + masks, 4 * TE * of.L, [of](Buffers<Device>& b) {
    return MaskedAttentionForward<Real>{.o = b.real(of.B, of.L, H, D),
                                        .qkv = b.real(of.B, of.L, 3, H, D),
                                        .visible = b.choose(of).visible,
                                        .lengths = b.lengths(of),
                                        .dropout = dropout(Purpose::attention_dropout)};
  });
  add(cases, "masked_attention_backward", shape, 7 * number * TE + masks, 10 * TE * of.L, [of](Buffers<Device>& b) {
    return MaskedAttentionBackward<Real>{.dqkv = b.real(of.B, of.L, 3, H, D),
                                         .output_gradient = b.real(of.B, of.L, H, D),
                                         .qkv = b.real(of.B, of.L, 3, H, D),
                                         .visible = b.choose(of).visible,
                                         .lengths = b.lengths(of),
                                         .dropout = dropout(Purpose::attention_dropout)};
  });
}

template <class Device>
void add_gathered_attention(Cases<Device>& cases, const Sequences& of) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  const int M = of.M();
  const double TE = 1.0 * of.T() * E, ME = 1.0 * M * E, masks = 4.0 * (M + of.B * (2 + visible_words(of.L)));
  const std::string shape = text(of.name(), ", H ", H, ", D ", D, ", M ", M);
  add(cases, "gathered_attention_forward", shape, number * (2 * ME + 2 * TE) + masks, 4 * ME * of.L,
      [of, M](Buffers<Device>& b) {
        const auto chosen = b.choose(of);
        return GatheredAttentionForward<Real>{.o = b.real(M, H, D),
                                              .q = b.real(M, H, D),
                                              .kv = b.real(of.B, of.L, 2, H, D),
                                              .rows = chosen.rows,
                                              .offsets = chosen.offsets,
                                              .visible = chosen.visible,
                                              .lengths = b.lengths(of),
                                              .dropout = dropout(Purpose::attention_dropout)};
      });
  add(cases, "gathered_attention_backward", shape, number * (3 * ME + 4 * TE) + masks, 10 * ME * of.L,
      [of, M](Buffers<Device>& b) {
        const auto chosen = b.choose(of);
        return GatheredAttentionBackward<Real>{.dq = b.real(M, H, D),
                                               .dkv = b.real(of.B, of.L, 2, H, D),
                                               .output_gradient = b.real(M, H, D),
                                               .q = b.real(M, H, D),
                                               .kv = b.real(of.B, of.L, 2, H, D),
                                               .rows = chosen.rows,
                                               .offsets = chosen.offsets,
                                               .visible = chosen.visible,
                                               .lengths = b.lengths(of),
                                               .dropout = dropout(Purpose::attention_dropout)};
      });
}

/// The block of the attention upscalings at width N.
template <class Device>
void add_narrow_block(Cases<Device>& cases, const Sequences& of) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  constexpr int inner = H * head_width(N, H), F = 4 * N;
  const int T = of.T();
  const double TN = number * T * N, flops = block_flops(T, T, of.L, N, H);
  const std::string shape = text(of.name(), ", N ", N, ", H ", H);
  const auto weights = [](Buffers<Device>& b) {
    return BlockWeights<Real>{.in_weight = b.real(3 * inner, N),
                              .in_bias = b.real(3 * inner),
                              .out_weight = b.real(N, inner),
                              .out_bias = b.real(N),
                              .weight1 = b.real(F, N),
                              .bias1 = b.real(F),
                              .weight2 = b.real(N, F),
                              .bias2 = b.real(N),
                              .gamma1 = b.wide(N),
                              .beta1 = b.wide(N),
                              .gamma2 = b.wide(N),
                              .beta2 = b.wide(N)};
  };
  const auto setting = [of](Buffers<Device>& b) {
    return BlockSetting<Real>{.visible = b.choose(of).visible,
                              .lengths = b.lengths(of),
                              .L = of.L,
                              .H = H,
                              .attention = dropout(Purpose::attention_dropout),
                              .after_attention = dropout(Purpose::attention_residual_dropout),
                              .after_feed_forward = dropout(Purpose::feed_forward_residual_dropout)};
  };
  add(cases, "narrow_block_forward", shape, 2 * TN, flops, [=](Buffers<Device>& b) {
    return NarrowBlockForward<Real>{.y = b.real(T, N), .x = b.real(T, N), .weights = weights(b), .setting = setting(b)};
  });
  // The forward pass is computed again.
  add(cases, "narrow_block_backward", shape, 3 * TN, 3 * flops, [=](Buffers<Device>& b) {
    const auto zeros = [&](auto... extents) { return Acc{b.template zeros<Wide<Real>>(extents...)}; };
    return NarrowBlockBackward<Real>{.dx = b.real(T, N),
                                     .gradients = {.in_weight = zeros(3 * inner, N),
                                                   .in_bias = zeros(3 * inner),
                                                   .out_weight = zeros(N, inner),
                                                   .out_bias = zeros(N),
                                                   .weight1 = zeros(F, N),
                                                   .bias1 = zeros(F),
                                                   .weight2 = zeros(N, F),
                                                   .bias2 = zeros(N),
                                                   .gamma1 = zeros(N),
                                                   .beta1 = zeros(N),
                                                   .gamma2 = zeros(N),
                                                   .beta2 = zeros(N)},
                                     .dy = b.real(T, N),
                                     .x = b.real(T, N),
                                     .weights = weights(b),
                                     .setting = setting(b)};
  });
}

}  // namespace benchmarks
