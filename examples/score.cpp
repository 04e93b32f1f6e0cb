// Scores the windows of a file with a fine-tuned checkpoint, or with the mean of several.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/inference.hpp>
#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/config_file.hpp>

#include "devices.hpp"
#include "results.hpp"

namespace {

using namespace blinkbert;

/// What is scored, and by which models; several are averaged.
struct ScoreFlags : programs::CommonFlags {
  std::vector<std::filesystem::path> checkpoints;
  std::optional<std::filesystem::path> data, out;
  bool prints_config = false, by_recording = false;
};

/// The file as one model reads it. Scoring needs no labels, whatever such columns hold.
template <class Device>
Dataset read_dataset(const BasicModel<Device>& model, const std::filesystem::path& path) {
  DataConfig columns = model.config().data;
  columns.label.clear();
  columns.quality.clear();
  return model.dataset(read_frame(path, columns));
}

/// Throws InputError where the models' scores are not of the same windows or not on the same scale.
void demand_alike(const Config& first, const Config& other, const ScoreFlags& flags, std::size_t i) {
  for (const std::string& key : differing_keys(first, other)) {
    if (key == "data.window" || key == "data.evaluation_stride" || key == "data.min_length" || key == "data.missing" ||
        key == "data.recording" || key == "data.driver" || key == "labels.range" || key == "labels.edges" ||
        (key == "train.loss" && is_over_levels(first.train.loss) != is_over_levels(other.train.loss))) {
      throw InputError(text(flags.checkpoints[i].string(), ": ", key, " = ", value_of(other, key), ", but ",
                            value_of(first, key), " in ", flags.checkpoints[0].string(),
                            ": only models that agree on it can be averaged"));
    }
  }
}

template <class Device>
int score(const ScoreFlags& flags) {
  std::vector<BasicModel<Device>> models;
  for (std::size_t i = 0; i < flags.checkpoints.size(); ++i) {
    models.push_back(BasicModel<Device>::load(flags.checkpoints[i]));
    demand_alike(models[0].config(), models[i].config(), flags, i);
  }
  if (flags.prints_config) {
    std::cout << to_toml(models[0].config());
    return programs::good;
  }
  if (!flags.data) throw InputError("--data is required: a CSV file of blinks (see --help)");
  const DataConfig& settings = models[0].config().data;
  const Dataset dataset = read_dataset(models[0], *flags.data);
  const WindowIndex index =
      index_windows(dataset.frame, settings.window, settings.evaluation_stride, settings.min_length);
  std::vector<std::vector<ScoredWindow>> members;
  for (std::size_t i = 0; i < models.size(); ++i) {
    if (i == 0) {
      members.push_back(models[i].score(dataset, index.windows, flags.threads));
      continue;
    }
    const Dataset own = read_dataset(models[i], *flags.data);
    if (own.frame.dropped_rows != dataset.frame.dropped_rows) {
      throw InputError(text(flags.checkpoints[i].string(), ": drops ", own.frame.dropped_rows, " rows of ",
                            flags.data->string(), " with empty cells, but ", flags.checkpoints[0].string(), " ",
                            dataset.frame.dropped_rows, ": only models that read the same rows can be averaged"));
    }
    members.push_back(models[i].score(own, index.windows, flags.threads));
  }
  const std::vector<ScoredWindow> scored = mean_of_members(members);

  const std::size_t levels = models[0].reading().level_values.size();
  std::string rows = text("recording,driver,", flags.by_recording ? "windows" : "first_blink,last_blink", ",kss");
  for (std::size_t k = 0; k < levels; ++k) rows += text(",p_level_", k);
  rows += '\n';
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  using Places = std::vector<std::pair<std::string, int>>;
  const auto add = [&](int recording, const Places& places, double kss, const std::vector<double>& posterior) {
    const Recording& one = dataset.frame.recordings[static_cast<std::size_t>(recording)];
    const std::string& driver = dataset.frame.drivers[static_cast<std::size_t>(one.driver)];
    nlohmann::ordered_json json{{"recording", one.name}, {"driver", driver}};
    rows += text(programs::csv_field(one.name), ',', programs::csv_field(driver));
    for (const auto& [name, place] : places) {
      json[name] = place;
      rows += text(',', place);
    }
    const auto add_number = [&](const std::string& name, float value) {
      json[name] = value;
      rows += text(',', programs::shortest(value));
    };
    add_number("kss", static_cast<float>(kss));
    for (std::size_t k = 0; k < levels; ++k) add_number(text("p_level_", k), static_cast<float>(posterior[k]));
    rows += '\n';
    if (flags.wants_json) list.push_back(std::move(json));
  };
  if (flags.by_recording) {
    std::vector<ScoredRecording> means = recording_means(scored);
    std::sort(means.begin(), means.end(), [](const auto& a, const auto& b) { return a.recording < b.recording; });
    for (const ScoredRecording& one : means)
      add(one.recording, {{"windows", one.windows}}, one.prediction, one.posterior);
  } else {
    for (std::size_t i = 0; i < scored.size(); ++i) {
      const Window& window = index.windows[i];
      const int first = window.start - dataset.frame.recordings[static_cast<std::size_t>(window.recording)].first_row;
      add(window.recording, {{"first_blink", first}, {"last_blink", first + window.length - 1}}, scored[i].prediction,
          scored[i].posterior);
    }
  }
  if (flags.out) write_file_atomically(*flags.out, rows);
  if (flags.wants_json) {
    std::cout << nlohmann::ordered_json{{"windows", scored.size()}, {"scores", list}}.dump() << '\n';
  } else if (!flags.out) {
    std::cout << rows;
  }
  if (!flags.is_quiet) {
    int without = 0;
    for (const RecordingReport& report : index.reports) without += report.windows == 0 ? 1 : 0;
    std::cerr << scored.size() << " windows of " << dataset.frame.recordings.size() << " recordings scored";
    if (models.size() > 1) std::cerr << ", each by " << models.size() << " models";
    if (without > 0) std::cerr << "; " << without << " recordings have fewer than " << settings.min_length << " blinks";
    std::cerr << '\n';
  }
  return programs::good;
}

}  // namespace

int main(int argc, char** argv) {
  ScoreFlags flags;
  CLI::App app("Scores windows of blinks with a fine-tuned checkpoint", "score");
  app.add_option("--checkpoint", flags.checkpoints,
                 "Fine-tuned checkpoint, such as RUN/checkpoints/best.safetensors; may be repeated: the mean of all")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--data", flags.data, "CSV file of blinks");
  app.add_option("--out", flags.out, "CSV file to write; stdout without it");
  app.add_flag("--by-recording", flags.by_recording, "One line for each recording: the mean over its windows");
  app.add_flag("--print-config", flags.prints_config, "Print the first checkpoint's configuration and leave");
  programs::add_device_flags(app, flags);
  programs::add_output_flags(app, flags);
  return programs::run_program(app, argc, argv, [&] {
    return programs::on_float_device(flags, Precision::fp32,
                                     [&]<class Device>(std::type_identity<Device>) { return score<Device>(flags); });
  });
}
