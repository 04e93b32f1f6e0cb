#pragma once

// How results are printed: plain tables, the same numbers as in report.json.

#include <charconv>
#include <cmath>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/objective/metrics.hpp>

namespace programs {

using Json = nlohmann::ordered_json;

/// NaN and infinities become null.
inline Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

inline Json interval_json(const blinkbert::Interval& interval) {
  return Json::array({number(interval.low), number(interval.high)});
}

inline std::string fixed(const Json& value, int digits) {
  if (!value.is_number()) return "-";
  std::ostringstream stream;
  stream << std::fixed << std::setprecision(digits) << value.get<double>();
  return stream.str();
}

/// "[low, high]", or nothing where there is no interval.
inline std::string fixed_interval(const Json& interval, int digits) {
  if (!interval.is_array() || !interval[0].is_number()) return "";
  return " [" + fixed(interval[0], digits) + ", " + fixed(interval[1], digits) + "]";
}

/// "5 held-out drivers", of a report's part on the test.
inline std::string held_out_drivers(const Json& test) {
  const std::size_t count = test["drivers"].size();
  return std::to_string(count) + " held-out driver" + (count == 1 ? "" : "s");
}

/// A field of a CSV row, quoted where it has to be.
inline std::string csv_field(const std::string& field) {
  if (field.find_first_of(",\"\r\n") == field.npos) return field;
  std::string quoted = "\"";
  for (const char c : field) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

/// A number in its shortest decimal form that reads back to the same bits.
template <class Number>
std::string shortest(Number value) {
  char characters[32];
  return {characters, std::to_chars(characters, characters + sizeof characters, value).ptr};
}

/// Rows of cells; the first column is left-aligned, the others right-aligned.
inline void print_table(std::ostream& out, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    out << "  ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      out << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(widths[i])) << row[i];
      out << (i + 1 < row.size() ? "  " : "\n");
    }
  }
}

}  // namespace programs
