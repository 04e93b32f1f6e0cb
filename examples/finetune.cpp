// Fine-tunes to a drowsiness score: from a pre-trained backbone, or from scratch.

#include <blinkbert/objective/baselines.hpp>

#include "backbone_keys.hpp"
#include "training_program.hpp"

namespace {

using namespace programs;

/// A backbone and where it came from.
struct Backbone {
  Safetensors file;
  CheckpointHeader header;
  std::string fingerprint;
};

Backbone read_backbone(const std::filesystem::path& path) {
  Backbone backbone{.file = read_safetensors(path), .header = {}, .fingerprint = fingerprint(read_file(path))};
  backbone.header = read_header(backbone.file);
  return backbone;
}

/// Features, calibration, scaler, window and model come from the checkpoint; an explicitly set different value is an error.
void take_over(Config& config, const std::set<std::string>& explicit_keys, const Backbone& backbone) {
  const Config& saved = backbone.header.config;
  for (const std::string& key : explicit_keys) {
    if (comes_from_backbone(key) && value_of(config, key) != value_of(saved, key)) {
      throw InputError(text(key, " = ", value_of(config, key), ": the backbone ", backbone.file.path,
                            " was trained with ", value_of(saved, key), "; leave the key out"));
    }
  }
  config.data.features = saved.data.features;
  config.data.increments = saved.data.increments;
  config.data.transform = saved.data.transform;
  config.data.transform_scale = saved.data.transform_scale;
  config.data.calibration = saved.data.calibration;
  config.data.calibration_blinks = saved.data.calibration_blinks;
  config.data.scaler = saved.data.scaler;
  config.data.scaler_weight = saved.data.scaler_weight;
  config.data.tail_bound = saved.data.tail_bound;
  config.data.window = saved.data.window;
  config.data.window_statistics = saved.data.window_statistics;
  config.model = saved.model;
}

/// Drivers that trained the backbone must not judge what is built on it.
void check_backbone_drivers(const Backbone& backbone, const RunData& run) {
  if (backbone.header.data != run.fingerprint) return;  // another file: equal names are other people
  const std::set<std::string> trained(backbone.header.training_drivers.begin(), backbone.header.training_drivers.end());
  std::string overlap;
  for (const auto* set : {&run.split.finetuning.validation, &run.split.finetuning.test}) {
    for (const std::string& driver : *set) {
      if (trained.contains(driver)) overlap += (overlap.empty() ? "" : ", ") + driver;
    }
  }
  if (!overlap.empty()) {
    throw InputError(text("validation or test drivers trained the backbone ", backbone.file.path, ": ", overlap,
                          "; use the split of its run (--split <its folder>/split.json)"));
  }
}

void print_load_report(const LoadReport& report) {
  const auto line = [](const char* what, const std::vector<std::string>& names) {
    std::cerr << "  " << what << ' ' << names.size();
    const std::size_t shown = std::min<std::size_t>(names.size(), what[0] == 'l' ? 0 : 4);
    for (std::size_t i = 0; i < shown; ++i) std::cerr << (i == 0 ? ": " : ", ") << names[i];
    std::cerr << (shown > 0 && shown < names.size() ? ", ...\n" : "\n");
  };
  std::cerr << "backbone:\n";
  line("loaded", report.loaded);
  line("missing", report.missing);
  line("unexpected", report.unexpected);
  line("other shape", report.other_shape);
}

/// Labels and weights of windows.
struct Labels {
  std::vector<double> labels, weights;

