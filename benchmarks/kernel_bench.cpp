// Times the ops of the CUDA backend one by one, at the sizes of a training step of the published model.
//   kernel_bench                      all ops in bf16, the most telling ones first
//   kernel_bench --dtype fp32 --filter attention
//
// A case is a captured graph of 20 launches that go through copies of the op's buffers, as many as make 256 MB together, so
// that nothing is in a cache that would not be there within a step; ops with less than .6 MB take 400 copies, and what they
// read may be cached (column buffers_mb). Graphs are replayed one behind the other, with a CUDA event between two of them: a
// time is that between two events, divided by 20.
//   bytes    that must move, each tensor once; what an op reads twice or keeps in its workspace is not counted
//   flops    a multiplication and an addition for each product of a matrix product or of attention
//   % copy   bytes per second over those of copies within the card (read and written), measured in the same minute
// Rows are added to benchmarks/results/<card>/kernels.csv one by one; plans.json beside it says which way cuBLASLt multiplies
// and whether its epilogues were the faster ones. Without a card: "skipped: why", exit code 77.

#include <array>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <blinkbert/io/plans_file.hpp>

#include "../examples/command_line.hpp"
#include "card.hpp"
#include "flops.hpp"

namespace benchmarks {
namespace {

struct KernelFlags {
  std::string dtype = "bf16", filter, commit;
  std::filesystem::path results = "benchmarks/results";
  int repetitions = 50;
  double warmup = 3, minutes = 8.5;
};

constexpr int launches = 20, most_copies = 400;
constexpr double least_bytes = 256e6;

/// The published size: width, heads and their width, features.
constexpr int E = 512, H = 4, D = 128, N = 18;
/// Parameters of four encoder blocks, nearly all of the model.
constexpr int P = 4 * (12 * E * E + 13 * E);
/// Width of the head's hidden layer.
constexpr int hidden = 64;

/// B full sequences of L rows; of each, 15 % of the rows are chosen as by mask.count = "batch" and hidden as keys.
struct Sequences {
  int B, L;
  int T() const { return B * L; }
  int M() const { return chosen_before(B); }
  int chosen_before(int b) const { return static_cast<int>((std::int64_t{150000} * L * b + 500000) / 1000000); }
  std::string name() const { return text("B ", B, ", L ", L); }
};

/// Device memory for one copy of an op's tensors.
template <class Device>
class Buffers {
 public:
  using Real = typename Device::Real;

  explicit Buffers(Device& device) : device_(device), arena_(device) {
    std::mt19937_64 generator(3);
    std::normal_distribution<float> normal;
    std::vector<float> wide(pool_size);
    std::generate(wide.begin(), wide.end(), [&] { return normal(generator); });
    const std::vector<bf16> narrow(wide.begin(), wide.end());
    wide_pool_ = upload_pool(wide);
    narrow_pool_ = upload_pool(narrow);
    device.wait();
  }

  /// Gives everything back to be taken again.
  void restart() {
    arena_.restart();
    bytes_ = pool_place_ = 0;
  }
  std::int64_t bytes() const { return bytes_; }

  /// Normals, from another place of the pool for each tensor.
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> normals(Extent... extents) {
    const auto view = take<Number>(extents...);
    const std::byte* const pool = sizeof(Number) == sizeof(float) ? wide_pool_.data() : narrow_pool_.data();
    for (std::int64_t done = 0; done < view.size();) {
      const std::int64_t count = std::min<std::int64_t>(pool_size - pool_place_, view.size() - done);
      device_.copy(reinterpret_cast<std::byte*>(view.data() + done),
                   pool + static_cast<std::size_t>(pool_place_) * sizeof(Number),
                   static_cast<std::size_t>(count) * sizeof(Number));
      done += count;
      pool_place_ = (pool_place_ + count + 1032) / 8 * 8 % pool_size;
    }
    return view;
  }
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> zeros(Extent... extents) {
    const auto view = take<Number>(extents...);
    fill_zero(device_, view);
    return view;
  }
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> given(const std::vector<Number>& values, Extent... extents) {
    const auto view = take<Number>(extents...);
    upload(device_, view, values.data());
    device_.wait();
    return view;
  }
  template <class... Extent>
  auto real(Extent... extents) {
    return normals<Real>(extents...);
  }
  template <class... Extent>
  auto wide(Extent... extents) {
    return normals<Wide<Real>>(extents...);
  }
  View<int, 1> lengths(const Sequences& of) {
    return given(std::vector<int>(static_cast<std::size_t>(of.B), of.L), of.B);
  }

