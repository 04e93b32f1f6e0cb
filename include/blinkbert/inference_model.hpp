#pragma once

// Scoring, for any backend: BasicModel and BasicSession. Programs on the CPU include <blinkbert/inference.hpp>.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <blinkbert/data/dataset.hpp>
#include <blinkbert/train/buckets.hpp>
#include <blinkbert/train/checkpoint.hpp>
#include <blinkbert/train/evaluate.hpp>

namespace blinkbert {

template <Backend Device>
class BasicSession;

/// A fine-tuned model as it was saved: parameters, configuration, scaler. Immutable, so threads may share one; copies are
/// cheap and share the parameters. Scores are KSS, clamped to labels.range.
template <Backend Device>
class BasicModel {
 public:
  /// Reads a checkpoint; nothing else is needed. In bf16 linear layers round what they multiply: half the memory of their
  /// packed weights, and faster where the processor has the instructions. Throws InputError where the file is not a whole
  /// fine-tuning checkpoint, or where there is no bf16.
  static BasicModel load(const std::filesystem::path& path, Precision precision = Precision::fp32) {
    if constexpr (RoundsProducts<Device>) {
      const std::string obstacle = precision == Precision::bf16 ? Device::bf16_obstacle() : std::string();
      if (!obstacle.empty()) throw InputError("scoring in bf16: " + obstacle);
    }
    BLINKBERT_EXPECTS(precision == Precision::fp32 || (precision == Precision::bf16 && RoundsProducts<Device>));
    const Safetensors file = read_safetensors(path);
    CheckpointHeader header = read_header(file);
    if (header.config.task != Task::finetuning) {
      throw InputError(
          text(file.path, ": is a pre-training checkpoint, which predicts rows, not scores; fine-tune it first"));
    }
    auto contents = std::make_shared<Contents>(std::move(header), precision);
    load_parameters(contents->device, contents->model.parameters(), file);
    typename Device::Mark is_loaded;  // before devices of other sessions read the parameters
    contents->device.record(is_loaded);
    contents->device.wait(is_loaded);
    return BasicModel(std::move(contents));
  }

  const Config& config() const { return contents_->header.config; }
  const Scaler& scaler() const { return contents_->header.scaler; }
  /// The columns that a blink is made of, in the order `BasicSession::push` takes them.
  const std::vector<std::string>& features() const { return config().data.features; }

  /// What the head's outputs mean.
  const ScoreReading& reading() const { return contents_->reading; }

  /// Scores of windows over rows that were calibrated and scaled as this model needs them (`dataset`).
  std::vector<float> score(const RowTable& table, std::span<const Window> windows, int threads = 0) const {
    std::vector<float> scores;
    visit_outputs(table, windows, threads, [&](const WindowPrediction& one) { scores.push_back(clamped(one.values)); });
    return scores;
  }

  /// The same with the posterior over levels, where the model has one; the label is the window's, NaN without one.
  std::vector<ScoredWindow> score(const Dataset& dataset, std::span<const Window> windows, int threads = 0) const {
    std::vector<ScoredWindow> scored;
    visit_outputs(dataset.table, windows, threads, [&](const WindowPrediction& one) {
      scored.push_back({.driver = dataset.driver_of(one.window->window),
                        .recording = one.window->window.recording,
                        .truth = one.window->window.label,
                        .prediction = static_cast<double>(clamped(one.values)),
                        .posterior = reading().posterior(one.values)});
    });
    return scored;
  }

  /// A frame's rows as this model reads them.
  Dataset dataset(Frame frame) const { return make_dataset(std::move(frame), config().data, scaler()); }

 private:
  friend class BasicSession<Device>;

  /// Calls visit(WindowPrediction) for each window in their order.
  template <class Visit>
  void visit_outputs(const RowTable& table, std::span<const Window> windows, int threads, const Visit& visit) const {
    Device device(threads);
    contents_->prepare(device);
    std::vector<NumberedWindow> numbered;
    int longest = 1;
    for (const Window& window : windows) {
      numbered.push_back({.window = window, .number = static_cast<std::uint32_t>(numbered.size())});
      longest = std::max(longest, window.length);
    }
    constexpr int batch_size = 64;
    const int largest = std::clamp(static_cast<int>(windows.size()), 1, batch_size);
    Buckets<FinetuningModel<Device>, Device> buckets(device, contents_->model, largest, longest, PassPlan::inference);
    BatchLoader<Device> loader(table);
    const FinetuningStage<Device> stage(device, config());
    predict(device, contents_->model, stage, buckets, loader, std::span<const NumberedWindow>(numbered), largest,
            visit);
  }

