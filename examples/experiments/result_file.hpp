#pragma once

// results.json: runs pooled over folds and seeds, and differences between arms.
//
// Scores: per driver, sums are averaged over the seeds; the value is computed from the sums of all drivers, its interval by
// bootstrap over drivers; the standard deviation over seeds stands beside it. "averaged" is another model: the mean
// prediction of all seeds. Masked rows: mean squared error over the feature's variance in the run's test rows; in a
// comparison with an arm that appends calibration features, the rows after each driver's first blinks only.

#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <blinkbert/objective/metrics.hpp>

#include "../report/predictions.hpp"
#include "plan.hpp"

namespace programs {

/// Numbers for names, the same in all runs.
class Numbering {
 public:
  int operator()(const std::string& name) {
    const auto [entry, is_new] = numbers_.try_emplace(name, static_cast<int>(numbers_.size()));
    if (is_new) names_.push_back(name);
    return entry->second;
  }
  const std::string& name(int number) const { return names_[static_cast<std::size_t>(number)]; }

 private:
  std::map<std::string, int> numbers_;
  std::vector<std::string> names_;
};

/// Standard deviation (n - 1) of what is finite; null below two values.
inline Json spread(const std::vector<double>& values) {
  std::vector<double> finite;
  for (const double value : values) {
    if (std::isfinite(value)) finite.push_back(value);
  }
  if (finite.size() < 2) return nullptr;
  const double mean = std::accumulate(finite.begin(), finite.end(), 0.0) / static_cast<double>(finite.size());
  double squares = 0;
  for (const double value : finite) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(finite.size() - 1));
}

/// What an interval of a difference says.
inline std::string verdict(const blinkbert::Interval& interval, std::size_t drivers) {
  if (!std::isfinite(interval.low))
    return text("no interval: ", drivers, " drivers, at least ", blinkbert::bootstrap_min_drivers, " are needed");
  if (interval.low > 0) return "higher";
  if (interval.high < 0) return "lower";
  return "not separable at this size";
}

class ResultFile {
 public:
  explicit ResultFile(const Plan& plan) : plan_(&plan) {}

  Json make(const std::string& command) {
    const Experiment& experiment = plan_->experiment();
    Json json{{"title", experiment.title},
              {"blinkbert_version", BLINKBERT_VERSION},
              {"command", command},
              {"data", plan_->data_fingerprint()},
              {"synthetic", experiment.simulation.has_value()},
              {"split_seed", experiment.split_seed ? Json(*experiment.split_seed) : Json(nullptr)}};
    if (experiment.simulation)
      json["simulate"] = {{"drivers", experiment.simulation->drivers}, {"seed", experiment.simulation->seed}};
    json["arms"] = Json::array();
    double seconds = 0;
    for (const ExperimentArm& arm : experiment.arms) json["arms"].push_back(arm_json(arm));
    json["comparisons"] = Json::array();
    for (const Comparison& comparison : experiment.comparisons)
      json["comparisons"].push_back(comparison_json(comparison));
    json["failed"] = Json::array();
    json["runs"] = Json::array();
    for (const PlannedRun& run : plan_->runs()) {
      if (run.state == RunState::failed)
        json["failed"].push_back(
            {{"run", run.title}, {"task", spell(run.task)}, {"reason", run.reason}, {"folder", "runs/" + run.id}});
      if (run.state != RunState::finished) continue;
      const Json report = plan_->folder(run.id).read_report();
      seconds += report["time"]["seconds"].get<double>();
      json["runs"].push_back({{"folder", "runs/" + run.id},
                              {"first_arm", run.title},
                              {"best_epoch", report["best_epoch"]},
                              {"epochs", report["epochs"]},
                              {"time", report["time"]}});
    }
    for (const ExperimentArm& arm : experiment.arms) {
      if (!plan_->obstacle(arm).empty())
        json["failed"].push_back({{"run", arm.name}, {"task", spell(arm.task)}, {"reason", plan_->obstacle(arm)}});
    }
    json["time"] = {{"seconds_of_runs", seconds}};
    return json;
  }

 private:
  using ByDriver = std::map<int, blinkbert::ScoreSums>;
  using MaskedByDriver = std::map<int, blinkbert::MaskedSums>;

  /// Runs of an arm's seed, all folds; empty where one is missing.
  std::vector<std::string> runs_of(const ExperimentArm& arm, std::uint64_t seed) const {
    std::vector<std::string> ids;
    for (const std::string& fold : arm.folds) {
      const auto id = plan_->run_of(arm, seed, fold);
      if (!id || plan_->run(*id).state != RunState::finished) return {};
      ids.push_back(*id);
    }
    return ids;
  }

  // ---- scores ------------------------------------------------------------------------------------------------------

