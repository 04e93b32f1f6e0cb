#pragma once

// Checkpoints: one safetensors file with PyTorch's names and layouts, and everything that `score` needs in its metadata.
// Nothing in it depends on time, paths, hosts or threads.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/data/calibration.hpp>
#include <blinkbert/io/config_file.hpp>
#include <blinkbert/io/jsonl.hpp>
#include <blinkbert/io/safetensors.hpp>
#include <blinkbert/layers/parameters.hpp>
#include <blinkbert/model/config.hpp>
#include <blinkbert/version.hpp>

namespace blinkbert {

/// The version of the layout of checkpoints; older ones are read, newer ones refused.
inline constexpr int checkpoint_format = 1;

/// Configuration and fitted values that travel with the parameters.
struct CheckpointHeader {
  Config config;
  Scaler scaler;
  std::string data;                           // fingerprint of the training file
  std::vector<std::string> training_drivers;  // in that file: they must not test what is built on it
  std::vector<double> level_values = {};      // of a loss over levels, in KSS (objective/levels.hpp); else empty
};

inline std::map<std::string, std::string> to_metadata(const CheckpointHeader& header) {
  using Json = nlohmann::ordered_json;
  const Config& config = header.config;
  Json labels{{"range", config.labels.range}, {"edges", config.labels.edges}, {"bands", config.labels.bands}};
  if (!header.level_values.empty()) labels["level_values"] = header.level_values;
  return {
      {"format_version", text(checkpoint_format)},
      {"blinkbert_version", BLINKBERT_VERSION},
      {"task", spell(config.task)},
      {"config", to_json(config).dump()},
      {"features", Json(model_feature_names(config.data)).dump()},
      {"scaler",
       Json{{"center", header.scaler.center}, {"scale", header.scaler.scale}, {"tail_bound", header.scaler.tail_bound}}
           .dump()},
      {"calibration",
       Json{{"mode", spell(config.data.calibration)}, {"blinks", config.data.calibration_blinks}}.dump()},
      {"labels", labels.dump()},
      {"data", header.data},
      {"training_drivers", Json(header.training_drivers).dump()}};
}

/// Throws InputError where metadata is missing, contradicts itself or comes from a newer format.
inline CheckpointHeader read_header(const Safetensors& file) {
  const auto fail = [&](const auto&... parts) { throw InputError(text(file.path, ": ", parts...)); };
  const auto at = [&](const std::string& key) -> const std::string& {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) fail("metadata \"", key, "\" is missing; this is no checkpoint of blinkbert");
    return found->second;
  };
  const std::string& format = at("format_version");
  if (format.empty() || format.size() > 6 || format.find_first_not_of("0123456789") != format.npos) {
    fail("format_version \"", format, "\" is not a number");
  }
  if (std::stoi(format) > checkpoint_format) {
    fail("format_version ", format, " is newer than ", checkpoint_format, ", the newest that this version reads");
  }
  if (std::stoi(format) < 1) fail("format_version ", format, " does not exist");
  const std::string& task_name = at("task");
  Task task = Task::pretraining;
  if (task_name == spell(Task::finetuning)) {
    task = Task::finetuning;
  } else if (task_name != spell(Task::pretraining)) {
    fail("task \"", task_name, "\" must be \"pretraining\" or \"finetuning\"");
  }

  CheckpointHeader header;
  header.config = config_from_json(task, parse_json(at("config"), file.path), text(file.path, ": config"));
  resolve(header.config);
  try {
    validate(header.config);
  } catch (const InputError& error) {
    fail("config: ", error.what());
  }
  // A model is made before its tensors are looked up by name: a file must not ask for more memory than its size excuses.
  std::int64_t elements = 0;
  for (const auto& [name, tensor] : file.tensors)
    elements += static_cast<std::int64_t>(tensor.data.size() / element_size(tensor.dtype));
  if (encoder_matrix_elements(header.config.model) / 2 > elements) {
    fail("holds ", elements, " numbers, far fewer than the model that its configuration describes");
  }
  const auto parse = [&](const std::string& key) {
    return parse_json(at(key), text(file.path, ": metadata \"", key, "\""));
  };
  const nlohmann::json scaler = parse("scaler");
  try {
    header.scaler.center = scaler.at("center").get<std::vector<double>>();
    header.scaler.scale = scaler.at("scale").get<std::vector<double>>();
    header.scaler.tail_bound = scaler.at("tail_bound").get<double>();
  } catch (const nlohmann::json::exception&) {
    fail("metadata \"scaler\" must hold the lists center and scale and the number tail_bound");
  }
  const auto N = static_cast<std::size_t>(model_features(header.config.data));
  if (header.scaler.center.size() != N || header.scaler.scale.size() != N) {
    fail("the scaler has ", header.scaler.center.size(), " and ", header.scaler.scale.size(), " numbers, the model ", N,
         " features");
  }
  for (const double scale : header.scaler.scale) {
    if (!(scale > 0)) fail("the scaler has a scale of ", scale, "; it must be above 0");
  }
  if (!(header.scaler.tail_bound > 0)) fail("the scaler's tail_bound must be above 0");
  if (parse("features") != nlohmann::json(model_feature_names(header.config.data))) {
    fail("metadata \"features\" does not fit the configuration's data.features and data.calibration");
  }
  if (is_over_levels(header.config.train.loss)) {
    try {
      header.level_values = parse("labels").at("level_values").get<std::vector<double>>();
    } catch (const nlohmann::json::exception&) {
      fail("metadata \"labels\" must hold the list level_values: the loss is over levels");
    }
    const std::size_t levels = header.config.labels.edges.size() + 1;
    if (header.level_values.size() != levels)
      fail("metadata \"labels\" has ", header.level_values.size(), " level_values for ", levels, " levels");
  }
  header.data = at("data");
  try {
    header.training_drivers = parse("training_drivers").get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception&) {
    fail("metadata \"training_drivers\" must be a list of names");
  }
  return header;
}