  explicit Labels(std::span<const NumberedWindow> windows) {
    for (const NumberedWindow& one : windows) {
      labels.push_back(one.window.label);
      weights.push_back(one.window.weight);
    }
  }
};

/// The output starts at what the training windows' labels alone say.
template <class Stage>
void start_at_labels(Workshop<Stage>& shop, const Labels& training, const Config& config) {
  const std::vector<double> outputs = starting_outputs(training.labels, training.weights, config);
  const std::vector<float> values(outputs.begin(), outputs.end());
  auto& set = shop.model.parameters();
  for (const auto& entry : set.entries()) {
    if (entry.name == "head.output.bias") upload(shop.device, set.slice(set.values(), entry), values.data());
  }
  set.refresh_working(shop.device);
}

/// The baselines' scores of the test windows.
std::vector<std::pair<std::string, std::vector<ScoredWindow>>> baseline_scores(const RunData& run) {
  const RowTable& table = run.dataset.table;
  const auto statistics = [&](const NumberedWindow& one) {
    return window_statistics(View<const float, 2>{table.row(one.window.start), {one.window.length, table.N}});
  };
  std::vector<double> X, Y;
  double sum = 0;
  for (const NumberedWindow& one : run.training) {
    const std::vector<double> row = statistics(one);
    X.insert(X.end(), row.begin(), row.end());
    Y.push_back(one.window.label);
    sum += one.window.label;
  }
  const int n = static_cast<int>(Y.size()), p = static_cast<int>(X.size()) / n;
  const Ridge ridge = Ridge::fit(View<const double, 2>{X.data(), {n, p}}, View<const double, 2>{Y.data(), {n, 1}});

  std::vector<ScoredWindow> mean, regressed;
  for (const NumberedWindow& one : run.test) {
    ScoredWindow scored{.driver = run.dataset.driver_of(one.window),
                        .recording = one.window.recording,
                        .truth = one.window.label,
                        .prediction = sum / n};
    mean.push_back(scored);
    scored.prediction = ridge.predict(statistics(one))[0];
    regressed.push_back(scored);
  }
  return {{spell(ScoreBaseline::training_mean), mean}, {spell(ScoreBaseline::ridge), regressed}};
}

Json scores_json(const std::vector<ScoredWindow>& scored, const Config& config, const RunData& run) {
  const auto by_driver = sums_by_driver(scored, config.labels);
  const ScoreSums sums = score_sums(scored, config.labels);
  const ScoreMetrics metrics = score_metrics(sums);
  const std::vector<Interval> intervals = score_intervals(by_driver, config.train.seed);
  Json json;
  for (std::size_t i = 0; i < named_scores.size(); ++i) {
    const std::string name(named_scores[i].name);
    json[name] = number(metrics.*named_scores[i].value);
    json["intervals"][name] = interval_json(intervals[i]);
  }
  json["confusion"] = metrics.confusion;
  for (const auto& [driver, one] : by_driver) {
    const ScoreMetrics of_driver = score_metrics(one);
    Json row{{"driver", run.dataset.frame.drivers[static_cast<std::size_t>(driver)]}, {"windows", of_driver.windows}};
    for (const NamedScore& score : named_scores) row[std::string(score.name)] = number(of_driver.*score.value);
    json["drivers"].push_back(row);
  }
  return json;
}

/// The test windows' scores as a CSV: what pooling over runs and the figures of a report need.
std::string predictions_csv(const std::vector<ScoredWindow>& scored, const RunData& run) {
  std::string rows = "recording,driver,first_blink,last_blink,truth,prediction\n";
  for (std::size_t i = 0; i < scored.size(); ++i) {
    const Window& window = run.test[i].window;
    const Recording& recording = run.dataset.frame.recordings[static_cast<std::size_t>(window.recording)];
    const int first = window.start - recording.first_row;
    rows += text(csv_field(recording.name), ',',
                 csv_field(run.dataset.frame.drivers[static_cast<std::size_t>(recording.driver)]), ',', first, ',',
                 first + window.length - 1, ',', shortest(scored[i].truth), ',', shortest(scored[i].prediction), '\n');
  }
  return rows;
}

template <class Stage>
Json evaluate_test(Workshop<Stage>& shop, const Config& config, const RunData& run, const ScoreReading& reading,
                   const RunFolder& folder) {
  const std::vector<ScoredWindow> scored =
      evaluate_scores(shop.device, shop.model, shop.stage, shop.buckets, shop.loader, run.dataset, config.train.batch,
                      run.test, reading);
  write_file_atomically(folder.predictions_path(), predictions_csv(scored, run));
  Json test{{"drivers", run.split.finetuning.test},
            {"windows", run.test.size()},
            {"model", scores_json(scored, config, run)}};
  for (const auto& [name, scores] : baseline_scores(run)) test[name] = scores_json(scores, config, run);
  return test;
}

void print(std::ostream& out, const Json& report) {
  if (!report.contains("test")) {
    out << "no test drivers; best " << report["monitor"].get<std::string>() << ' ' << fixed(report["best"], 4)
        << " in epoch " << report["best_epoch"] << '\n';
    return;
  }
  const Json& test = report["test"];
  out << "\nScores of " << held_out_drivers(test) << " (" << test["windows"] << " windows, "
      << (report["backbone"].get<std::string>().empty() ? "from scratch" : "pre-trained backbone") << ", best epoch "
      << report["best_epoch"] << ").\n"
      << "kpi: balanced accuracy over the levels. bsa, va: share of windows, of recordings with the right level;\n"
      << "bsre, vre: squared distance to the right level's band. va counts a recording's windows, va_mean and "
         "vre_mean\n"
      << "take its mean. A model over levels counts as its most likely level, its score clipped into that level's "
         "band.\n"
      << "[95 % over drivers]\n\n";
  std::vector<std::vector<std::string>> rows{{"", "model", "", "training mean", "ridge"}};
  for (const NamedScore& score : named_scores) {
    const std::string name(score.name);
    const bool is_share = name == "accuracy" || name == "kpi" || name == "bsa" || name.starts_with("va");
    const double unit = is_share ? 100 : 1;
    const auto cell = [&](const Json& value) {
      return fixed(value.is_number() ? Json(unit * value.get<double>()) : value, is_share ? 1 : 3);
    };
    const Json& interval = test["model"]["intervals"][name];
    const std::string limits = interval[0].is_number() ? " [" + cell(interval[0]) + ", " + cell(interval[1]) + "]" : "";
    rows.push_back({is_share ? name + ", %" : name, cell(test["model"][name]), limits,
                    cell(test["training_mean"][name]), cell(test["ridge"][name])});
  }
  print_table(out, rows);
  out << "\nWindows by true (rows) and predicted level:\n";
  rows = {{""}};
  const Json& confusion = test["model"]["confusion"];
  for (std::size_t level = 0; level < confusion.size(); ++level) rows[0].push_back(std::to_string(level));
  for (std::size_t level = 0; level < confusion.size(); ++level) {
    rows.push_back({"level " + std::to_string(level)});
    for (const Json& count : confusion[level]) rows.back().push_back(fixed(count, 0));
  }
  print_table(out, rows);
  out << "\nBy driver:\n";
  rows = {{"driver", "windows", "mae", "rmse", "accuracy", "kpi", "qwk", "va"}};
  constexpr std::size_t most = 20;
  const Json& drivers = test["model"]["drivers"];
  for (std::size_t i = 0; i < std::min(drivers.size(), most); ++i) {
    const Json& one = drivers[i];
    rows.push_back({one["driver"].get<std::string>(), fixed(one["windows"], 0), fixed(one["mae"], 2),
                    fixed(one["rmse"], 2), fixed(one["accuracy"], 2), fixed(one["kpi"], 2), fixed(one["qwk"], 2),
                    fixed(one["va"], 2)});
  }
  print_table(out, rows);
  if (drivers.size() > most) out << "  and " << drivers.size() - most << " more in report.json\n";
  out << "\ntime " << fixed(report["time"]["seconds"], 1) << " s, peak memory "
      << fixed(report["time"]["peak_memory_mib"], 0) << " MiB\n";
}

/// Trains on the data, from a backbone or from scratch, and evaluates.
template <class Stage>
int train(const Config& config, const std::optional<Backbone>& backbone, const TrainingFlags& flags,
          const Stopwatch& time) {
  const RunData run =
      load_data(config, flags, RunFolder(*flags.out), backbone ? std::optional(backbone->header.scaler) : std::nullopt);
  Workshop<Stage> shop(config, run.dataset.table, flags);
  std::optional<std::vector<int>> unfreeze;
  if (backbone) {
    check_backbone_drivers(*backbone, run);
    const LoadReport loaded = load_backbone(shop.device, shop.model.parameters(), backbone->file);
    if (!flags.is_quiet) print_load_report(loaded);
    if (!loaded.missing.empty() || !loaded.other_shape.empty()) {
      const bool is_missing = !loaded.missing.empty();
      throw InputError(text(backbone->file.path, ": tensor ", is_missing ? loaded.missing[0] : loaded.other_shape[0],
                            is_missing ? " is missing" : " has another shape than the configuration in the file says"));
    }
    if (config.train.freeze) unfreeze = config.train.unfreeze;
  }
  Trainer<Stage> trainer(shop.device, shop.model, shop.stage, shop.loader, shop.buckets, run.training, config.train,
                         unfreeze);
  const Labels training(run.training);
  start_at_labels(shop, training, config);
  ScoreReading reading{.loss = config.train.loss};
  if (is_over_levels(reading.loss)) reading.level_values = level_means(training.labels, config.labels);
  const CheckpointHeader header{.config = config,
                                .scaler = run.dataset.scaler,
                                .data = run.fingerprint,
                                .training_drivers = run.split.finetuning.training,
                                .level_values = reading.level_values};
  const std::string source = backbone ? backbone->fingerprint : "";
  const auto evaluate = [&]() -> Metrics {
    if (run.validation.empty()) return {};
    const auto scored = evaluate_scores(shop.device, shop.model, shop.stage, shop.buckets, shop.loader, run.dataset,
                                        config.train.batch, run.validation, reading);
    const ScoreMetrics metrics = score_metrics(score_sums(scored, config.labels));
    Metrics named;
    for (const NamedScore& score : named_scores) named.emplace_back(std::string(score.name), metrics.*score.value);
    return named;
  };
  const auto measure = [&] {
    Json json = Json::object();
    if (!run.test.empty()) json["test"] = evaluate_test(shop, config, run, reading, RunFolder(*flags.out));
    return json;
  };
  return run_in_folder(shop, trainer, config, run, header, source, flags, time, evaluate, measure, print);
}

int finetune(const TrainingFlags& flags, const std::optional<std::filesystem::path>& backbone_path, bool from_scratch) {
  const Stopwatch time;
  if (backbone_path.has_value() == from_scratch && !flags.prints_config) {
    throw InputError("give one of --backbone CHECKPOINT and --from-scratch");
  }
  auto [config, explicit_keys] = read_configuration(Task::finetuning, flags);
  std::optional<Backbone> backbone;
  if (backbone_path) {
    backbone = read_backbone(*backbone_path);
    take_over(config, explicit_keys, *backbone);
  }
  resolve(config);
  validate(config);
  if (const auto code = answer_without_training(config, flags, print)) return *code;
  return on_device(flags, config.train.precision, [&]<class Device>(std::type_identity<Device>) {
    return train<FinetuningStage<Device>>(config, backbone, flags, time);
  });
}

}  // namespace

int main(int argc, char** argv) {
  TrainingFlags flags;
  std::optional<std::filesystem::path> backbone;
  bool from_scratch = false;
  CLI::App app("Fine-tunes an encoder to a drowsiness score on labelled blinks", "finetune");
  add_training_flags(app, flags);
  flags.command = command_of(argc, argv);
  auto* backbone_flag = app.add_option("--backbone", backbone, "Pre-training checkpoint to start from");
  app.add_flag("--from-scratch", from_scratch, "Start from random parameters; everything trains from the first epoch")
      ->excludes(backbone_flag);
  stop_on_signals();
  return run_program(app, argc, argv, [&] { return finetune(flags, backbone, from_scratch); });
}
