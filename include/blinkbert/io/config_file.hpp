#pragma once

// Configurations as TOML (files, --set, --print-config) and as JSON (inside checkpoints), by way of the one list of
// keys in model/config.hpp. Reading is strict: an unknown key, another type or a number out of range is an InputError.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <toml++/toml.h>
#include <nlohmann/json.hpp>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/model/config.hpp>

namespace blinkbert {

/// A configuration and the keys that a file or an override set, also where to the default.
struct ConfigSource {
  Config config;
  std::set<std::string> explicit_keys;
};

/// The candidate with the smallest edit distance (insertions, deletions, substitutions) to `word`; the first of equals.
/// Expects at least one candidate.
inline std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  BLINKBERT_EXPECTS(!candidates.empty());
  const auto distance = [&](std::string_view other) {
    // row[j] = distance between the first i characters of `word` and the first j of `other`.
    std::vector<std::size_t> row(other.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i);
      for (std::size_t j = 1; j <= other.size(); ++j) {
        const std::size_t substituted = diagonal + (word[i - 1] == other[j - 1] ? 0 : 1);
        diagonal = std::exchange(row[j], std::min({substituted, row[j] + 1, row[j - 1] + 1}));
      }
    }
    return row.back();
  };
  std::size_t best = 0, best_distance = distance(candidates[0]);
  for (std::size_t i = 1; i < candidates.size(); ++i) {
    const std::size_t d = distance(candidates[i]);
    if (d < best_distance) best = i, best_distance = d;
  }
  return candidates[best];
}

namespace detail {

template <class T>
concept Spelled = std::is_enum_v<T> && requires {
  Spelling<T>::names;
};

/// A number in its shortest decimal form that reads back to the same bits.
template <class Number>
std::string shortest(Number number) {
  std::array<char, 32> characters{};
  const auto result = std::to_chars(characters.data(), characters.data() + characters.size(), number);
  return {characters.data(), result.ptr};
}

// ---- printing -----------------------------------------------------------------------------------------------------

inline std::string toml_text(bool value) { return value ? "true" : "false"; }

template <std::integral Integer>
std::string toml_text(Integer value) {
  // TOML integers end at 2^63 - 1; a seed beyond is written, and read, as a string.
  const bool fits = std::in_range<std::int64_t>(value);
  return fits ? shortest(value) : '"' + shortest(value) + '"';
}

inline std::string toml_text(double value) {
  std::string number = shortest(value);
  if (number.find_first_not_of("-0123456789") == std::string::npos) number += ".0";
  return number;
}

inline std::string toml_text(const std::string& value) {
  std::string quoted = "\"";
  for (const char character : value) {
    const auto byte = static_cast<unsigned char>(character);
    if (character == '"' || character == '\\') {
      quoted += {'\\', character};
    } else if (byte < 0x20 || byte == 0x7f) {
      constexpr std::string_view digits = "0123456789ABCDEF";
      quoted += {'\\', 'u', '0', '0', digits[byte / 16], digits[byte % 16]};
    } else {
      quoted += character;
    }
  }
  return quoted + '"';
}

template <Spelled Enum>
std::string toml_text(Enum value) {
  return toml_text(spell(value));
}

template <class T>
std::string toml_text(const std::vector<T>& values) {
  std::string list = "[";
  for (const T& value : values) {
    if (list.size() > 1) list += ", ";
    list += toml_text(value);
  }
  return list + "]";
}

template <class Field>
nlohmann::ordered_json json_value(const Field& field) {
  if constexpr (Spelled<Field>) {
    return spell(field);
  } else {
    return field;
  }
}

// ---- reading ------------------------------------------------------------------------------------------------------

/// What a field takes, for messages.
template <class Field>
std::string expectation() {
  constexpr bool is_integer = std::same_as<Field, int> || std::same_as<Field, std::uint64_t>;
  if constexpr (std::same_as<Field, bool>) {
    return "true or false";
  } else if constexpr (is_integer) {
    return text("an integer from ", std::numeric_limits<Field>::min(), " to ", std::numeric_limits<Field>::max());
  } else if constexpr (std::same_as<Field, double>) {
    return "a finite number";
  } else if constexpr (std::same_as<Field, std::string>) {
    return "a string";
  } else if constexpr (Spelled<Field>) {
    std::string words;
    for (const std::string_view name : Spelling<Field>::names) words += text(words.empty() ? "" : ", ", '"', name, '"');
    return "one of " + words;
  } else if constexpr (std::same_as<Field, std::vector<int>>) {
    return "a list of integers";
  } else if constexpr (std::same_as<Field, std::vector<double>>) {
    return "a list of numbers";
  } else {
    static_assert(std::same_as<Field, std::vector<std::string>>);
    return "a list of strings";
  }
}

inline std::string description(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::string:
      return text("the string \"", printable(value.get_ref<const std::string&>()), '"');
    case nlohmann::json::value_t::array:
      return "a list";
    case nlohmann::json::value_t::object:
      return "a table";
    case nlohmann::json::value_t::number_float:
      return toml_text(value.get<double>());
    default:
      return value.dump();
  }
}

