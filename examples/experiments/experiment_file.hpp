#pragma once

// The file of an experiment: which arms are trained, with which seeds and folds, and what is compared. TOML:
//
//   title = "..."
//   data = "blinks.csv"            beside the file; --data wins
//   simulate = {drivers = 80, seed = 1}                 instead of data
//   seeds = [1, 2, 3]
//   folds = [1, 2]                 values of splits.column that are left out for testing in turn; absent: one split
//   split_seed = 1                 draws the drivers of all seeds; absent with splits.column: each seed draws its own
//                                  validation drivers; absent without: 1, so that all seeds have the same test drivers
//   [pretraining], [finetuning]    config = "file.toml", and keys of a configuration that win over it
//   [[arm]]
//   name, task = "pretraining" | "finetuning"
//   backbone = "arm"               fine-tuning starts from this pre-training arm (same seed, same fold); absent: scratch
//   like = "arm"                   from scratch, with the features, window and model of this pre-training arm
//   drivers = 0.5                  share of the stage's training drivers, drawn by the run's seed; smaller ones are subsets
//   better_of = ["arm", "arm"]     the configuration of the arm that leaves less of the validation drivers' variance
//   config, seeds, folds           instead of those above; and keys of a configuration
//   sample = 20, sample_seed = 1   random search: so many arms "name 1", "name 2", ...; a key may then be
//                                  {any_of = [...]} or {from = 0.0, to = 0.2, step = 0.01}
//   [[comparison]]
//   title, arms = [...], against = "arm" or one arm for each; what is sampled goes by the name of the whole arm
//   scores = ["kpi", "mae"]        those that get a figure; all stand in the table
//
// Keys of a configuration are written as in its files (model.width = 32, or [arm.model]); all of them work.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/core/random.hpp>
#include <blinkbert/data/simulated_drivers.hpp>
#include <blinkbert/io/config_file.hpp>
#include <blinkbert/objective/metrics.hpp>

namespace programs {

using blinkbert::InputError;
using blinkbert::Task;
using blinkbert::text;

/// A configuration file and "section.key=value" that win over it.
struct ConfigurationPart {
  std::optional<std::filesystem::path> config;
  std::vector<std::string> overrides;
};

struct ExperimentArm {
  std::string name;
  std::string where;  // "FILE:line: arm NAME", the beginning of messages
  Task task = Task::pretraining;
  std::string backbone, like;
  std::vector<std::string> better_of;
  double drivers = 1;
  ConfigurationPart part;
  std::vector<std::uint64_t> seeds;
  std::vector<std::string> folds;  // {""}: no folds
};

struct Comparison {
  std::string title;
  std::vector<std::string> arms, against;  // as long as each other, or `against` empty
  std::vector<std::string> scores;
};

struct Experiment {
  std::filesystem::path file;
  std::string title;
  std::optional<std::filesystem::path> data;
  std::optional<blinkbert::SimulationConfig> simulation;
  std::optional<std::uint64_t> split_seed;
  ConfigurationPart pretraining, finetuning;
  std::vector<ExperimentArm> arms;
  std::vector<Comparison> comparisons;

  const ExperimentArm* find(std::string_view name) const {
    const auto found = std::ranges::find(arms, name, &ExperimentArm::name);
    return found == arms.end() ? nullptr : &*found;
  }
};

namespace detail {

/// Reads tables of one file; every message begins with file and line.
class ExperimentReader {
 public:
  explicit ExperimentReader(const std::filesystem::path& path) { experiment_.file = path; }