/// Parameters and statistics by name, from flat blocks on the host.
template <class Set, class Number>
void add_tensors(std::map<std::string, Tensor>& tensors, const std::string& prefix,
                 const std::vector<typename Set::Entry>& entries, const std::vector<Number>& flat) {
  std::vector<float> values;
  for (const typename Set::Entry& entry : entries) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(entry.begin);
    values.clear();
    std::transform(begin, begin + static_cast<std::ptrdiff_t>(entry.count), std::back_inserter(values),
                   [](Number value) { return static_cast<float>(value); });
    tensors[prefix + entry.name] = Tensor::of<float>({entry.shape.begin(), entry.shape.end()}, values);
  }
}

/// The inverse: the named tensors of a file into a flat block on the host. Throws InputError on a missing tensor, another
/// shape, or a value that is not finite.
template <class Set, class Number>
void take_tensors(const Safetensors& file, const std::string& prefix, const std::vector<typename Set::Entry>& entries,
                  std::vector<Number>& flat) {
  for (const typename Set::Entry& entry : entries) {
    const std::span<const float> values =
        file.values<float>(prefix + entry.name, {entry.shape.begin(), entry.shape.end()});
    for (const float value : values) {
      if (!std::isfinite(value))
        throw InputError(text(file.path, ": tensor ", prefix, entry.name, " holds a value that is not finite"));
    }
    std::copy(values.begin(), values.end(), flat.begin() + static_cast<std::ptrdiff_t>(entry.begin));
  }
}

/// A flat block on the host.
template <class Device, class T>
std::vector<std::remove_const_t<T>> to_host(Device& device, View<T, 1> block) {
  std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(block.size()));
  download(device, values.data(), block);
  return values;
}

/// A checkpoint of parameters and statistics that lie on the host.
template <class Set, class Number>
Safetensors make_checkpoint(const Set& set, const std::vector<Number>& values, const std::vector<Number>& statistics,
                            const CheckpointHeader& header) {
  Safetensors file;
  add_tensors<Set>(file.tensors, "", set.entries(), values);
  add_tensors<Set>(file.tensors, "", set.statistic_entries(), statistics);
  file.metadata = to_metadata(header);
  return file;
}

/// What became of each tensor when a backbone was loaded.
struct LoadReport {
  std::vector<std::string> loaded, missing, unexpected, other_shape;
};

/// Loads every parameter and statistic. Throws InputError on a missing tensor, one of another shape or type, and on one
/// that the model does not have.
template <class Device>
void load_parameters(Device& device, ParameterSet<Device>& set, const Safetensors& file) {
  using Set = ParameterSet<Device>;
  auto values = to_host(device, set.values());
  auto statistics = to_host(device, set.statistics());
  take_tensors<Set>(file, "", set.entries(), values);
  take_tensors<Set>(file, "", set.statistic_entries(), statistics);
  if (file.tensors.size() != set.entries().size() + set.statistic_entries().size()) {
    for (const auto& [name, tensor] : file.tensors) {
      const auto has = [&](const auto& entries) {
        return std::any_of(entries.begin(), entries.end(), [&](const auto& entry) { return entry.name == name; });
      };
      if (!has(set.entries()) && !has(set.statistic_entries())) {
        throw InputError(text(file.path, ": tensor ", printable(name),
                              " does not belong to the model that the configuration describes"));
      }
    }
  }
  upload(device, set.values(), values.data());
  upload(device, set.statistics(), statistics.data());
  set.refresh_working(device);
}

/// Loads the parameters of the backbone and leaves the rest as it is. Tensors outside the backbone are `unexpected`;
/// the caller decides what a missing one means.
template <class Device>
LoadReport load_backbone(Device& device, ParameterSet<Device>& set, const Safetensors& file) {
  using Set = ParameterSet<Device>;
  LoadReport report;
  auto values = to_host(device, set.values());
  for (const auto& entry : set.entries()) {
    if (!entry.name.starts_with("backbone.")) continue;
    const auto found = file.tensors.find(entry.name);
    if (found == file.tensors.end()) {
      report.missing.push_back(entry.name);
    } else if (found->second.shape != std::vector<std::int64_t>(entry.shape.begin(), entry.shape.end())) {
      report.other_shape.push_back(entry.name);
    } else {
      take_tensors<Set>(file, "", {entry}, values);
      report.loaded.push_back(entry.name);
    }
  }
  for (const auto& [name, tensor] : file.tensors) {
    const bool is_known =
        std::any_of(set.entries().begin(), set.entries().end(), [&](const auto& entry) { return entry.name == name; });
    if (!is_known || !name.starts_with("backbone.")) report.unexpected.push_back(name);
  }
  upload(device, set.values(), values.data());
  set.refresh_working(device);
  return report;
}

}  // namespace blinkbert