/// Where a value stands ("FILE:line:column") and which key it is for.
struct Place {
  std::string where;
  std::string key;

  [[noreturn]] void fail(const nlohmann::json& found, const std::string& expected) const {
    throw InputError(text(where, ": ", key, ": found ", description(found), ", expected ", expected));
  }
};

/// Gives `value` to `field`, or throws InputError.
template <class Field>
void assign(Field& field, const nlohmann::json& value, const Place& place) {
  const auto fail = [&] { place.fail(value, expectation<Field>()); };
  if constexpr (std::same_as<Field, bool>) {
    if (!value.is_boolean()) fail();
    field = value.get<bool>();
  } else if constexpr (std::same_as<Field, int> || std::same_as<Field, std::uint64_t>) {
    if (std::same_as<Field, std::uint64_t> && value.is_string()) {
      const auto& digits = value.get_ref<const std::string&>();
      const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), field);
      if (result.ec != std::errc{} || result.ptr != digits.data() + digits.size()) fail();
      return;
    }
    if (!value.is_number_integer()) fail();
    const bool fits = value.is_number_unsigned() ? std::in_range<Field>(value.get<std::uint64_t>())
                                                 : std::in_range<Field>(value.get<std::int64_t>());
    if (!fits) fail();
    field = value.get<Field>();
  } else if constexpr (std::same_as<Field, double>) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) fail();
    field = value.get<double>();
  } else if constexpr (std::same_as<Field, std::string>) {
    if (!value.is_string()) fail();
    field = value.get<std::string>();
  } else if constexpr (Spelled<Field>) {
    if (!value.is_string()) fail();
    for (std::size_t i = 0; i < Spelling<Field>::names.size(); ++i) {
      if (value.get_ref<const std::string&>() != Spelling<Field>::names[i]) continue;
      field = static_cast<Field>(i);
      return;
    }
    fail();
  } else {
    if (!value.is_array()) fail();
    Field elements(value.size());
    for (std::size_t i = 0; i < elements.size(); ++i) {
      assign(elements[i], value[i], {place.where, text(place.key, '[', i, ']')});
    }
    field = std::move(elements);
  }
}

inline const std::vector<std::string>& config_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> names;
    Config config;
    for_each_key(config, [&](std::string_view key, const auto&) { names.emplace_back(key); });
    return names;
  }();
  return keys;
}

inline std::string_view section_of(std::string_view key) { return key.substr(0, key.find('.')); }
inline std::string_view name_of(std::string_view key) { return key.substr(key.find('.') + 1); }

inline bool is_section(std::string_view word) {
  return std::ranges::any_of(config_keys(), [&](std::string_view key) { return section_of(key) == word; });
}

[[noreturn]] inline void fail_unknown_key(const std::string& where, const std::string& key) {
  // The right name in the wrong section, or without one, is nearer than any spelling.
  std::vector<std::string> same_name;
  for (const std::string& known : config_keys()) {
    if (name_of(known) == name_of(key)) same_name.push_back(known);
  }
  throw InputError(text(where, ": unknown key ", printable(key), "; nearest is ",
                        nearest(key, same_name.empty() ? config_keys() : same_name)));
}

[[noreturn]] inline void fail_unknown_section(const std::string& where, std::string_view section) {
  std::vector<std::string> sections;
  for (const std::string& key : config_keys()) {
    if (sections.empty() || sections.back() != section_of(key)) sections.emplace_back(section_of(key));
  }
  throw InputError(text(where, ": unknown section ", printable(section), "; nearest is ", nearest(section, sections)));
}

