#pragma once

// Strict reader of comma-separated values (RFC 4180, UTF-8): a header line, then rows of as many fields.
//
// Fine: a byte-order mark, LF or CRLF, quoted fields ("" stands for a quote; commas and line ends inside are text), a
// last line without its line end. Everything else that is not a table is an error that names file, line and column.

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/io/atomic_file.hpp>

namespace blinkbert {

namespace detail {

/// Bytes of the well-formed UTF-8 character that `bytes` begins with; 0 where there is none (RFC 3629, section 4).
inline std::size_t utf8_length(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(bytes[i])); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first < 0xe0   ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0 || bytes.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool is_overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool is_surrogate = first == 0xed && byte(1) >= 0xa0;
  const bool is_beyond = first == 0xf4 && byte(1) >= 0x90;
  return is_overlong || is_surrogate || is_beyond ? 0 : length;
}

/// A piece of a file inside a one-line message, in quotes.
inline std::string shown(std::string_view found) { return "\"" + printable(found) + "\""; }

}  // namespace detail

/// A table as it stands in the file: names and texts, nothing interpreted.
struct CsvTable {
  std::string path;                 // as given to the reader; the beginning of every message
  std::vector<std::string> header;  // [C]
  std::vector<std::size_t> ends;    // [rows * C]  one past each field's last byte in `content`
  std::vector<int> lines;           // [rows]      line of the file on which the row begins, from 1
  std::string content;              // all fields one after another, quotes removed

  int rows() const { return static_cast<int>(lines.size()); }
  int columns() const { return static_cast<int>(header.size()); }

  std::string_view field(int row, int column) const {
    BLINKBERT_EXPECTS(row >= 0 && row < rows() && column >= 0 && column < columns(), row, column);
    const std::size_t i = static_cast<std::size_t>(row) * header.size() + static_cast<std::size_t>(column);
    const std::size_t begin = i == 0 ? 0 : ends[i - 1];
    return std::string_view(content).substr(begin, ends[i] - begin);
  }

  /// The column called `name`, if there is one.
  std::optional<int> column(std::string_view name) const {
    for (int c = 0; c < columns(); ++c) {
      if (header[static_cast<std::size_t>(c)] == name) return c;
    }
    return std::nullopt;
  }

  /// "file:line: column name": where a field stands, for messages.
  std::string place(int row, int column) const {
    return text(path, ":", lines[static_cast<std::size_t>(row)], ": column ",
                printable(header[static_cast<std::size_t>(column)]));
  }
};

/// Reads a whole file. Throws InputError "file:line: column name: found ..., expected ..." at the first place that is
/// not a table.
inline CsvTable read_csv(const std::filesystem::path& path) {
  CsvTable table;
  table.path = path.string();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw InputError(text(table.path, ": found a folder, expected a CSV file"));
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw InputError(text(table.path, ": cannot be opened: ", std::strerror(errno)));
  const std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (stream.bad()) throw InputError(text(table.path, ": cannot be read: ", std::strerror(errno)));

  std::size_t at = bytes.starts_with("\xef\xbb\xbf") ? 3 : 0;  // byte-order mark of UTF-8
  if (at == bytes.size()) {
    throw InputError(text(table.path, ":1: found an empty file, expected a header line and rows"));
  }

  int line = 1;
  int row_line = 1;        // where the current row begins
  std::size_t fields = 0;  // finished fields of the current row
  bool in_header = true;
  std::string field;

  const auto fail = [&](int where, std::string_view found, std::string_view expected) {
    const std::string column =
        in_header || fields >= table.header.size() ? text(fields + 1) : printable(table.header[fields]);
    throw InputError(text(table.path, ":", where, ": column ", column, ": found ", found, ", expected ", expected));
  };

  while (true) {
    // One field, which ends at a comma, a line end or the end of the file.
    field.clear();
    const int field_line = line;
    if (at < bytes.size() && bytes[at] == '"') {
      for (++at;; ++at) {
        if (at == bytes.size()) fail(field_line, "a quote that is never closed", "a closing quote");
        if (bytes[at] == '"') {
          if (at + 1 == bytes.size() || bytes[at + 1] != '"') break;
          ++at;
        }
        if (bytes[at] == '\n') ++line;
        field += bytes[at];
      }
      ++at;
      const bool ends_field = at == bytes.size() || bytes[at] == ',' || bytes[at] == '\n' || bytes[at] == '\r';
      if (!ends_field) {
        fail(line, text(detail::shown(std::string_view(bytes).substr(at, 1)), " after a closing quote"),
             "a comma or a line end");
      }
    } else {
      for (; at < bytes.size() && bytes[at] != ',' && bytes[at] != '\n' && bytes[at] != '\r'; ++at) {
        if (bytes[at] == '"') fail(line, "a quote inside an unquoted field", "the whole field in quotes");
        field += bytes[at];
      }
    }

    for (std::size_t i = 0; i < field.size();) {
      if (field[i] == '\0') fail(field_line, "a NUL byte", "UTF-8 text");
      const std::size_t length = detail::utf8_length(std::string_view(field).substr(i));
      if (length == 0) fail(field_line, text("byte ", int{static_cast<unsigned char>(field[i])}), "UTF-8 text");
      i += length;
    }

    if (in_header) {
      if (field.empty()) fail(field_line, "an empty column name", "a name");
      if (table.column(field)) {
        throw InputError(text(table.path, ":", field_line, ": column ", fields + 1, ": found the name ",
                              detail::shown(field), " a second time, expected every name once"));
      }
      table.header.push_back(field);
    } else {
      if (fields == table.header.size()) {
        fail(row_line, "a field too many", text(table.header.size(), " fields as in the header"));
      }
      table.content += field;
      table.ends.push_back(table.content.size());
    }
    ++fields;

    if (at < bytes.size() && bytes[at] == ',') {
      ++at;
      continue;
    }
    if (!in_header && fields < table.header.size()) {
      const bool nothing = fields == 1 && field.empty();
      fail(row_line, nothing ? std::string("an empty line") : text("a row that ends after ", fields, " fields"),
           text(table.header.size(), " fields as in the header"));
    }
    if (!in_header) {
      if (table.lines.size() == static_cast<std::size_t>(std::numeric_limits<int>::max())) {
        throw InputError(text(table.path, ":", row_line, ": found more rows than 2147483647, expected fewer"));
      }
      table.lines.push_back(row_line);
    }
    in_header = false;
    fields = 0;
    if (at < bytes.size() && bytes[at] == '\r') {
      if (at + 1 == bytes.size() || bytes[at + 1] != '\n') {
        throw InputError(text(table.path, ":", line, ": found a carriage return alone, expected a line feed after it"));
      }
      ++at;
    }
    if (at < bytes.size()) {
      ++at;  // the line feed
      ++line;
    }
    if (at == bytes.size()) return table;
    row_line = line;
  }
}

/// The whole text as a finite number that a float can hold, written with a decimal point ("-1.5", "+2", "3e-4").
inline std::optional<double> parse_number(std::string_view field) {
  if (field.size() > 1 && field[0] == '+' && field[1] != '-') field.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  const bool whole = error == std::errc() && end == field.data() + field.size();
  if (!whole || !(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max()))) return std::nullopt;
  return value;
}

}  // namespace blinkbert
