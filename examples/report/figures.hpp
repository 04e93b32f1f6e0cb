#pragma once

// The figures of reports, from what run folders hold.

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/io/jsonl.hpp>
#include <blinkbert/model/config.hpp>
#include <blinkbert/objective/metrics.hpp>

#include "charts.hpp"
#include "predictions.hpp"

namespace programs::report {

using blinkbert::LabelsConfig;

inline double value_or_nan(const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }

inline std::optional<std::pair<double, double>> interval_of(const Json& json) {
  if (!json.is_array() || json.size() != 2 || !json[0].is_number() || !json[1].is_number()) return std::nullopt;
  return std::pair{json[0].get<double>(), json[1].get<double>()};
}

/// A score's name, unit and factor as reports print it: shares in per cent.
struct ScoreText {
  std::string name, title;
  double factor = 1;
  int digits = 3;
};

inline ScoreText score_text(std::string_view name) {
  static const std::map<std::string, std::string, std::less<>> titles{{"mae", "mean absolute error, KSS"},
                                                                      {"rmse", "root mean squared error, KSS"},
                                                                      {"accuracy", "windows with the right level, %"},
                                                                      {"kpi", "balanced accuracy over levels (KPI), %"},
                                                                      {"qwk", "quadratic weighted kappa"},
                                                                      {"bsa", "windows with the right level (BSA), %"},
                                                                      {"va", "recordings with the right level (VA), %"},
                                                                      {"bsre", "band error of windows (BSRE), KSS²"},
                                                                      {"vre", "band error of recordings (VRE), KSS²"}};
  const auto found = titles.find(name);
  const bool is_share = name == "accuracy" || name == "kpi" || name == "bsa" || name == "va";
  return {std::string(name), found == titles.end() ? std::string(name) : found->second, is_share ? 100.0 : 1.0,
          is_share ? 1 : 3};
}

inline std::string printed(const Json& value, const ScoreText& score) {
  return value.is_number() ? fixed(Json(score.factor * value.get<double>()), score.digits) : "-";
}
inline std::string printed_interval(const Json& interval, const ScoreText& score) {
  const auto limits = interval_of(interval);
  return limits ? "[" + printed(Json(limits->first), score) + ", " + printed(Json(limits->second), score) + "]" : "-";
}

/// The "epoch" events of metrics.jsonl; a last line that is not whole is left out.
inline std::vector<Json> epochs_of(const std::filesystem::path& log) {
  std::vector<Json> epochs;
  std::istringstream lines(blinkbert::read_file(log));
  for (std::string line; std::getline(lines, line);) {
    if (lines.eof()) break;
    const Json event = blinkbert::parse_json(line, log.string());
    if (event.value("event", "") == "epoch") epochs.push_back(event);
  }
  return epochs;
}

/// A metric of an epoch's validation; null where nothing is monitored.
inline Json validation_metric(const Json& epoch, const std::string& name) {
  const Json& metrics = epoch.at("validation");
  return metrics.is_object() ? metrics.value(name, Json()) : Json();
}

/// Training and validation by epoch. Fine-tuning's validation has other units and a figure of its own.
inline std::vector<Figure> learning_figures(const std::vector<Json>& epochs, const std::string& task, int best_epoch) {
  const auto series_of = [&](const std::string& name, std::size_t colour_number, const ScoreText& score,
                             const std::function<Json(const Json&)>& value) {
    Series series{.name = name, .points = {}, .colour = colour_number};
    for (const Json& epoch : epochs)
      series.points.emplace_back(epoch["epoch"].get<double>(), score.factor * value_or_nan(value(epoch)));
    return series;
  };
  const std::vector<std::pair<double, std::string>> marked{{best_epoch, "best epoch"}};
  const auto training = series_of("training", 0, {}, [](const Json& epoch) { return epoch["training_loss"]; });
  const bool is_pretraining = task == "pretraining";
  const bool is_validated = !epochs.empty() && epochs.front().at("validation").is_object();
  std::vector<Series> losses{training};
  Rows loss_rows{{"epoch", "training loss"}};
  if (is_pretraining && is_validated) {
    losses.push_back(
        series_of("validation", 1, {}, [](const Json& epoch) { return validation_metric(epoch, "masked_loss"); }));
    loss_rows[0].push_back("validation loss");
  }
  for (const Json& epoch : epochs) {
    loss_rows.push_back({fixed(epoch["epoch"], 0), fixed(epoch["training_loss"], 5)});
    if (is_pretraining && is_validated) loss_rows.back().push_back(fixed(validation_metric(epoch, "masked_loss"), 5));
  }
  const std::string what =
      is_pretraining ? "loss of masked rows, scaled units" : "loss, squared KSS unless train.loss says otherwise";
  std::vector<Figure> figures{
      {line_chart("Loss by epoch", "epoch", what, losses, {.low = 0, .high = 0}, marked),
       is_pretraining ? "Training loss is the mean over the epoch, with dropout; validation follows the epoch."
                      : "Mean over the epoch, with dropout.",
       loss_rows}};
  if (is_pretraining || !is_validated) return figures;

  const auto share = [&](std::string_view name, std::size_t colour_number) {
    const ScoreText score = score_text(name);
    return series_of(std::string(name), colour_number, score,
                     [name](const Json& epoch) { return validation_metric(epoch, std::string(name)); });
  };
  Rows rows{{"epoch", "kpi, %", "va, %", "mae", "rmse"}};
  for (const Json& epoch : epochs) {
    rows.push_back({fixed(epoch["epoch"], 0)});
    for (const std::string name : {"kpi", "va", "mae", "rmse"})
      rows.back().push_back(printed(validation_metric(epoch, name), score_text(name)));
  }
  figures.push_back({line_chart("Validation by epoch: shares", "epoch", "%", {share("kpi", 0), share("va", 1)},
                                {.low = 0, .high = 100}, marked),
                     "kpi: balanced accuracy over levels; va: recordings with the right level.", rows});
  figures.push_back({line_chart("Validation by epoch: errors", "epoch", "KSS", {share("mae", 0), share("rmse", 1)},
                                {.low = 0, .high = 0}, marked),
                     "mae: mean absolute error; rmse: root mean squared error.", rows});
  return figures;
}

/// The model's squared error on masked rows beside every baseline, feature by feature. `features` as in report.json.
inline Figure masked_rows_figure(const Json& features, const std::string& tails, std::string_view title) {
  static const std::vector<std::pair<std::string, std::string>> predictors{
      {"model", "model"}, {"visible_mean", "mean of visible rows"}, {"nearest_visible", "nearest visible row"},
      {"ridge", "ridge"}, {"sequence_mean", "sequence mean*"},      {"next_row", "next row*"}};
  std::vector<std::string> legend;
  std::vector<std::string> head{"feature"};
  for (const auto& [key, name] : predictors) legend.push_back(name), head.push_back(name);
  head.insert(head.begin() + 2, "95 % over drivers");
  std::vector<BarGroup> groups;
  Rows rows{head};
  for (const Json& one : features) {
    BarGroup group{.name = one["name"].get<std::string>(), .values = {}, .interval = {}};
    rows.push_back({group.name});
    for (const auto& [key, name] : predictors) {
      group.values.push_back(value_or_nan(one[tails][key]));
      rows.back().push_back(fixed(one[tails][key], 3));
    }
    if (tails == "bounded" && one.contains("interval")) group.interval = interval_of(one["interval"]);
    rows.back().insert(rows.back().begin() + 2, group.interval ? "[" + fixed(Json(group.interval->first), 3) + ", " +
                                                                     fixed(Json(group.interval->second), 3) + "]"
                                                               : "-");
    groups.push_back(group);
  }
  return {
      bar_chart(title, "share of the feature's variance that the squared error leaves", legend, groups),
      "1 = the mean of the test rows. * sees unmasked rows, more than the model does. The line on the model's bar is "
      "its 95 % interval over drivers (none below 8 drivers).",
      rows};
}

/// "below 5.5", "5.5 to 7.5", "from 7.5"
inline std::vector<std::string> level_names(const LabelsConfig& labels) {
  const auto number_text = [](double value) { return shortest(value); };
  std::vector<std::string> names{"< " + number_text(labels.edges.front())};
  for (std::size_t i = 1; i < labels.edges.size(); ++i)
    names.push_back(number_text(labels.edges[i - 1]) + " to " + number_text(labels.edges[i]));
  names.push_back("≥ " + number_text(labels.edges.back()));
  return names;
}

inline Figure confusion_figure(std::string_view title, const std::vector<std::vector<double>>& counts,
                               const LabelsConfig& labels, int digits) {
  const auto names = level_names(labels);
  Rows rows{{"true \\ predicted"}};
  rows[0].insert(rows[0].end(), names.begin(), names.end());
  for (std::size_t i = 0; i < counts.size(); ++i) {
    rows.push_back({names[i]});
    for (const double count : counts[i]) rows.back().push_back(fixed(Json(count), digits));
  }
  return {confusion_chart(title, names, counts, digits), "Windows; per cent are shares of a row.", rows};
}

/// Predicted against true score: windows as boxes by true score, recordings as dots.
inline Figure scores_figure(std::string_view title, const std::vector<Prediction>& predictions,
                            const LabelsConfig& labels) {
  std::map<double, std::vector<double>> by_truth;
  struct Means {
    std::string driver;
    double truth = 0, prediction = 0, windows = 0;
  };
  std::map<std::string, Means> by_recording;
  for (const Prediction& one : predictions) {
    const double clamped = std::clamp(one.prediction, labels.range[0], labels.range[1]);
    by_truth[std::round(one.truth)].push_back(clamped);
    Means& means = by_recording[one.recording];
    means.driver = one.driver;
    means.truth += one.truth, means.prediction += clamped, means.windows += 1;
  }
  std::vector<Box> boxes;
  Rows rows{{"", "windows", "5 %", "25 %", "median", "75 %", "95 %"}};
  for (auto& [truth, values] : by_truth) {
    std::sort(values.begin(), values.end());
    Box box{.at = truth};
    rows.push_back({"true " + shortest(truth), std::to_string(values.size())});
    for (std::size_t i = 0; i < 5; ++i) {
      box.percentiles[i] = blinkbert::percentile(values, std::array{0.05, 0.25, 0.5, 0.75, 0.95}[i]);
      rows.back().push_back(fixed(Json(box.percentiles[i]), 2));
    }
    boxes.push_back(box);
  }
  std::vector<std::pair<double, double>> dots;
  for (const auto& [name, means] : by_recording) {
    dots.emplace_back(means.truth / means.windows, means.prediction / means.windows);
    rows.push_back({name + " (" + means.driver + ")", fixed(Json(means.windows), 0), "true mean",
                    fixed(Json(dots.back().first), 2), "predicted mean", fixed(Json(dots.back().second), 2), ""});
  }
  return {
      box_chart(title, "true score, KSS", "predicted score, KSS", boxes, dots, labels.range[0], labels.range[1]),
      "Test windows, predictions clamped to the range of labels; true scores rounded to whole numbers for the boxes.",
      rows};
}

/// Score over blinks in a few recordings, for every named set of predictions (the same windows): those at the lowest
/// tenth, the median and the highest tenth of the first set's mean absolute error, so none is picked by hand.
inline std::vector<Figure> over_time_figures(const std::vector<std::pair<std::string, std::vector<Prediction>>>& models,
                                             const LabelsConfig& labels) {
  std::map<std::string, std::pair<double, int>> errors;
  for (const Prediction& one : models.front().second) {
    auto& [sum, count] = errors[one.recording];
    sum += std::abs(std::clamp(one.prediction, labels.range[0], labels.range[1]) - one.truth), ++count;
  }
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, error] : errors) {
    if (error.second >= 2) order.emplace_back(error.first / error.second, name);
  }
  std::sort(order.begin(), order.end());
  std::vector<Figure> figures;
  std::set<std::string> taken;
  for (const double share : {0.1, 0.5, 0.9}) {
    if (order.empty()) break;
    const auto& [error, name] =
        order[static_cast<std::size_t>(std::lround(share * static_cast<double>(order.size() - 1)))];
    if (!taken.insert(name).second) continue;
    std::vector<Series> series{{.name = "truth", .points = {}, .colour = 6, .is_dashed = true}};
    std::map<int, std::vector<std::string>> rows_of;
    std::string driver;
    for (std::size_t m = 0; m < models.size(); ++m) {
      series.push_back({.name = models[m].first, .points = {}, .colour = m});
      for (const Prediction& one : models[m].second) {
        if (one.recording != name) continue;
        driver = one.driver;
        const double blink = one.last_blink + 1, value = std::clamp(one.prediction, labels.range[0], labels.range[1]);
        if (m == 0) {
          series[0].points.emplace_back(blink, one.truth);
          rows_of[one.last_blink + 1] = {std::to_string(one.last_blink + 1), fixed(Json(one.truth), 2)};
        }
        series.back().points.emplace_back(blink, value);
        rows_of[one.last_blink + 1].push_back(fixed(Json(value), 2));
      }
    }
    for (Series& one : series) std::sort(one.points.begin(), one.points.end());
    Rows rows{{"blink", "truth"}};
    for (const auto& [model, all] : models) rows[0].push_back(model);
    for (const auto& [blink, row] : rows_of) rows.push_back(row);
    figures.push_back({line_chart("Score over the recording " + name, "blink at the end of the window", "score, KSS",
                                  series, {.low = labels.range[0], .high = labels.range[1]}),
                       "Driver " + driver + "; mean absolute error of the first model " + fixed(Json(error), 2) +
                           " KSS, " +
                           (share < 0.3   ? "among the lowest"
                            : share < 0.7 ? "the median"
                                          : "among the highest") +
                           " of " + std::to_string(order.size()) + " recordings.",
                       rows});
  }
  return figures;
}

