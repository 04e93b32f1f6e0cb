#pragma once

// The loop: accumulate, clip, step, evaluate, stop. No input or output: callbacks.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/train/buckets.hpp>
#include <blinkbert/train/freezing.hpp>
#include <blinkbert/train/graphs.hpp>
#include <blinkbert/train/schedule.hpp>
#include <blinkbert/train/stage.hpp>

namespace blinkbert {

/// Named numbers of an evaluation, in the order they are printed.
using Metrics = std::vector<std::pair<std::string, double>>;

/// Where a run stands: all that a checkpoint needs beside the blocks of numbers.
struct TrainerState {
  int epoch = 1;          // the epoch under way, from 1
  std::int64_t step = 0;  // t: optimizer steps so far, skipped ones included
  std::int64_t step_in_epoch = 0;
  double loss_sum = 0, loss_weight = 0;  // of the epoch so far
  std::int64_t skipped = 0;              // steps with a non-finite gradient norm
  int skips_in_row = 0;
  std::int64_t first_skip_in_row = 0;
  std::vector<std::int64_t> skips_before;  // per group: `skipped` when it became trainable
  double best = 0;                         // the monitored metric; valid from best_epoch > 0 on
  int best_epoch = 0;                      // 0 = none yet
  int epochs_without_gain = 0;
  bool is_finished = false;
};

/// What a step came to. A device that works later reports a step while the next one runs.
struct StepReport {
  std::int64_t step;           // t, from 0 over the whole run
  int epoch;                   // from 1
  std::int64_t step_in_epoch;  // from 1
  std::int64_t steps_per_epoch;
  double loss;           // of the step, as in the objective
  double gradient_norm;  // before clipping
  double rate;
  std::int64_t rows;  // real rows in the step
  bool was_skipped;
};

struct EpochReport {
  int epoch;
  double training_loss;  // mean over the epoch, dropout on
  const Metrics& validation;
  bool is_best;
};

/// All may be empty. Without `evaluate` no epoch is the best and training goes on to the last one.
struct TrainerHooks {
  std::function<Metrics()> evaluate = {};  // after every epoch; must hold the monitored metric, if any
  std::function<void(const StepReport&)> after_step = {};
  std::function<void(const EpochReport&)> after_epoch =
      {};                                  // the state is then at the start of the next epoch, or finished
  std::function<bool()> should_stop = {};  // asked after every step
  std::function<bool()> should_save = {};  // asked after every step but an epoch's last
  std::function<void()> save = {};         // all steps so far are done and reported, the state is theirs
};

enum class TrainerEnd { finished, stopped };

/// Trains a model on windows. Without `unfreeze` everything trains from the first epoch (pre-training, and the scratch
/// arm of fine-tuning); with it, blocks join as freezing.hpp says.
template <class Stage>
class Trainer {
 public:
  using Device = typename Stage::Device;
  using Model = typename Stage::Model;
  using Real = typename Stage::Real;

  Trainer(Device& device, Model& model, Stage& stage, BatchLoader<Device>& loader, Buckets<Model, Device>& buckets,
          std::vector<NumberedWindow> windows, const TrainConfig& config, std::optional<std::vector<int>> unfreeze)
      : device_(device),
        model_(model),
        stage_(stage),
        loader_(loader),
        buckets_(buckets),
        windows_(std::move(windows)),
        config_(config),
        unfreeze_(std::move(unfreeze)),
        graphs_(config.graph) {
    if (windows_.empty())
      throw InputError(
          "no training windows: the training drivers' recordings are all shorter than data.min_length or have no "
          "usable label");
    const auto P = static_cast<std::size_t>(set().values().size());
    first_memory_ = device.allocate(P * sizeof(Wide<Real>));
    second_memory_ = device.allocate(P * sizeof(Wide<Real>));
    scalars_memory_ = device.allocate(sizeof(StepValues) + sizeof(double) + sizeof(std::int64_t));
    segments_memory_ = device.allocate(set().segments().size() * sizeof(Segment));
    statistics_memory_ = device.allocate(static_cast<std::size_t>(statistics().size() + 1) * sizeof(Wide<Real>));
    fill_zero(device, first_moment());
    fill_zero(device, second_moment());
    device.zero(scalars_memory_.data(), sizeof(StepValues) + sizeof(double) + sizeof(std::int64_t));
    for (StepUnderWay& one : under_way_) {
      one.staging = device.stage(StepUnderWay::bytes(stage.objective().sums().extent(0)));
    }
    state_.skips_before.assign(static_cast<std::size_t>(model.blocks()) + 2, 0);
  }

  std::int64_t steps_per_epoch() const {
    const std::int64_t per_step = std::int64_t{config_.batch} * config_.accumulate;
    return (static_cast<std::int64_t>(windows_.size()) + per_step - 1) / per_step;
  }