/// Gives `value` to the field called `place.key`, which must exist.
inline void set_key(Config& config, nlohmann::json value, const Place& place) {
  // A column of folds holds numbers, which lists like splits.test = [1] may name as such.
  if ((place.key == "splits.test" || place.key == "splits.validation") && value.is_array()) {
    for (auto& element : value) {
      if (element.is_number_integer()) {
        element = element.dump();
      } else if (element.is_number_float() && std::isfinite(element.get<double>())) {
        const double number = element.get<double>();
        const bool is_whole = number == std::trunc(number) && std::abs(number) < 1e15;
        element = is_whole ? shortest(static_cast<std::int64_t>(number)) : shortest(number);
      }
    }
  }
  for_each_key(config, [&](std::string_view key, auto& field) {
    if (key == place.key) assign(field, value, place);
  });
}

inline std::string position(std::string_view file, const toml::source_region& source) {
  return text(file, ':', source.begin.line, ':', source.begin.column);
}

inline nlohmann::json json_of(const toml::node& node, const Place& place) {
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_boolean()) return value->get();
  if (node.is_table()) return nlohmann::json::object();  // no field takes one: what it holds does not matter
  if (const auto* list = node.as_array()) {
    auto values = nlohmann::json::array();
    for (const toml::node& element : *list) values.push_back(json_of(element, place));
    return values;
  }
  throw InputError(text(place.where, ": ", place.key, ": found a date or time; no key takes one"));
}

/// What is wrong with a document, and where, counted from 1. Thrown and caught in this file.
struct NotToml {
  std::size_t line, column;
  std::string reason;
};

/// The place behind the string whose opening quote stands at `begin`; npos if it does not end.
inline std::size_t end_of_string(std::string_view document, std::size_t begin) {
  const char quote = document[begin];
  const std::string_view triple = quote == '"' ? "\"\"\"" : "'''";
  const bool has_lines = document.substr(begin).starts_with(triple);
  for (std::size_t i = begin + (has_lines ? 3 : 1); i < document.size(); ++i) {
    if (document[i] == '\\' && quote == '"') {
      ++i;
    } else if (!has_lines && document[i] == '\n') {
      break;
    } else if (!has_lines && document[i] == quote) {
      return i + 1;
    } else if (has_lines && document.substr(i).starts_with(triple)) {
      // One or two quotes before the closing three belong to the text.
      return std::min({document.find_first_not_of(quote, i), i + 5, document.size()});
    }
  }
  return std::string_view::npos;
}

