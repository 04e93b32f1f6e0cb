#pragma once

// A model on a device beside the same model in plain loops: sizes, parameters and a batch made by hand.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/model/encoder_with_head.hpp>
#include <blinkbert/objective/device_batch.hpp>
#include <tests/ops/compare.hpp>
#include <tests/oracle/append_statistics.hpp>
#include <tests/oracle/mean_rows.hpp>
#include <tests/oracle/model.hpp>

namespace blinkbert::test {

struct ModelCase {
  const char* name;
  int N, E, heads, blocks;
  Upscaling upscaling = Upscaling::linear;
  NormOrder norm = NormOrder::post;
  Position position = Position::learned;
  std::vector<int> hidden = {5};
  enum class BatchNorm { no, yes } batch_norm = BatchNorm::no;
  HeadRows rows = HeadRows::all;
  LastBlock last_block = LastBlock::all;
  Task task = Task::pretraining;
  double dropout = 0, head_dropout = 0;
  std::vector<int> lengths = {6, 4, 1};
  int L = 6;
  Pool pool = Pool::last;
  enum class WindowStatistics { no, yes } statistics = WindowStatistics::no;
  int score_outputs = 1;  // fine-tuning; more than 1: over levels
};

inline Config config_of(const ModelCase& one) {
  Config config = Config::defaults(one.task);
  config.data.calibration = Calibration::none;
  config.data.features.clear();
  for (int n = 0; n < one.N; ++n) config.data.features.push_back(text("feature_", n));
  config.data.window = one.L;
  config.data.window_statistics = one.statistics == ModelCase::WindowStatistics::yes;
  config.model = {.upscaling = one.upscaling,
                  .width = one.E,
                  .blocks = one.blocks,
                  .heads = one.heads,
                  .dropout = one.dropout,
                  .last_block = one.last_block,
                  .norm = one.norm,
                  .position = one.position,
                  .max_length = one.L + 1};
  config.head = {.hidden = one.hidden,
                 .dropout = one.head_dropout,
                 .batch_norm = one.batch_norm == ModelCase::BatchNorm::yes,
                 .rows = one.rows,
                 .pool = one.pool};
  return config;
}

/// A batch on the host. Values are floats, so that every precision reads the same numbers.
struct HostBatch {
  std::vector<int> lengths;  // [B]
  int L = 0;
  std::vector<double> x, target;          // [T, N]
  std::vector<double> scores;             // [B]
  std::vector<std::vector<int>> visible;  // [B][L]
  std::vector<int> selected;  // rows chosen (pre-training), or the last row of each sequence, -1 without one

  int B() const { return static_cast<int>(lengths.size()); }
  int T() const { return B() * L; }
};

inline HostBatch make_batch(const ModelCase& one, std::uint64_t key) {
  HostBatch batch;
  batch.lengths = one.lengths;
  batch.L = one.L;
  batch.x = converted<double>(random_values<float>(batch.T() * one.N, key, 1.5));
  batch.target = converted<double>(random_values<float>(batch.T() * one.N, key + 1, 1.5));
  batch.scores = converted<double>(random_values<float>(batch.B(), key + 2, 4, 5));
  const std::vector<double> draws = random_values<double>(batch.T(), key + 3);
  for (int b = 0; b < batch.B(); ++b) {
    std::vector<int> visible(static_cast<std::size_t>(one.L), 0);
    const int length = batch.lengths[static_cast<std::size_t>(b)];
    for (int l = 0; l < length; ++l) {
      const double draw = draws[static_cast<std::size_t>(b * one.L + l)];
      visible[static_cast<std::size_t>(l)] = draw < 0.4 || length == 1 ? 1 : 0;
      // Some chosen rows stay visible, as those that keep their values may.
      if (one.task == Task::pretraining && (draw > 0.2 || l == 0)) batch.selected.push_back(b * one.L + l);
    }
    if (one.task == Task::finetuning) batch.selected.push_back(length == 0 ? -1 : b * one.L + length - 1);
    batch.visible.push_back(visible);
  }
  return batch;
}

/// The number of roundings on the longest way from an input to an output and back to a gradient: the terms of every sum
/// on it, one by one, and T for the sum over rows.
inline double roundings(const ModelCase& one) {
  const auto block = [&](int w) { return 3 * w + one.L + 2 * (2 * w) + 5 * w + w; };  // products, softmax, norms
  double forward = one.blocks * block(one.E) + one.N;
  if (one.statistics == ModelCase::WindowStatistics::yes) forward += 2 * one.L + 3 * one.N;
  if (one.pool == Pool::mean) forward += one.L;
  if (one.upscaling == Upscaling::attention_linear || one.upscaling == Upscaling::attention_concatenation) {
    forward += block(one.N);
  }
  int in = one.E;
  const int rows = static_cast<int>(one.lengths.size()) * one.L;
  for (const int size : one.hidden) {
    forward += in + 2 * rows;
    in = size;
  }
  return 2 * (forward + in) + rows;
}

/// How far a number of order `scale` may be off: each of the roundings may move it by half an ulp of its intermediate
/// values; the norms magnify by 1 / deviation, a factor of up to 8 on these inputs taken together.
template <class Real>
double rounding_tolerance(const ModelCase& one, double scale) {
  return 8 * roundings(one) * static_cast<double>(std::numeric_limits<Real>::epsilon()) / 2 * std::max(1.0, scale);
}

inline double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) result = std::max(result, std::abs(value));
  return result;
}

