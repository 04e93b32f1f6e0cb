#pragma once

// report.html of one run, from what its folder holds.

#include <string>

#include <blinkbert/io/config_file.hpp>
#include <blinkbert/train/run_folder.hpp>
#include <blinkbert/version.hpp>

#include "figures.hpp"

namespace programs {

/// The configuration as in the state, so that every key has its value.
inline blinkbert::Config config_of_run(const blinkbert::RunFolder& folder, const std::string& task) {
  return blinkbert::load_config(task == "pretraining" ? blinkbert::Task::pretraining : blinkbert::Task::finetuning,
                                folder.path() / "config.toml", {})
      .config;
}

/// The whole page. `command` is how the program was called.
inline std::string run_page(const blinkbert::RunFolder& folder, const std::string& command) {
  using namespace report;
  const Json result = folder.read_report();
  const std::string task = result["task"].get<std::string>();
  const bool is_pretraining = task == "pretraining";
  const blinkbert::Config config = config_of_run(folder, task);

  const std::string backbone = result["backbone"].get<std::string>();
  std::string body =
      facts({{"task", task},
             {"start", is_pretraining     ? "random parameters"
                       : backbone.empty() ? "from scratch"
                                          : "pre-trained backbone, fingerprint " + backbone},
             {"best epoch", fixed(result["best_epoch"], 0) + " of " + fixed(result["epochs"], 0) + " by " +
                                result["monitor"].get<std::string>() + " (" + fixed(result["best"], 4) + ")"},
             {"seed", result["seed"].dump()},
             {"data", "fingerprint " + result["data"].get<std::string>()},
             {"time", fixed(result["time"]["seconds"], 1) + " s, peak memory " +
                          fixed(result["time"]["peak_memory_mib"], 0) + " MiB"},
             {"version", "blinkbert " + result["blinkbert_version"].get<std::string>()},
             {"command", command}});
  std::string learning;
  for (const Figure& figure : learning_figures(epochs_of(folder.log_path()), task, result["best_epoch"].get<int>()))
    learning += figure.html();
  body += section("Training", figures(learning));

  if (!result.contains("test")) {
    body += section("Test", paragraph("The split has no test drivers."));
  } else if (is_pretraining) {
    const Json& test = result["test"];
    body += section(
        "Masked rows of " + held_out_drivers(test),
        paragraph(fixed(test["rows"], 0) + " masked rows of " + fixed(test["windows"], 0) + " windows.") +
            figures(
                masked_rows_figure(test["features"], "bounded",
                                   "Error on masked rows, tails bounded as the model sees them")
                    .html() +
                masked_rows_figure(test["features"], "unbounded", "Error on masked rows, tails as measured").html()));
  } else {
    const Json& test = result["test"];
    Rows rows{{"score", "model", "95 % over drivers", "training mean", "ridge"}};
    for (const blinkbert::NamedScore& named : blinkbert::named_scores) {
      const ScoreText score = score_text(named.name);
      rows.push_back({score.title, printed(test["model"][score.name], score),
                      printed_interval(test["model"]["intervals"][score.name], score),
                      printed(test["training_mean"][score.name], score), printed(test["ridge"][score.name], score)});
    }
    const auto predictions = read_predictions(folder.predictions_path());
    std::string drawn =
        confusion_figure("Windows by true and predicted level",
                         test["model"]["confusion"].get<std::vector<std::vector<double>>>(), config.labels, 0)
            .html() +
        scores_figure("Predicted against true score", predictions, config.labels).html();
    for (const Figure& figure : over_time_figures({{"model", predictions}}, config.labels)) drawn += figure.html();
    body += section("Scores of " + held_out_drivers(test),
                    table(rows) + figures(drawn) + "<h2>By driver</h2>\n" + drivers_table(test["model"]["drivers"]));
  }
  const std::string importances = importance_figures(folder.path());
  if (!importances.empty()) body += section("Importance of hyper-parameters", figures(importances));
  body += section("Configuration", preformatted(to_toml(config)));
  return page(is_pretraining ? "Pre-training on blinks" : "Fine-tuning to a drowsiness score", body);
}

}  // namespace programs