/// Refuses what the TOML library (3.3) does not survive: a closing brace in a list ("[1, }") and a table header without
/// a name ("[" and the end of the line) fail its assertions, and the tables that a dotted key opens ("a.a.a. ... = 1")
/// are taken apart recursively. So brackets are matched here, and dots are counted. Throws NotToml.
inline void check_brackets(std::string_view document) {
  constexpr std::size_t most_dots = 4096;
  constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
  std::string open;  // the brackets that are open, the innermost last
  std::size_t dots = 0, line = 1, line_begin = 0;
  const auto fail = [&](std::size_t at, std::string reason) {
    throw NotToml{.line = line, .column = at - line_begin + 1, .reason = std::move(reason)};
  };
  bool is_first = true;  // in its line
  for (std::size_t i = document.starts_with(byte_order_mark) ? byte_order_mark.size() : 0; i < document.size(); ++i) {
    const char character = document[i];
    if (character == ' ' || character == '\t') continue;
    const bool begins_header = character == '[' && is_first && open.empty();
    is_first = character == '\n';
    switch (character) {
      case '\n':
        ++line;
        line_begin = i + 1;
        break;
      case '#':
        i = std::min(document.find('\n', i), document.size()) - 1;
        break;
      case '"':
      case '\'': {
        const std::size_t end = end_of_string(document, i);
        if (end == std::string_view::npos) return;  // the library reports it with its place
        const std::string_view string = document.substr(i, end - i);
        if (const std::size_t last = string.rfind('\n'); last != std::string_view::npos) {
          line += static_cast<std::size_t>(std::ranges::count(string, '\n'));
          line_begin = i + last + 1;
        }
        i = end - 1;
        break;
      }
      case '.':
        if (++dots > most_dots) fail(i, "more than 4096 dots, which no configuration has");
        break;
      case '[':
      case '{': {
        open += character;
        if (!begins_header) break;
        const std::size_t name = document.find_first_not_of(" \t", i + (document.substr(i).starts_with("[[") ? 2 : 1));
        const auto is_in_name = [](char c) {
          return std::string_view("_-\"'").find(c) != std::string_view::npos || (c >= '0' && c <= '9') ||
                 (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        };
        if (name == std::string_view::npos || !is_in_name(document[name])) {
          fail(i, "found '[' without a name, expected [section]");
        }
        break;
      }
      case ']':
      case '}':
        if (open.empty() || open.back() != (character == ']' ? '[' : '{')) {
          fail(i, text("found '", character, "', which closes no '", character == ']' ? '[' : '{', '\''));
        }
        open.pop_back();
        break;
      default:
        break;
    }
  }
}

/// `toml::parse` for text from anywhere. Throws NotToml.
inline toml::table parse_toml(std::string_view document, std::string_view file) {
  constexpr std::size_t longest = std::size_t{1} << 20;
  if (document.size() > longest) {
    throw NotToml{.line = 1, .column = 1, .reason = "more than 1 MiB, which no configuration has"};
  }
  check_brackets(document);
  try {
    return toml::parse(document, file);
  } catch (const toml::parse_error& error) {
    const toml::source_position& at = error.source().begin;
    throw NotToml{.line = at.line, .column = at.column, .reason = printable(error.description())};
  }
}

inline void read_toml(ConfigSource& source, const std::filesystem::path& path) {
  const std::string file = path.string();
  toml::table document;
  try {
    document = parse_toml(read_file(path), file);
  } catch (const NotToml& fault) {
    throw InputError(text(file, ':', fault.line, ':', fault.column, ": not TOML: ", fault.reason));
  }
  for (const auto& [section, content] : document) {
    const std::string line = text(file, ':', section.source().begin.line);
    if (!is_section(section.str())) {
      if (content.is_table()) fail_unknown_section(line, section.str());
      fail_unknown_key(line, std::string(section.str()));
    }
    const toml::table* keys = content.as_table();
    const Place place{position(file, content.source()), std::string(section.str())};
    if (keys == nullptr) place.fail(json_of(content, place), text("a section [", section.str(), "]"));
    for (const auto& [name, value] : *keys) {
      const std::string key = text(section.str(), '.', name.str());
      if (std::ranges::find(config_keys(), key) == config_keys().end()) {
        fail_unknown_key(text(file, ':', name.source().begin.line), key);
      }
      const Place field{position(file, value.source()), key};
      set_key(source.config, json_of(value, field), field);
      source.explicit_keys.insert(key);
    }
  }
}

inline std::string_view trimmed(std::string_view word) {
  const std::size_t first = word.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return word.substr(first, word.find_last_not_of(" \t") - first + 1);
}

/// A value, or why there is none.
struct ParsedValue {
  std::optional<nlohmann::json> value;
  std::string error;
};

inline ParsedValue parse_value(const std::string& toml, const Place& place) {
  try {
    const toml::table document = parse_toml(text("value = ", toml), place.where);
    if (document.size() != 1) return {.value = {}, .error = "more than one value"};
    return {.value = json_of(*document.get("value"), place), .error = {}};
  } catch (const NotToml& fault) {
    return {.value = {}, .error = fault.reason};
  }
}

inline void read_override(ConfigSource& source, const std::string& assignment) {
  const std::string where = text("--set ", printable(assignment));
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos) throw InputError(where + ": found no '=', expected section.key=value");
  const std::string key(trimmed(std::string_view(assignment).substr(0, equals)));
  const std::string value(trimmed(std::string_view(assignment).substr(equals + 1)));
  if (std::ranges::find(config_keys(), key) == config_keys().end()) fail_unknown_key(where, key);

  bool takes_words = false;
  std::string expected;
  for_each_key(source.config, [&]<class Field>(std::string_view name, const Field&) {
    if (name != key) return;
    takes_words = std::same_as<Field, std::string> || Spelled<Field>;
    expected = expectation<Field>();
  });

  // A bare word is a string also where it could be a number or a truth value, if the key takes strings: a column may be
  // called 1 or true.
  const bool is_word = !value.empty() && std::ranges::none_of(value, [](char character) {
    return static_cast<unsigned char>(character) <= 0x20 || character == 0x7f ||
           std::string_view("\"'[]{},#\\=").find(character) != std::string_view::npos;
  });
  const Place place{where, key};
  ParsedValue parsed = parse_value(is_word && takes_words ? '"' + value + '"' : value, place);
  if (is_word && !parsed.value) parsed = parse_value('"' + value + '"', place);
  if (!parsed.value) {
    throw InputError(text(where, ": not a value of TOML: ", parsed.error, "; expected ", expected));
  }
  set_key(source.config, *parsed.value, place);
  source.explicit_keys.insert(key);
}

}  // namespace detail

