#pragma once

// report.html of an experiment, from results.json and the run folders.

#include <filesystem>
#include <string>
#include <vector>

#include "../report/figures.hpp"
#include "plan.hpp"

namespace programs {

namespace report {

inline const Json& arm_called(const Json& results, const std::string& name) {
  for (const Json& arm : results["arms"]) {
    if (arm["name"] == name) return arm;
  }
  throw blinkbert::RunError(blinkbert::text("results.json has no arm ", name));
}

inline std::string joined(const Json& list) {
  std::string words;
  for (const Json& one : list)
    words += (words.empty() ? "" : ", ") + (one.is_string() ? one.get<std::string>() : one.dump());
  return words;
}

/// An arm's mean over its runs of one value by epoch, as far as every run went.
inline Series mean_by_epoch(const std::filesystem::path& out, const Json& arm, std::size_t colour_number,
                            const std::function<Json(const Json&)>& value) {
  Series series{.name = arm["name"].get<std::string>(), .points = {}, .colour = colour_number};
  std::vector<std::vector<Json>> runs;
  for (const Json& run : arm["runs"]) {
    const auto log = out / run["folder"].get<std::string>() / "metrics.jsonl";
    if (std::filesystem::exists(log)) runs.push_back(epochs_of(log));
  }
  for (std::size_t epoch = 0; !runs.empty(); ++epoch) {
    double sum = 0;
    for (const auto& run : runs) {
      if (epoch >= run.size()) return series;
      sum += value_or_nan(value(run[epoch]));
    }
    series.points.emplace_back(static_cast<double>(epoch + 1), sum / static_cast<double>(runs.size()));
  }
  return series;
}

inline Rows rows_of(const std::vector<Series>& series, int digits) {
  Rows rows{{"epoch"}};
  std::size_t most = 0;
  for (const Series& one : series) rows[0].push_back(one.name), most = std::max(most, one.points.size());
  for (std::size_t i = 0; i < most; ++i) {
    rows.push_back({std::to_string(i + 1)});
    for (const Series& one : series)
      rows.back().push_back(i < one.points.size() ? fixed(Json(one.points[i].second), digits) : "");
  }
  return rows;
}

/// Training and validation by epoch of a comparison's arms, at most six in a figure.
inline std::string learning_by_arm(const std::filesystem::path& out, const Json& results, const Json& comparison) {
  const bool is_pretraining = comparison["task"] == "pretraining";
  std::string html;
  const auto& names = comparison["arms"];
  for (std::size_t begin = 0; begin < names.size(); begin += 6) {
    std::vector<Series> training, validation;
    for (std::size_t i = begin; i < std::min(begin + 6, names.size()); ++i) {
      const Json& arm = arm_called(results, names[i]);
      training.push_back(mean_by_epoch(out, arm, i - begin, [](const Json& epoch) { return epoch["training_loss"]; }));
      validation.push_back(mean_by_epoch(out, arm, i - begin, [&](const Json& epoch) {
        return validation_metric(epoch, is_pretraining ? "masked_loss" : "mae");
      }));
    }
    const std::string caption = "Mean over an arm's runs, as far as all of them went before early stopping.";
    html += Figure{line_chart("Training loss by epoch", "epoch",
                              is_pretraining ? "loss of masked rows, scaled units" : "training loss", training,
                              {.low = 0, .high = 0}),
                   caption, rows_of(training, 4)}
                .html();
    for (Series& series : validation)
      std::erase_if(series.points, [](const auto& point) { return std::isnan(point.second); });
    const bool is_validated =
        std::any_of(validation.begin(), validation.end(), [](const Series& series) { return !series.points.empty(); });
    if (!is_validated) continue;
    html += Figure{line_chart(is_pretraining ? "Validation loss by epoch" : "Validation error by epoch", "epoch",
                              is_pretraining ? "loss of masked rows, scaled units" : "mean absolute error, KSS",
                              validation, {.low = 0, .high = 0}),
                   is_pretraining ? caption +
                                        " The loss includes calibration features, so arms with 9 and with 18 features "
                                        "differ by more than their skill."
                                  : caption,
                   rows_of(validation, 4)}
                .html();
  }
  return html;
}

inline std::string scores_by_arm(const Json& results, const Json& comparison) {
  std::string html;
  for (const Json& name : comparison["scores"]) {
    const ScoreText score = score_text(name.get<std::string>());
    std::vector<IntervalRow> rows;
    Rows numbers{{"arm", score.title, "95 % over drivers", "standard deviation over seeds", "seeds", "seeds averaged",
                  "95 % over drivers"}};
    for (const Json& arm_name : comparison["arms"]) {
      const Json& arm = arm_called(results, arm_name);
      if (!arm.contains("scores")) continue;
      const Json &own = arm["scores"][score.name], &averaged = arm["averaged"][score.name];
      auto interval = interval_of(own["interval"]);
      if (interval) interval = {score.factor * interval->first, score.factor * interval->second};
      rows.push_back({.name = arm_name.get<std::string>(),
                      .value = score.factor * value_or_nan(own["value"]),
                      .interval = interval,
                      .colour = arm["start"] == "scratch" ? 1u : 0u});
      numbers.push_back({arm_name.get<std::string>(), printed(own["value"], score),
                         printed_interval(own["interval"], score), printed(own["spread"], score),
                         std::to_string(own["seeds"].size()), printed(averaged["value"], score),
                         printed_interval(averaged["interval"], score)});
    }
    if (rows.empty()) continue;
    html += Figure{interval_chart("Arms: " + score.name + " of held-out drivers", score.title, rows, std::nullopt,
                                  {{"pre-trained backbone", 0}, {"from scratch", 1}}),
                   "Sums of each driver averaged over "
                   "seeds; lines are "
                   "95 % intervals over drivers (none below 8 drivers).",
                   numbers}
                .html();
  }
  return html;
}

inline std::string score_differences(const Json& comparison) {
  std::string html;
  for (const Json& name : comparison["scores"]) {
    const ScoreText score = score_text(name.get<std::string>());
    std::vector<IntervalRow> rows;
    Rows numbers{{"arm", "against", "difference, " + score.title, "95 % over drivers", "says"}};
    for (const Json& one : comparison["differences"]) {
      const std::string arm = one["arm"], against = one["against"];
      if (!one.contains("scores")) {
        numbers.push_back({arm, against, "-", "-", one["missing"].get<std::string>()});
        continue;
      }
      const Json& own = one["scores"][score.name];
      auto interval = interval_of(own["interval"]);
      if (interval) interval = {score.factor * interval->first, score.factor * interval->second};
      rows.push_back(
          {.name = arm + " − " + against, .value = score.factor * value_or_nan(own["value"]), .interval = interval});
      numbers.push_back({arm, against, printed(own["value"], score), printed_interval(own["interval"], score),
                         own["verdict"].get<std::string>()});
    }
    if (numbers.size() == 1) continue;
    html += Figure{interval_chart("Paired differences: " + score.name, "difference, " + score.title, rows, 0),
                   "Both arms on the same resampled drivers. An interval over 0 is not separable at this size, which "
                   "does not say that "
                   "there is no difference. " +
                       comparison["arms_compared"].dump() + " arms are compared here, without correction for it.",
                   numbers}
                .html();
  }
  return html;
}

inline std::string masked_rows_by_arm(const Json& comparison) {
  std::string html;
  for (const std::string tails : {"bounded", "unbounded"}) {
    std::vector<IntervalRow> rows;
    Rows numbers{{"arm", "feature", "share left", "95 % over drivers", "standard deviation over seeds", "visible mean",
                  "ridge"}};
    if (!comparison.contains("masked_rows")) return html;
    for (const auto& [name, arm] : comparison["masked_rows"].items()) {
      for (const Json& one : arm[tails]) {
        const auto interval = interval_of(one["interval"]);
        if (one["name"] == "mean over features")
          rows.push_back({.name = name, .value = value_or_nan(one["share"]["model"]), .interval = interval});
        numbers.push_back({name, one["name"].get<std::string>(), fixed(one["share"]["model"], 3),
                           fixed_interval(one["interval"], 3), fixed(one["spread"], 3),
                           fixed(one["share"]["visible_mean"], 3), fixed(one["share"]["ridge"], 3)});
      }
    }
    html += Figure{interval_chart(std::string("Arms: error on masked rows, tails ") +
                                      (tails == "bounded" ? "bounded" : "as measured"),
                                  "share of variance left, mean over features", rows),
                   std::string("Original features, the same windows and masked rows in all arms") +
                       (comparison["rows"] == "later" ? ", without each driver's first blinks" : "") +
                       ". Lines are 95 % intervals over drivers.",
                   numbers}
                .html();
  }
  return html;
}

inline std::string masked_differences(const Json& comparison) {
  std::vector<IntervalRow> rows;
  Rows numbers{{"arm", "against", "tails", "feature", "difference in share", "95 % over drivers", "says"}};
  for (const Json& one : comparison["differences"]) {
    const std::string arm = one["arm"], against = one["against"];
    if (!one.contains("bounded")) {
      numbers.push_back({arm, against, "-", "-", "-", "-", one["missing"].get<std::string>()});
      continue;
    }
    for (const std::string tails : {"bounded", "unbounded"}) {
      for (const Json& feature : one[tails]) {
        if (feature["name"] == "mean over features" && tails == "bounded")
          rows.push_back({.name = arm + " − " + against,
                          .value = value_or_nan(feature["value"]),
                          .interval = interval_of(feature["interval"])});
        numbers.push_back({arm, against, tails, feature["name"].get<std::string>(), fixed(feature["value"], 3),
                           fixed_interval(feature["interval"], 3), feature["verdict"].get<std::string>()});
      }
    }
  }
  if (numbers.size() == 1) return "";
  return Figure{interval_chart("Paired differences: error on masked rows",
                               "difference in share of variance left, mean over features, tails bounded", rows, 0),
                "Below 0: the first arm is better. An interval over 0 is not separable at this size, which does not "
                "say that there is no difference. " +
                    comparison["arms_compared"].dump() + " arms are compared here, without correction for it.",
                numbers}
      .html();
}

/// The mean predictions of an arm's seeds, all folds.
inline std::vector<Prediction> averaged_predictions(const std::filesystem::path& out, const Json& arm) {
  std::map<std::string, std::vector<std::vector<Prediction>>> by_fold;
  for (const Json& run : arm["runs"]) {
    const auto file = out / run["folder"].get<std::string>() / "predictions.csv";
    if (std::filesystem::exists(file)) by_fold[run["fold"]].push_back(read_predictions(file));
  }
  std::vector<Prediction> all;
  for (const auto& [fold, runs] : by_fold) {
    const auto mean = mean_predictions(runs);
    all.insert(all.end(), mean.begin(), mean.end());
  }
  return all;
}

/// What one model does in detail, for the first arm of the first fine-tuning comparison and the one it stands against.
inline std::string details(const std::filesystem::path& out, const Json& results, const Plan& plan) {
  for (const Json& comparison : results["comparisons"]) {
    if (comparison["task"] != "finetuning") continue;
    std::vector<std::string> names{comparison["arms"][0].get<std::string>()};
    if (!comparison["differences"].empty())
      names = {comparison["differences"][0]["arm"], comparison["differences"][0]["against"]};
    std::vector<std::pair<std::string, std::vector<Prediction>>> models;
    std::string drawn, tables;
    const blinkbert::LabelsConfig* labels = nullptr;
    for (const std::string& name : names) {
      const Json& arm = arm_called(results, name);
      if (!arm.contains("scores")) continue;
      labels = &plan.config_of(*plan.experiment().find(name))->labels;
      models.emplace_back(name, averaged_predictions(out, arm));
      drawn += confusion_figure("Windows by level: " + name, arm["confusion"].get<std::vector<std::vector<double>>>(),
                                *labels, 1)
                   .html();
      drawn += scores_figure("Predicted against true score: " + name, models.back().second, *labels).html();
      tables += "<h2>" + escaped("By driver: " + name) + "</h2>\n" + drivers_table(arm["drivers"]);
    }
    if (models.empty()) return "";
    for (const Figure& figure : over_time_figures(models, *labels)) drawn += figure.html();
    return section("Predictions in detail",
                   paragraph("Counts of levels and of drivers are averaged over seeds; predicted scores are "
                             "the mean of the seeds' models.") +
                       figures(drawn) + tables);
  }
  return "";
}

inline std::string arms_table(const Json& results) {
  Rows rows{{"arm", "stage", "starts from", "training drivers", "seeds finished", "folds", "configuration of"}};
  for (const Json& arm : results["arms"]) {
    rows.push_back(
        {arm["name"].get<std::string>(), arm["task"].get<std::string>(),
         arm["start"] == "backbone" ? arm["backbone"].get<std::string>() : arm["start"].get<std::string>(),
         arm["training_drivers"].dump() + " (" + fixed(Json(100 * arm["driver_share"].get<double>()), 0) + " %)",
         joined(arm["finished_seeds"]) + " of " + joined(arm["seeds"]),
         arm.contains("folds") ? joined(arm["folds"]) : "-",
         arm.contains("chosen") && arm["chosen"].is_string() ? arm["chosen"].get<std::string>() : "-"});
  }
  return table(rows);
}

}  // namespace report

/// The whole page.
inline std::string experiment_page(const std::filesystem::path& out, const Json& results, const Plan& plan,
                                   const std::string& file) {
  using namespace report;
  const std::string source = results["synthetic"].get<bool>()
                                 ? "synthetic: " + results["simulate"]["drivers"].dump() + " simulated drivers, seed " +
                                       results["simulate"]["seed"].dump() + "; "
                                 : "";
  std::string body =
      facts({{"data", source + "fingerprint " + results["data"].get<std::string>()},
             {"split seed", results["split_seed"].is_null() ? "each run's seed, or 1 without splits.column"
                                                            : results["split_seed"].dump()},
             {"arms", std::to_string(results["arms"].size()) + " arms, " + std::to_string(results["runs"].size()) +
                          " runs finished, " + std::to_string(results["failed"].size()) + " failed"},
             {"time", fixed(results["time"]["seconds_of_runs"], 0) + " s, all runs added up"},
             {"version", "blinkbert " + results["blinkbert_version"].get<std::string>()},
             {"command", results["command"].get<std::string>()}});
  if (!results["failed"].empty()) {
    std::string list;
    for (const Json& one : results["failed"])
      list += "<li>" +
              escaped(one["run"].get<std::string>() + " " + one["task"].get<std::string>() + ": " +
                      one["reason"].get<std::string>()) +
              "</li>\n";
    body += section("Failed", "<ul class=\"failed\">\n" + list + "</ul>\n");
  }
  std::set<std::string> drawn_arms;
  for (const Json& comparison : results["comparisons"]) {
    std::string drawn;
    if (comparison["task"] == "finetuning") {
      drawn += scores_by_arm(results, comparison) + score_differences(comparison);
    } else {
      drawn += masked_rows_by_arm(comparison) + masked_differences(comparison);
    }
    drawn += learning_by_arm(out, results, comparison);
    for (const Json& name : comparison["arms"]) {
      const Json& arm = arm_called(results, name);
      if (!arm.contains("masked_rows") || !drawn_arms.insert(name).second) continue;
      Json features = Json::array();
      for (Json one : arm["masked_rows"]["bounded"]) {
        one["bounded"] = one["share"];
        features.push_back(one);
      }
      drawn +=
          masked_rows_figure(features, "bounded", "Error on masked rows, tails bounded: " + name.get<std::string>())
              .html();
    }
    body += section(comparison["title"].get<std::string>(), figures(drawn));
  }
  body += details(out, results, plan);
  const std::string importances = importance_figures(out);
  if (!importances.empty()) body += section("Importance of hyper-parameters", figures(importances));
  body += section("Arms", arms_table(results));
  Rows runs{{"run folder", "first arm that needs it", "best epoch", "epochs", "seconds"}};
  for (const Json& run : results["runs"])
    runs.push_back({run["folder"].get<std::string>(), run["first_arm"].get<std::string>(), run["best_epoch"].dump(),
                    run["epochs"].dump(), fixed(run["time"]["seconds"], 1)});
  body += section("Runs", paragraph("Each run folder holds its whole configuration (config.toml) and its split.") +
                              folded(std::to_string(results["runs"].size()) + " runs", table(runs)));
  body += section("Configuration", preformatted(file));
  return page(results["title"].get<std::string>(), body);
}

}  // namespace programs