  /// Rows chosen: which, where each sequence's begin, the place of each row among them, the keys that are left.
  struct Chosen {
    View<int, 1> rows, offsets, slots;
    View<std::uint32_t, 2> visible;
  };
  Chosen choose(const Sequences& of) {
    const auto T = static_cast<std::size_t>(of.T());
    const int words = visible_words(of.L);
    std::mt19937_64 generator(4);
    std::vector<int> rows, offsets{0}, slots(T, -1), order(static_cast<std::size_t>(of.L));
    std::vector<std::uint32_t> visible(static_cast<std::size_t>(of.B * words), 0);
    for (int b = 0; b < of.B; ++b) {
      for (int l = 0; l < of.L; ++l) order[static_cast<std::size_t>(l)] = l;
      std::shuffle(order.begin(), order.end(), generator);
      const auto count = static_cast<std::ptrdiff_t>(of.chosen_before(b + 1) - of.chosen_before(b));
      std::sort(order.begin(), order.begin() + count);
      for (int l = 0; l < of.L; ++l) {
        const bool is_chosen = std::binary_search(order.begin(), order.begin() + count, l);
        if (is_chosen) {
          slots[static_cast<std::size_t>(b * of.L + l)] = static_cast<int>(rows.size());
          rows.push_back(b * of.L + l);
        } else {
          visible[static_cast<std::size_t>(b * words + l / 32)] |= std::uint32_t{1} << l % 32;
        }
      }
      offsets.push_back(static_cast<int>(rows.size()));
    }
    return {.rows = given(rows, of.M()),
            .offsets = given(offsets, of.B + 1),
            .slots = given(slots, of.T()),
            .visible = given(visible, of.B, words)};
  }

 private:
  static constexpr int pool_size = (1 << 22) - 8;

  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> take(Extent... extents) {
    const auto view = arena_.template take<Number>(extents...);
    bytes_ += view.size() * static_cast<std::int64_t>(sizeof(Number));
    return view;
  }
  template <class Number>
  CudaMemory upload_pool(const std::vector<Number>& values) {
    CudaMemory memory(values.size() * sizeof(Number));
    upload(device_, View<Number, 1>(reinterpret_cast<Number*>(memory.data()), {pool_size}), values.data());
    return memory;
  }

  Device& device_;
  Arena<Device> arena_;
  CudaMemory wide_pool_, narrow_pool_;
  std::int64_t bytes_ = 0, pool_place_ = 0;
};

/// One op at one size.
template <class Device>
struct Case {
  using Issue = std::function<void(Device&)>;

  std::string op, shape;
  double bytes, flops;
  std::function<Issue(Buffers<Device>&)> make;  // an op over buffers of its own
  int products_of = 0;                          // T, where it is one of the twelve products of a block
};

Dropout dropout(Purpose purpose) { return {RandomStream{.seed = 1, .purpose = purpose}, 0, 0.01}; }

/// All cases, the most telling ones first.
template <class Device>
class Cases {
 public:
  using Real = typename Device::Real;
  using Issue = typename Case<Device>::Issue;

  static std::vector<Case<Device>> all(const Device& device, bool is_strict_fp32) {
    Cases cases;
    cases.square_product(is_strict_fp32 ? 4096 : 8192);
    for (const int T : {30720, 65536, 1920}) cases.products(T);
    for (const Sequences of :
         {Sequences{1024, 30}, Sequences{1024, 64}, Sequences{64, 30}, Sequences{256, 128}, Sequences{64, 512}}) {
      cases.attention(of);
    }
    for (const int T : {30720, 61440}) cases.norms(T);
    cases.optimizer();
    for (const Sequences of : {Sequences{1024, 30}, Sequences{1024, 64}}) {
      cases.gathered_attention(of);
      cases.edges(of);
      if (fuses_narrow_block(device, N, H, head_width(N, H), of.L)) cases.narrow_block(of);
    }
    return cases.all_;
  }