  struct ArmScores {
    std::vector<ByDriver> seeds;
    ByDriver mean, averaged;  // sums averaged over seeds; sums of the averaged predictions
  };

  ByDriver sums_of(const std::vector<Prediction>& predictions, const blinkbert::LabelsConfig& labels) {
    std::vector<blinkbert::ScoredWindow> windows;
    for (const Prediction& one : predictions)
      windows.push_back({.driver = drivers_(one.driver),
                         .recording = recordings_(one.recording),
                         .truth = one.truth,
                         .prediction = one.prediction});
    return sums_by_driver(windows, labels);
  }

  const ArmScores& scores_of(const ExperimentArm& arm) {
    const auto found = scores_.find(arm.name);
    if (found != scores_.end()) return found->second;
    ArmScores scores;
    const Config* config = plan_->config_of(arm);
    std::map<std::string, std::vector<std::vector<Prediction>>> by_fold;
    for (const std::uint64_t seed : arm.seeds) {
      const auto ids = runs_of(arm, seed);
      if (ids.empty()) continue;
      std::vector<Prediction> pooled;
      for (std::size_t f = 0; f < ids.size(); ++f) {
        if (!plan_->folder(ids[f]).read_report().contains("test")) continue;
        auto predictions = read_predictions(plan_->folder(ids[f]).predictions_path());
        pooled.insert(pooled.end(), predictions.begin(), predictions.end());
        by_fold[arm.folds[f]].push_back(std::move(predictions));
      }
      if (!pooled.empty()) scores.seeds.push_back(sums_of(pooled, config->labels));
    }
    if (!scores.seeds.empty()) {
      scores.mean = mean_over_seeds(scores.seeds);
      std::vector<Prediction> averaged;
      for (const auto& [fold, runs] : by_fold) {
        const auto mean = mean_predictions(runs);
        averaged.insert(averaged.end(), mean.begin(), mean.end());
      }
      scores.averaged = sums_of(averaged, config->labels);
    }
    return scores_[arm.name] = std::move(scores);
  }

  static blinkbert::ScoreSums total(const ByDriver& by_driver) {
    blinkbert::ScoreSums sums;
    for (const auto& [driver, one] : by_driver) sums += one;
    return sums;
  }

  static constexpr std::uint64_t bootstrap_seed = 1;

