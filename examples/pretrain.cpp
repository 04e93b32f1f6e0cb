// Pre-trains the encoder: rows of blinks are masked and predicted.

#include <array>
#include <numeric>

#include <blinkbert/objective/baselines.hpp>

#include "training_program.hpp"

namespace {

using namespace programs;

/// Rows of a window before masking, as the baselines read them.
View<const float, 2> rows_of_window(const RowTable& table, const Window& window) {
  return {table.row(window.start), {window.length, table.N}};
}

std::vector<char> chosen_flags(const WindowPrediction& one) {
  std::vector<char> chosen(static_cast<std::size_t>(one.window->window.length), 0);
  for (const int row : one.rows) chosen[static_cast<std::size_t>(row)] = 1;
  return chosen;
}

/// Errors of the model and of every baseline on the same chosen rows.
struct Comparison {
  std::vector<std::string> names;  // "model", then the baselines
  std::vector<MaskedErrors> errors;
};

template <class Stage>
Comparison compare(Workshop<Stage>& shop, const Config& config, const RunData& run) {
  const Dataset& dataset = run.dataset;
  const auto N = static_cast<std::size_t>(dataset.N());
  MaskedRidge::Sums sums(dataset.N());
  predict(shop.device, shop.model, shop.stage, shop.buckets, shop.loader, std::span<const NumberedWindow>(run.training),
          config.train.batch, [&](const WindowPrediction& one) {
            sums.add(rows_of_window(dataset.table, one.window->window), chosen_flags(one));
          });
  const MaskedRidge ridge = MaskedRidge::fit(sums);

  const std::vector<char> is_training_row = rows_of(dataset.frame, run.split.pretraining.training, Recordings::all);
  std::vector<double> training_mean(N, 0.0);
  double rows = 0;
  for (std::size_t row = 0; row < is_training_row.size(); ++row) {
    if (is_training_row[row] == 0) continue;
    rows += 1;
    for (std::size_t n = 0; n < N; ++n) training_mean[n] += static_cast<double>(dataset.table.x[row * N + n]);
  }
  for (double& mean : training_mean) mean /= rows;

  Comparison comparison;
  comparison.names.emplace_back("model");
  comparison.errors.emplace_back(dataset, config);
  for (const MaskedBaseline baseline : all_masked_baselines) {
    comparison.names.push_back(spell(baseline));
    comparison.errors.emplace_back(dataset, config);
  }
  std::vector<double> predictions;
  predict(shop.device, shop.model, shop.stage, shop.buckets, shop.loader, std::span<const NumberedWindow>(run.test),
          config.train.batch, [&](const WindowPrediction& one) {
            comparison.errors[0].add(*one.window, one.rows, one.values);
            const std::vector<char> chosen = chosen_flags(one);
            for (std::size_t i = 0; i < all_masked_baselines.size(); ++i) {
              predict(all_masked_baselines[i], rows_of_window(dataset.table, one.window->window), chosen, training_mean,
                      &ridge, predictions);
              comparison.errors[i + 1].add(*one.window, one.rows, std::span<const double>(predictions));
            }
          });
  return comparison;
}

/// Per original feature, for every predictor: share of the feature's variance over the test rows that its squared error
/// leaves, with the tail bound and without.
template <class Stage>
Json evaluate_test(Workshop<Stage>& shop, const Config& config, const RunData& run) {
  const Comparison comparison = compare(shop, config, run);
  const int original = static_cast<int>(config.data.features.size());
  const FeatureVariance variance = feature_variance(run.dataset, run.test, original);
  const std::vector<double> scale(run.dataset.scaler.scale.begin(), run.dataset.scaler.scale.begin() + original);
  const auto bounded = [&](const MaskedSums& sums) {
    return variance_shares(masked_metrics(sums).squared, scale, variance.bounded);
  };
  const auto unbounded = [&](const MaskedSums& sums) {
    return variance_shares(masked_metrics(sums).squared_unbounded, scale, variance.unbounded);
  };

  const auto table = [&](auto sums_of) {
    Json list = Json::array();
    for (int n = 0; n < original; ++n) {
      const auto at = static_cast<std::size_t>(n);
      Json one{{"name", config.data.features[at]}, {"variance", number(variance.unbounded[at])}};
      for (std::size_t i = 0; i < comparison.names.size(); ++i) {
        const MaskedSums sums = sums_of(comparison.errors[i]);
        one["bounded"][comparison.names[i]] = number(bounded(sums)[at]);
        one["unbounded"][comparison.names[i]] = number(unbounded(sums)[at]);
      }
      list.push_back(one);
    }
    return list;
  };
  const MaskedErrors& model = comparison.errors[0];
  Json test{{"drivers", run.split.pretraining.test},
            {"windows", run.test.size()},
            {"rows", model.headline().rows},
            {"masked_loss", number(model.masked_loss())},
            {"features", table([](const MaskedErrors& errors) { return errors.headline(); })}};

  // Intervals over drivers: of the model's share, and of its difference to each baseline (below 0: the model is better).
  const std::vector<Interval> shares = driver_intervals(model.by_driver(), config.train.seed, bounded);
  for (std::size_t n = 0; n < static_cast<std::size_t>(original); ++n)
    test["features"][n]["interval"] = interval_json(shares[n]);
  for (std::size_t i = 1; i < comparison.names.size(); ++i) {
    const auto differences =
        driver_difference_intervals(comparison.errors[i].by_driver(), model.by_driver(), config.train.seed, bounded);
    for (std::size_t n = 0; n < static_cast<std::size_t>(original); ++n) {
      test["features"][n]["difference"][comparison.names[i]] = interval_json(differences[n]);
    }
  }
  // What pooling over runs needs: the shares of every driver, of its headline rows and of those after its first blinks.
  const auto rows_json = [&](auto sums_of, int driver) {
    Json json{{"rows", sums_of(model).at(driver).rows}};
    for (std::size_t i = 0; i < comparison.names.size(); ++i) {
      const MaskedSums& sums = sums_of(comparison.errors[i]).at(driver);
      for (const double share : bounded(sums)) json["bounded"][comparison.names[i]].push_back(number(share));
      for (const double share : unbounded(sums)) json["unbounded"][comparison.names[i]].push_back(number(share));
    }
    return json;
  };
  for (const auto& [driver, sums] : model.by_driver()) {
    test["by_driver"].push_back(
        {{"driver", run.dataset.frame.drivers[static_cast<std::size_t>(driver)]},
         {"headline", rows_json(
                          [](const MaskedErrors& errors) -> const auto& { return errors.by_driver(); }, driver)},
         {"later", rows_json(
                       [](const MaskedErrors& errors) -> const auto& { return errors.later_by_driver(); }, driver)}});
  }
  if (config.data.calibration == Calibration::append) {
    test["early"] = {{"rows", model.early().rows},
                     {"features", table([](const MaskedErrors& errors) { return errors.early(); })}};
    const MaskedMetrics calibration = masked_metrics(model.calibration());
    test["calibration"] = {{"rows", calibration.rows}, {"mean_squared_error_scaled", Json::array()}};
    for (const double error : calibration.squared)
      test["calibration"]["mean_squared_error_scaled"].push_back(number(error));
  }
  return test;
}

/// What a choice between configurations may look at: on the validation drivers' rows after their first blinks, the mean
/// over the original features of the share of variance that is left, tails bounded.
template <class Stage>
double validation_share(Workshop<Stage>& shop, const Config& config, const RunData& run) {
  const MaskedErrors errors = evaluate_masked_rows(shop.device, shop.model, shop.stage, shop.buckets, shop.loader,
                                                   run.dataset, config, run.validation);
  MaskedSums sums(static_cast<int>(config.data.features.size()));
  for (const auto& [driver, one] : errors.later_by_driver()) sums += one;
  const auto& scale = run.dataset.scaler.scale;
  const std::vector<double> shares =
      variance_shares(masked_metrics(sums).squared, std::span(scale).first(config.data.features.size()),
                      feature_variance(run.dataset, run.validation, sums.features()).bounded);
  return std::accumulate(shares.begin(), shares.end(), 0.0) / static_cast<double>(shares.size());
}

void print(std::ostream& out, const Json& report) {
  if (!report.contains("test")) {
    out << "no test drivers; best " << report["monitor"].get<std::string>() << ' ' << fixed(report["best"], 4)
        << " in epoch " << report["best_epoch"] << '\n';
    return;
  }
  const Json& test = report["test"];
  out << "\nMasked rows of " << held_out_drivers(test) << " (" << test["rows"].get<std::int64_t>() << " rows of "
      << test["windows"] << " windows, best epoch " << report["best_epoch"] << ").\n"
      << "Share of each feature's variance that the squared error leaves; 1.00 = the mean of the test rows. [95 % over "
         "drivers]\n"
      << "* sees unmasked rows, more than the model does.\n";
  const auto print_features = [&](const Json& features, const std::string& tails) {
    std::vector<std::vector<std::string>> rows{
        {tails, "model", "", "visible mean", "nearest visible", "ridge", "sequence mean*", "next row*"}};
    for (const Json& one : features) {
      const Json& shares = one[tails];
      rows.push_back({one["name"].get<std::string>(), fixed(shares["model"], 3),
                      tails == "bounded" && one.contains("interval") ? fixed_interval(one["interval"], 2) : "",
                      fixed(shares["visible_mean"], 3), fixed(shares["nearest_visible"], 3), fixed(shares["ridge"], 3),
                      fixed(shares["sequence_mean"], 3), fixed(shares["next_row"], 3)});
    }
    print_table(out, rows);
  };
  out << "\nTails bounded as the model sees them:\n";
  print_features(test["features"], "bounded");
  out << "\nTails as measured:\n";
  print_features(test["features"], "unbounded");
  if (test.contains("early") && test["early"]["rows"].get<double>() > 0) {
    out << "\nA driver's first blinks, whose calibration features give them away; in no number above ("
        << test["early"]["rows"].get<std::int64_t>() << " rows):\n";
    print_features(test["early"]["features"], "bounded");
  }
  if (test.contains("calibration")) {
    double sum = 0;
    for (const Json& error : test["calibration"]["mean_squared_error_scaled"])
      sum += error.is_number() ? error.get<double>() : 0;
    out << "\nCalibration features: mean squared error "
        << fixed(sum / static_cast<double>(test["calibration"]["mean_squared_error_scaled"].size()), 4)
        << " in scaled units\n";
  }
  out << "\ntime " << fixed(report["time"]["seconds"], 1) << " s, peak memory "
      << fixed(report["time"]["peak_memory_mib"], 0) << " MiB\n";
}

/// Trains on the data and evaluates.
template <class Stage>
int train(const Config& config, const TrainingFlags& flags, const Stopwatch& time) {
  const RunData run = load_data(config, flags, RunFolder(*flags.out), std::nullopt);
  Workshop<Stage> shop(config, run.dataset.table, flags);
  Trainer<Stage> trainer(shop.device, shop.model, shop.stage, shop.loader, shop.buckets, run.training, config.train,
                         {});
  const CheckpointHeader header{.config = config,
                                .scaler = run.dataset.scaler,
                                .data = run.fingerprint,
                                .training_drivers = run.split.pretraining.training};
  const auto evaluate = [&]() -> Metrics {
    if (run.validation.empty()) return {};
    const MaskedErrors errors = evaluate_masked_rows(shop.device, shop.model, shop.stage, shop.buckets, shop.loader,
                                                     run.dataset, config, run.validation);
    Metrics metrics{{"masked_loss", errors.masked_loss()}};
    const std::vector<double> squared = masked_metrics(errors.headline()).squared;
    for (std::size_t n = 0; n < squared.size(); ++n) metrics.emplace_back(config.data.features[n], squared[n]);
    return metrics;
  };
  const auto measure = [&] {
    Json json = Json::object();
    if (!run.validation.empty()) json["validation"] = {{"share", number(validation_share(shop, config, run))}};
    if (!run.test.empty()) json["test"] = evaluate_test(shop, config, run);
    return json;
  };
  return run_in_folder(shop, trainer, config, run, header, "", flags, time, evaluate, measure, print);
}

int pretrain(const TrainingFlags& flags) {
  const Stopwatch time;
  Config config = read_configuration(Task::pretraining, flags).config;
  resolve(config);
  validate(config);
  if (const auto code = answer_without_training(config, flags, print)) return *code;

  return on_device(flags, config.train.precision, [&]<class Device>(std::type_identity<Device>) {
    return train<PretrainingStage<Device>>(config, flags, time);
  });
}

}  // namespace

int main(int argc, char** argv) {
  TrainingFlags flags;
  CLI::App app("Pre-trains a BERT-like encoder on blinks by masking rows and predicting them", "pretrain");
  add_training_flags(app, flags);
  flags.command = command_of(argc, argv);
  stop_on_signals();
  return run_program(app, argc, argv, [&] { return pretrain(flags); });
}