  const TrainerState& state() const { return state_; }
  View<Wide<Real>, 1> first_moment() const { return flat(first_memory_); }
  View<Wide<Real>, 1> second_moment() const { return flat(second_memory_); }
  /// Parameters and statistics of the best epoch, on the host; empty before there is one.
  const std::vector<Wide<Real>>& best_values() const { return best_values_; }
  const std::vector<Wide<Real>>& best_statistics() const { return best_statistics_; }

  /// Continues where a saved run stood; parameters, statistics and moments are the caller's to restore.
  void restore(TrainerState state, std::vector<Wide<Real>> best_values, std::vector<Wide<Real>> best_statistics) {
    state_ = std::move(state);
    best_values_ = std::move(best_values);
    best_statistics_ = std::move(best_statistics);
    upload(device_, skipped_view(), &state_.skipped);
  }

  TrainerEnd train(const TrainerHooks& hooks) {
    while (!state_.is_finished) {
      const std::int64_t steps = steps_per_epoch();
      begin_epoch();
      while (state_.step_in_epoch < steps) {
        issue_step();
        if (issued_ - reported_ == steps_under_way) report_step(hooks);
        if (state_.step_in_epoch < steps && hooks.should_save && hooks.should_save()) {
          report_all(hooks);
          if (hooks.save) hooks.save();
        }
        if (hooks.should_stop && hooks.should_stop()) {
          report_all(hooks);
          return TrainerEnd::stopped;
        }
      }
      report_all(hooks);
      end_epoch(hooks);
    }
    return TrainerEnd::finished;
  }

 private:
  ParameterSet<Device>& set() const { return model_.parameters(); }
  View<Wide<Real>, 1> statistics() const { return set().statistics(); }
  View<Wide<Real>, 1> flat(const typename Device::Memory& memory) const {
    return {reinterpret_cast<Wide<Real>*>(memory.data()), set().values().extents()};
  }
  View<StepValues, 1> now_view() const { return {reinterpret_cast<StepValues*>(scalars_memory_.data()), {1}}; }
  View<double, 1> sum_view() const {
    return {reinterpret_cast<double*>(scalars_memory_.data() + sizeof(StepValues)), {1}};
  }
  View<std::int64_t, 1> skipped_view() const {
    return {reinterpret_cast<std::int64_t*>(scalars_memory_.data() + sizeof(StepValues) + sizeof(double)), {1}};
  }
  View<Segment, 1> segments_view() const {
    return {reinterpret_cast<Segment*>(segments_memory_.data()), {static_cast<int>(set().segments().size())}};
  }

  int lowest_group() const { return unfreeze_ ? lowest_trained_group(state_.epoch, model_.blocks(), *unfreeze_) : 0; }

  /// Order of the windows and which segments train: functions of the epoch, so a resumed run finds them again.
  void begin_epoch() {
    order_ = order_of_windows(windows_, config_.seed, static_cast<std::uint32_t>(state_.epoch));
    for (Segment& segment : set().segments()) {
      const int epoch = unfreeze_ ? first_trained_epoch(segment.group, model_.blocks(), *unfreeze_) : 1;
      auto& skips = state_.skips_before[static_cast<std::size_t>(segment.group)];
      if (epoch == state_.epoch && state_.step_in_epoch == 0) skips = state_.skipped;
      segment.first_trainable = epoch == no_epoch ? never_trains : (epoch - 1) * steps_per_epoch();
      segment.skips_before = skips;
    }
    upload(device_, segments_view(), set().segments().data());
    if (lowest_group() != captured_group_) graphs_.clear();
    captured_group_ = lowest_group();
  }