 private:
  static constexpr double number = sizeof(Real);

  template <class Make>
  void add(const std::string& op, const std::string& shape, double bytes, double flops, const Make& make,
           int products_of = 0) {
    const auto issue = [make](Buffers<Device>& buffers) -> Issue {
      return [op = make(buffers)](Device& device) { run(device, op); };
    };
    all_.push_back({op, shape, bytes, flops, issue, products_of});
  }

  void square_product(int n) {
    add("linear_input_gradient", text(n, " x ", n, " x ", n), 3 * number * n * n, 2.0 * n * n * n,
        [n](Buffers<Device>& b) {
          return LinearInputGradient<Real>{.dx = b.real(n, n), .dy = b.real(n, n), .weight = b.real(n, n)};
        });
  }

  /// The twelve products of an encoder block, with the epilogues that they have there.
  void products(int T) {
    struct Layer {
      int in, out;
      bool has_gelu, adds_residual, follows_gelu;
    };
    for (const auto& [in, out, has_gelu, adds_residual, follows_gelu] :
         {Layer{E, 3 * E, false, true, false}, Layer{E, E, false, false, false}, Layer{E, 4 * E, true, true, false},
          Layer{4 * E, E, false, false, true}}) {
      linear(T, in, out, has_gelu, adds_residual, follows_gelu);
    }
  }

  void linear(int T, int in, int out, bool has_gelu, bool adds_residual, bool follows_gelu) {
    const double x = number * T * in, y = number * T * out, weight = 1.0 * in * out, flops = 2.0 * T * in * out;
    const auto shape = [&](const char* epilogue) { return text("T ", T, ", ", in, " to ", out, epilogue); };
    add(
        "linear_forward", shape(has_gelu ? ", bias, GELU, h kept" : ", bias"),
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
        "linear_input_gradient",
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
        "linear_weight_gradient", shape(", bias"), x + y + 2 * sizeof(Wide<Real>) * weight, flops,
        [=](Buffers<Device>& b) {
          return LinearWeightGradient<Real>{.dweight = Acc{b.template zeros<Wide<Real>>(out, in)},
                                            .dbias = Acc{b.template zeros<Wide<Real>>(out)},
                                            .dy = b.real(T, out),
                                            .x = b.real(T, in)};
        },
        T);
  }

  void attention(const Sequences& of) {
    const double TE = 1.0 * of.T() * E, masks = 4.0 * of.B * (1 + visible_words(of.L));
    const std::string shape = text(of.name(), ", H ", H, ", D ", D);
    add("masked_attention_forward", shape, 4 * number * TE + masks, 4 * TE * of.L, [of](Buffers<Device>& b) {
      return MaskedAttentionForward<Real>{.o = b.real(of.B, of.L, H, D),
                                          .qkv = b.real(of.B, of.L, 3, H, D),
                                          .visible = b.choose(of).visible,
                                          .lengths = b.lengths(of),
                                          .dropout = dropout(Purpose::attention_dropout)};
    });
    add("masked_attention_backward", shape, 7 * number * TE + masks, 10 * TE * of.L, [of](Buffers<Device>& b) {
      return MaskedAttentionBackward<Real>{.dqkv = b.real(of.B, of.L, 3, H, D),
                                           .output_gradient = b.real(of.B, of.L, H, D),
                                           .qkv = b.real(of.B, of.L, 3, H, D),
                                           .visible = b.choose(of).visible,
                                           .lengths = b.lengths(of),
                                           .dropout = dropout(Purpose::attention_dropout)};
    });
  }

