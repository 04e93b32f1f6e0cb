#pragma once

// Splits: which drivers train, validate and test each of the two stages.
//
// No driver that validates or tests either stage is in a training set of either stage, ever. The two training sets
// share no driver unless `splits.shared_training` says so.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/core/random.hpp>
#include <blinkbert/data/frame.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// The drivers of one stage, by name, in file order.
struct DriverSets {
  std::vector<std::string> training, validation, test;

  bool is_empty() const { return training.empty() && validation.empty() && test.empty(); }
};

/// What `split.json` holds.
struct Split {
  DriverSets pretraining, finetuning;
};

namespace detail {

/// Drivers of a stage by index, before they are named.
struct IndexSets {
  std::vector<int> training, validation, test;
};

inline void append(std::vector<int>& to, const std::vector<int>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/// At least one, at most `most`.
inline int rounded_count(double share, int count, int most) {
  return std::max(std::min(static_cast<int>(std::lround(share * count)), most), 1);
}

/// Cuts drivers into validation (first), test and training. A set with a share above 0 gets round(share * count)
/// drivers, but at least one; training gets the rest, for which the larger of the others gives way, down to one.
inline IndexSets cut_by_fractions(const std::vector<int>& drivers, const std::vector<double>& fractions) {
  const int count = static_cast<int>(drivers.size());
  int validation = fractions[1] > 0 ? rounded_count(fractions[1], count, count) : 0;
  int test = fractions[2] > 0 ? rounded_count(fractions[2], count, count) : 0;
  while (validation + test >= count && std::max(validation, test) > 1) --(validation > test ? validation : test);
  validation = std::min(validation, count);
  test = std::min(test, count - validation);
  const auto first = drivers.begin();
  return {.training = {first + validation + test, drivers.end()},
          .validation = {first, first + validation},
          .test = {first + validation, first + validation + test}};
}

inline std::string join(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + printable(name);
  return list;
}

/// Drivers with at least one recording that fine-tuning may use.
inline std::vector<char> drivers_with_usable_label(const Frame& frame) {
  std::vector<char> usable(frame.drivers.size(), 0);
  for (const Recording& recording : frame.recordings) {
    if (recording.has_usable_label()) usable[static_cast<std::size_t>(recording.driver)] = 1;
  }
  return usable;
}

/// Drivers with at least one row.
inline std::vector<char> drivers_with_rows(const Frame& frame) {
  std::vector<char> present(frame.drivers.size(), 0);
  for (const Recording& recording : frame.recordings) {
    if (recording.rows > 0) present[static_cast<std::size_t>(recording.driver)] = 1;
  }
  return present;
}

}  // namespace detail

/// Throws InputError where `split` cannot be used with `frame`, naming set and drivers: a driver that the frame lacks
/// or that is listed twice; a driver that trains one stage and validates or tests one (or validates one and tests the
/// other, which would choose a model on test drivers); a driver in both training sets without `splits.shared_training`;
/// a stage that has drivers but lacks training drivers, or validation or test drivers although their fraction is above
/// 0; a fine-tuning set without any usable label (a labelled recording of high quality). A stage without any driver is
/// fine here: its program asks `check_stage`.
inline void check_split(const Split& split, const Frame& frame, const SplitsConfig& config) {
  BLINKBERT_EXPECTS(config.fractions.size() == 3);
  struct NamedSet {
    std::string_view name;
    const std::vector<std::string>& drivers;
  };
  const std::array<NamedSet, 6> sets{{{"pretraining.training", split.pretraining.training},
                                      {"pretraining.validation", split.pretraining.validation},
                                      {"pretraining.test", split.pretraining.test},
                                      {"finetuning.training", split.finetuning.training},
                                      {"finetuning.validation", split.finetuning.validation},
                                      {"finetuning.test", split.finetuning.test}}};
  std::map<std::string_view, std::size_t> index;
  for (std::size_t d = 0; d < frame.drivers.size(); ++d) index[frame.drivers[d]] = d;

  for (const auto& [name, drivers] : sets) {
    std::vector<std::string> unknown, repeated;
    std::set<std::string_view> seen;
    for (const std::string& driver : drivers) {
      if (!index.contains(driver)) unknown.push_back(driver);
      if (!seen.insert(driver).second) repeated.push_back(driver);
    }
    if (!unknown.empty()) {
      throw InputError(text("split: ", name, " names drivers that ", frame.path, " lacks: ", detail::join(unknown)));
    }
    if (!repeated.empty()) {
      throw InputError(text("split: ", name, " lists drivers twice: ", detail::join(repeated)));
    }
  }

  for (std::size_t a = 0; a < sets.size(); ++a) {
    for (std::size_t b = a + 1; b < sets.size(); ++b) {
      const bool is_same_role_of_both_stages = b == a + 3;
      if (is_same_role_of_both_stages && (a != 0 || config.shared_training)) continue;
      const std::set<std::string_view> first(sets[a].drivers.begin(), sets[a].drivers.end());
      std::vector<std::string> shared;
      for (const std::string& driver : sets[b].drivers) {
        if (first.contains(driver)) shared.push_back(driver);
      }
      if (!shared.empty()) {
        throw InputError(text("split: ", sets[a].name, " and ", sets[b].name,
                              is_same_role_of_both_stages
                                  ? " may not share drivers unless splits.shared_training = true: "
                                  : " may not share drivers: ",
                              detail::join(shared)));
      }
    }
  }

  const std::vector<char> usable = detail::drivers_with_usable_label(frame);
  for (const std::size_t stage : {std::size_t{0}, std::size_t{3}}) {
    const std::size_t count =
        sets[stage].drivers.size() + sets[stage + 1].drivers.size() + sets[stage + 2].drivers.size();
    if (count == 0) continue;
    for (std::size_t role = 0; role < 3; ++role) {
      const auto& [name, drivers] = sets[stage + role];
      const bool is_wanted = role == 0 || config.fractions[role] > 0;
      if (drivers.empty() && is_wanted) {
        throw InputError(text("split leaves no drivers for ", name, ": the stage has ", count,
                              ", expected at least one in each set; give more drivers, or other splits.fractions, ",
                              "splits.pretraining_share (0 or 1 leaves one stage without drivers) or splits.column"));
      }
      const bool is_any_usable = std::any_of(drivers.begin(), drivers.end(),
                                             [&](const std::string& driver) { return usable[index.at(driver)] != 0; });
      if (stage == 3 && !drivers.empty() && !is_any_usable) {
        throw InputError(text("split: ", name,
                              " has no labelled recording of high quality, its drivers are: ", detail::join(drivers)));
      }
    }
  }
}

/// Throws InputError unless the stage can be trained and watched: it has training and, where anything is monitored, validation
/// drivers.
inline void check_stage(const DriverSets& sets, Task task, Monitor monitor) {
  const auto demand = [&](const std::vector<std::string>& drivers, std::string_view set) {
    if (drivers.empty()) {
      throw InputError(text("split leaves no ", set, " drivers for ", spell(task), ": have ", sets.training.size(),
                            " training, ", sets.validation.size(), " validation and ", sets.test.size(),
                            " test drivers, expected at least one for training and one for validation"));
    }
  };
  demand(sets.training, "training");
  if (monitor != Monitor::none) demand(sets.validation, "validation");
}

/// Draws or looks up the drivers of both stages; the result is checked.
///
/// A usable label is a labelled recording of high quality; below, "labelled" drivers have one and "others" have none.
/// Drivers are drawn in ascending order of (word of {index = driver's place in the file, sequence 0}, place), purpose
/// `split`; drivers without rows are left out. Let [t, v, e] = splits.fractions.
///
/// - By seed, disjoint training sets: round(pretraining_share * labelled) labelled drivers and all others are
///   pre-training's, the rest fine-tuning's. With a share strictly between 0 and 1 that count is moved, where possible,
///   so that each stage has a driver for each of its sets. Each stage is then cut by the fractions (`v`, `e` rounded,
///   at least one each; the rest trains; 6 drivers give 1 + 1 + 1 twice).
/// - By seed, shared training sets: the labelled drivers are cut once, for both stages; the others train in
///   pre-training.
/// - By column: drivers with a value in splits.test test both stages, those with a value in splits.validation validate
///   both; without such values round(v / (t + v) * count) labelled drivers, at least one where v > 0, are drawn. Of those left, all
///   labelled ones train both stages where training sets are shared; else pretraining_share divides them. The others
///   left train in pre-training. Fine-tuning's lists name labelled drivers only.
///
/// Where no driver is labelled, the others are cut in their place, for pre-training alone.
inline Split make_split(const Frame& frame, const SplitsConfig& config, std::uint64_t seed) {
  BLINKBERT_EXPECTS(config.fractions.size() == 3);
  BLINKBERT_EXPECTS(config.column.empty() || frame.driver_groups.size() == frame.drivers.size());
  if (!(config.fractions[0] > 0)) {
    throw InputError(
        text("splits.fractions begins with ", config.fractions[0], ": the training share must be above 0"));
  }

  const RandomStream stream{.seed = seed, .purpose = Purpose::split};
  std::vector<std::pair<std::uint32_t, int>> order;
  const std::vector<char> present = detail::drivers_with_rows(frame);
  for (int d = 0; d < static_cast<int>(frame.drivers.size()); ++d) {
    if (present[static_cast<std::size_t>(d)] != 0) order.emplace_back(stream.word(static_cast<std::uint32_t>(d), 0), d);
  }
  std::sort(order.begin(), order.end());

  detail::IndexSets pretraining, finetuning;
  const std::vector<char> usable = detail::drivers_with_usable_label(frame);
  std::vector<int> labelled, others;  // drawn from, in the order of their words
  const auto sort_in = [&](int driver) {
    (usable[static_cast<std::size_t>(driver)] != 0 ? labelled : others).push_back(driver);
  };
  const auto keep_labelled = [&](const std::vector<int>& drivers) {
    std::vector<int> kept;
    std::copy_if(drivers.begin(), drivers.end(), std::back_inserter(kept),
                 [&](int driver) { return usable[static_cast<std::size_t>(driver)] != 0; });
    return kept;
  };
  // How many labelled drivers pre-training gets when each stage needs so many drivers.
  const auto share_of_pretraining = [&](int need) {
    const int count = static_cast<int>(labelled.size());
    const int wanted = static_cast<int>(std::lround(config.pretraining_share * count));
    if (config.pretraining_share <= 0 || config.pretraining_share >= 1) return wanted;
    const int least = std::max(0, need - static_cast<int>(others.size()));
    const int most = count - need;
    return least <= most ? std::clamp(wanted, least, most) : wanted;
  };

  if (config.column.empty()) {
    for (const auto& [word, driver] : order) sort_in(driver);
    if (labelled.empty()) {
      pretraining = detail::cut_by_fractions(others, config.fractions);
    } else if (config.shared_training) {
      finetuning = detail::cut_by_fractions(labelled, config.fractions);
      pretraining = finetuning;
      detail::append(pretraining.training, others);
    } else {
      const int need = 1 + (config.fractions[1] > 0 ? 1 : 0) + (config.fractions[2] > 0 ? 1 : 0);
      const auto middle = labelled.begin() + share_of_pretraining(need);
      std::vector<int> first(labelled.begin(), middle);
      detail::append(first, others);
      // Again by word, so that an unlabelled driver is as likely to validate as any other.
      std::vector<int> place(frame.drivers.size());
      for (std::size_t i = 0; i < order.size(); ++i)
        place[static_cast<std::size_t>(order[i].second)] = static_cast<int>(i);
      std::sort(first.begin(), first.end(),
                [&](int a, int b) { return place[static_cast<std::size_t>(a)] < place[static_cast<std::size_t>(b)]; });
      pretraining = detail::cut_by_fractions(first, config.fractions);
      finetuning = detail::cut_by_fractions({middle, labelled.end()}, config.fractions);
    }
  } else {
    const std::set<std::string> known(frame.driver_groups.begin(), frame.driver_groups.end());
    const auto demand_known = [&](const std::vector<std::string>& values, std::string_view key) {
      for (const std::string& value : values) {
        if (!known.contains(value)) {
          throw InputError(text(key, " names ", detail::shown(value), ", expected values of the column ", config.column,
                                ": ", detail::join({known.begin(), known.end()})));
        }
      }
    };
    demand_known(config.test, "splits.test");
    demand_known(config.validation, "splits.validation");
    const auto lists = [](const std::vector<std::string>& values, const std::string& value) {
      return std::find(values.begin(), values.end(), value) != values.end();
    };
    for (const std::string& value : config.validation) {
      if (lists(config.test, value)) {
        throw InputError(text("splits.validation names ", detail::shown(value),
                              ", which is in splits.test too: expected values without overlap"));
      }
    }

    for (const auto& [word, driver] : order) {
      const std::string& group = frame.driver_groups[static_cast<std::size_t>(driver)];
      if (lists(config.test, group)) {
        pretraining.test.push_back(driver);
      } else if (lists(config.validation, group)) {
        pretraining.validation.push_back(driver);
      } else {
        sort_in(driver);
      }
    }
    if (config.validation.empty()) {
      std::vector<int>& drawn_from = labelled.empty() ? others : labelled;
      const double share = config.fractions[1] / (config.fractions[0] + config.fractions[1]);
      const int count = static_cast<int>(drawn_from.size());
      const int drawn = share > 0 ? std::min(count, detail::rounded_count(share, count, count - 1)) : 0;
      const auto end = drawn_from.begin() + drawn;
      pretraining.validation.assign(drawn_from.begin(), end);
      drawn_from.erase(drawn_from.begin(), end);
    }
    finetuning.validation = keep_labelled(pretraining.validation);
    finetuning.test = keep_labelled(pretraining.test);
    if (config.shared_training) {
      pretraining.training = labelled;
      finetuning.training = labelled;
    } else {
      const auto middle = labelled.begin() + share_of_pretraining(1);
      pretraining.training.assign(labelled.begin(), middle);
      finetuning.training.assign(middle, labelled.end());
      // A share of 0 or 1 leaves a stage without training drivers: then nobody validates or tests it either.
      if (config.pretraining_share >= 1) finetuning = {};
    }
    detail::append(pretraining.training, others);
    if (pretraining.training.empty() && config.pretraining_share <= 0) pretraining = {};
  }

  const auto names = [&](std::vector<int> drivers) {
    std::sort(drivers.begin(), drivers.end());
    std::vector<std::string> list;
    for (const int driver : drivers) list.push_back(frame.drivers[static_cast<std::size_t>(driver)]);
    return list;
  };
  const auto named = [&](const detail::IndexSets& sets) {
    return DriverSets{.training = names(sets.training), .validation = names(sets.validation), .test = names(sets.test)};
  };
  Split split{.pretraining = named(pretraining), .finetuning = named(finetuning)};
  check_split(split, frame, config);
  return split;
}

}  // namespace blinkbert
