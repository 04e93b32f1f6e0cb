#pragma once

// The folder of one run:
//
//   config.toml                  the resolved configuration
//   split.json                   which drivers train, validate and test
//   metrics.jsonl                one object per event; what depends on the clock or on memory is under "time"
//   checkpoints/state            the single commit point: everything that a resumed run needs
//   checkpoints/last, best       derived from state, rewritten on resume
//   predictions.csv              fine-tuning: truth and prediction of every test window
//   report.json                  the result, written last
//
// Events of metrics.jsonl:
//   {"event": "epoch", "epoch", "step", "training_loss", "rate", "skipped_steps", "validation": {metric: value or null},
//    "best": bool, "time": {"seconds", "rows_per_second"}}
//   {"event": "skipped_step", "epoch", "step"}       a gradient norm that was not finite
//   {"event": "finished", "epochs", "best_epoch", "<monitored metric>"}
//
// The state is written at optimizer-step borders, to a temporary name, synced and renamed, after the log is on the disk; a
// kill at any moment leaves the state before. On resume the log is cut to the number of lines that the state remembers
// (lines, since the bytes of a line depend on the times in it, and a state must not).

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/split_file.hpp>
#include <blinkbert/train/checkpoint.hpp>
#include <blinkbert/train/trainer.hpp>

namespace blinkbert {

/// 64-bit FNV-1a of a file's bytes, in hexadecimal: tells files apart, no more.
inline std::string fingerprint(std::string_view bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211u;
  std::string digits(16, '0');
  for (std::size_t i = 16; i-- > 0; hash >>= 4) digits[i] = "0123456789abcdef"[hash & 15];
  return digits;
}

class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoint(std::string_view name) const {
    return path_ / "checkpoints" / text(name, ".safetensors");
  }
  std::filesystem::path report_path() const { return path_ / "report.json"; }
  std::filesystem::path predictions_path() const { return path_ / "predictions.csv"; }
  std::filesystem::path log_path() const { return path_ / "metrics.jsonl"; }
  bool holds_run() const {
    return std::filesystem::exists(path_ / "config.toml") || std::filesystem::exists(path_ / "checkpoints");
  }
  bool holds_state() const { return std::filesystem::exists(checkpoint("state")); }
  bool holds_report() const { return std::filesystem::exists(report_path()); }

  /// Starts a run: makes the folder, writes configuration and split, begins an empty log.
  void begin(const Config& config, const Split& split) {
    std::error_code error;
    std::filesystem::create_directories(path_ / "checkpoints", error);
    if (error) throw RunError(text("cannot make the folder ", (path_ / "checkpoints").string(), ": ", error.message()));
    write_file_atomically(path_ / "config.toml", to_toml(config));
    write_split(path_ / "split.json", split);
    std::filesystem::remove(report_path(), error);
    log_ = std::make_unique<JsonlWriter>(log_path());
    log_lines_ = 0;
  }

  /// Appends one event to the log.
  void log(const nlohmann::ordered_json& event) {
    log_->append(event);
    ++log_lines_;
  }

  /// Commits where the run stands, then rewrites `last` and `best`. `backbone` is the fingerprint of the checkpoint that
  /// the run began from, empty without one.
  template <class Trainer, class Device>
  void save(Device& device, const Trainer& trainer, const ParameterSet<Device>& set, const CheckpointHeader& header,
            const std::string& backbone) {
    using Set = ParameterSet<Device>;
    log_->sync();
    Safetensors file;
    const auto values = to_host(device, set.values());
    const auto statistics = to_host(device, set.statistics());
    add_tensors<Set>(file.tensors, "values.", set.entries(), values);
    add_tensors<Set>(file.tensors, "statistics.", set.statistic_entries(), statistics);
    add_tensors<Set>(file.tensors, "first_moment.", set.entries(), to_host(device, trainer.first_moment()));
    add_tensors<Set>(file.tensors, "second_moment.", set.entries(), to_host(device, trainer.second_moment()));
    if (!trainer.best_values().empty()) {
      add_tensors<Set>(file.tensors, "best_values.", set.entries(), trainer.best_values());
      add_tensors<Set>(file.tensors, "best_statistics.", set.statistic_entries(), trainer.best_statistics());
    }
    file.metadata = to_metadata(header);
    file.metadata["trainer"] = to_json(trainer.state()).dump();
    file.metadata["log_lines"] = text(log_lines_);
    file.metadata["backbone"] = backbone;
    write_safetensors(checkpoint("state"), file);
    write_derived(set, values, statistics, trainer.best_values(), trainer.best_statistics(), header);
  }

