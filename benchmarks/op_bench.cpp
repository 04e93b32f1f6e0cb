// Times single ops of the CPU backend with Google Benchmark, at the sizes of a training step: B 64, L 30, 4 heads.
//   op_bench --benchmark_filter=linear --benchmark_out=ops.json        OMP_NUM_THREADS sets the threads
// Bytes are those that must move, each tensor once; FLOP/s are given for the ops that are products.

#include <algorithm>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/core/arena.hpp>

namespace {

using namespace blinkbert;
using Device = Cpu<float>;
using Real = Device::Real;

constexpr int B = 64, L = 30, H = 4, T = B * L;

/// Device memory that holds normals, or a given value.
class Bench {
 public:
  explicit Bench(benchmark::State& state) : state_(state), arena_(device_) {}

  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> random(Extent... extents) {
    std::normal_distribution<Number> normal;
    return fill<Number>([&] { return normal(generator_); }, extents...);
  }
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> constant(Number value, Extent... extents) {
    return fill<Number>([&] { return value; }, extents...);
  }

  /// Runs the op for the time that Google Benchmark wants. `reals`: numbers read and written; `flops` 0 = no product.
  template <class Op>
  void time(const Op& op, double reals, double flops) {
    for (auto _ : state_) run(device_, op);
    const auto repetitions = static_cast<double>(state_.iterations());
    state_.SetBytesProcessed(static_cast<std::int64_t>(repetitions * reals * sizeof(Real)));
    if (flops > 0) state_.counters["FLOP/s"] = {repetitions * flops, benchmark::Counter::kIsRate};
  }

  Pass pass() {
    return {.mode = Mode::training,
            .lengths = constant(L, B),
            .visible = constant((std::uint32_t{1} << L) - 1, B, visible_words(L)),
            .L = L};
  }

 private:
  template <class Number, class Next, class... Extent>
  View<Number, sizeof...(Extent)> fill(Next next, Extent... extents) {
    const auto view = arena_.take<Number>(extents...);
    std::vector<Number> values(static_cast<std::size_t>(view.size()));
    std::generate(values.begin(), values.end(), next);
    upload(device_, view, values.data());
    return view;
  }

