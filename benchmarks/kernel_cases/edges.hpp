#pragma once

// What comes before and after the encoder blocks.

#include "case.hpp"

namespace benchmarks {

/// Width of the head's hidden layer.
inline constexpr int hidden = 64;

template <class Device>
void add_edges(Cases<Device>& cases, const Sequences& of) {
  using Real = typename Device::Real;
  constexpr double number = sizeof(Real);
  const int T = of.T(), M = of.M();
  const double TE = number * T * E, TN = number * T * N, ME = number * M * E, MF = number * M * hidden,
               MN = number * M * N;
  const std::string rows = text("M ", M, ", F ", hidden);
  add(cases, "row_masks", text(of.name(), ", N ", N), 2 * TN + 4.0 * (T + M + of.B * (3 + visible_words(of.L))) + M, 0,
      [of, T, M](Buffers<Device>& b) {
        const auto chosen = b.choose(of);
        std::vector<std::uint32_t> sequences(static_cast<std::size_t>(of.B));
        for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i] = static_cast<std::uint32_t>(i);
        const auto stream = [](Purpose purpose) { return RandomStream{.seed = 1, .purpose = purpose}; };
        return RowMasks<Real>{.x = b.real(of.B, of.L, N),
                              .rows = b.template zeros<int>(M),
                              .slots = b.template zeros<int>(T),
                              .actions = b.template zeros<RowAction>(M),
                              .visible = b.template zeros<std::uint32_t>(of.B, visible_words(of.L)),
                              .clean = b.real(of.B, of.L, N),
                              .lengths = b.lengths(of),
                              .offsets = chosen.offsets,
                              .sequences = b.given(sequences, of.B),
                              .chosen_stream = stream(Purpose::chosen_rows),
                              .action_stream = stream(Purpose::actions),
                              .noise_stream = stream(Purpose::noise),
                              .replace_below = std::uint64_t{1} << 32,
                              .noise_below = std::uint64_t{1} << 32};
      });
  add(cases, "embed_rows_forward", text(of.name(), ", N ", N, ", E ", E), TN + TE + number * N * E + 4.0 * of.L * E,
      2.0 * T * N * E, [of, T](Buffers<Device>& b) {
        return EmbedRowsForward<Real>{.y = b.real(T, E),
                                      .x = b.real(T, N),
                                      .weight = b.real(E, N),
                                      .bias = b.real(E),
                                      .position = b.wide(of.L, E),
                                      .lengths = b.lengths(of),
                                      .L = of.L};
      });
  add(cases, "embed_rows_backward", text(of.name(), ", N ", N, ", E ", E), TN + TE + 8.0 * N * E + 8.0 * of.L * E,
      2.0 * T * N * E, [of, T](Buffers<Device>& b) {
        return EmbedRowsBackward<Real>{.dweight = Acc{b.template zeros<Wide<Real>>(E, N)},
                                       .dbias = Acc{b.template zeros<Wide<Real>>(E)},
                                       .dposition = Acc{b.template zeros<Wide<Real>>(of.L, E)},
                                       .dy = b.real(T, E),
                                       .x = b.real(T, N),
                                       .weight = b.real(E, N),
                                       .lengths = b.lengths(of),
                                       .L = of.L};
      });
  add(cases, "gather_rows_forward", text("M ", M, " of ", T, ", E ", E), 2 * ME + 4.0 * M, 0, [=](Buffers<Device>& b) {
    return GatherRowsForward<Real>{.y = b.real(M, E), .x = b.real(T, E), .rows = b.choose(of).rows};
  });
  add(cases, "gather_rows_backward", text("M ", M, " of ", T, ", E ", E, ", residual"), 2 * TE + ME + 4.0 * T, 0,
      [=](Buffers<Device>& b) {
        const auto dx = b.real(T, E);
        return GatherRowsBackward<Real>{.dx = dx, .dy = b.real(M, E), .slots = b.choose(of).slots, .residual = dx};
      });
  add(cases, "mean_rows_forward", text(of.name(), ", E ", E), TE + of.B * (E * number + 4.0), 0,
      [=](Buffers<Device>& b) {
        return MeanRowsForward<Real>{.y = b.real(of.B, E), .x = b.real(T, E), .lengths = b.lengths(of), .L = of.L};
      });
  add(cases, "mean_rows_backward", text(of.name(), ", E ", E), TE + of.B * (E * number + 4.0), 0,
      [=](Buffers<Device>& b) {
        return MeanRowsBackward<Real>{.dx = b.real(T, E), .dy = b.real(of.B, E), .lengths = b.lengths(of), .L = of.L};
      });
  add(cases, "append_statistics", text(of.name(), ", N ", N),
      (1 + statistics_inputs) * TN + 4.0 * of.B * (1 + visible_words(of.L)), 0, [=](Buffers<Device>& b) {
        return AppendStatistics<Real>{.y = b.real(of.B, of.L, statistics_inputs * N),
                                      .x = b.real(of.B, of.L, N),
                                      .lengths = b.lengths(of),
                                      .visible = b.choose(of).visible};
      });
  add(cases, "batch_norm_forward", rows, 2 * MF, 0, [M](Buffers<Device>& b) {
    return BatchNormForward<Real>{.y = b.real(M, hidden),
                                  .mean = b.wide(hidden),
                                  .rstd = b.wide(hidden),
                                  .running_mean = b.wide(hidden),
                                  .running_variance = b.wide(hidden),
                                  .x = b.real(M, hidden),
                                  .gamma = b.wide(hidden),
                                  .beta = b.wide(hidden),
                                  .statistics = BatchStatistics::batch};
  });
  add(cases, "batch_norm_backward", rows, 3 * MF, 0, [M](Buffers<Device>& b) {
    return BatchNormBackward<Real>{.dx = b.real(M, hidden),
                                   .dgamma = Acc{b.template zeros<Wide<Real>>(hidden)},
                                   .dbeta = Acc{b.template zeros<Wide<Real>>(hidden)},
                                   .dy = b.real(M, hidden),
                                   .x = b.real(M, hidden),
                                   .mean = b.wide(hidden),
                                   .rstd = b.wide(hidden),
                                   .gamma = b.wide(hidden),
                                   .statistics = BatchStatistics::batch};
  });
  add(cases, "activation_forward", rows, 2 * MF + 4.0 * M, 0, [=](Buffers<Device>& b) {
    return ActivationForward<Real>{.y = b.real(M, hidden),
                                   .x = b.real(M, hidden),
                                   .rows = b.choose(of).rows,
                                   .dropout = dropout(Purpose::head_dropout),
                                   .L = of.L};
  });
  add(cases, "activation_backward", rows, 3 * MF + 4.0 * M, 0, [=](Buffers<Device>& b) {
    return ActivationBackward<Real>{.dx = b.real(M, hidden),
                                    .dy = b.real(M, hidden),
                                    .x = b.real(M, hidden),
                                    .rows = b.choose(of).rows,
                                    .dropout = dropout(Purpose::head_dropout),
                                    .L = of.L};
  });
  add(cases, "masked_loss", text("M ", M, " of ", T, ", N ", N), 2 * MN + 4.0 * M * (N + 1), 0,
      [=](Buffers<Device>& b) {
        return MaskedLoss<Real>{.dprediction = b.real(M, N),
                                .sums = Acc{b.template zeros<Wide<Real>>(N)},
                                .prediction = b.real(M, N),
                                .target = b.wide(T, N),
                                .selected = b.choose(of).rows,
                                .weights = b.wide(N),
                                .rows = HeadRows::masked};
      });
  add(cases, "score_loss", text("B ", of.B), of.B * (2 * number + 8), 0, [of](Buffers<Device>& b) {
    return ScoreLoss<Real>{.dprediction = b.real(of.B, 1),
                           .sum = Acc{b.template zeros<Wide<Real>>(1)},
                           .prediction = b.real(of.B, 1),
                           .target = b.wide(of.B),
                           .lengths = b.lengths(of)};
  });
  add(cases, "zero_padding", text(of.name(), ", F ", N), 2 * TN, 0, [of, T](Buffers<Device>& b) {
    return ZeroPadding<Real>{.y = b.real(T, N), .x = b.real(T, N), .lengths = b.lengths(of), .L = of.L};
  });
}

}  // namespace benchmarks
