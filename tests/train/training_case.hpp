#pragma once

// A small training run, all in memory: rows that follow a slow hidden wave, windows of uneven lengths whose label is
// the wave at their last row.

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/train/trainer.hpp>

namespace blinkbert::test {

inline Config small_config(Task task) {
  Config config = Config::defaults(task);
  config.data.features = {"a", "b", "c"};
  config.data.calibration = Calibration::none;
  config.data.window = 8;
  config.mask.rate = 0.25;
  config.model = {
      .upscaling = Upscaling::linear, .width = 8, .blocks = 2, .heads = 2, .dropout = 0.05, .max_length = 8};
  config.head.hidden = {6};
  config.head.dropout = 0.05;
  config.train.epochs = 3;
  config.train.batch = 4;
  config.train.accumulate = 1;
  config.train.warmup = 1;
  config.train.rate = 3e-3;
  config.train.monitor = task == Task::pretraining ? Monitor::masked_loss : Monitor::mae;
  return config;
}

struct SmallData {
  RowTable table;
  std::vector<NumberedWindow> windows;

  explicit SmallData(int count, int features = 3) : table{.N = features, .x = {}} {
    int start = 0;
    for (int w = 0; w < count; ++w) {
      const int length = 8 - w % 7 % 4;
      const double phase = 2.1 * w, pace = 0.2 + 0.02 * (w % 5);
      for (int l = 0; l < length; ++l) {
        for (int n = 0; n < features; ++n) {
          const double slope = n % 3 == 0 ? 1.0 : n % 3 == 1 ? -0.7 : 0.4;
          table.x.push_back(static_cast<float>(slope * std::sin(phase + pace * l + n / 3)));
        }
      }
      windows.push_back({.window = {.recording = w,
                                    .start = start,
                                    .length = length,
                                    .label = 5 + 2 * std::sin(phase + pace * (length - 1))},
                         .number = static_cast<std::uint32_t>(w)});
      start += length;
    }
  }
};

/// Everything a trainer works on.
template <class StageType>
class TrainingCase {
 public:
  using Stage = StageType;
  using Device = typename Stage::Device;
  using Real = typename Device::Real;
  using Numbers = std::vector<Wide<Real>>;

  Config config;
  SmallData data;
  Device device;
  typename Stage::Model model;
  Stage stage;
  BatchLoader<Device> loader;
  Buckets<typename Stage::Model, Device> buckets;
  Trainer<Stage> trainer;
  std::vector<double> losses;  // of every step

  TrainingCase(const Config& run_config, const SmallData& run_data, int threads = 1,
               std::optional<std::vector<int>> unfreeze = {})
      : config(run_config),
        data(run_data),
        device(threads),
        model(device, config),
        stage(device, config),
        loader(data.table),
        buckets(device, model, config.train.batch, config.data.window),
        trainer(device, model, stage, loader, buckets, data.windows, config.train, std::move(unfreeze)) {}

  /// Trains with an evaluation that never improves and never stops, keeping the losses.
  TrainerEnd train(TrainerHooks hooks = {}) {
    if (!hooks.evaluate) hooks.evaluate = [this] { return constant_metrics(); };
    const auto after_step = hooks.after_step;
    hooks.after_step = [this, after_step](const StepReport& report) {
      losses.push_back(report.loss);
      if (after_step) after_step(report);
    };
    return trainer.train(hooks);
  }

  Metrics constant_metrics() const { return {{spell(config.train.monitor), 1.0}}; }

  Numbers values() { return read(model.parameters().values()); }
  Numbers statistics() { return read(model.parameters().statistics()); }
  Numbers first_moment() { return read(trainer.first_moment()); }
  Numbers second_moment() { return read(trainer.second_moment()); }

  template <class T>
  std::vector<T> read(View<T, 1> view) {
    std::vector<T> numbers(static_cast<std::size_t>(view.size()));
    download(device, numbers.data(), view);
    return numbers;
  }

  /// Continues where `other` stands.
  void restore_from(TrainingCase& other) {
    upload(device, model.parameters().values(), other.values().data());
    upload(device, model.parameters().statistics(), other.statistics().data());
    upload(device, trainer.first_moment(), other.first_moment().data());
    upload(device, trainer.second_moment(), other.second_moment().data());
    model.parameters().refresh_working(device);
    trainer.restore(other.trainer.state(), other.trainer.best_values(), other.trainer.best_statistics());
  }
};

}  // namespace blinkbert::test