  benchmark::State& state_;
  Device device_;
  Arena<Device> arena_;
  std::mt19937_64 generator_;
};

Dropout dropout(const Pass& pass, Purpose purpose) { return pass.dropout(purpose, 0, 0.01); }

void masked_attention_forward(benchmark::State& state, int E) {
  Bench bench(state);
  const Pass pass = bench.pass();
  bench.time(MaskedAttentionForward<Real>{.o = bench.random<Real>(B, L, H, E / H),
                                          .qkv = bench.random<Real>(B, L, 3, H, E / H),
                                          .visible = pass.visible,
                                          .lengths = pass.lengths,
                                          .dropout = dropout(pass, Purpose::attention_dropout)},
             4.0 * T * E, 4.0 * T * L * E);
}

void masked_attention_backward(benchmark::State& state, int E) {
  Bench bench(state);
  const Pass pass = bench.pass();
  bench.time(MaskedAttentionBackward<Real>{.dqkv = bench.random<Real>(B, L, 3, H, E / H),
                                           .output_gradient = bench.random<Real>(B, L, H, E / H),
                                           .qkv = bench.random<Real>(B, L, 3, H, E / H),
                                           .visible = pass.visible,
                                           .lengths = pass.lengths,
                                           .dropout = dropout(pass, Purpose::attention_dropout)},
             7.0 * T * E, 10.0 * T * L * E);
}

void residual_norm_forward(benchmark::State& state, int E) {
  Bench bench(state);
  bench.time(ResidualNormForward<Real>{.z = bench.random<Real>(T, E),
                                       .y = bench.random<Real>(T, E),
                                       .mean = bench.random<Wide<Real>>(T),
                                       .rstd = bench.random<Wide<Real>>(T),
                                       .x = bench.random<Real>(T, E),
                                       .branch = bench.random<Real>(T, E),
                                       .gamma = bench.random<Wide<Real>>(E),
                                       .beta = bench.random<Wide<Real>>(E),
                                       .dropout = dropout(bench.pass(), Purpose::attention_residual_dropout),
                                       .L = L},
             4.0 * T * E, 0);
}

void residual_norm_backward(benchmark::State& state, int E) {
  Bench bench(state);
  bench.time(ResidualNormBackward<Real>{.dx = bench.random<Real>(T, E),
                                        .dbranch = bench.random<Real>(T, E),
                                        .dgamma = Acc{bench.random<Wide<Real>>(E)},
                                        .dbeta = Acc{bench.random<Wide<Real>>(E)},
                                        .dy = bench.random<Real>(T, E),
                                        .z = bench.random<Real>(T, E),
                                        .mean = bench.random<Wide<Real>>(T),
                                        .rstd = bench.random<Wide<Real>>(T),
                                        .gamma = bench.random<Wide<Real>>(E),
                                        .dropout = dropout(bench.pass(), Purpose::attention_residual_dropout),
                                        .L = L},
             4.0 * T * E, 0);
}

void layer_norm_forward(benchmark::State& state, int E) {
  Bench bench(state);
  bench.time(LayerNormForward<Real>{.y = bench.random<Real>(T, E),
                                    .mean = bench.random<Wide<Real>>(T),
                                    .rstd = bench.random<Wide<Real>>(T),
                                    .x = bench.random<Real>(T, E),
                                    .gamma = bench.random<Wide<Real>>(E),
                                    .beta = bench.random<Wide<Real>>(E)},
             2.0 * T * E, 0);
}

void layer_norm_backward(benchmark::State& state, int E) {
  Bench bench(state);
  bench.time(LayerNormBackward<Real>{.dx = bench.random<Real>(T, E),
                                     .dgamma = Acc{bench.random<Wide<Real>>(E)},
                                     .dbeta = Acc{bench.random<Wide<Real>>(E)},
                                     .dy = bench.random<Real>(T, E),
                                     .x = bench.random<Real>(T, E),
                                     .mean = bench.random<Wide<Real>>(T),
                                     .rstd = bench.random<Wide<Real>>(T),
                                     .gamma = bench.random<Wide<Real>>(E)},
             3.0 * T * E, 0);
}

// The first product of a feed-forward, E to F = 4 E; the gradients are those of it too.

void linear_forward(benchmark::State& state, int E) {
  Bench bench(state);
  const int F = 4 * E;
  bench.time(LinearForward<Real>{.y = bench.random<Real>(T, F),
                                 .pre_activation = bench.random<Real>(T, F),
                                 .x = bench.random<Real>(T, E),
                                 .weight = bench.random<Real>(F, E),
                                 .bias = bench.random<Real>(F),
                                 .activation = Activation::gelu},
             1.0 * T * E + 2.0 * T * F + 1.0 * E * F, 2.0 * T * E * F);
}

void linear_input_gradient(benchmark::State& state, int E) {
  Bench bench(state);
  const int F = 4 * E;
  bench.time(
      LinearInputGradient<Real>{
          .dx = bench.random<Real>(T, E), .dy = bench.random<Real>(T, F), .weight = bench.random<Real>(F, E)},
      1.0 * T * E + 1.0 * T * F + 1.0 * E * F, 2.0 * T * E * F);
}

void linear_weight_gradient(benchmark::State& state, int E) {
  Bench bench(state);
  const int F = 4 * E;
  bench.time(LinearWeightGradient<Real>{.dweight = Acc{bench.random<Wide<Real>>(F, E)},
                                        .dbias = Acc{bench.random<Wide<Real>>(F)},
                                        .dy = bench.random<Real>(T, F),
                                        .x = bench.random<Real>(T, E)},
             1.0 * T * E + 1.0 * T * F + 2.0 * E * F, 2.0 * T * E * F);
}

/// Parameters of four encoder blocks, nearly all of a model.
int parameters(int E) { return 4 * (12 * E * E + 13 * E); }

void sum_of_squares(benchmark::State& state, int E) {
  Bench bench(state);
  const int P = parameters(E);
  bench.time(SumOfSquares<Real>{.sum = bench.constant(0.0, 1),
                                .gradients = bench.random<Wide<Real>>(P),
                                .segments = bench.constant(Segment{.begin = 0, .end = P}, 1),
                                .now = bench.constant(StepValues{}, 1)},
             1.0 * P, 0);
}

void adamw(benchmark::State& state, int E) {
  Bench bench(state);
  const int P = parameters(E);
  const auto values = bench.random<Wide<Real>>(P);
  bench.time(AdamW<Real>{.values = values,
                         .working = values,
                         .first_moment = bench.constant(Wide<Real>{0}, P),
                         .second_moment = bench.constant(Wide<Real>{0}, P),
                         .skipped = bench.constant(std::int64_t{0}, 1),
                         .gradients = bench.random<Wide<Real>>(P),
                         .segments = bench.constant(Segment{.begin = 0, .end = P, .decays = true}, 1),
                         .sum_of_squares = bench.constant(1.0, 1),
                         .now = bench.constant(StepValues{.step = 1000, .rate = 6.2e-4f}, 1),
                         .weight_decay = 0.0095f},
             7.0 * P, 0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::pair<std::string, void (*)(benchmark::State&, int)>> ops{
      {"masked_attention_forward", masked_attention_forward},
      {"masked_attention_backward", masked_attention_backward},
      {"residual_norm_forward", residual_norm_forward},
      {"residual_norm_backward", residual_norm_backward},
      {"layer_norm_forward", layer_norm_forward},
      {"layer_norm_backward", layer_norm_backward},
      {"linear_forward", linear_forward},
      {"linear_input_gradient", linear_input_gradient},
      {"linear_weight_gradient", linear_weight_gradient},
      {"sum_of_squares", sum_of_squares},
      {"adamw", adamw}};
  for (const auto& [name, op] : ops) {
    for (const int E : {64, 512}) {
      benchmark::RegisterBenchmark(text(name, "/E:", E).c_str(), op, E)->UseRealTime()->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
