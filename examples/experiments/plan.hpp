#pragma once

// From an experiment to runs: every (arm, seed, fold) becomes a run with a configuration, a split and perhaps a backbone.
// A run's name follows from exactly these and from the data, so arms with the same run share it, and a run that is
// finished is found again whatever has changed around it.
//
//   OUT/experiment.toml            the file as it was read
//   OUT/simulated_drivers.csv      where the data are simulated
//   OUT/runs/<stage>-<id>/         run folders
//   OUT/inputs/<stage>-<id>.{toml,split.json}, OUT/logs/<stage>-<id>.txt
//   OUT/results.json, OUT/report.html

#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <blinkbert/data/frame.hpp>
#include <blinkbert/data/splits.hpp>
#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/split_file.hpp>
#include <blinkbert/train/run_folder.hpp>

#include "../backbone_keys.hpp"
#include "../results.hpp"
#include "experiment_file.hpp"

namespace programs {

using blinkbert::Config;

enum class RunState { waiting, running, finished, failed };

struct PlannedRun {
  std::string id;     // "pretraining-0123456789abcdef"
  std::string title;  // of the first arm that needs it
  Task task = Task::pretraining;
  std::uint64_t seed = 0;
  std::string fold;
  std::string configuration;  // TOML, what the program is given
  blinkbert::Split split;
  std::string backbone;  // id, or empty
  RunState state = RunState::waiting;
  std::string reason;  // why it failed
};

/// "ARM" seed 1, fold 2
inline std::string run_title(const std::string& arm, std::uint64_t seed, const std::string& fold) {
  return text('"', arm, "\" seed ", seed, fold.empty() ? "" : ", fold ", fold);
}

class Plan {
 public:
  Plan(const Experiment& experiment, std::filesystem::path data, std::filesystem::path out)
      : experiment_(&experiment),
        data_(std::move(data)),
        out_(std::move(out)),
        fingerprint_(blinkbert::fingerprint(blinkbert::read_file(data_))) {}

  const Experiment& experiment() const { return *experiment_; }
  const std::filesystem::path& data() const { return data_; }
  const std::string& data_fingerprint() const { return fingerprint_; }
  blinkbert::RunFolder folder(const std::string& id) const { return blinkbert::RunFolder(out_ / "runs" / id); }
  std::filesystem::path input(const std::string& id, std::string_view ending) const {
    return out_ / "inputs" / text(id, ending);
  }
  std::filesystem::path log(const std::string& id) const { return out_ / "logs" / (id + ".txt"); }

  /// All runs known so far, those of pre-training first.
  std::vector<PlannedRun>& runs() { return runs_; }
  const std::vector<PlannedRun>& runs() const { return runs_; }
  PlannedRun& run(const std::string& id) { return runs_[index_.at(id)]; }
  const PlannedRun& run(const std::string& id) const { return runs_[index_.at(id)]; }

  /// The arm's run, once it is known.
  std::optional<std::string> run_of(const ExperimentArm& arm, std::uint64_t seed, const std::string& fold) const {
    const auto found = run_of_arm_.find({arm.name, seed, fold});
    return found == run_of_arm_.end() ? std::nullopt : std::optional(found->second);
  }
  /// The configuration of the arm's first run, once it is known; others differ in seed and fold.
  const Config* config_of(const ExperimentArm& arm) const {
    const auto found = configs_.find(arm.name);
    return found == configs_.end() ? nullptr : &found->second;
  }
  /// The arm whose configuration `better_of` took, once it is known; the arm's own name without it.
  std::string chosen_by(const ExperimentArm& arm) const {
    const auto found = chosen_.find(arm.name);
    return found == chosen_.end() ? arm.name : found->second;
  }
  /// Why an arm will never have runs; empty for all others.
  std::string obstacle(const ExperimentArm& arm) const {
    const auto found = obstacles_.find(arm.name);
    return found == obstacles_.end() ? "" : found->second;
  }

  /// Runs that wait for a choice, at most.
  std::size_t unplanned() const {
    std::size_t count = 0;
    for (const ExperimentArm& arm : experiment_->arms) {
      if (config_of(arm) == nullptr && obstacle(arm).empty()) count += arm.seeds.size() * arm.folds.size();
    }
    return count;
  }