  /// Puts the trainer and its model where the saved run stood, cuts the log, rewrites `last` and `best`.
  /// Throws InputError where configuration, data or backbone are not those of the saved run.
  template <class Trainer, class Device>
  void resume(Device& device, Trainer& trainer, ParameterSet<Device>& set, const CheckpointHeader& header,
              const std::string& backbone) {
    using Set = ParameterSet<Device>;
    const Safetensors file = read_safetensors(checkpoint("state"));
    const CheckpointHeader saved = read_header(file);
    demand_same(saved.config, header.config);
    const auto metadata = [&](const std::string& key) {
      const auto found = file.metadata.find(key);
      if (found == file.metadata.end()) throw InputError(text(file.path, ": metadata \"", key, "\" is missing"));
      return found->second;
    };
    if (saved.data != header.data) throw InputError(text(path_.string(), ": the run was started on other data"));
    if (metadata("backbone") != backbone)
      throw InputError(text(path_.string(), ": the run was started from another backbone"));
    if (saved.training_drivers != header.training_drivers)
      throw InputError(text(path_.string(), ": the run was started with another split"));

    auto values = to_host(device, set.values());
    auto statistics = to_host(device, set.statistics());
    auto first = values, second = values, best_values = values;
    auto best_statistics = statistics;
    take_tensors<Set>(file, "values.", set.entries(), values);
    take_tensors<Set>(file, "statistics.", set.statistic_entries(), statistics);
    take_tensors<Set>(file, "first_moment.", set.entries(), first);
    take_tensors<Set>(file, "second_moment.", set.entries(), second);
    TrainerState state = trainer_state_from_json(parse_json(metadata("trainer"), file.path), file.path);
    if (state.skips_before.size() != trainer.state().skips_before.size()) {
      throw InputError(text(file.path, ": metadata \"trainer\" does not fit the model"));
    }
    if (state.best_epoch > 0) {
      take_tensors<Set>(file, "best_values.", set.entries(), best_values);
      take_tensors<Set>(file, "best_statistics.", set.statistic_entries(), best_statistics);
    } else {
      best_values.clear();
      best_statistics.clear();
    }
    std::uint64_t log_lines = 0;
    try {
      log_lines = std::stoull(metadata("log_lines"));
    } catch (const std::logic_error&) {
      throw InputError(text(file.path, ": metadata \"log_lines\" is not a number"));
    }
    const std::uint64_t log_bytes = bytes_of_lines(log_lines);
    upload(device, set.values(), values.data());
    upload(device, set.statistics(), statistics.data());
    set.refresh_working(device);
    upload(device, trainer.first_moment(), first.data());
    upload(device, trainer.second_moment(), second.data());
    log_ = std::make_unique<JsonlWriter>(log_path(), log_bytes);
    log_lines_ = log_lines;
    trainer.restore(std::move(state), std::move(best_values), std::move(best_statistics));
    write_derived(set, values, statistics, trainer.best_values(), trainer.best_statistics(), header);
  }

  /// Throws InputError that names the keys in which a configuration differs from the saved run's.
  void demand_same(const Config& saved, const Config& given) const {
    const std::vector<std::string> keys = differing_keys(saved, given);
    if (keys.empty()) return;
    std::string list;
    for (const std::string& key : keys) {
      if (key == "task") throw InputError(text(path_.string(), " holds a run of the other program"));
      list +=
          text(list.empty() ? "" : ", ", key, " (", value_of(saved, key), " there, ", value_of(given, key), " here)");
    }
    throw InputError(text(path_.string(), " holds a run with another configuration: ", list));
  }

  void write_report(const nlohmann::ordered_json& report) const {
    write_file_atomically(report_path(), report.dump(2) + "\n");
  }
  nlohmann::ordered_json read_report() const {
    const std::string bytes = read_file(report_path());
    parse_json(bytes, report_path().string());
    return nlohmann::ordered_json::parse(bytes);
  }

 private:
  /// Where the line number `lines` of the log ends. Throws InputError where it has fewer.
  std::uint64_t bytes_of_lines(std::uint64_t lines) const {
    if (lines == 0) return 0;
    const std::string bytes = read_file(log_path());
    std::size_t end = 0;
    for (std::uint64_t line = 0; line < lines; ++line) {
      const std::size_t newline = bytes.find('\n', end);
      if (newline == bytes.npos) {
        throw InputError(text(log_path().string(), ": holds ", line, " whole lines, expected at least ", lines));
      }
      end = newline + 1;
    }
    return end;
  }

  template <class Set, class Number>
  void write_derived(const Set& set, const std::vector<Number>& values, const std::vector<Number>& statistics,
                     const std::vector<Number>& best_values, const std::vector<Number>& best_statistics,
                     const CheckpointHeader& header) const {
    write_safetensors(checkpoint("last"), make_checkpoint(set, values, statistics, header));
    if (!best_values.empty()) {
      write_safetensors(checkpoint("best"), make_checkpoint(set, best_values, best_statistics, header));
    }
  }

  static nlohmann::ordered_json to_json(const TrainerState& state) {
    return {{"epoch", state.epoch},
            {"step", state.step},
            {"step_in_epoch", state.step_in_epoch},
            {"loss_sum", state.loss_sum},
            {"loss_weight", state.loss_weight},
            {"skipped", state.skipped},
            {"skips_in_row", state.skips_in_row},
            {"first_skip_in_row", state.first_skip_in_row},
            {"skips_before", state.skips_before},
            {"best", state.best},
            {"best_epoch", state.best_epoch},
            {"epochs_without_gain", state.epochs_without_gain},
            {"is_finished", state.is_finished}};
  }

  static TrainerState trainer_state_from_json(const nlohmann::json& json, const std::string& where) {
    TrainerState state;
    try {
      const auto take = [&](const char* key, auto& field) {
        field = json.at(key).get<std::decay_t<decltype(field)>>();
      };
      take("epoch", state.epoch);
      take("step", state.step);
      take("step_in_epoch", state.step_in_epoch);
      take("loss_sum", state.loss_sum);
      take("loss_weight", state.loss_weight);
      take("skipped", state.skipped);
      take("skips_in_row", state.skips_in_row);
      take("first_skip_in_row", state.first_skip_in_row);
      take("skips_before", state.skips_before);
      take("best", state.best);
      take("best_epoch", state.best_epoch);
      take("epochs_without_gain", state.epochs_without_gain);
      take("is_finished", state.is_finished);
    } catch (const nlohmann::json::exception& error) {
      throw InputError(text(where, ": metadata \"trainer\": ", error.what()));
    }
    return state;
  }

  std::filesystem::path path_;
  std::unique_ptr<JsonlWriter> log_;
  std::uint64_t log_lines_ = 0;
};

}  // namespace blinkbert
