#pragma once

// Every size and rate, with its default and where the default comes from.
//
// "source" = Ekenstam, Ekener 2023, master's thesis, Chalmers: best settings of its sweeps (its tables of
// hyper-parameters for pre-training and fine-tuning). "ours" = left open there and decided here.
// A zero or an empty list in a field documented "as ..." is filled in by `resolve`.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/layers/options.hpp>
#include <blinkbert/ops/append_statistics.hpp>
#include <blinkbert/ops/row_masks.hpp>

namespace blinkbert {

enum class Task { pretraining, finetuning };
enum class Missing { refuse, drop_row };
enum class Calibration { append, standardise, none };
enum class ScalerKind { standard, robust, uncentred };
enum class ScalerWeight { row, recording };
enum class Transform { none, asinh };
enum class MaskCount { batch, sequence, bernoulli };
enum class Precision { fp32, bf16, tf32 };
enum class Monitor { masked_loss, kpi, mae, rmse, none };

/// The spelling of an enumeration in configurations and checkpoints, in the order of its values.
template <class Enum>
struct Spelling;
template <>
struct Spelling<Task> {
  static constexpr std::array names{"pretraining", "finetuning"};
};
template <>
struct Spelling<Missing> {
  static constexpr std::array names{"refuse", "drop_row"};
};
template <>
struct Spelling<Calibration> {
  static constexpr std::array names{"append", "standardise", "none"};
};
template <>
struct Spelling<ScalerKind> {
  static constexpr std::array names{"standard", "robust", "uncentred"};
};
template <>
struct Spelling<ScalerWeight> {
  static constexpr std::array names{"row", "recording"};
};
template <>
struct Spelling<Transform> {
  static constexpr std::array names{"none", "asinh"};
};
template <>
struct Spelling<MaskCount> {
  static constexpr std::array names{"batch", "sequence", "bernoulli"};
};
template <>
struct Spelling<Hide> {
  static constexpr std::array names{"chosen", "replaced", "none"};
};
template <>
struct Spelling<Upscaling> {
  static constexpr std::array names{"none", "linear", "attention_linear", "attention_concatenation"};
};
template <>
struct Spelling<LastBlock> {
  static constexpr std::array names{"all", "read"};
};
template <>
struct Spelling<NormOrder> {
  static constexpr std::array names{"post", "pre"};
};
template <>
struct Spelling<Position> {
  static constexpr std::array names{"learned", "sinusoidal"};
};
template <>
struct Spelling<HeadRows> {
  static constexpr std::array names{"all", "masked"};
};
template <>
struct Spelling<Pool> {
  static constexpr std::array names{"last", "mean"};
};
template <>
struct Spelling<LossKind> {
  static constexpr std::array names{"squared", "absolute", "huber", "softmax", "ordinal"};
};
template <>
struct Spelling<Precision> {
  static constexpr std::array names{"fp32", "bf16", "tf32"};
};
template <>
struct Spelling<Monitor> {
  static constexpr std::array names{"masked_loss", "kpi", "mae", "rmse", "none"};
};

template <class Enum>
std::string spell(Enum value) {
  return Spelling<Enum>::names[static_cast<std::size_t>(value)];
}

/// The nine features of the simulator, in its column order.
inline const std::vector<std::string>& simulated_features() {
  static const std::vector<std::string> names{
      "duration_ms", "closing_ms",       "closed_ms",        "opening_ms",
      "amplitude",   "closing_velocity", "opening_velocity", "amplitude_velocity_ratio",
      "interval_s"};
  return names;
}

struct DataConfig {
  std::vector<std::string> features = simulated_features();  // ours; columns of the file, never "all numeric ones"
  std::string recording = "recording", driver = "driver";    // ours; column names
  std::string label = "kss", quality = "label_quality";      // ours; these two columns may be absent
  Missing missing = Missing::refuse;                         // ours; what an empty feature cell means
  std::vector<std::string> increments{};                     // ours; features that are running means of a recording
  Transform transform = Transform::none;                     // ours
  std::vector<double> transform_scale{1};                    // ours; one for all, or one for each channel
  Calibration calibration = Calibration::append;             // source: 9 + 9 features
  int calibration_blinks = 30;                               // ours
  ScalerKind scaler = ScalerKind::standard;                  // ours
  ScalerWeight scaler_weight = ScalerWeight::row;            // ours; what weighs the same in its fit
  double tail_bound = 5;                                     // ours; standard deviations
  bool window_statistics = false;                            // ours; further input channels
  int window = 30, stride = 10;                              // ours; blinks
  int evaluation_stride = 0;                                 // ours; 0 = as stride
  int min_length = 5;                                        // ours; a shorter recording gives no window
};

struct SplitsConfig {
  double pretraining_share = 0.5;                  // ours; of the drivers with usable labels
  std::vector<double> fractions{0.7, 0.15, 0.15};  // ours; training, validation, test
  bool shared_training = false;                    // source: the stages share no driver
  std::string column;                              // ours; empty = drivers are drawn by seed
  std::vector<std::string> test, validation;       // ours; values of that column
};

struct LabelsConfig {
  std::vector<double> range{1, 9};           // source: KSS
  std::vector<double> edges{5.5, 7.5, 8.5};  // ours; levels 1-5, 6-7, 8, 9
  std::vector<double> bands;                 // ours; empty = as edges
};

struct MaskConfig {
  double calibration_weight = 1;               // ours; loss weight of calibration features and increments
  double rate = 0.15;                          // source
  std::vector<double> actions{0.8, 0.1, 0.1};  // source; replace, noise, keep
  double value = -1;                           // source
  std::vector<double> noise{0.5, 1.5};         // ours; interval of the factors
  MaskCount count = MaskCount::batch;          // ours
  Hide hide = Hide::chosen;                    // source
};

struct TrainConfig {
  int epochs = 40, batch = 64, patience = 10;     // ours
  Monitor monitor = Monitor::masked_loss;         // ours; fine-tuning kpi: source
  double rate = 6.2e-4, warmup = 4, decay = 0.9;  // source; warm-up in epochs, decay factor per epoch
  double weight_decay = 0.0095;                   // source
  int accumulate = 1;                             // source; fine-tuning 32
  double clip = 1;                                // source; global gradient norm
  LossKind loss = LossKind::squared;              // ours
  double huber_delta = 1;                         // ours
  bool recording_weights = false;                 // ours; fine-tuning: every recording weighs the same
  std::uint64_t seed = 1;                         // ours
  Precision precision = Precision::fp32;          // ours
  double checkpoint_seconds = 60;                 // ours
  bool graph = true;                              // ours; CUDA only
  bool freeze = true;                             // source; false: a backbone trains whole from the first epoch
  std::vector<int> unfreeze{4, 6};                // source; epoch from which the top, the next, ... block trains;
                                                  // epochs beyond the blocks there are have no effect
};

struct Config {
  Task task = Task::pretraining;
  DataConfig data;
  SplitsConfig splits;
  LabelsConfig labels;
  MaskConfig mask;
  ModelConfig model;
  HeadConfig head;
  TrainConfig train;