/// Every element within the tolerance; also refuses NaN.
inline void check_close(const std::string& what, const std::vector<double>& actual, const std::vector<double>& expected,
                        double tolerance) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (!(std::abs(actual[i] - expected[i]) <= tolerance)) {
      FAIL_CHECK(what << ": element " << i << " is " << actual[i] << ", must be " << expected[i] << " +- "
                      << tolerance);
      return;
    }
  }
}

/// The model on a device, and one batch.
template <class Device>
class ModelBench {
 public:
  using Real = typename Device::Real;
  using Model = EncoderWithHead<Device>;

  ModelCase one;
  Config config;
  Device device;
  Model model;
  Arena<Device> arena;
  DeviceBatch<Device> batch;
  typename Model::Saved saved;
  HostBatch host;

  explicit ModelBench(const ModelCase& model_case, int threads = 1)
      : one(model_case),
        config(config_of(model_case)),
        device(threads),
        model(device, config, outputs(), head_rows(), one.last_block, one.pool),
        arena(device) {}

  int outputs() const { return one.task == Task::finetuning ? one.score_outputs : one.N; }
  HeadRows head_rows() const { return one.task == Task::finetuning ? HeadRows::masked : one.rows; }

  void set_parameters(const oracle::Parameters<double>& parameters) {
    const auto write = [&](View<Wide<Real>, 1> flat, const auto& entries) {
      for (const auto& entry : entries) {
        const std::vector<Wide<Real>> values = converted<Wide<Real>>(parameters.at(entry.name));
        upload(device, ParameterSet<Device>::slice(flat, entry), values.data());
      }
    };
    write(model.parameters().values(), model.parameters().entries());
    write(model.parameters().statistics(), model.parameters().statistic_entries());
    model.parameters().refresh_working(device);
  }

  /// Plans and uploads the batch.
  void load(const HostBatch& from) {
    host = from;
    const int B = host.B(), L = host.L, T = host.T(), words = visible_words(L);
    arena.restart();
    batch = DeviceBatch<Device>::plan(arena, B, L, one.N);
    saved = model.plan(arena, B, L);
    const std::vector<Real> x = converted<Real>(host.x);
    upload(device, batch.masked, x.data());
    upload(device, batch.clean, x.data());
    const std::vector<Wide<Real>> target = converted<Wide<Real>>(host.target),
                                  scores = converted<Wide<Real>>(host.scores);
    upload(device, batch.target, target.data());
    upload(device, batch.scores, scores.data());
    upload(device, batch.lengths, host.lengths.data());
    std::vector<int> rows(static_cast<std::size_t>(T), -1), slots(static_cast<std::size_t>(T), -1), present, offsets{0};
    std::vector<std::uint32_t> visible(static_cast<std::size_t>(B * words), 0);
    for (std::size_t m = 0; m < host.selected.size(); ++m) {
      rows[m] = host.selected[m];
      if (rows[m] >= 0) slots[static_cast<std::size_t>(rows[m])] = static_cast<int>(m);
    }
    for (int b = 0; b < B; ++b) {
      present.push_back(host.lengths[static_cast<std::size_t>(b)] > 0 ? 1 : 0);
      const auto is_read_here = [&](int t) { return t >= 0 && t / L == b; };
      offsets.push_back(one.task == Task::finetuning
                            ? b + 1
                            : offsets.back() + static_cast<int>(std::count_if(host.selected.begin(),
                                                                              host.selected.end(), is_read_here)));
      for (int l = 0; l < L; ++l) {
        if (host.visible[static_cast<std::size_t>(b)][static_cast<std::size_t>(l)] != 0) {
          visible[static_cast<std::size_t>(b * words + l / 32)] |= std::uint32_t{1} << l % 32;
        }
      }
    }
    upload(device, batch.rows, rows.data());
    upload(device, batch.slots, slots.data());
    upload(device, batch.offsets, offsets.data());
    upload(device, batch.present, present.data());
    upload(device, batch.visible, visible.data());
    batch.M = one.task == Task::finetuning ? 0 : static_cast<int>(host.selected.size());
  }

  Pass pass(Mode mode, std::uint32_t first_sequence = 3) const { return batch.pass(mode, seed, step, first_sequence); }

  /// The batch's output, [R, out].
  std::vector<double> forward(const Pass& how) { return read(model.forward(device, how, input(), saved)); }

  /// Writes dLoss/doutput and runs the way back; gradients are added to.
  void backward(const Pass& how, const std::vector<double>& doutput, int lowest_trained_group = 0) {
    const std::vector<Real> narrowed = converted<Real>(doutput);
    upload(device, saved.doutput.rows(0, model.head_row_count(how, input())), narrowed.data());
    model.backward(device, how, saved, lowest_trained_group);
  }