  Experiment read() {
    const std::string file = experiment_.file.string();
    toml::table document;
    try {
      document = blinkbert::detail::parse_toml(blinkbert::read_file(file), file);
    } catch (const blinkbert::detail::NotToml& fault) {
      throw InputError(text(file, ':', fault.line, ':', fault.column, ": not TOML: ", fault.reason));
    }
    demand_known(document, {"title", "data", "simulate", "seeds", "folds", "split_seed", "pretraining", "finetuning",
                            "arm", "comparison"});
    experiment_.title = string(document, "title").value_or(experiment_.file.stem().string());
    if (const auto data = string(document, "data")) experiment_.data = beside(*data);
    if (const toml::node* node = document.get("simulate")) {
      const toml::table& table = table_at(*node, "simulate");
      demand_known(table, {"drivers", "seed"});
      experiment_.simulation.emplace();
      if (const auto drivers = integer(table, "drivers", 1, 100'000))
        experiment_.simulation->drivers = static_cast<int>(*drivers);
      if (const auto seed = integer(table, "seed", 0, most))
        experiment_.simulation->seed = static_cast<std::uint64_t>(*seed);
      if (experiment_.data) fail(*node, "simulate and data exclude each other");
    }
    seeds_ = seeds(document).value_or(std::vector<std::uint64_t>{1});
    folds_ = words(document, "folds").value_or(std::vector<std::string>{""});
    if (const auto seed = integer(document, "split_seed", 0, most))
      experiment_.split_seed = static_cast<std::uint64_t>(*seed);
    for (const auto& [name, part] :
         {std::pair{"pretraining", &experiment_.pretraining}, std::pair{"finetuning", &experiment_.finetuning}}) {
      const toml::node* node = document.get(name);
      if (node == nullptr) continue;
      const toml::table& table = table_at(*node, name);
      demand_known(table, {"config"}, Sections::allowed);
      *part = configuration(table);
    }
    for (const toml::table* table : tables(document, "arm")) read_arm(*table);
    if (experiment_.arms.empty()) throw InputError(text(file, ": no [[arm]]: nothing to train"));
    for (const ExperimentArm& arm : experiment_.arms) check(arm);
    for (const toml::table* table : tables(document, "comparison")) read_comparison(*table);
    return std::move(experiment_);
  }

 private:
  enum class Sections { none, allowed };
  static constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

  std::string place(const toml::node& node) const {
    return text(experiment_.file.string(), ':', node.source().begin.line);
  }
  [[noreturn]] void fail(const toml::node& node, const std::string& message) const {
    throw InputError(text(place(node), ": ", message));
  }

  void demand_known(const toml::table& table, const std::vector<std::string>& known,
                    Sections sections = Sections::none) const {
    for (const auto& [key, value] : table) {
      const std::string name(key.str());
      if (std::ranges::find(known, name) != known.end()) continue;
      if (sections == Sections::allowed && blinkbert::detail::is_section(name)) continue;
      throw InputError(text(experiment_.file.string(), ':', key.source().begin.line, ": unknown key ",
                            blinkbert::printable(name), "; nearest is ", blinkbert::nearest(name, known)));
    }
  }

  const toml::table& table_at(const toml::node& node, std::string_view name) const {
    if (!node.is_table()) fail(node, text(name, ": expected a table"));
    return *node.as_table();
  }
  std::vector<const toml::table*> tables(const toml::table& document, std::string_view name) const {
    std::vector<const toml::table*> all;
    const toml::node* node = document.get(name);
    if (node == nullptr) return all;
    if (!node->is_array()) fail(*node, text(name, ": expected [[", name, "]]"));
    for (const toml::node& one : *node->as_array()) all.push_back(&table_at(one, name));
    return all;
  }

  std::optional<std::string> string(const toml::table& table, std::string_view key) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_string()) fail(*node, text(key, ": expected a string"));
    return node->as_string()->get();
  }
  std::optional<std::int64_t> integer(const toml::table& table, std::string_view key, std::int64_t low,
                                      std::int64_t high) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_integer() || node->as_integer()->get() < low || node->as_integer()->get() > high)
      fail(*node,
           text(key, ": expected an integer from ", low, high == most ? std::string(" on") : text(" to ", high)));
    return node->as_integer()->get();
  }
  /// A list of strings or integers, or one of them, as strings.
  std::optional<std::vector<std::string>> words(const toml::table& table, std::string_view key) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return std::nullopt;
    std::vector<std::string> list;
    const auto add = [&](const toml::node& one) {
      if (one.is_string()) {
        list.push_back(one.as_string()->get());
      } else if (one.is_integer()) {
        list.push_back(std::to_string(one.as_integer()->get()));
      } else {
        fail(one, text(key, ": expected strings or integers"));
      }
    };
    if (node->is_array()) {
      for (const toml::node& one : *node->as_array()) add(one);
    } else {
      add(*node);
    }
    if (list.empty() || std::set(list.begin(), list.end()).size() != list.size())
      fail(*node, text(key, ": expected a list without repetitions"));
    return list;
  }
  std::optional<std::vector<std::uint64_t>> seeds(const toml::table& table) const {
    const toml::node* node = table.get("seeds");
    if (node == nullptr) return std::nullopt;
    std::vector<std::uint64_t> list;
    const toml::array* array = node->as_array();
    if (array != nullptr) {
      for (const toml::node& one : *array) {
        if (one.is_integer() && one.as_integer()->get() >= 0)
          list.push_back(static_cast<std::uint64_t>(one.as_integer()->get()));
      }
    }
    if (array == nullptr || list.empty() || list.size() != array->size() ||
        std::set(list.begin(), list.end()).size() != list.size())
      fail(*node, "seeds: expected a list of integers from 0 on, without repetitions");
    return list;
  }

  std::filesystem::path beside(const std::string& path) const { return experiment_.file.parent_path() / path; }

  /// What a key that is to be sampled may become; empty: the key is not sampled.
  std::vector<nlohmann::json> choices(const toml::node& node, const std::string& key) const {
    const toml::table* table = node.as_table();
    if (table == nullptr) return {};
    const blinkbert::detail::Place at{place(node), key};
    if (const toml::node* any_of = table->get("any_of")) {
      const nlohmann::json list = blinkbert::detail::json_of(*any_of, at);
      if (table->size() != 1 || !list.is_array() || list.empty())
        fail(node, text(key, ": expected {any_of = [a, b, ...]}"));
      return {list.begin(), list.end()};
    }
    const auto number_at = [&](std::string_view name) {
      const auto value = (*table)[name].value<double>();
      if (!value || table->size() != 3)
        fail(node, text(key, ": expected {any_of = [...]} or {from = , to = , step = }"));
      return *value;
    };
    const double from = number_at("from"), to = number_at("to"), step = number_at("step");
    if (!(step > 0) || !(to >= from) || (to - from) / step > 1e6)
      fail(node, text(key, ": expected from <= to and step > 0"));
    const bool is_whole = table->get("from")->is_integer() && table->get("step")->is_integer();
    std::vector<nlohmann::json> all;
    for (int i = 0; from + i * step <= to + 1e-9 * step; ++i) {
      // To nine digits: 3 steps of 0.01 are 0.03.
      if (is_whole) {
        all.emplace_back(static_cast<std::int64_t>(std::lround(from + i * step)));
      } else {
        all.emplace_back(std::stod(text(std::round((from + i * step) * 1e9) / 1e9)));
      }
    }
    return all;
  }

  /// File and overrides of a table; `draw`(count) chooses among what a key may become.
  template <class Draw>
  ConfigurationPart configuration(const toml::table& table, Draw draw) const {
    ConfigurationPart part;
    if (const auto config = string(table, "config")) part.config = beside(*config);
    for (const auto& [section, keys] : table) {
      if (!blinkbert::detail::is_section(section.str()) || !keys.is_table()) continue;
      for (const auto& [name, value] : *keys.as_table()) {
        const std::string key = text(section.str(), '.', name.str());
        const auto all = choices(value, key);
        const nlohmann::json json =
            all.empty() ? blinkbert::detail::json_of(value, {place(value), key}) : all[draw(key, value, all.size())];
        part.overrides.push_back(text(key, '=', json.dump()));
      }
    }
    return part;
  }
  ConfigurationPart configuration(const toml::table& table) const {
    return configuration(table, [&](const std::string& key, const toml::node& node, std::size_t) -> std::size_t {
      fail(node, text(key, ": a range of values needs sample = N in its arm"));
    });
  }

  void read_arm(const toml::table& table) {
    demand_known(table,
                 {"name", "task", "backbone", "like", "drivers", "better_of", "config", "seeds", "folds", "sample",
                  "sample_seed"},
                 Sections::allowed);
    ExperimentArm arm;
    const auto name = string(table, "name");
    if (!name || name->empty()) fail(table, "an arm needs a name");
    arm.name = *name;
    arm.where = text(place(table), ": arm \"", blinkbert::printable(arm.name), '"');
    if (experiment_.find(arm.name) != nullptr)
      fail(table, text("two arms are called ", blinkbert::printable(arm.name)));
    const std::string task = string(table, "task").value_or("");
    if (task != "pretraining" && task != "finetuning")
      fail(table, text("arm ", blinkbert::printable(arm.name), ": task: expected \"pretraining\" or \"finetuning\""));
    arm.task = task == "pretraining" ? Task::pretraining : Task::finetuning;
    arm.backbone = string(table, "backbone").value_or("");
    arm.like = string(table, "like").value_or("");
    arm.better_of = table.contains("better_of") ? *words(table, "better_of") : std::vector<std::string>{};
    if (const toml::node* node = table.get("drivers")) {
      const auto share = node->value<double>();
      if (!share || !(*share > 0) || !(*share <= 1)) fail(*node, "drivers: expected a share above 0 and at most 1");
      arm.drivers = *share;
    }
    arm.seeds = seeds(table).value_or(seeds_);
    arm.folds = words(table, "folds").value_or(folds_);
    const auto sample = integer(table, "sample", 1, 10'000);
    if (!sample) {
      arm.part = configuration(table);
      experiment_.arms.push_back(arm);
      return;
    }
    // Word 0 of {key's place in the table, trial}: a trial does not depend on how many there are.
    const auto seed = static_cast<std::uint64_t>(integer(table, "sample_seed", 0, most).value_or(1));
    const blinkbert::RandomStream stream{.seed = seed, .purpose = blinkbert::Purpose::split};
    for (std::int64_t trial = 1; trial <= *sample; ++trial) {
      std::uint32_t place_of_key = 0;
      ExperimentArm one = arm;
      one.name = text(arm.name, ' ', trial);
      one.where = text(place(table), ": arm \"", blinkbert::printable(one.name), '"');
      one.part = configuration(table, [&](const std::string&, const toml::node&, std::size_t count) {
        const std::uint64_t word = stream.word(place_of_key++, static_cast<std::uint32_t>(trial));
        return static_cast<std::size_t>(word * count >> 32);
      });
      samples_[arm.name].push_back(one.name);
      experiment_.arms.push_back(one);
    }
  }

  /// The arm called so, of a task; else an error that names what there is.
  const ExperimentArm& demand_arm(const std::string& name, const std::string& where, std::string_view key,
                                  std::optional<Task> task) const {
    const ExperimentArm* arm = experiment_.find(name);
    if (arm == nullptr) {
      std::vector<std::string> names;
      for (const ExperimentArm& one : experiment_.arms) names.push_back(one.name);
      throw InputError(text(where, ": ", key, ": unknown arm \"", blinkbert::printable(name), "\"; nearest is \"",
                            blinkbert::nearest(name, names), '"'));
    }
    if (task && arm->task != *task)
      throw InputError(text(where, ": ", key, ": the arm \"", blinkbert::printable(name), "\" is not for ",
                            blinkbert::spell(*task)));
    return *arm;
  }

  void check(const ExperimentArm& arm) const {
    const auto demand_covers = [&](const ExperimentArm& other, std::string_view key) {
      for (const std::uint64_t seed : arm.seeds) {
        if (std::ranges::find(other.seeds, seed) == other.seeds.end())
          throw InputError(text(arm.where, ": ", key, ": the arm \"", other.name, "\" has no seed ", seed));
      }
      for (const std::string& fold : arm.folds) {
        if (std::ranges::find(other.folds, fold) == other.folds.end())
          throw InputError(
              text(arm.where, ": ", key, ": the arm \"", other.name, "\" has no fold ", blinkbert::printable(fold)));
      }
    };
    const bool is_pretraining = arm.task == Task::pretraining;
    if (is_pretraining && !(arm.backbone.empty() && arm.like.empty()))
      throw InputError(text(arm.where, ": backbone and like belong to fine-tuning"));
    if (!arm.backbone.empty() && !arm.like.empty())
      throw InputError(text(arm.where, ": backbone and like exclude each other"));
    if (!is_pretraining && !arm.better_of.empty())
      throw InputError(text(arm.where, ": better_of belongs to pre-training"));
    if (!arm.backbone.empty())
      demand_covers(demand_arm(arm.backbone, arm.where, "backbone", Task::pretraining), "backbone");
    if (!arm.like.empty()) demand_arm(arm.like, arm.where, "like", Task::pretraining);
    for (const std::string& name : arm.better_of) {
      const ExperimentArm& other = demand_arm(name, arm.where, "better_of", Task::pretraining);
      if (!other.better_of.empty())
        throw InputError(text(arm.where, ": better_of: \"", other.name, "\" is such a choice itself"));
    }
  }

  void read_comparison(const toml::table& table) {
    demand_known(table, {"title", "arms", "against", "scores"});
    const std::string where = place(table);
    Comparison comparison;
    comparison.title = string(table, "title").value_or("Comparison");
    const auto arms = words(table, "arms");
    if (!arms) fail(table, "a comparison needs arms = [...]");
    // Lists may repeat the reference, so `against` is not read as `words`.
    std::vector<std::string> against;
    if (const toml::node* node = table.get("against")) {
      if (node->is_string()) {
        against.assign(arms->size(), node->as_string()->get());
      } else if (node->is_array()) {
        for (const toml::node& one : *node->as_array()) {
          if (!one.is_string()) fail(one, "against: expected an arm, or a list of them");
          against.push_back(one.as_string()->get());
        }
      }
      if (against.size() != arms->size())
        fail(*node, text("against: expected one arm, or one for each of the ", arms->size()));
    }
    for (std::size_t i = 0; i < arms->size(); ++i) {
      const auto sampled = samples_.find((*arms)[i]);
      const auto names = sampled == samples_.end() ? std::vector<std::string>{(*arms)[i]} : sampled->second;
      for (const std::string& name : names) {
        comparison.arms.push_back(name);
        if (!against.empty()) comparison.against.push_back(against[i]);
      }
    }
    const ExperimentArm& first = demand_arm(comparison.arms.front(), where, "arms", std::nullopt);
    for (const auto& [names, key] : {std::pair{&comparison.arms, "arms"}, std::pair{&comparison.against, "against"}}) {
      for (const std::string& name : *names) {
        if (demand_arm(name, where, key, first.task).folds != first.folds)
          throw InputError(text(where, ": ", key, ": \"", name, "\" has other folds than \"", first.name, '"'));
      }
    }
    comparison.scores = words(table, "scores").value_or(std::vector<std::string>{"kpi", "mae"});
    for (const std::string& score : comparison.scores) {
      std::vector<std::string> names;
      for (const auto& named : blinkbert::named_scores) names.emplace_back(named.name);
      if (std::ranges::find(names, score) == names.end())
        fail(table, text("scores: unknown score ", blinkbert::printable(score), "; nearest is ",
                         blinkbert::nearest(score, names)));
    }
    experiment_.comparisons.push_back(comparison);
  }

  Experiment experiment_;
  std::vector<std::uint64_t> seeds_;
  std::vector<std::string> folds_;
  std::map<std::string, std::vector<std::string>> samples_;  // arm with `sample` -> its trials
};

}  // namespace detail

/// Throws InputError with file and line.
inline Experiment read_experiment(const std::filesystem::path& path) { return detail::ExperimentReader(path).read(); }

}  // namespace programs