  struct Contents {
    Contents(CheckpointHeader from, Precision precision_asked)
        : header(std::move(from)),
          precision(precision_asked),
          reading{.loss = header.config.train.loss, .level_values = header.level_values},
          device(1),
          model(device, header.config) {}

    /// For a device that scores with this model.
    void prepare(Device& scoring) const {
      if constexpr (KeepsWeights<Device>) scoring.keep_weights(kept_weights.shared);
      if constexpr (RoundsProducts<Device>) {
        if (precision == Precision::bf16) scoring.multiply_in_bf16();
      }
    }

    CheckpointHeader header;
    Precision precision;
    ScoreReading reading;
    Device device;  // made the parameters; runs nothing afterwards
    FinetuningModel<Device> model;
    KeptWeightsOf<Device> kept_weights;
  };

  explicit BasicModel(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

  float clamped(std::span<const float> outputs) const {
    const auto& range = config().labels.range;
    const auto score = static_cast<float>(reading().score(outputs, reading().posterior(outputs)));
    return std::clamp(score, static_cast<float>(range[0]), static_cast<float>(range[1]));
  }

  std::shared_ptr<const Contents> contents_;
};

/// One driver, blink by blink: keeps the last window of blinks and the driver's calibration. For one thread.
template <Backend Device>
class BasicSession {
 public:
  explicit BasicSession(const BasicModel<Device>& model)
      : model_(model),
        device_(1),
        buckets_(device_, model.contents_->model, 1, model.config().data.window, PassPlan::inference),
        stage_(device_, model.config()),
        transform_(model.config().data),
        calibration_(model.config().data),
        channels_(static_cast<std::size_t>(row_channels(model.config().data))),
        model_row_(static_cast<std::size_t>(model_features(model.config().data))),
        loader_(table_) {
    model_.contents_->prepare(device_);
    table_.N = static_cast<int>(model_row_.size());
    table_.x.resize(model_row_.size() * static_cast<std::size_t>(window()));
  }
  BasicSession(const BasicSession&) = delete;  // the loader points to the table
  BasicSession& operator=(const BasicSession&) = delete;

  /// The driver's next blink: one number per `BasicModel::features`, in raw units. Throws InputError on a number that is
  /// not finite; the session is then as before.
  void push(std::span<const double> features) {
    BLINKBERT_EXPECTS(features.size() == model_.features().size(), features.size(), model_.features().size());
    for (std::size_t n = 0; n < features.size(); ++n) {
      if (!std::isfinite(features[n]))
        throw InputError(text("a blink's ", model_.features()[n], " is not a finite number"));
    }
    transform_.push(features, channels_);
    calibration_.push(channels_, model_row_);
    const auto N = static_cast<std::ptrdiff_t>(model_row_.size());
    if (rows_ == window()) {
      std::copy(table_.x.begin() + N, table_.x.end(), table_.x.begin());
      --rows_;
    }
    model_.scaler().apply(model_row_.data(), table_.x.data() + N * rows_);
    ++rows_;
  }

  /// The score of the last window of this recording's blinks; empty below data.min_length of them.
  std::optional<float> score() {
    if (rows_ < model_.config().data.min_length) return std::nullopt;
    const BatchItem item{.window = {.recording = 0, .start = 0, .length = rows_, .label = 0}};
    auto& bucket = buckets_(1, window());
    loader_.load(device_, bucket.batch, {&item, 1});
    const auto input = stage_.prepare(device_, bucket.batch);
    const Pass pass = bucket.batch.pass(Mode::evaluation, 0, 0, 0);
    const auto outputs = model_.contents_->model.forward(device_, pass, input, bucket.saved);
    std::vector<typename Device::Real> values(static_cast<std::size_t>(outputs.size()));
    download(device_, values.data(), outputs);
    return model_.clamped(std::vector<float>(values.begin(), values.end()));
  }

  /// A new recording of the same driver: forgets the blinks, keeps the calibration.
  void begin_recording() {
    rows_ = 0;
    transform_.begin_recording();
  }

 private:
  int window() const { return model_.config().data.window; }

  BasicModel<Device> model_;
  Device device_;
  Buckets<FinetuningModel<Device>, Device> buckets_;
  FinetuningStage<Device> stage_;
  RowTransform transform_;
  DriverCalibration calibration_;
  std::vector<double> channels_, model_row_;  // [channels], [N]  of the blink being pushed
  RowTable table_;                            // [window, N]  the last blinks, oldest first
  BatchLoader<Device> loader_;
  int rows_ = 0;
};

}  // namespace blinkbert