  /// Throws InputError where the configuration of any arm does not fit, also of those that wait for a choice (the first
  /// candidate stands in for it).
  void check() {
    for (const Task task : {Task::pretraining, Task::finetuning}) {
      for (const bool waits : {false, true}) {
        for (const ExperimentArm& arm : experiment_->arms) {
          if (arm.task != task || arm.better_of.empty() == waits) continue;
          if (waits) chosen_[arm.name] = arm.better_of.front();
          configs_[arm.name] = configure(arm, fold_keys(arm.seeds.front(), arm.folds.front()));
        }
      }
    }
    configs_.clear();
    chosen_.clear();
  }

  /// Plans whatever can be planned now; call again when runs have finished. Throws InputError where an arm's configuration
  /// does not fit, before anything is written.
  void extend() {
    for (const Task task : {Task::pretraining, Task::finetuning}) {
      for (const ExperimentArm& arm : experiment_->arms) {
        if (arm.task == task && config_of(arm) == nullptr && obstacle(arm).empty()) plan(arm);
      }
    }
  }

 private:
  static std::string obstacle_text(const ExperimentArm& arm, const std::string& reason) {
    return text("arm \"", arm.name, "\": ", reason);
  }

  /// The arm that `better_of` takes, if it can be said: least mean of validation shares over all its runs.
  std::optional<const ExperimentArm*> choose(const ExperimentArm& arm) {
    const ExperimentArm* best = nullptr;
    double least = 0;
    for (const std::string& name : arm.better_of) {
      const ExperimentArm& candidate = *experiment_->find(name);
      if (config_of(candidate) == nullptr) return std::nullopt;
      double sum = 0, count = 0;
      for (const std::uint64_t seed : candidate.seeds) {
        for (const std::string& fold : candidate.folds) {
          const PlannedRun& one = run(*run_of(candidate, seed, fold));
          if (one.state == RunState::failed) {
            obstacles_[arm.name] = obstacle_text(arm, text("better_of: a run of \"", name, "\" failed"));
            return std::nullopt;
          }
          if (one.state != RunState::finished) return std::nullopt;
          const Json share = folder(one.id).read_report()["validation"]["share"];
          sum += share.is_number() ? share.get<double>() : INFINITY, count += 1;
        }
      }
      if (best == nullptr || sum / count < least) best = &candidate, least = sum / count;
    }
    chosen_[arm.name] = best->name;
    return best;
  }

  /// What a fine-tuning arm takes over from a pre-training one.
  static std::vector<std::string> inherited(const Config& config) {
    std::vector<std::string> overrides;
    for (const std::string& key : blinkbert::detail::config_keys()) {
      if (comes_from_backbone(key)) overrides.push_back(text(key, '=', value_of(config, key)));
    }
    return overrides;
  }

  /// What a run adds to its arm's configuration.
  static std::vector<std::string> fold_keys(std::uint64_t seed, const std::string& fold) {
    std::vector<std::string> keys{text("train.seed=\"", seed, '"')};
    if (!fold.empty()) keys.push_back(text("splits.test=[", blinkbert::detail::toml_text(fold), ']'));
    return keys;
  }

  Config configure(const ExperimentArm& arm, const std::vector<std::string>& more) const {
    const bool is_pretraining = arm.task == Task::pretraining;
    const ConfigurationPart& base = is_pretraining ? experiment_->pretraining : experiment_->finetuning;
    const ConfigurationPart& choice = arm.better_of.empty() ? arm.part : experiment_->find(chosen_.at(arm.name))->part;
    std::vector<std::string> overrides = base.overrides;
    const auto append = [&](const std::vector<std::string>& list) {
      overrides.insert(overrides.end(), list.begin(), list.end());
    };
    const Config* parent = nullptr;
    if (!arm.backbone.empty() || !arm.like.empty()) {
      parent = config_of(*experiment_->find(arm.backbone.empty() ? arm.like : arm.backbone));
      append(inherited(*parent));
    }
    if (&choice != &arm.part) append(choice.overrides);
    append(arm.part.overrides);
    append(more);
    const auto file = arm.part.config ? arm.part.config : choice.config ? choice.config : base.config;
    try {
      Config config = blinkbert::load_config(arm.task, file, overrides).config;
      blinkbert::resolve(config);
      blinkbert::validate(config);
      if (!arm.backbone.empty()) {
        for (const std::string& key : differing_keys(*parent, config)) {
          if (comes_from_backbone(key))
            throw InputError(text(key, " = ", value_of(config, key), ": the backbone has ", value_of(*parent, key)));
        }
      }
      return config;
    } catch (const InputError& error) {
      throw InputError(text(arm.where, ": ", error.what()));
    }
  }

