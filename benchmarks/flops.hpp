#pragma once

// Floating-point operations of a pass, counted from shapes: a multiplication and an addition for each product of a matrix
// product or of attention; nothing else counts.

#include <string>

#include <blinkbert/model/config.hpp>

namespace benchmarks {

using namespace blinkbert;

/// One encoder block of width E in the forward pass: its queries, output and feed-forward for `rows` of the T rows, keys
/// and values for all. Where rows = T and E = H D this is 24 E^2 T + 4 L E T.
inline double block_flops(double T, double rows, int L, int E, int heads) {
  const double inner = heads * head_width(E, heads);
  return 4 * T * E * inner + rows * (4.0 * E * inner + 16.0 * E * E + 4.0 * L * inner);
}

struct Flops {
  double forward = 0;
  double training = 0;  // forward and backward
};

inline constexpr auto flops_formula =
    "forward: blocks (4 E H D T + (4 E H D + 16 E^2 + 4 L H D) R), upscaling the like at width N, 2 N E T, head 2 R "
    "sum in "
    "out; R = rows computed; training: three times that, less the gradients of the input data";

/// A batch of B full windows of L rows whose head reads `read` rows and has `outputs`; the last block is computed for
/// `last_rows`.
inline Flops count_flops(const Config& config, int B, int L, double read, double last_rows, int outputs) {
  const ModelConfig& model = config.model;
  const int N = model_features(config.data), E = model.width;
  const double T = static_cast<double>(B) * L;
  double forward =
      (model.blocks - 1) * block_flops(T, T, L, E, model.heads) + block_flops(T, last_rows, L, E, model.heads);
  int in = E;
  for (const int hidden : config.head.hidden) {
    forward += 2 * read * in * hidden;
    in = hidden;
  }
  forward += 2 * read * in * outputs;

  double input_gradient = 0;  // what a backward pass leaves out: the gradient of the data
  const bool has_block =
      model.upscaling == Upscaling::attention_linear || model.upscaling == Upscaling::attention_concatenation;
  if (has_block) {
    forward += block_flops(T, T, L, N, model.heads);
    input_gradient += 6 * T * N * model.heads * head_width(N, model.heads);
  }
  if (model.upscaling != Upscaling::none) {
    const int out = model.upscaling == Upscaling::attention_concatenation ? E - N : E;
    forward += 2 * T * N * out;
    if (model.upscaling != Upscaling::attention_linear) input_gradient += 2 * T * N * out;
  }
  return {.forward = forward, .training = 3 * forward - input_gradient};
}

}  // namespace benchmarks