  void add_scores(Json& json, const ExperimentArm& arm) {
    const ArmScores& scores = scores_of(arm);
    if (scores.seeds.empty()) return;
    const auto values = score_values(total(scores.mean));
    const auto intervals = score_intervals(scores.mean, bootstrap_seed);
    const auto averaged = score_values(total(scores.averaged));
    const auto averaged_intervals = score_intervals(scores.averaged, bootstrap_seed);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::string name(blinkbert::named_scores[i].name);
      std::vector<double> seeds;
      for (const ByDriver& seed : scores.seeds) seeds.push_back(score_values(total(seed))[i]);
      json["scores"][name] = {
          {"value", number(values[i])}, {"interval", interval_json(intervals[i])}, {"spread", spread(seeds)}};
      for (const double seed : seeds) json["scores"][name]["seeds"].push_back(number(seed));
      json["averaged"][name] = {{"value", number(averaged[i])}, {"interval", interval_json(averaged_intervals[i])}};
    }
    json["confusion"] = score_metrics(total(scores.mean)).confusion;
    for (const auto& [driver, one] : scores.mean) {
      const blinkbert::ScoreMetrics metrics = score_metrics(one);
      Json row{{"driver", drivers_.name(driver)}, {"windows", metrics.windows}};
      for (const auto& score : blinkbert::named_scores) row[std::string(score.name)] = number(metrics.*score.value);
      json["drivers"].push_back(row);
    }
    json["test_drivers"] = scores.mean.size();
    json["windows"] = total(scores.mean).windows;
    json["recordings"] = total(scores.mean).recordings;
  }

  // ---- masked rows ---------------------------------------------------------------------------------------------------

  struct ArmErrors {
    std::vector<std::string> features;
    std::vector<std::string> predictors;                                // "model" first
    std::map<std::string, std::map<std::string, MaskedByDriver>> sums;  // rows -> predictor
    std::map<std::string, std::vector<MaskedByDriver>> seeds;           // rows -> the model's, by seed
  };

  const ArmErrors& errors_of(const ExperimentArm& arm) {
    const auto found = errors_.find(arm.name);
    if (found != errors_.end()) return found->second;
    ArmErrors errors;
    for (const std::uint64_t seed : arm.seeds) {
      const auto ids = runs_of(arm, seed);
      std::map<std::string, MaskedByDriver> of_seed;
      for (const std::string& id : ids) {
        const Json report = plan_->folder(id).read_report();
        if (!report.contains("test")) continue;
        if (errors.features.empty()) {
          for (const Json& feature : report["test"]["features"]) errors.features.push_back(feature["name"]);
          for (const auto& [name, share] : report["test"]["features"][0]["bounded"].items())
            errors.predictors.push_back(name);
        }
        for (const Json& one : report["test"]["by_driver"]) {
          const int driver = drivers_(one["driver"]);
          for (const std::string rows : {"headline", "later"}) {
            for (const std::string& predictor : errors.predictors) {
              blinkbert::MaskedSums sums(static_cast<int>(errors.features.size()));
              sums.rows = one[rows]["rows"].get<double>();
              for (std::size_t n = 0; sums.rows > 0 && n < errors.features.size(); ++n) {
                sums.squared[n] = sums.rows * share_at(one[rows]["bounded"][predictor][n]);
                sums.squared_unbounded[n] = sums.rows * share_at(one[rows]["unbounded"][predictor][n]);
              }
              errors.sums[rows][predictor][driver] += sums;
              if (predictor == "model") of_seed[rows][driver] += sums;
            }
          }
        }
      }
      for (auto& [rows, by_driver] : of_seed) errors.seeds[rows].push_back(std::move(by_driver));
    }
    return errors_[arm.name] = std::move(errors);
  }

  static double share_at(const Json& json) { return json.is_number() ? json.get<double>() : std::nan(""); }

  enum class Tails { bounded, unbounded };

  /// Shares by feature, and their mean last.
  static std::vector<double> shares(const blinkbert::MaskedSums& sums, Tails tails) {
    const auto metrics = masked_metrics(sums);
    std::vector<double> values = tails == Tails::bounded ? metrics.squared : metrics.squared_unbounded;
    values.push_back(std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()));
    return values;
  }
  static blinkbert::MaskedSums total(const MaskedByDriver& by_driver) {
    blinkbert::MaskedSums sums;
    for (const auto& [driver, one] : by_driver) sums += one;
    return sums;
  }

  Json shares_json(const ArmErrors& errors, const std::string& rows, Tails tails) {
    const auto of = [tails](const blinkbert::MaskedSums& sums) { return shares(sums, tails); };
    const auto& model = errors.sums.at(rows).at("model");
    const auto intervals = driver_intervals(model, bootstrap_seed, of);
    std::map<std::string, std::vector<double>> values;
    for (const std::string& predictor : errors.predictors)
      values[predictor] = of(total(errors.sums.at(rows).at(predictor)));
    Json json;
    for (std::size_t n = 0; n <= errors.features.size(); ++n) {
      const bool is_mean = n == errors.features.size();
      Json one{{"name", is_mean ? "mean over features" : errors.features[n]},
               {"interval", interval_json(intervals[n])}};
      for (const std::string& predictor : errors.predictors) one["share"][predictor] = number(values[predictor][n]);
      std::vector<double> seeds;
      for (const auto& seed : errors.seeds.at(rows)) seeds.push_back(of(total(seed))[n]);
      one["spread"] = spread(seeds);
      json.push_back(one);
    }
    return json;
  }

  void add_errors(Json& json, const ExperimentArm& arm) {
    const ArmErrors& errors = errors_of(arm);
    if (errors.features.empty()) return;
    json["test_drivers"] = errors.sums.at("headline").at("model").size();
    json["masked_rows"] = {{"bounded", shares_json(errors, "headline", Tails::bounded)},
                           {"unbounded", shares_json(errors, "headline", Tails::unbounded)}};
  }

  // ---- arms and comparisons ------------------------------------------------------------------------------------------

  Json arm_json(const ExperimentArm& arm) {
    const bool is_pretraining = arm.task == Task::pretraining;
    Json json{{"name", arm.name},
              {"task", spell(arm.task)},
              {"start", is_pretraining         ? "random"
                        : arm.backbone.empty() ? "scratch"
                                               : "backbone"},
              {"backbone", arm.backbone},
              {"driver_share", arm.drivers},
              {"seeds", arm.seeds}};
    if (arm.folds.front() != "") json["folds"] = arm.folds;
    if (!arm.better_of.empty())
      json["chosen"] = plan_->config_of(arm) != nullptr ? Json(plan_->chosen_by(arm)) : Json(nullptr);
    json["finished_seeds"] = Json::array();
    json["runs"] = Json::array();
    std::size_t training_drivers = 0;
    for (const std::uint64_t seed : arm.seeds) {
      if (!runs_of(arm, seed).empty()) json["finished_seeds"].push_back(seed);
      for (const std::string& fold : arm.folds) {
        const auto id = plan_->run_of(arm, seed, fold);
        if (!id) continue;
        const auto& split = plan_->run(*id).split;
        training_drivers = (is_pretraining ? split.pretraining : split.finetuning).training.size();
        json["runs"].push_back({{"seed", seed}, {"fold", fold}, {"folder", "runs/" + *id}});
      }
    }
    json["training_drivers"] = training_drivers;
    if (const Config* config = plan_->config_of(arm)) json["configuration"] = to_json(*config);
    if (is_pretraining) {
      add_errors(json, arm);
    } else {
      add_scores(json, arm);
    }
    return json;
  }

  Json comparison_json(const Comparison& comparison) {
    const Task task = plan_->experiment().find(comparison.arms.front())->task;
    std::vector<std::string> all = comparison.arms;
    for (const std::string& name : comparison.against) {
      if (std::ranges::find(all, name) == all.end()) all.push_back(name);
    }
    Json json{{"title", comparison.title}, {"task", spell(task)}, {"arms", all}, {"arms_compared", all.size()}};
    std::string rows = "headline";
    for (const std::string& name : all) {
      const Config* config = plan_->config_of(*plan_->experiment().find(name));
      if (config != nullptr && config->data.calibration == blinkbert::Calibration::append) rows = "later";
    }
    if (task == Task::pretraining) {
      json["rows"] = rows;
      for (const std::string& name : all) {
        const ArmErrors& errors = errors_of(*plan_->experiment().find(name));
        if (errors.features.empty()) continue;
        json["masked_rows"][name] = {{"bounded", shares_json(errors, rows, Tails::bounded)},
                                     {"unbounded", shares_json(errors, rows, Tails::unbounded)}};
      }
    } else {
      json["scores"] = comparison.scores;
    }
    json["differences"] = Json::array();
    for (std::size_t i = 0; i < comparison.against.size(); ++i) {
      if (comparison.arms[i] == comparison.against[i]) continue;
      const ExperimentArm &arm = *plan_->experiment().find(comparison.arms[i]),
                          &against = *plan_->experiment().find(comparison.against[i]);
      Json one{{"arm", arm.name}, {"against", against.name}};
      if (task == Task::pretraining) {
        add_difference(one, errors_of(arm), errors_of(against), rows);
      } else {
        add_difference(one, scores_of(arm), scores_of(against));
      }
      json["differences"].push_back(one);
    }
    return json;
  }

  template <class Sums>
  static bool are_paired(const std::map<int, Sums>& a, const std::map<int, Sums>& b) {
    return !a.empty() && std::equal(a.begin(), a.end(), b.begin(), b.end(),
                                    [](const auto& one, const auto& other) { return one.first == other.first; });
  }

  static void add_difference(Json& json, const ArmScores& arm, const ArmScores& against) {
    if (!are_paired(arm.mean, against.mean)) {
      json["missing"] = "the arms have no finished runs on the same drivers";
      return;
    }
    const auto values = score_values(total(arm.mean)), others = score_values(total(against.mean));
    const auto intervals = score_difference_intervals(against.mean, arm.mean, bootstrap_seed);
    for (std::size_t i = 0; i < values.size(); ++i) {
      json["scores"][std::string(blinkbert::named_scores[i].name)] = {
          {"value", number(values[i] - others[i])},
          {"interval", interval_json(intervals[i])},
          {"verdict", verdict(intervals[i], arm.mean.size())}};
    }
  }

  static void add_difference(Json& json, const ArmErrors& arm, const ArmErrors& against, const std::string& rows) {
    if (arm.features.empty() || arm.features != against.features ||
        !are_paired(arm.sums.at(rows).at("model"), against.sums.at(rows).at("model"))) {
      json["missing"] = "the arms have no finished runs with the same features on the same drivers";
      return;
    }
    for (const Tails tails : {Tails::bounded, Tails::unbounded}) {
      const auto of = [tails](const blinkbert::MaskedSums& sums) { return shares(sums, tails); };
      const auto &model = arm.sums.at(rows).at("model"), &other = against.sums.at(rows).at("model");
      const auto values = of(total(model)), others = of(total(other));
      const auto intervals = driver_difference_intervals(other, model, bootstrap_seed, of);
      for (std::size_t n = 0; n < values.size(); ++n) {
        json[tails == Tails::bounded ? "bounded" : "unbounded"].push_back(
            {{"name", n < arm.features.size() ? arm.features[n] : "mean over features"},
             {"value", number(values[n] - others[n])},
             {"interval", interval_json(intervals[n])},
             {"verdict", verdict(intervals[n], model.size())}});
      }
    }
  }

  const Plan* plan_;
  Numbering drivers_, recordings_;
  std::map<std::string, ArmScores> scores_;
  std::map<std::string, ArmErrors> errors_;
};

}  // namespace programs