  const blinkbert::Frame& frame_of(const Config& config) {
    std::string key = config.splits.column;
    for (const std::string& name : blinkbert::detail::config_keys()) {
      if (name.starts_with("data.")) key += '\n' + value_of(config, name);
    }
    const auto found = frames_.find(key);
    if (found != frames_.end()) return found->second;
    return frames_.emplace(key, read_frame(data_, config.data, config.splits.column)).first->second;
  }

  /// The split, with the arm's share of training drivers: those first in the order of word 0 of {driver's place in the file,
  /// sequence 1}, purpose `split`, seeded by the run; so a smaller share is a subset of a larger one.
  blinkbert::Split split_of(const ExperimentArm& arm, const Config& config) {
    const blinkbert::Frame& frame = frame_of(config);
    const bool draws_by_seed = !experiment_->split_seed && !config.splits.column.empty();
    const std::uint64_t seed = draws_by_seed ? config.train.seed : experiment_->split_seed.value_or(1);
    blinkbert::Split split = make_split(frame, config.splits, seed);
    auto& sets = arm.task == Task::pretraining ? split.pretraining : split.finetuning;
    check_stage(sets, arm.task, config.train.monitor);
    const blinkbert::RandomStream stream{.seed = config.train.seed, .purpose = blinkbert::Purpose::split};
    std::vector<std::pair<std::uint32_t, std::string>> order;
    for (std::size_t d = 0; d < frame.drivers.size(); ++d) {
      if (std::ranges::find(sets.training, frame.drivers[d]) != sets.training.end())
        order.emplace_back(stream.word(static_cast<std::uint32_t>(d), 1), frame.drivers[d]);
    }
    std::sort(order.begin(), order.end());
    const auto kept = std::max<std::size_t>(
        1, static_cast<std::size_t>(std::lround(arm.drivers * static_cast<double>(order.size()))));
    std::set<std::string> names;
    for (std::size_t i = 0; i < kept; ++i) names.insert(order[i].second);
    std::erase_if(sets.training, [&](const std::string& driver) { return !names.contains(driver); });
    return split;
  }

  void plan(const ExperimentArm& arm) {
    if (!arm.better_of.empty() && !choose(arm)) return;
    const std::string& parent_name = arm.backbone.empty() ? arm.like : arm.backbone;
    if (!parent_name.empty()) {
      const ExperimentArm& parent = *experiment_->find(parent_name);
      if (!obstacle(parent).empty()) obstacles_[arm.name] = obstacle_text(arm, text("no \"", parent.name, '"'));
      if (config_of(parent) == nullptr) return;
    }
    configs_[arm.name] = configure(arm, fold_keys(arm.seeds.front(), arm.folds.front()));
    for (const std::uint64_t seed : arm.seeds) {
      for (const std::string& fold : arm.folds) {
        const Config config = configure(arm, fold_keys(seed, fold));
        PlannedRun run;
        run.task = arm.task, run.seed = seed, run.fold = fold;
        try {
          run.split = split_of(arm, config);
        } catch (const InputError& error) {
          throw InputError(text(arm.where, ": ", error.what()));
        }
        if (!arm.backbone.empty()) run.backbone = *run_of(*experiment_->find(arm.backbone), seed, fold);
        for (const std::string& key : blinkbert::detail::config_keys()) {
          if (arm.backbone.empty() || !comes_from_backbone(key))
            run.configuration += text(key, " = ", value_of(config, key), '\n');
        }
        const std::string split =
            Json{{"pretraining", to_json(run.split.pretraining)}, {"finetuning", to_json(run.split.finetuning)}}.dump();
        run.id = text(spell(arm.task), '-',
                      blinkbert::fingerprint(text(to_toml(config), split, run.backbone, fingerprint_)));
        run.title = run_title(arm.name, seed, fold);
        run_of_arm_[{arm.name, seed, fold}] = run.id;
        if (index_.contains(run.id)) continue;
        if (folder(run.id).holds_report()) run.state = RunState::finished;
        index_[run.id] = runs_.size();
        runs_.push_back(run);
      }
    }
  }

  const Experiment* experiment_;
  std::filesystem::path data_, out_;
  std::string fingerprint_;
  std::vector<PlannedRun> runs_;
  std::map<std::string, std::size_t> index_;
  std::map<std::tuple<std::string, std::uint64_t, std::string>, std::string> run_of_arm_;
  std::map<std::string, Config> configs_;
  std::map<std::string, std::string> chosen_, obstacles_;
  std::map<std::string, blinkbert::Frame> frames_;
};

}  // namespace programs
