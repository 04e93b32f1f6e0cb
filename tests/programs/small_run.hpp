#pragma once

// Small runs of the programs: a file of simulated drivers, tiny models, folders that go away, and what two runs must
// have in common.

#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/data/simulated_drivers.hpp>

#include "program.hpp"
#include "tests/io/temporary_folder.hpp"

namespace blinkbert::test {

using Json = nlohmann::ordered_json;

/// Ten drivers, two recordings each.
inline const std::string& small_csv() {
  static const std::string csv = simulated_csv(simulate(
      {.drivers = 10, .seed = 3, .recordings = 2, .min_blinks = 40, .max_blinks = 60, .unlabelled_share = 0.2}));
  return csv;
}

/// Every optimizer step commits; both blocks of fine-tuning join inside the run.
inline const std::string small_config = R"([data]
window = 10
stride = 5
min_length = 4
calibration_blinks = 8
[model]
upscaling = "linear"
width = 8
blocks = 2
heads = 2
[head]
hidden = [4]
[train]
epochs = 3
batch = 8
accumulate = 1
warmup = 1
rate = 0.01
checkpoint_seconds = 0
unfreeze = [2, 3]
)";

/// A folder with the data and the configuration above.
struct SmallRun {
  TemporaryFolder folder;
  Path data = folder.put("blinks.csv", small_csv());
  Path config = folder.put("small.toml", small_config);

  Path path(const std::string& name) const { return folder / name; }
  Path checkpoint(const std::string& run, const std::string& name = "best") const {
    return path(run) / "checkpoints" / (name + ".safetensors");
  }

  /// The flags of a run into `out`; later ones are appended by the caller.
  Arguments flags(const std::string& out) const {
    return {"--data",  data.string(), "--config", config.string(), "--out", path(out).string(),
            "--quiet", "--threads",   "1"};
  }
};

/// Without every key "time", at any depth.
inline Json without_time(Json json) {
  if (json.is_object()) json.erase("time");
  if (json.is_structured()) {
    for (auto& element : json) element = without_time(std::move(element));
  }
  return json;
}

/// The whole lines of metrics.jsonl, times apart.
inline std::vector<Json> events_of(const Path& run) {
  std::vector<Json> events;
  std::istringstream lines(bytes_of(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) events.push_back(without_time(Json::parse(line)));
  return events;
}

/// Names and bytes of all files below a folder.
inline std::map<std::string, std::string> files_of(const Path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[entry.path().lexically_relative(folder).string()] = bytes_of(entry.path());
  }
  return files;
}

/// What differs between two finished runs that must be equal, times apart; "" where nothing does.
inline std::string difference(const Path& left, const Path& right) {
  auto a = files_of(left), b = files_of(right);
  std::set<std::string> names;
  for (const auto* files : {&a, &b}) {
    for (const auto& [name, bytes] : *files) names.insert(name);
  }
  std::string list;
  for (const std::string& name : names) {
    bool is_equal = a.contains(name) && b.contains(name) && a[name] == b[name];
    if (name == "metrics.jsonl") is_equal = events_of(left) == events_of(right);
    if (name == "report.json" && a.contains(name) && b.contains(name)) {
      is_equal = without_time(Json::parse(a[name])) == without_time(Json::parse(b[name]));
    }
    if (!is_equal) list += name + " ";
  }
  return list;
}

}  // namespace blinkbert::test
