// Scores the windows of a file with a fine-tuned checkpoint.

#include <filesystem>
#include <iostream>
#include <optional>

#include <nlohmann/json.hpp>

#include <blinkbert/inference.hpp>
#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/config_file.hpp>

#include "devices.hpp"
#include "results.hpp"

namespace {

using namespace blinkbert;

template <class Device>
int score(const programs::CommonFlags& flags, const std::filesystem::path& checkpoint,
          const std::optional<std::filesystem::path>& data, const std::optional<std::filesystem::path>& out,
          bool prints_config) {
  const auto model = BasicModel<Device>::load(checkpoint);
  if (prints_config) {
    std::cout << to_toml(model.config());
    return programs::good;
  }
  if (!data) throw InputError("--data is required: a CSV file of blinks (see --help)");
  DataConfig columns = model.config().data;
  columns.label.clear();  // scoring needs no labels, whatever such a column holds
  columns.quality.clear();
  const Dataset dataset = model.dataset(read_frame(*data, columns));
  const WindowIndex index = index_windows(dataset.frame, columns.window, columns.evaluation_stride, columns.min_length);
  const std::vector<float> scores = model.score(dataset.table, index.windows, flags.threads);

  std::string rows = "recording,driver,first_blink,last_blink,kss\n";
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const Window& window = index.windows[i];
    const Recording& recording = dataset.frame.recordings[static_cast<std::size_t>(window.recording)];
    const std::string& driver = dataset.frame.drivers[static_cast<std::size_t>(recording.driver)];
    const int first = window.start - recording.first_row, last = first + window.length - 1;
    if (flags.wants_json) {
      list.push_back({{"recording", recording.name},
                      {"driver", driver},
                      {"first_blink", first},
                      {"last_blink", last},
                      {"kss", scores[i]}});
    }
    rows += text(programs::csv_field(recording.name), ',', programs::csv_field(driver), ',', first, ',', last, ',',
                 programs::shortest(scores[i]), '\n');
  }
  if (out) write_file_atomically(*out, rows);
  if (flags.wants_json) {
    std::cout << nlohmann::ordered_json{{"windows", scores.size()}, {"scores", list}}.dump() << '\n';
  } else if (!out) {
    std::cout << rows;
  }
  if (!flags.is_quiet) {
    int without = 0;
    for (const RecordingReport& report : index.reports) without += report.windows == 0 ? 1 : 0;
    std::cerr << scores.size() << " windows of " << dataset.frame.recordings.size() << " recordings scored";
    if (without > 0) std::cerr << "; " << without << " recordings have fewer than " << columns.min_length << " blinks";
    std::cerr << '\n';
  }
  return programs::good;
}

}  // namespace

int main(int argc, char** argv) {
  programs::CommonFlags flags;
  std::filesystem::path checkpoint;
  std::optional<std::filesystem::path> data, out;
  bool prints_config = false;
  CLI::App app("Scores windows of blinks with a fine-tuned checkpoint", "score");
  app.add_option("--checkpoint", checkpoint, "Fine-tuned checkpoint, such as RUN/checkpoints/best.safetensors")
      ->required();
  app.add_option("--data", data, "CSV file of blinks");
  app.add_option("--out", out, "CSV file to write; stdout without it");
  app.add_flag("--print-config", prints_config, "Print the checkpoint's configuration and leave");
  programs::add_device_flags(app, flags);
  programs::add_output_flags(app, flags);
  return programs::run_program(app, argc, argv, [&] {
    return programs::on_float_device(flags, Precision::fp32, [&]<class Device>(std::type_identity<Device>) {
      return score<Device>(flags, checkpoint, data, out, prints_config);
    });
  });
}
