#pragma once

// What `pretrain` and `finetune` share: flags, configuration, data, the run folder, the loop. Each brings its stage and
// says how to evaluate it.

#include <sys/resource.h>

#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <blinkbert/data/dataset.hpp>
#include <blinkbert/io/config_file.hpp>
#include <blinkbert/io/split_file.hpp>
#include <blinkbert/train/evaluate.hpp>
#include <blinkbert/train/run_folder.hpp>

#include "devices.hpp"
#include "report/run_page.hpp"
#include "results.hpp"

namespace programs {

using namespace blinkbert;

struct TrainingFlags : CommonFlags {
  std::optional<std::filesystem::path> config, split, data, out;
  std::vector<std::string> overrides;
  std::optional<std::uint64_t> seed;
  bool prints_config = false, resumes = false, wants_page = false;
  std::string command;  // as typed, for the page
};

inline void add_training_flags(CLI::App& app, TrainingFlags& flags) {
  app.add_option("--data", flags.data, "CSV file of blinks");
  app.add_option("--out", flags.out, "Run folder to make");
  app.add_flag("--resume", flags.resumes, "Go on where the run in --out stopped; start anew if nothing is saved");
  app.add_option("--split", flags.split, "Which drivers train, validate and test: a split.json");
  app.add_option("--config", flags.config, "Configuration, TOML");
  app.add_option("--set", flags.overrides, "section.key=value, wins over the file; may be repeated")
      ->expected(1)
      ->take_all();
  app.add_option("--seed", flags.seed, "Same as --set train.seed=N")->check(is_seed());
  app.add_flag("--report", flags.wants_page,
               "Write report.html into the run folder: figures and the numbers behind them");
  app.add_flag("--print-config", flags.prints_config, "Print the resolved configuration and leave");
  add_device_flags(app, flags);
  add_output_flags(app, flags);
}

inline ConfigSource read_configuration(Task task, const TrainingFlags& flags) {
  ConfigSource source = load_config(task, flags.config, flags.overrides);
  if (flags.seed) {
    source.config.train.seed = *flags.seed;
    source.explicit_keys.insert("train.seed");
  }
  return source;
}

inline double peak_memory_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Everything about the data of one run.
struct RunData {
  std::string fingerprint;
  Split split;
  Dataset dataset;
  std::vector<NumberedWindow> training, validation, test;
  Json left_out;  // list of {recording, rows, reason}
};

inline const DriverSets& sets_of(const Split& split, Task task) {
  return task == Task::pretraining ? split.pretraining : split.finetuning;
}

/// Rows of the stage's drivers that no training window covers, by recording, with the reason.
inline Json left_out(const Frame& frame, const WindowIndex& index, const DriverSets& sets, Recordings wanted) {
  std::set<std::string> drivers;
  for (const auto* set : {&sets.training, &sets.validation, &sets.test}) drivers.insert(set->begin(), set->end());
  Json list = Json::array();
  for (const RecordingReport& report : index.reports) {
    const Recording& recording = frame.recordings[static_cast<std::size_t>(report.recording)];
    if (!drivers.contains(frame.drivers[static_cast<std::size_t>(recording.driver)])) continue;
    const auto add = [&](int rows, const std::string& reason) {
      list.push_back({{"recording", recording.name}, {"rows", rows}, {"reason", reason}});
    };
    if (wanted == Recordings::trusted && !recording.is_labelled) {
      add(report.rows, "no label");
    } else if (wanted == Recordings::trusted && !recording.is_high_quality) {
      add(report.rows, "label quality is low");
    } else if (report.uncovered_rows > 0) {
      add(report.uncovered_rows, report.reason);
    }
  }
  return list;
}

/// A label that no prediction can reach would be counted as an error that no model can mend.
inline void check_labels(const Dataset& dataset, const std::vector<NumberedWindow>& windows, const Config& config) {
  const double low = config.labels.range[0], high = config.labels.range[1];
  for (const NumberedWindow& one : windows) {
    if (one.window.label >= low && one.window.label <= high) continue;
    const Recording& recording = dataset.frame.recordings[static_cast<std::size_t>(one.window.recording)];
    throw InputError(text(dataset.frame.path, ": recording ", recording.name, " has the label ", one.window.label,
                          " outside labels.range = [", low, ", ", high,
                          "]; set labels.range and labels.edges for this file"));
  }
}

/// Reads, splits, scales and cuts the file. `scaler` given: it is not fitted.
inline RunData load_data(const Config& config, const TrainingFlags& flags, const RunFolder& folder,
                         const std::optional<Scaler>& scaler) {
  RunData run;
  run.fingerprint = fingerprint(read_file(*flags.data));
  Frame frame = read_frame(*flags.data, config.data, config.splits.column);
  if (flags.split) {
    run.split = read_split(*flags.split);
  } else if (flags.resumes && folder.holds_state()) {
    run.split = read_split(folder.path() / "split.json");
  } else {
    run.split = make_split(frame, config.splits, config.train.seed);
  }
  check_split(run.split, frame, config.splits);
  const DriverSets& sets = sets_of(run.split, config.task);
  check_stage(sets, config.task, config.train.monitor);
  const Recordings wanted = config.task == Task::pretraining ? Recordings::all : Recordings::trusted;

  const WindowIndex training = index_windows(frame, config.data.window, config.data.stride, config.data.min_length);
  const WindowIndex evaluation =
      index_windows(frame, config.data.window, config.data.evaluation_stride, config.data.min_length);
  run.training = windows_of(frame, training, sets.training, wanted);
  run.validation = windows_of(frame, evaluation, sets.validation, wanted);
  run.test = windows_of(frame, evaluation, sets.test, wanted);
  if (run.validation.empty() && config.train.monitor != Monitor::none)
    throw InputError("no validation windows: early stopping needs some; give splits a validation share");

  run.left_out = left_out(frame, training, sets, wanted);

  if (!flags.is_quiet) {
    std::cerr << flags.data->string() << ": " << frame.rows() << " blinks, " << frame.recordings.size()
              << " recordings, " << frame.drivers.size() << " drivers";
    if (frame.dropped_rows > 0) std::cerr << "; " << frame.dropped_rows << " rows with empty cells dropped";
    std::cerr << "\ndrivers: " << sets.training.size() << " training, " << sets.validation.size() << " validation, "
              << sets.test.size() << " test; windows: " << run.training.size() << ", " << run.validation.size() << ", "
              << run.test.size() << '\n';
    if (config.splits.shared_training) std::cerr << "splits.shared_training: both stages train on the same drivers\n";
    if (!run.left_out.empty()) {
      std::int64_t rows = 0;
      for (const Json& one : run.left_out) rows += one["rows"].get<std::int64_t>();
      std::cerr << "in no training window: " << rows << " rows of " << run.left_out.size()
                << " recordings; report.json lists them with reasons\n";
    }
  }
  run.dataset = scaler ? make_dataset(std::move(frame), config.data, *scaler)
                       : make_dataset(std::move(frame), config.data, sets.training, wanted);
  if (config.task == Task::finetuning) {
    for (const auto* windows : {&run.training, &run.validation, &run.test}) check_labels(run.dataset, *windows, config);
    if (config.train.recording_weights) weigh_by_recording(run.training);
  }
  return run;
}

/// The objects of a run, wired together.
template <class Stage>
struct Workshop {
  using Model = typename Stage::Model;
  using Device = typename Stage::Device;