  static Config defaults(Task task) {
    Config config;
    config.task = task;
    if (task == Task::finetuning) {
      config.head.hidden = {16};
      config.head.dropout = 0.16;
      config.train.accumulate = 32;
      config.train.monitor = Monitor::kpi;
    }
    return config;
  }
};

/// Calls visit("section.key", field) for every key, in the order of the documentation. The one list of keys: reading,
/// printing, comparing and saving go through it. Works on Config and const Config.
template <class AnyConfig, class Visit>
void for_each_key(AnyConfig& config, Visit&& visit) {
  auto& data = config.data;
  visit("data.features", data.features);
  visit("data.recording", data.recording);
  visit("data.driver", data.driver);
  visit("data.label", data.label);
  visit("data.quality", data.quality);
  visit("data.missing", data.missing);
  visit("data.increments", data.increments);
  visit("data.transform", data.transform);
  visit("data.transform_scale", data.transform_scale);
  visit("data.calibration", data.calibration);
  visit("data.calibration_blinks", data.calibration_blinks);
  visit("data.scaler", data.scaler);
  visit("data.scaler_weight", data.scaler_weight);
  visit("data.tail_bound", data.tail_bound);
  visit("data.window_statistics", data.window_statistics);
  visit("data.window", data.window);
  visit("data.stride", data.stride);
  visit("data.evaluation_stride", data.evaluation_stride);
  visit("data.min_length", data.min_length);
  auto& splits = config.splits;
  visit("splits.pretraining_share", splits.pretraining_share);
  visit("splits.fractions", splits.fractions);
  visit("splits.shared_training", splits.shared_training);
  visit("splits.column", splits.column);
  visit("splits.test", splits.test);
  visit("splits.validation", splits.validation);
  auto& labels = config.labels;
  visit("labels.range", labels.range);
  visit("labels.edges", labels.edges);
  visit("labels.bands", labels.bands);
  auto& mask = config.mask;
  visit("mask.calibration_weight", mask.calibration_weight);
  visit("mask.rate", mask.rate);
  visit("mask.actions", mask.actions);
  visit("mask.value", mask.value);
  visit("mask.noise", mask.noise);
  visit("mask.count", mask.count);
  visit("mask.hide", mask.hide);
  auto& model = config.model;
  visit("model.upscaling", model.upscaling);
  visit("model.width", model.width);
  visit("model.blocks", model.blocks);
  visit("model.heads", model.heads);
  visit("model.dropout", model.dropout);
  visit("model.last_block", model.last_block);
  visit("model.norm", model.norm);
  visit("model.position", model.position);
  visit("model.max_length", model.max_length);
  auto& head = config.head;
  visit("head.hidden", head.hidden);
  visit("head.dropout", head.dropout);
  visit("head.batch_norm", head.batch_norm);
  visit("head.rows", head.rows);
  visit("head.pool", head.pool);
  auto& train = config.train;
  visit("train.epochs", train.epochs);
  visit("train.batch", train.batch);
  visit("train.patience", train.patience);
  visit("train.monitor", train.monitor);
  visit("train.rate", train.rate);
  visit("train.warmup", train.warmup);
  visit("train.decay", train.decay);
  visit("train.weight_decay", train.weight_decay);
  visit("train.accumulate", train.accumulate);
  visit("train.clip", train.clip);
  visit("train.loss", train.loss);
  visit("train.huber_delta", train.huber_delta);
  visit("train.recording_weights", train.recording_weights);
  visit("train.seed", train.seed);
  visit("train.precision", train.precision);
  visit("train.checkpoint_seconds", train.checkpoint_seconds);
  visit("train.graph", train.graph);
  visit("train.freeze", train.freeze);
  visit("train.unfreeze", train.unfreeze);
}

/// Fills in every "as ..." field.
inline void resolve(Config& config) {
  if (config.data.evaluation_stride == 0) config.data.evaluation_stride = config.data.stride;
  if (config.labels.bands.empty()) config.labels.bands = config.labels.edges;
  if (config.model.max_length == 0) config.model.max_length = config.data.window;
}

/// Channels of a row before calibration: the features, then the increments.
inline int row_channels(const DataConfig& data) {
  return static_cast<int>(data.features.size() + data.increments.size());
}

/// Features of a row as the model predicts them: its channels, then their calibration features where appended.
inline int model_features(const DataConfig& data) {
  return data.calibration == Calibration::append ? 2 * row_channels(data) : row_channels(data);
}

/// Features of a row as the encoder reads them: the model's, then mean, mean absolute value and standard deviation of each
/// over the window's visible rows (ops/append_statistics.hpp) where `data.window_statistics` asks for them.
inline int encoder_inputs(const DataConfig& data) {
  return data.window_statistics ? statistics_inputs * model_features(data) : model_features(data);
}

/// Outputs of the fine-tuning head: one, or as many as the loss over the levels of `labels.edges` needs
/// (ops/score_loss.hpp).
inline int score_outputs(const Config& config) {
  const int edges = static_cast<int>(config.labels.edges.size());
  if (!is_over_levels(config.train.loss)) return 1;
  return config.train.loss == LossKind::softmax ? edges + 1 : edges;
}

/// Elements of the encoder blocks' matrices: four of [heads d, E] in attention, d = ceil(E / heads), and two of [4 E, E].
/// Nearly all of a model of some size.
inline std::int64_t encoder_matrix_elements(const ModelConfig& model) {
  const std::int64_t E = model.width, attention = model.heads * ((E + model.heads - 1) / model.heads);
  return model.blocks * (4 * attention * E + 8 * E * E);
}

/// Throws InputError that names the key, what was found and what would be right. Call after `resolve`.
inline void validate(const Config& config) {
  const auto demand = [](bool holds, std::string_view key, const auto& found, std::string_view wanted) {
    if (!holds) throw InputError(text(key, " = ", found, ": ", wanted));
  };
  const auto demand_share = [&](std::string_view key, double value) {
    demand(value >= 0 && value < 1, key, value, "must be at least 0 and below 1");
  };
  const auto demand_positive = [&](std::string_view key, auto value) {
    demand(value > 0, key, value, "must be above 0");
  };

  const DataConfig& data = config.data;
  demand(!data.features.empty(), "data.features", "[]", "name at least one column");
  for (std::size_t i = 0; i < data.features.size(); ++i) {
    const auto& name = data.features[i];
    demand(std::find(data.features.begin(), data.features.begin() + static_cast<std::ptrdiff_t>(i), name) ==
               data.features.begin() + static_cast<std::ptrdiff_t>(i),
           "data.features", name, "is named twice");
  }
  for (const std::string& name : data.increments) {
    demand(std::count(data.features.begin(), data.features.end(), name) == 1, "data.increments", name,
           "must be one of data.features");
    demand(std::count(data.increments.begin(), data.increments.end(), name) == 1, "data.increments", name,
           "is named twice");
  }
  const std::size_t scales = data.transform_scale.size();
  demand(scales == 1 || scales == static_cast<std::size_t>(row_channels(data)), "data.transform_scale", scales,
         text("must be one number, or one for each of the ", row_channels(data),
              " channels: the features, then the increments"));
  for (const double scale : data.transform_scale) demand_positive("data.transform_scale", scale);
  demand_positive("data.calibration_blinks", data.calibration_blinks);
  demand(data.scaler_weight == ScalerWeight::row || data.scaler != ScalerKind::robust, "data.scaler_weight",
         spell(data.scaler_weight), "needs data.scaler = \"standard\" or \"uncentred\"");
  demand_positive("data.tail_bound", data.tail_bound);
  demand(data.window >= 1 && data.window <= 512, "data.window", data.window, "must be between 1 and 512 blinks");
  demand_positive("data.stride", data.stride);
  demand_positive("data.evaluation_stride", data.evaluation_stride);
  demand(data.min_length >= 1 && data.min_length <= data.window, "data.min_length", data.min_length,
         "must be between 1 and data.window");

  const SplitsConfig& splits = config.splits;
  demand(splits.pretraining_share >= 0 && splits.pretraining_share <= 1, "splits.pretraining_share",
         splits.pretraining_share, "must be between 0 and 1");
  demand(splits.fractions.size() == 3, "splits.fractions", splits.fractions.size(),
         "must be three shares: training, validation, test");
  double sum = 0;
  for (const double fraction : splits.fractions) {
    demand(fraction >= 0, "splits.fractions", fraction, "must not be negative");
    sum += fraction;
  }
  demand(sum > 0.999 && sum < 1.001, "splits.fractions", sum, "must add up to 1");
  demand(!splits.column.empty() || (splits.test.empty() && splits.validation.empty()), "splits.column", "\"\"",
         "must name a column where splits.test or splits.validation list values");
  demand(splits.column.empty() || !splits.test.empty(), "splits.test", "[]",
         text("must list values of the column ", splits.column));

  const LabelsConfig& labels = config.labels;
  demand(labels.range.size() == 2 && labels.range[0] < labels.range[1], "labels.range", labels.range.size(),
         "must be [low, high] with low < high");
  demand(!labels.edges.empty() && std::is_sorted(labels.edges.begin(), labels.edges.end()), "labels.edges",
         labels.edges.size(), "must be an ascending list of at least one edge");
  demand(labels.bands.size() == labels.edges.size() && std::is_sorted(labels.bands.begin(), labels.bands.end()),
         "labels.bands", labels.bands.size(), "must be ascending and as long as labels.edges");

  const MaskConfig& mask = config.mask;
  demand(mask.calibration_weight >= 0, "mask.calibration_weight", mask.calibration_weight, "must not be negative");
  demand(mask.rate > 0 && mask.rate <= 1, "mask.rate", mask.rate, "must be above 0 and at most 1");
  demand(mask.actions.size() == 3, "mask.actions", mask.actions.size(), "must be three shares: replace, noise, keep");
  double actions = 0;
  for (const double action : mask.actions) {
    demand(action >= 0, "mask.actions", action, "must not be negative");
    actions += action;
  }
  demand(actions > 0.999 && actions < 1.001, "mask.actions", actions, "must add up to 1");
  demand(mask.noise.size() == 2 && mask.noise[0] <= mask.noise[1], "mask.noise", mask.noise.size(),
         "must be [low, high] with low <= high");

  const ModelConfig& model = config.model;
  const int N = encoder_inputs(data);
  demand(model.width >= 1 && model.width <= 4096, "model.width", model.width, "must be between 1 and 4096");
  demand(model.blocks >= 1 && model.blocks <= 64, "model.blocks", model.blocks, "must be between 1 and 64");
  demand(model.heads >= 1 && model.heads <= model.width, "model.heads", model.heads,
         "must be between 1 and model.width");
  // One index of 31 bits counts all parameters; half of that is left for what is no matrix of the encoder.
  demand(encoder_matrix_elements(model) < std::int64_t{1} << 30, "model.width", model.width,
         text("must be smaller with model.blocks = ", model.blocks, ": a model has fewer than 2^30 parameters"));
  demand_share("model.dropout", model.dropout);
  demand(model.max_length >= data.window, "model.max_length", model.max_length,
         text("must be at least data.window = ", data.window));
  if (model.upscaling == Upscaling::none) {
    demand(model.width == N, "model.width", model.width,
           text("must equal the ", N, " features that the encoder reads when model.upscaling = \"none\""));
  }
  if (model.upscaling == Upscaling::attention_concatenation) {
    demand(model.width > N, "model.width", model.width,
           text("must be above the ", N, " features that the encoder reads when model.upscaling = \"attention_concatenation\""));
  }

  const HeadConfig& head = config.head;
  for (const int size : head.hidden)
    demand(size >= 1 && size <= 4096, "head.hidden", size, "must be between 1 and 4096");
  demand_share("head.dropout", head.dropout);
  demand(config.task == Task::finetuning || head.pool == Pool::last, "head.pool", spell(head.pool),
         "is a choice of fine-tuning: the head of pre-training reads rows one by one");

  demand(config.task == Task::finetuning || model.last_block == LastBlock::all || head.rows == HeadRows::masked,
         "model.last_block", spell(model.last_block),
         "needs head.rows = \"masked\" in pre-training: with \"all\" the head reads every row");

  const TrainConfig& train = config.train;
  demand_positive("train.epochs", train.epochs);
  demand_positive("train.batch", train.batch);
  demand_positive("train.patience", train.patience);
  const bool masked = train.monitor == Monitor::masked_loss;
  demand(train.monitor == Monitor::none || masked == (config.task == Task::pretraining), "train.monitor",
         spell(train.monitor),
         config.task == Task::pretraining ? "must be \"masked_loss\" or \"none\" for pre-training"
                                          : "must be \"kpi\", \"mae\", \"rmse\" or \"none\" for fine-tuning");
  demand_positive("train.rate", train.rate);
  demand(train.warmup >= 0, "train.warmup", train.warmup, "must not be negative");
  demand(train.decay > 0 && train.decay <= 1, "train.decay", train.decay, "must be above 0 and at most 1");
  demand(train.weight_decay >= 0, "train.weight_decay", train.weight_decay, "must not be negative");
  demand_positive("train.accumulate", train.accumulate);
  demand_positive("train.clip", train.clip);
  demand_positive("train.huber_delta", train.huber_delta);
  demand(config.task == Task::finetuning || !is_over_levels(train.loss), "train.loss", spell(train.loss),
         "is a loss of fine-tuning: masked rows have no levels");
  demand(config.task == Task::finetuning || !train.recording_weights, "train.recording_weights", "true",
         "is a choice of fine-tuning");
  demand(train.checkpoint_seconds >= 0, "train.checkpoint_seconds", train.checkpoint_seconds, "must not be negative");
  demand(std::is_sorted(train.unfreeze.begin(), train.unfreeze.end()), "train.unfreeze", train.unfreeze.size(),
         "must list epochs in ascending order");
  for (const int epoch : train.unfreeze) demand(epoch >= 1, "train.unfreeze", epoch, "epochs count from 1");
}

}  // namespace blinkbert