  void gathered_attention(const Sequences& of) {
    const int M = of.M();
    const double TE = 1.0 * of.T() * E, ME = 1.0 * M * E, masks = 4.0 * (M + of.B * (2 + visible_words(of.L)));
    const std::string shape = text(of.name(), ", H ", H, ", D ", D, ", M ", M);
    add("gathered_attention_forward", shape, number * (2 * ME + 2 * TE) + masks, 4 * ME * of.L,
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
    add("gathered_attention_backward", shape, number * (3 * ME + 4 * TE) + masks, 10 * ME * of.L,
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

  void norms(int T) {
    constexpr int L = 30;
    const double TE = number * T * E, statistics = 2.0 * sizeof(Wide<Real>) * T;
    const std::string shape = text("T ", T, ", E ", E);
    add("residual_norm_forward", shape, 4 * TE + statistics, 0, [T](Buffers<Device>& b) {
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
    add("residual_norm_backward", shape, 4 * TE + statistics, 0, [T](Buffers<Device>& b) {
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
    add("layer_norm_forward", shape, 2 * TE + statistics, 0, [T](Buffers<Device>& b) {
      return LayerNormForward<Real>{.y = b.real(T, E),
                                    .mean = b.wide(T),
                                    .rstd = b.wide(T),
                                    .x = b.real(T, E),
                                    .gamma = b.wide(E),
                                    .beta = b.wide(E)};
    });
    add("layer_norm_backward", shape, 3 * TE + statistics, 0, [T](Buffers<Device>& b) {
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

  void optimizer() {
    const std::string shape = text("P ", P);
    const auto segments = [](Buffers<Device>& b) {
      return b.given(std::vector<Segment>{{.begin = 0, .end = P, .decays = true}}, 1);
    };
    const auto now = [](Buffers<Device>& b) {
      return b.given(std::vector<StepValues>{{.step = 1000, .rate = 6.2e-4f}}, 1);
    };
    add("sum_of_squares", shape, 4.0 * P, 0, [=](Buffers<Device>& b) {
      return SumOfSquares<Real>{
          .sum = b.template zeros<double>(1), .gradients = b.wide(P), .segments = segments(b), .now = now(b)};
    });
    constexpr bool is_narrow = !std::is_same_v<Real, Wide<Real>>;
    add("adamw", shape, (28.0 + (is_narrow ? number : 0)) * P, 0, [=](Buffers<Device>& b) {
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
      add("narrowing", shape, (4 + number) * P, 0,
          [](Buffers<Device>& b) { return Narrowing<Real>{.y = b.real(P), .x = b.wide(P)}; });
    }
  }

  /// What comes before and after the blocks.
  void edges(const Sequences& of) {
    const int T = of.T(), M = of.M();
    const double TE = number * T * E, TN = number * T * N, ME = number * M * E, MF = number * M * hidden,
                 MN = number * M * N;
    const std::string rows = text("M ", M, ", F ", hidden);
    add("row_masks", text(of.name(), ", N ", N), 2 * TN + 4.0 * (T + M + of.B * (3 + visible_words(of.L))) + M, 0,
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
    add("embed_rows_forward", text(of.name(), ", N ", N, ", E ", E), TN + TE + number * N * E + 4.0 * of.L * E,
        2.0 * T * N * E, [of, T](Buffers<Device>& b) {
          return EmbedRowsForward<Real>{.y = b.real(T, E),
                                        .x = b.real(T, N),
                                        .weight = b.real(E, N),
                                        .bias = b.real(E),
                                        .position = b.wide(of.L, E),
                                        .lengths = b.lengths(of),
                                        .L = of.L};
        });
    add("embed_rows_backward", text(of.name(), ", N ", N, ", E ", E), TN + TE + 8.0 * N * E + 8.0 * of.L * E,
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
    add("gather_rows_forward", text("M ", M, " of ", T, ", E ", E), 2 * ME + 4.0 * M, 0, [=](Buffers<Device>& b) {
      return GatherRowsForward<Real>{.y = b.real(M, E), .x = b.real(T, E), .rows = b.choose(of).rows};
    });
    add("gather_rows_backward", text("M ", M, " of ", T, ", E ", E, ", residual"), 2 * TE + ME + 4.0 * T, 0,
        [=](Buffers<Device>& b) {
          const auto dx = b.real(T, E);
          return GatherRowsBackward<Real>{.dx = dx, .dy = b.real(M, E), .slots = b.choose(of).slots, .residual = dx};
        });
    add("mean_rows_forward", text(of.name(), ", E ", E), TE + of.B * (E * number + 4.0), 0, [=](Buffers<Device>& b) {
      return MeanRowsForward<Real>{.y = b.real(of.B, E), .x = b.real(T, E), .lengths = b.lengths(of), .L = of.L};
    });
    add("mean_rows_backward", text(of.name(), ", E ", E), TE + of.B * (E * number + 4.0), 0, [=](Buffers<Device>& b) {
      return MeanRowsBackward<Real>{.dx = b.real(T, E), .dy = b.real(of.B, E), .lengths = b.lengths(of), .L = of.L};
    });
    add("append_statistics", text(of.name(), ", N ", N),
        (1 + statistics_inputs) * TN + 4.0 * of.B * (1 + visible_words(of.L)), 0, [=](Buffers<Device>& b) {
          return AppendStatistics<Real>{.y = b.real(of.B, of.L, statistics_inputs * N),
                                        .x = b.real(of.B, of.L, N),
                                        .lengths = b.lengths(of),
                                        .visible = b.choose(of).visible};
        });
    add("batch_norm_forward", rows, 2 * MF, 0, [M](Buffers<Device>& b) {
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
    add("batch_norm_backward", rows, 3 * MF, 0, [M](Buffers<Device>& b) {
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
    add("activation_forward", rows, 2 * MF + 4.0 * M, 0, [=](Buffers<Device>& b) {
      return ActivationForward<Real>{.y = b.real(M, hidden),
                                     .x = b.real(M, hidden),
                                     .rows = b.choose(of).rows,
                                     .dropout = dropout(Purpose::head_dropout),
                                     .L = of.L};
    });
    add("activation_backward", rows, 3 * MF + 4.0 * M, 0, [=](Buffers<Device>& b) {
      return ActivationBackward<Real>{.dx = b.real(M, hidden),
                                      .dy = b.real(M, hidden),
                                      .x = b.real(M, hidden),
                                      .rows = b.choose(of).rows,
                                      .dropout = dropout(Purpose::head_dropout),
                                      .L = of.L};
    });
    add("masked_loss", text("M ", M, " of ", T, ", N ", N), 2 * MN + 4.0 * M * (N + 1), 0, [=](Buffers<Device>& b) {
      return MaskedLoss<Real>{.dprediction = b.real(M, N),
                              .sums = Acc{b.template zeros<Wide<Real>>(N)},
                              .prediction = b.real(M, N),
                              .target = b.wide(T, N),
                              .selected = b.choose(of).rows,
                              .weights = b.wide(N),
                              .rows = HeadRows::masked};
    });
    add("score_loss", text("B ", of.B), of.B * (2 * number + 8), 0, [of](Buffers<Device>& b) {
      return ScoreLoss<Real>{.dprediction = b.real(of.B, 1),
                             .sum = Acc{b.template zeros<Wide<Real>>(1)},
                             .prediction = b.real(of.B, 1),
                             .target = b.wide(of.B),
                             .lengths = b.lengths(of)};
    });
    add("zero_padding", text(of.name(), ", F ", N), 2 * TN, 0, [of, T](Buffers<Device>& b) {
      return ZeroPadding<Real>{.y = b.real(T, N), .x = b.real(T, N), .lengths = b.lengths(of), .L = of.L};
    });
  }

  /// The block of the attention upscalings at width N.
  void narrow_block(const Sequences& of) {
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
    add("narrow_block_forward", shape, 2 * TN, flops, [=](Buffers<Device>& b) {
      return NarrowBlockForward<Real>{
          .y = b.real(T, N), .x = b.real(T, N), .weights = weights(b), .setting = setting(b)};
    });
    // The forward pass is computed again.
    add("narrow_block_backward", shape, 3 * TN, 3 * flops, [=](Buffers<Device>& b) {
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

  std::vector<Case<Device>> all_;
};

/// What was measured of a case; times in us.
struct Times {
  double median, lower_quartile, upper_quartile, buffers_mb;
};

template <class Device>
Times time_case(Device& device, Buffers<Device>& buffers, const Case<Device>& one, int repetitions) {
  using Issue = typename Case<Device>::Issue;
  buffers.restart();
  std::vector<Issue> copies{one.make(buffers)};
  const double bytes = static_cast<double>(buffers.bytes());
  int count = static_cast<int>(std::min(std::ceil(least_bytes / bytes), 1.0 * most_copies));
  if (count > launches) count = (count + launches - 1) / launches * launches;
  while (static_cast<int>(copies.size()) < count) copies.push_back(one.make(buffers));
  for (const Issue& issue : copies) issue(device);  // workspace and plans are there when graphs are captured
  device.wait();

  std::vector<typename Device::Graph> graphs;
  for (int first = 0; first < count; first += launches) {
    graphs.push_back(device.capture([&] {
      for (int i = 0; i < launches; ++i) copies[static_cast<std::size_t>((first + i) % count)](device);
    }));
  }
  constexpr int warmup = 3;
  Stopwatch watch(repetitions + warmup + 1);
  for (int i = 0; i < repetitions + warmup; ++i) {
    watch.mark(device.stream());
    device.replay(graphs[static_cast<std::size_t>(i) % graphs.size()]);
  }
  watch.mark(device.stream());
  std::vector<double> us = watch.ms();
  us.erase(us.begin(), us.begin() + warmup);
  for (double& value : us) value *= 1e3 / launches;
  return {.median = quantile(us, 0.5),
          .lower_quartile = quantile(us, 0.25),
          .upper_quartile = quantile(us, 0.75),
          .buffers_mb = count * bytes / 1e6};
}

/// The commit of the sources in the current folder, with + where files differ from it; empty where git does not know.
std::string commit_here() {
  const auto output = [](const char* command) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command, "r"), pclose);
    std::string all;
    std::array<char, 256> part{};
    while (pipe && std::fgets(part.data(), static_cast<int>(part.size()), pipe.get()) != nullptr) all += part.data();
    return all;
  };
  std::string commit = output("git rev-parse --short HEAD 2>/dev/null");
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back()))) commit.pop_back();
  const bool is_changed = !commit.empty() && !output("git status --porcelain --untracked-files=no 2>/dev/null").empty();
  return is_changed ? commit + "+" : commit;
}

/// The name of a card as a folder: lower case, - between words.
std::string folder_name(const std::string& name) {
  std::string folder;
  for (const unsigned char c : name) {
    if (std::isalnum(c) != 0) {
      folder += static_cast<char>(std::tolower(c));
    } else if (!folder.empty() && folder.back() != '-') {
      folder += '-';
    }
  }
  while (!folder.empty() && folder.back() == '-') folder.pop_back();
  return folder;
}

template <class Device>
void run_kernel_bench(const KernelFlags& flags, const std::string& command) {
  const double begin = now_in_ms();
  Device device;
  if (flags.dtype == "tf32") device.use_tf32();
  const std::string card = card_name();
  const std::filesystem::path folder = flags.results / folder_name(card);
  std::filesystem::create_directories(folder);
  const bool is_new = !std::filesystem::exists(folder / "kernels.csv");
  std::ofstream csv(folder / "kernels.csv", std::ios::app);
  if (is_new) {
    csv << "commit,device,dtype,op,shape,us,lower_quartile,upper_quartile,repetitions,launches,buffers_mb,bytes,"
           "gbyte_per_second,percent_of_copy,flop,tflop_per_second,copy_gbyte_per_second,command\n";
  }
  const std::string commit = flags.commit.empty() ? commit_here() : flags.commit;

  Buffers<Device> buffers(device);
  std::vector<Case<Device>> cases = Cases<Device>::all(device, flags.dtype == "fp32");
  std::erase_if(cases, [&](const auto& one) { return one.op.find(flags.filter) == std::string::npos; });
  if (cases.empty()) throw InputError("no op is called anything with \"" + flags.filter + "\"");
  std::cout << card << ", " << flags.dtype << ", " << launches << " launches a graph, " << flags.repetitions
            << " repetitions, median and quartiles\n";
  while (now_in_ms() < begin + 1e3 * flags.warmup) measure_copy_rate(device);  // clocks as under load

  double copy_rate = 0, copy_measured = 0;
  struct Sum {
    int T = 0, count = 0;
    double flops = 0, us = 0;
  };
  std::vector<Sum> sums;
  std::size_t done = 0;
  for (const Case<Device>& one : cases) {
    if (now_in_ms() - begin > 6e4 * flags.minutes) break;
    if (copy_rate == 0 || now_in_ms() - copy_measured > 3e4) {
      copy_rate = measure_copy_rate(device);
      copy_measured = now_in_ms();
      std::cout << std::fixed << std::setprecision(0) << "copies: " << copy_rate << " GB/s, read and written\n";
    }
    const Times times = time_case(device, buffers, one, flags.repetitions);
    ++done;
    const double rate = one.bytes / (1e3 * times.median), percent = 100 * rate / copy_rate,
                 tflops = one.flops / (1e6 * times.median);
    std::cout << std::left << std::setw(28) << one.op << std::setw(44) << one.shape << std::right
              << std::setprecision(2) << std::setw(10) << times.median << " us  [" << times.lower_quartile << ", "
              << times.upper_quartile << "]" << std::setprecision(0) << std::setw(7) << rate << " GB/s" << std::setw(5)
              << percent << " % copy";
    if (one.flops > 0) std::cout << std::setprecision(1) << std::setw(8) << tflops << " TFLOP/s";
    std::cout << std::endl;
    csv << std::defaultfloat << std::setprecision(6) << (commit.empty() ? "unknown" : commit) << ",\"" << card << "\","
        << flags.dtype << ',' << one.op << ",\"" << one.shape << "\"," << times.median << ',' << times.lower_quartile
        << ',' << times.upper_quartile << ',' << flags.repetitions << ',' << launches << ',' << times.buffers_mb << ','
        << std::setprecision(12) << one.bytes << ',' << std::setprecision(6) << rate << ',' << percent << ','
        << std::setprecision(12) << one.flops << ',' << std::setprecision(6) << tflops << ',' << copy_rate << ",\""
        << command << "\"\n"
        << std::flush;
    if (one.products_of == 0) continue;
    if (sums.empty() || sums.back().T != one.products_of) sums.push_back({.T = one.products_of});
    sums.back().flops += one.flops;
    sums.back().us += times.median;
    ++sums.back().count;
  }
  for (const Sum& sum : sums) {
    std::cout << std::fixed << std::setprecision(0) << "all " << sum.count << " products at T " << sum.T << ": "
              << sum.flops / (1e6 * sum.us) << " TFLOP/s\n";
  }
  if (done < cases.size()) {
    std::cout << "out of time: " << cases.size() - done << " cases not measured, from " << cases[done].op << ", "
              << cases[done].shape << " on\n";
  }
  if (!csv) throw RunError("cannot write " + (folder / "kernels.csv").string());
  const auto& products = matrix_products(device);
  write_plans(folder / "plans.json", {.device = products.device_and_library(), .plans = products.plans()});
  std::cout << folder.string() << ": kernels.csv, plans.json\n";
}

}  // namespace
}  // namespace benchmarks

int main(int argc, char** argv) {
  using namespace benchmarks;
  KernelFlags flags;
  CLI::App app("Times the ops of the CUDA backend one by one", "kernel_bench");
  app.add_option("--dtype", flags.dtype, "Numbers of the ops")
      ->check(CLI::IsMember(std::vector<std::string>{"bf16", "tf32", "fp32"}))
      ->capture_default_str();
  app.add_option("--filter", flags.filter, "Only ops whose name contains this");
  app.add_option("--repetitions", flags.repetitions, "Replays that count")
      ->check(CLI::Range(30, 10000))
      ->capture_default_str();
  app.add_option("--warmup", flags.warmup, "Seconds before the first of them")->capture_default_str();
  app.add_option("--minutes", flags.minutes, "No case begins later")->capture_default_str();
  app.add_option("--results", flags.results, "The card's folder is in there")->capture_default_str();
  app.add_option("--commit", flags.commit, "Of the sources, where git does not know it");
  return programs::run_program(app, argc, argv, [&]() -> int {
    if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
      std::cout << "skipped: " << obstacle << '\n';
      return 77;
    }
    std::string command = "kernel_bench";
    for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
    if (flags.dtype == "bf16") {
      run_kernel_bench<Cuda<bf16>>(flags, command);
    } else {
      run_kernel_bench<Cuda<float>>(flags, command);
    }
    return programs::good;
  });
}