  Workshop(const Config& config, const RowTable& table, const TrainingFlags& flags)
      : device(flags.threads),
        model((begin_on_device(device, config.train.precision, *flags.out), device), config),
        stage(device, config),
        buckets(device, model, config.train.batch, config.data.window),
        loader(table) {}

  Device device;
  Model model;
  Stage stage;
  Buckets<Model, Device> buckets;
  BatchLoader<Device> loader;
};

/// Runs the loop with checkpoints, log and progress. Returns false if it was interrupted (the state is then saved).
template <class Stage>
bool train_in_folder(Workshop<Stage>& shop, Trainer<Stage>& trainer, RunFolder& folder, const Config& config,
                     const CheckpointHeader& header, const std::string& backbone, const TrainingFlags& flags,
                     const std::function<Metrics()>& evaluate) {
  if (!flags.is_quiet) std::cerr << "device: " << describe(shop.device) << '\n';
  ProgressLine progress(!flags.is_quiet);
  auto& set = shop.model.parameters();
  const auto save = [&] {
    save_plans(shop.device, folder.path());
    folder.save(shop.device, trainer, set, header, backbone);
  };
  Stopwatch epoch_time, since_saved, whole;
  double rows_in_epoch = 0;
  const std::int64_t total_steps = trainer.steps_per_epoch() * config.train.epochs, first_step = trainer.state().step;

  const TrainerHooks hooks{
      .evaluate = evaluate,
      .after_step =
          [&](const StepReport& report) {
            rows_in_epoch += static_cast<double>(report.rows);
            if (report.was_skipped) {
              folder.log({{"event", "skipped_step"}, {"epoch", report.epoch}, {"step", report.step}});
              if (!flags.is_quiet) {
                progress.clear();
                std::cerr << "step " << report.step << " skipped: its gradient norm is not finite\n";
              }
            }
            progress.show([&] {
              std::ostringstream line;
              const double left = whole.seconds() / static_cast<double>(report.step + 1 - first_step) *
                                  static_cast<double>(total_steps - report.step - 1);
              line << "epoch " << report.epoch << '/' << config.train.epochs << "  step " << report.step_in_epoch << '/'
                   << report.steps_per_epoch << "  loss " << std::setprecision(4) << report.loss << "  "
                   << static_cast<std::int64_t>(rows_in_epoch / epoch_time.seconds()) << " rows/s  at most "
                   << rounded_time(left) << " left";
              return line.str();
            });
          },
      .after_epoch =
          [&](const EpochReport& report) {
            Json validation;
            for (const auto& [name, value] : report.validation) validation[name] = number(value);
            folder.log(
                {{"event", "epoch"},
                 {"epoch", report.epoch},
                 {"step", trainer.state().step},
                 {"training_loss", number(report.training_loss)},
                 {"rate",
                  learning_rate(config.train, trainer.state().step - 1, report.epoch, trainer.steps_per_epoch())},
                 {"skipped_steps", trainer.state().skipped},
                 {"validation", validation},
                 {"best", report.is_best},
                 {"time",
                  {{"seconds", epoch_time.seconds()}, {"rows_per_second", rows_in_epoch / epoch_time.seconds()}}}});
            if (trainer.state().is_finished) {
              folder.log({{"event", "finished"},
                          {"epochs", report.epoch},
                          {"best_epoch", trainer.state().best_epoch},
                          {spell(config.train.monitor), number(trainer.state().best)}});
            }
            save();
            if (!flags.is_quiet) {
              progress.clear();
              std::cerr << "epoch " << report.epoch << "  training loss " << std::setprecision(4)
                        << report.training_loss;
              // Those that can be monitored: the line stays short, and metrics.jsonl has all.
              for (const auto& [name, value] : report.validation) {
                const auto& names = Spelling<Monitor>::names;
                if (std::find(names.begin(), names.end(), name) != names.end())
                  std::cerr << "  " << name << ' ' << value;
              }
              std::cerr << (report.is_best ? "  best\n" : "\n");
            }
            epoch_time = {};
            since_saved = {};
            rows_in_epoch = 0;
          },
      .should_stop = [] { return stop_requested.load(); },
      .should_save = [&] { return since_saved.seconds() >= config.train.checkpoint_seconds; },
      .save =
          [&] {
            save();
            since_saved = {};
          }};

  if (trainer.train(hooks) == TrainerEnd::finished) return true;
  save();
  progress.clear();
  if (!flags.is_quiet) {
    std::cerr << "interrupted after step " << trainer.state().step << ", saved in " << folder.path().string()
              << "; the same call with --resume goes on\n";
  }
  return false;
}

/// The part of report.json that all runs share.
template <class Stage>
Json report_head(const Config& config, const Trainer<Stage>& trainer, const RunData& run, const std::string& backbone) {
  return {{"task", spell(config.task)},
          {"blinkbert_version", BLINKBERT_VERSION},
          {"seed", config.train.seed},
          {"data", run.fingerprint},
          {"backbone", backbone},
          {"epochs", trainer.state().epoch - 1},
          {"best_epoch", trainer.state().best_epoch},
          {"skipped_steps", trainer.state().skipped},
          {"monitor", spell(config.train.monitor)},
          {"best", trainer.state().best_epoch > 0 ? number(trainer.state().best) : Json(nullptr)},
          {"left_out", run.left_out}};
}

/// Puts the parameters of the best epoch into the model. Without one (no epoch had a finite monitored metric) it keeps
/// the last.
template <class Stage>
void use_best(Workshop<Stage>& shop, const Trainer<Stage>& trainer) {
  if (trainer.best_values().empty()) return;
  auto& set = shop.model.parameters();
  upload(shop.device, set.values(), trainer.best_values().data());
  upload(shop.device, set.statistics(), trainer.best_statistics().data());
  set.refresh_working(shop.device);
}

/// Ends a program: the page where it is wanted, the result on stdout, as JSON or as tables.
inline void print_report(const Json& report, const TrainingFlags& flags, const RunFolder& folder,
                         const std::function<void(std::ostream&, const Json&)>& print) {
  if (flags.wants_page) write_file_atomically(folder.path() / "report.html", run_page(folder, flags.command));
  if (flags.wants_json) {
    std::cout << report.dump() << '\n';
    return;
  }
  print(std::cout, report);
  std::cout << "run folder: " << folder.path().string() << '\n';
  if (flags.wants_page) std::cout << "report: " << (folder.path() / "report.html").string() << '\n';
}

/// The result of a finished run in the folder that a resumed call asks for; throws InputError where the configuration is
/// another one. Empty: there is something to do.
inline std::optional<Json> finished_report(const RunFolder& folder, const Config& config, const TrainingFlags& flags) {
  if (!flags.resumes || !folder.holds_state() || !folder.holds_report()) return std::nullopt;
  folder.demand_same(read_header(read_safetensors(folder.checkpoint("state"))).config, config);
  return folder.read_report();
}

/// Flags that a run cannot do without, and a folder that is free or to be resumed.
inline void check_run_flags(const TrainingFlags& flags) {
  if (!flags.data) throw InputError("--data is required: a CSV file of blinks (see --help)");
  if (!flags.out) throw InputError("--out is required: the run folder to make (see --help)");
  if (RunFolder(*flags.out).holds_run() && !flags.resumes) {
    throw InputError(text("--out ", flags.out->string(), ": holds a run; go on with --resume, or name another folder"));
  }
}

/// Answers the calls that need no training: the resolved configuration, or the result of a finished run. Otherwise checks
/// the flags and returns nothing.
inline std::optional<int> answer_without_training(const Config& config, const TrainingFlags& flags,
                                                  const std::function<void(std::ostream&, const Json&)>& print) {
  if (flags.prints_config) {
    std::cout << to_toml(config);
    return good;
  }
  check_device(flags, config.train.precision);
  check_run_flags(flags);
  const RunFolder folder(*flags.out);
  const auto report = finished_report(folder, config, flags);
  if (!report) return std::nullopt;
  print_report(*report, flags, folder, print);
  return good;
}

/// Trains in the folder (from its state where it is resumed), then adds what `measure` says of the best epoch to
/// the report, writes and prints it.
template <class Stage>
int run_in_folder(Workshop<Stage>& shop, Trainer<Stage>& trainer, const Config& config, const RunData& run,
                  const CheckpointHeader& header, const std::string& backbone, const TrainingFlags& flags,
                  const Stopwatch& time, const std::function<Metrics()>& evaluate, const std::function<Json()>& measure,
                  const std::function<void(std::ostream&, const Json&)>& print) {
  RunFolder folder(*flags.out);
  if (flags.resumes && folder.holds_state()) {
    folder.resume(shop.device, trainer, shop.model.parameters(), header, backbone);
  } else {
    folder.begin(config, run.split);
  }
  if (!train_in_folder(shop, trainer, folder, config, header, backbone, flags, evaluate)) return interrupted;

  Json report = report_head(config, trainer, run, backbone);
  use_best(shop, trainer);
  report.update(measure());
  report["time"] = {{"seconds", time.seconds()}, {"peak_memory_mib", peak_memory_mib()}};
  folder.write_report(report);
  print_report(report, flags, folder, print);
  return good;
}

}  // namespace programs