/// The defaults of `task`, changed by the file and then by the overrides ("section.key=value", the value as in TOML; a
/// bare word is taken as a string), the last one winning. Does not call `resolve` or `validate`.
/// Throws InputError with file, line and column, or the override, what was found and what would be right.
inline ConfigSource load_config(Task task, const std::optional<std::filesystem::path>& file,
                                const std::vector<std::string>& overrides) {
  ConfigSource source{.config = Config::defaults(task), .explicit_keys = {}};
  if (file) detail::read_toml(source, *file);
  for (const std::string& assignment : overrides) detail::read_override(source, assignment);
  return source;
}

/// Every key in its [section]; `load_config` of the same task reads back an equal Config.
inline std::string to_toml(const Config& config) {
  std::string document;
  std::string_view section;
  for_each_key(config, [&](std::string_view key, const auto& field) {
    if (section != detail::section_of(key)) {
      section = detail::section_of(key);
      document += text(document.empty() ? "" : "\n", '[', section, "]\n");
    }
    document += text(detail::name_of(key), " = ", detail::toml_text(field), '\n');
  });
  return document;
}

/// {"section": {"key": value}} with every key; the task is not a key and stands elsewhere in a checkpoint.
inline nlohmann::ordered_json to_json(const Config& config) {
  auto document = nlohmann::ordered_json::object();
  for_each_key(config, [&](std::string_view key, const auto& field) {
    document[std::string(detail::section_of(key))][std::string(detail::name_of(key))] = detail::json_value(field);
  });
  return document;
}

/// The inverse of `to_json`. A key that is absent (a checkpoint older than the key) keeps the default of `task`.
/// Throws InputError, which begins with `where`, on an unknown key or a value that does not fit.
inline Config config_from_json(Task task, const nlohmann::json& document, const std::string& where = "configuration") {
  Config config = Config::defaults(task);
  const detail::Place whole{where, "document"};
  if (!document.is_object()) whole.fail(document, "a table of sections");
  for (const auto& [section, keys] : document.items()) {
    if (!detail::is_section(section)) detail::fail_unknown_section(where, section);
    const detail::Place place{where, section};
    if (!keys.is_object()) place.fail(keys, "a table of keys");
    for (const auto& [name, value] : keys.items()) {
      const std::string key = text(section, '.', name);
      const auto& known = detail::config_keys();
      if (std::ranges::find(known, key) == known.end()) detail::fail_unknown_key(where, key);
      detail::set_key(config, value, {where, key});
    }
  }
  return config;
}

/// The value of `key` ("section.key") as `to_toml` prints it. Expects a key that exists.
inline std::string value_of(const Config& config, std::string_view key) {
  std::optional<std::string> value;
  for_each_key(config, [&](std::string_view name, const auto& field) {
    if (name == key) value = detail::toml_text(field);
  });
  BLINKBERT_EXPECTS(value.has_value(), key);
  return *value;
}

/// The keys whose values differ, in the order of the documentation; "task" first where the tasks differ.
inline std::vector<std::string> differing_keys(const Config& left, const Config& right) {
  std::vector<std::string> keys;
  if (left.task != right.task) keys.emplace_back("task");
  for (const std::string& key : detail::config_keys()) {
    if (value_of(left, key) != value_of(right, key)) keys.push_back(key);
  }
  return keys;
}

}  // namespace blinkbert