  ModelInput<Real> input() const {
    const int R = static_cast<int>(host.selected.size());
    return {.x = batch.masked,
            .rows = batch.rows.rows(0, R),
            .slots = batch.slots,
            .offsets = batch.offsets,
            .present = one.task == Task::finetuning ? batch.present : View<int, 1>{}};
  }

  void zero_gradients() { fill_zero(device, model.parameters().gradients()); }

  /// Gradients by name.
  oracle::Parameters<double> gradients() {
    return read_entries(model.parameters().gradients(), model.parameters().entries());
  }
  oracle::Parameters<double> statistics() {
    return read_entries(model.parameters().statistics(), model.parameters().statistic_entries());
  }

  template <class T, int Rank>
  std::vector<double> read(View<T, Rank> view) {
    std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(view.size()));
    download(device, values.data(), view);
    return converted<double>(values);
  }

  static constexpr std::uint64_t seed = 77;
  static constexpr std::uint32_t step = 12;

 private:
  oracle::Parameters<double> read_entries(View<Wide<Real>, 1> flat,
                                          const std::vector<typename ParameterSet<Device>::Entry>& entries) {
    oracle::Parameters<double> values;
    for (const auto& entry : entries) values[entry.name] = read(ParameterSet<Device>::slice(flat, entry));
    return values;
  }
};

/// Parameters away from their simple starting values (gains of 1, biases of 0), the same floats in every precision.
inline oracle::Parameters<double> random_parameters(const ModelCase& one) {
  ModelBench<Cpu<double>> bench(one);
  oracle::Parameters<double> parameters;
  std::uint64_t key = 1000;
  const ParameterSet<Cpu<double>>& set = bench.model.parameters();
  for (const auto& entry : set.entries()) {
    std::vector<double> values = bench.read(ParameterSet<Cpu<double>>::slice(set.values(), entry));
    const std::vector<float> shift = random_values<float>(static_cast<int>(entry.count), ++key, 0.25);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<double>(static_cast<float>(values[i]) + shift[i]);
    }
    parameters[entry.name] = values;
  }
  for (const auto& entry : set.statistic_entries()) {
    const double middle = entry.name.ends_with("var") ? 1 : 0;
    parameters[entry.name] = converted<double>(random_values<float>(static_cast<int>(entry.count), ++key, 0.5, middle));
  }
  return parameters;
}

inline oracle::PassCase oracle_pass(const HostBatch& host, Mode mode, std::uint32_t first_sequence = 3) {
  return {.mode = mode == Mode::training ? oracle::Passes::training : oracle::Passes::evaluation,
          .seed = ModelBench<Cpu<double>>::seed,
          .step = ModelBench<Cpu<double>>::step,
          .first_sequence = first_sequence,
          .lengths = host.lengths,
          .visible = host.visible,
          .L = host.L};
}

/// The rows that the head reads: all rows of the batch, or the selected ones.
inline std::vector<int> rows_read(const ModelCase& one, const HostBatch& host) {
  if (one.task == Task::finetuning || one.rows == HeadRows::masked) return host.selected;
  std::vector<int> rows;
  for (int t = 0; t < host.T(); ++t) rows.push_back(t);
  return rows;
}

template <class Number>
oracle::ModelResult<Number> oracle_model(const ModelCase& one, const oracle::Parameters<Number>& parameters,
                                         const HostBatch& host, const oracle::PassCase& pass) {
  const Config config = config_of(one);
  const bool has_statistics = one.statistics == ModelCase::WindowStatistics::yes;
  const oracle::Model<Number> model(parameters, config.model, config.head, encoder_inputs(config.data), pass);
  std::vector<Number> x = converted<Number>(host.x);
  if (has_statistics) x = oracle::append_statistics(x, pass.lengths, pass.visible, pass.L, one.N);
  const int outputs = one.task == Task::finetuning ? one.score_outputs : one.N;
  if (one.pool == Pool::last) return model(x, rows_read(one, host), outputs);
  const std::vector<Number> mean = oracle::mean_rows(model.encoder(x), pass.lengths, pass.L, one.E);
  return model.head(mean, rows_read(one, host), outputs);
}

/// Random dLoss/doutput, zero at rows that are not real, as losses leave it.
inline std::vector<double> random_doutput(const ModelCase& one, const HostBatch& host, std::uint64_t key) {
  const int width = one.task == Task::finetuning ? one.score_outputs : one.N;
  std::vector<double> weights;
  std::vector<int> is_real;
  for (const int t : rows_read(one, host)) {
    is_real.push_back(t >= 0 && t % host.L < host.lengths[static_cast<std::size_t>(t / host.L)] ? 1 : 0);
  }
  weights = converted<double>(random_values<float>(static_cast<int>(is_real.size()) * width, key));
  return zeroed(weights, is_real);
}

}  // namespace blinkbert::test