/// Every driver's scores, as in report.json.
inline std::string drivers_table(const Json& drivers) {
  Rows rows{{"driver", "windows", "mae, KSS", "rmse, KSS", "accuracy, %", "kpi, %", "qwk", "va, %", "vre, KSS²"}};
  for (const Json& one : drivers) {
    rows.push_back({one["driver"].get<std::string>(), fixed(one["windows"], 0)});
    for (const std::string name : {"mae", "rmse", "accuracy", "kpi", "qwk", "va", "vre"})
      rows.back().push_back(printed(one[name], score_text(name)));
  }
  return table(rows);
}

/// Bars for every importances*.json of a folder: {"parameter": importance, ...}, shares of 1.
inline std::string importance_figures(const std::filesystem::path& folder) {
  std::set<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("importances") && name.ends_with(".json")) files.insert(entry.path());
  }
  std::string html;
  for (const auto& file : files) {
    const auto json = blinkbert::parse_json(blinkbert::read_file(file), file.string());
    std::vector<std::pair<double, std::string>> values;
    for (const auto& [name, value] : json.items()) {
      if (!json.is_object() || !value.is_number())
        throw blinkbert::InputError(file.string() + ": expected {\"name\": importance, ...}");
      values.emplace_back(value.get<double>(), name);
    }
    std::sort(values.rbegin(), values.rend());
    std::vector<BarGroup> groups;
    Rows rows{{"parameter", "importance"}};
    for (const auto& [value, name] : values) {
      groups.push_back({.name = name, .values = {value}, .interval = {}});
      rows.push_back({name, fixed(Json(value), 3)});
    }
    html += Figure{bar_chart("Importance of hyper-parameters, " + file.stem().string(),
                             "share of the objective's variance over the sweep", {"importance"}, groups),
                   "From a sweep; " + file.filename().string() + ".", rows}
                .html();
  }
  return html;
}

}  // namespace programs::report