  /// Issues all that a step does, its results' way to the host included; waits for nothing but room in the staging memory.
  void issue_step() {
    const std::size_t per_step = static_cast<std::size_t>(config_.batch) * static_cast<std::size_t>(config_.accumulate);
    const std::size_t first = static_cast<std::size_t>(state_.step_in_epoch) * per_step;
    const std::size_t count = std::min(per_step, order_.size() - first);
    const std::span<int> step(order_.data() + first, count);
    sort_by_length(windows_, step);

    const auto t = static_cast<std::uint32_t>(state_.step);
    items_.clear();
    lengths_.clear();
    sequences_.clear();
    std::int64_t rows = 0;
    for (const int index : step) {
      const Window& window = windows_[static_cast<std::size_t>(index)].window;
      const auto sequence = static_cast<std::uint32_t>(items_.size());
      items_.push_back({.window = window, .chosen = 0, .sequence = sequence});
      lengths_.push_back(window.length);
      sequences_.push_back(sequence);
      rows += window.length;
    }
    stage_.chosen_rows(chosen_, lengths_, sequences_, Draw::training, t);
    for (std::size_t i = 0; i < count; ++i) items_[i].chosen = chosen_[i];
    const std::int64_t normaliser = Stage::normaliser(chosen_);

    StepUnderWay& one = under_way_[static_cast<std::size_t>(issued_ % steps_under_way)];
    one.step = state_.step;
    one.epoch = state_.epoch;
    one.rows = rows;
    one.normaliser = normaliser;
    one.rate = learning_rate(config_, state_.step, state_.epoch, steps_per_epoch());
    *one.values() = {.step = state_.step, .rate = static_cast<float>(one.rate)};
    device_.upload_later(reinterpret_cast<std::byte*>(now_view().data()),
                         reinterpret_cast<const std::byte*>(one.values()), sizeof(StepValues));

    auto& objective = stage_.objective();
    objective.begin_step(device_, normaliser);
    fill_zero(device_, set().gradients());
    copy(device_, statistics_before(), statistics());
    const auto batch_size = static_cast<std::size_t>(config_.batch);
    for (std::size_t begin = 0; begin < count; begin += batch_size) {
      const std::span<const BatchItem> items(items_.data() + begin, std::min(batch_size, count - begin));
      auto& bucket = buckets_(static_cast<int>(items.size()), longest(items));
      loader_.load(device_, bucket.batch, items);
      const auto first_sequence = static_cast<std::uint32_t>(begin);
      graphs_.run(device_, {bucket.batch.B(), bucket.batch.L(), bucket.batch.M, normaliser, first_sequence}, [&] {
        const ModelInput<Real> input = stage_.prepare(device_, bucket.batch, now_view());
        Pass pass = bucket.batch.pass(Mode::training, config_.seed, t, first_sequence);
        pass.now = now_view();
        const View<const Real, 2> output = model_.forward(device_, pass, input, bucket.saved);
        objective.run_loss(device_, bucket.batch, model_.rows(), bucket.saved.doutput.rows(0, output.extent(0)),
                           output);
        model_.backward(device_, pass, bucket.saved, lowest_group());
      });
    }
    graphs_.run(device_, {}, [&] { run_optimizer(); });

    device_.download_later(reinterpret_cast<std::byte*>(one.sums()),
                           reinterpret_cast<const std::byte*>(objective.sums().data()),
                           static_cast<std::size_t>(objective.sums().size()) * sizeof(Wide<Real>));
    device_.download_later(reinterpret_cast<std::byte*>(one.sum_of_squares()),
                           reinterpret_cast<const std::byte*>(sum_view().data()), sizeof(double));
    device_.record(one.is_done);
    ++issued_;
    ++state_.step;
    one.step_in_epoch = ++state_.step_in_epoch;
  }

  void run_optimizer() {
    run(device_,
        SumOfSquares<Real>{
            .sum = sum_view(), .gradients = set().gradients(), .segments = segments_view(), .now = now_view()});
    run(device_, AdamW<Real>{.values = set().values(),
                             .working = set().working(),
                             .first_moment = first_moment(),
                             .second_moment = second_moment(),
                             .skipped = skipped_view(),
                             .gradients = set().gradients(),
                             .segments = segments_view(),
                             .sum_of_squares = sum_view(),
                             .now = now_view(),
                             .statistics = statistics(),
                             .statistics_before = statistics_before(),
                             .weight_decay = static_cast<float>(config_.weight_decay),
                             .clip = static_cast<float>(config_.clip)});
  }

  void report_all(const TrainerHooks& hooks) {
    while (reported_ < issued_) report_step(hooks);
  }

  /// Waits for the oldest step under way and says what it came to.
  void report_step(const TrainerHooks& hooks) {
    const StepUnderWay& one = under_way_[static_cast<std::size_t>(reported_ % steps_under_way)];
    device_.wait(one.is_done);
    ++reported_;
    const double loss = stage_.objective().loss(one.sums(), one.normaliser), sum_of_squares = *one.sum_of_squares();
    if (!std::isfinite(loss)) {
      throw Diverged(text("the loss of step ", one.step, " (epoch ", one.epoch, ") is not finite"));
    }
    const bool is_skipped = !std::isfinite(sum_of_squares);
    if (is_skipped) {
      ++state_.skipped;
      if (state_.skips_in_row++ == 0) state_.first_skip_in_row = one.step;
      if (state_.skips_in_row == 10) {
        throw Diverged(text("ten steps in a row had a gradient norm that is not finite, the first of them step ",
                            state_.first_skip_in_row, " (epoch ", 1 + state_.first_skip_in_row / steps_per_epoch(),
                            ")"));
      }
    } else {
      state_.skips_in_row = 0;
    }
    state_.loss_sum += loss * static_cast<double>(one.normaliser);
    state_.loss_weight += static_cast<double>(one.normaliser);
    if (!hooks.after_step) return;
    hooks.after_step({.step = one.step,
                      .epoch = one.epoch,
                      .step_in_epoch = one.step_in_epoch,
                      .steps_per_epoch = steps_per_epoch(),
                      .loss = loss,
                      .gradient_norm = std::sqrt(sum_of_squares),
                      .rate = one.rate,
                      .rows = one.rows,
                      .was_skipped = is_skipped});
  }

