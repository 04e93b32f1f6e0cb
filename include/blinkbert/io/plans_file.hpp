#pragma once

// plans.json: {"device": "<card and library>", "plans": {"<kind of product>": "<plan>", ...}}
//
// Which way is the fastest to multiply matrices is timed on a card (kernels/blinkbert/cuda/cublaslt.hpp), and another way gives
// other bits. So plans are kept: in the user's cache, one file for each card and version of the library, and those that a
// run uses in its folder, where a resumed run finds them again.

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/jsonl.hpp>

namespace blinkbert {

/// Plans as text, and the card and library that they were made with.
struct PlansFile {
  std::string device;
  std::map<std::string, std::string> plans;  // kind of product -> plan

  bool operator==(const PlansFile&) const = default;
};

inline void write_plans(const std::filesystem::path& path, const PlansFile& file) {
  const nlohmann::ordered_json document{{"device", file.device}, {"plans", file.plans}};
  write_file_atomically(path, document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

/// Throws InputError where the file is not of this form. Whether a plan can be used is for the library to say.
inline PlansFile read_plans(const std::filesystem::path& path) {
  const std::string where = path.string();
  const nlohmann::json document = parse_json(read_file(path), where);
  const auto holds = [&](const char* name, auto is_right) {
    return document.is_object() && document.contains(name) && is_right(document.at(name));
  };
  if (!holds("device", [](const auto& value) { return value.is_string(); }) ||
      !holds("plans", [](const auto& value) { return value.is_object(); })) {
    throw InputError(text(where, ": expected {\"device\": \"...\", \"plans\": {...}}"));
  }
  PlansFile file{.device = document.at("device").get<std::string>(), .plans = {}};
  for (const auto& [kind, plan] : document.at("plans").items()) {
    if (!plan.is_string()) throw InputError(text(where, ": the plan of \"", printable(kind), "\" is no text"));
    file.plans[kind] = plan.get<std::string>();
  }
  return file;
}

/// The user's file for this card and library: below $XDG_CACHE_HOME, or below ~/.cache; empty where neither is set.
inline std::filesystem::path plans_cache(std::string_view device) {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  std::filesystem::path folder = variable("XDG_CACHE_HOME");
  if (folder.empty() && !variable("HOME").empty()) folder = variable("HOME") / ".cache";
  if (folder.empty()) return {};
  std::string name = "plans";
  bool is_gap = true;
  for (const char character : device) {
    const bool is_plain = std::isalnum(static_cast<unsigned char>(character)) != 0;
    if (is_plain && is_gap) name += '-';
    if (is_plain) name += character;
    is_gap = !is_plain;
  }
  return folder / "blinkbert" / (name + ".json");
}

/// The plans to use on `device`: the cache's, and before them those of the run's own file, if it is there. Plans of another
/// card or library are left out; a cache that cannot be read counts as empty.
inline std::map<std::string, std::string> plans_to_use(std::string_view device, const std::filesystem::path& of_run,
                                                       const std::filesystem::path& cache) {
  std::map<std::string, std::string> plans;
  if (!of_run.empty() && std::filesystem::exists(of_run)) {
    PlansFile file = read_plans(of_run);
    if (file.device == device) plans = std::move(file.plans);
  }
  try {
    if (!cache.empty() && std::filesystem::exists(cache)) {
      PlansFile file = read_plans(cache);
      if (file.device == device) plans.merge(file.plans);
    }
  } catch (const InputError&) {  // a broken cache is made anew
  } catch (const std::filesystem::filesystem_error&) {
  }
  return plans;
}

/// Adds plans to the cache, over older ones of the same products. False where it cannot be written: a cache is no reason to
/// stop a run.
inline bool keep_plans(const std::filesystem::path& cache, const PlansFile& file) {
  if (cache.empty()) return false;
  try {
    std::filesystem::create_directories(cache.parent_path());
    PlansFile all = file;
    all.plans.merge(plans_to_use(file.device, {}, cache));
    write_plans(cache, all);
    return true;
  } catch (const RunError&) {
  } catch (const std::filesystem::filesystem_error&) {
  }
  return false;
}

}  // namespace blinkbert
