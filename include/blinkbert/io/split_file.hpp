#pragma once

// split.json: {"pretraining": {"training": [driver, ...], "validation": [...], "test": [...]}, "finetuning": {...}}

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/data/splits.hpp>
#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/jsonl.hpp>

namespace blinkbert {

inline nlohmann::ordered_json to_json(const DriverSets& sets) {
  return {{"training", sets.training}, {"validation", sets.validation}, {"test", sets.test}};
}

inline void write_split(const std::filesystem::path& path, const Split& split) {
  const nlohmann::ordered_json document{{"pretraining", to_json(split.pretraining)},
                                        {"finetuning", to_json(split.finetuning)}};
  write_file_atomically(path, document.dump(2) + "\n");
}

/// Throws InputError where the file is not of this form. Whether the drivers exist and do not overlap: check_split.
inline Split read_split(const std::filesystem::path& path) {
  const std::string where = path.string();
  const nlohmann::json document = parse_json(read_file(path), where);
  const auto read_set = [&](const nlohmann::json& stage, const std::string& stage_name, const std::string& name) {
    const auto fail = [&](const std::string& problem) {
      throw InputError(text(where, ": ", stage_name, ".", name, " ", problem, "; expected a list of driver names"));
    };
    if (!stage.contains(name)) fail("is missing");
    const nlohmann::json& list = stage.at(name);
    if (!list.is_array()) fail("is no list");
    std::vector<std::string> drivers;
    for (const nlohmann::json& driver : list) {
      if (!driver.is_string()) fail("holds something that is no name");
      drivers.push_back(driver.get<std::string>());
    }
    return drivers;
  };
  const auto read_stage = [&](const std::string& name) {
    if (!document.is_object() || !document.contains(name) || !document.at(name).is_object()) {
      throw InputError(
          text(where, ": \"", name, "\" is missing; expected {\"pretraining\": {...}, \"finetuning\": {...}}"));
    }
    const nlohmann::json& stage = document.at(name);
    return DriverSets{.training = read_set(stage, name, "training"),
                      .validation = read_set(stage, name, "validation"),
                      .test = read_set(stage, name, "test")};
  };
  return {.pretraining = read_stage("pretraining"), .finetuning = read_stage("finetuning")};
}

}  // namespace blinkbert