  void end_epoch(const TrainerHooks& hooks) {
    const Metrics validation = hooks.evaluate ? hooks.evaluate() : Metrics{};
    const double training_loss = state_.loss_sum / state_.loss_weight;
    const bool is_best = hooks.evaluate && note_monitored(validation);
    const int epoch = state_.epoch;
    state_.is_finished = epoch >= config_.epochs || state_.epochs_without_gain >= config_.patience;
    ++state_.epoch;
    state_.step_in_epoch = 0;
    state_.loss_sum = state_.loss_weight = 0;
    if (hooks.after_epoch) {
      hooks.after_epoch({.epoch = epoch, .training_loss = training_loss, .validation = validation, .is_best = is_best});
    }
  }

  /// The metric that is monitored; 0 with Monitor::none.
  double monitored(const Metrics& validation) const {
    if (config_.monitor == Monitor::none) return 0;
    const std::string name = spell(config_.monitor);
    const auto found =
        std::find_if(validation.begin(), validation.end(), [&](const auto& one) { return one.first == name; });
    BLINKBERT_EXPECTS(found != validation.end(), name);
    return found->second;
  }

  /// Early stopping: keeps the parameters of the best epoch. A metric that is not finite is no gain. With Monitor::none every
  /// epoch is better than the one before.
  bool note_monitored(const Metrics& validation) {
    const double value = monitored(validation);
    const bool more_is_better = config_.monitor == Monitor::kpi;
    const bool gains = config_.monitor == Monitor::none ||
                       (std::isfinite(value) &&
                        (state_.best_epoch == 0 || (more_is_better ? value > state_.best : value < state_.best)));
    if (!gains) {
      ++state_.epochs_without_gain;
      return false;
    }
    state_.best = value;
    state_.best_epoch = state_.epoch;
    state_.epochs_without_gain = 0;
    best_values_.resize(static_cast<std::size_t>(set().values().size()));
    best_statistics_.resize(static_cast<std::size_t>(statistics().size()));
    download(device_, best_values_.data(), set().values());
    download(device_, best_statistics_.data(), statistics());
    return true;
  }

  View<Wide<Real>, 1> statistics_before() const {
    return {reinterpret_cast<Wide<Real>*>(statistics_memory_.data()), statistics().extents()};
  }

  /// A step that was issued and not yet reported.
  struct StepUnderWay {
    std::int64_t step = 0, step_in_epoch = 0, rows = 0, normaliser = 0;
    int epoch = 0;
    double rate = 0;
    typename Device::Staging staging;  // its values on the way to the device, its results on the way back
    typename Device::Mark is_done;

    static std::size_t bytes(int sums) {
      return sizeof(StepValues) + sizeof(double) + static_cast<std::size_t>(sums) * sizeof(Wide<Real>);
    }
    StepValues* values() const { return reinterpret_cast<StepValues*>(staging.data()); }
    double* sum_of_squares() const { return reinterpret_cast<double*>(staging.data() + sizeof(StepValues)); }
    Wide<Real>* sums() const {
      return reinterpret_cast<Wide<Real>*>(staging.data() + sizeof(StepValues) + sizeof(double));
    }
  };
  static constexpr std::int64_t steps_under_way = Device::is_asynchronous ? 2 : 1;

  Device& device_;
  Model& model_;
  Stage& stage_;
  BatchLoader<Device>& loader_;
  Buckets<Model, Device>& buckets_;
  std::vector<NumberedWindow> windows_;
  TrainConfig config_;
  std::optional<std::vector<int>> unfreeze_;
  TrainerState state_;

  typename Device::Memory first_memory_, second_memory_, scalars_memory_, segments_memory_, statistics_memory_;
  std::vector<Wide<Real>> best_values_, best_statistics_;
  std::vector<int> order_, lengths_, chosen_;
  std::vector<std::uint32_t> sequences_;
  std::vector<BatchItem> items_;

  std::array<StepUnderWay, steps_under_way> under_way_;
  std::int64_t issued_ = 0, reported_ = 0;
  Graphs<Device> graphs_;
  int captured_group_ = -1;  // lowest group that trains in the graphs
};

}  // namespace blinkbert
