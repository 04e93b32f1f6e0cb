#include <blinkbert/io/csv.hpp>

#include <string>
#include <string_view>
#include <vector>

#include <catch2/catch.hpp>

#include <tests/data/temporary_file.hpp>

using namespace blinkbert;
using tests::message_of;
using tests::TemporaryFile;
using namespace std::string_literals;

namespace {

std::vector<std::string> all_fields(const CsvTable& table) {
  std::vector<std::string> fields;
  for (int row = 0; row < table.rows(); ++row) {
    for (int column = 0; column < table.columns(); ++column) fields.emplace_back(table.field(row, column));
  }
  return fields;
}

}  // namespace

TEST_CASE("the same table in every spelling that is fine") {
  const std::vector<std::string> spellings{
      "a,b\n1,x\n2,y\n",
      "a,b\n1,x\n2,y",          // last line without its end
      "a,b\r\n1,x\r\n2,y\r\n",  // CRLF
      "a,b\r\n1,x\r\n2,y",
      "\xef\xbb\xbf"
      "a,b\n1,x\n2,y\n",  // byte-order mark
      "\xef\xbb\xbf\"a\",\"b\"\r\n\"1\",\"x\"\r\n\"2\",\"y\"",
  };
  for (const std::string& spelling : spellings) {
    CAPTURE(spelling);
    const TemporaryFile file(spelling);
    const CsvTable table = read_csv(file.path());
    CHECK(table.header == std::vector<std::string>{"a", "b"});
    CHECK(table.lines == std::vector<int>{2, 3});
    CHECK(all_fields(table) == std::vector<std::string>{"1", "x", "2", "y"});
    CHECK(table.column("b") == 1);
    CHECK(!table.column("c"));
  }
}

TEST_CASE("quoted fields hold commas, quotes and line ends, and lines are still counted") {
  const TemporaryFile file(
      "a,b\n\"1,5\",\"say \"\"no\"\"\"\n\"two\nlines\",\"\"\nlast,\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n");
  const CsvTable table = read_csv(file.path());
  CHECK(all_fields(table) == std::vector<std::string>{"1,5", "say \"no\"", "two\nlines", "", "last",
                                                      "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"});
  CHECK(table.lines == std::vector<int>{2, 3, 5});
}

TEST_CASE("a header alone is a table without rows, empty fields are fields") {
  for (const std::string header : {"a,b", "a,b\n"}) {
    const TemporaryFile file(header);
    CHECK(read_csv(file.path()).rows() == 0);
  }
  const TemporaryFile file("a,b,c\n,,\n");
  CHECK(all_fields(read_csv(file.path())) == std::vector<std::string>{"", "", ""});
}

TEST_CASE("what is not a table is refused with its place") {
  struct Case {
    std::string bytes, place, found;
  };
  const std::vector<Case> cases{
      {"", ":1: ", "empty file"},
      {"\xef\xbb\xbf", ":1: ", "empty file"},
      {"a,b\n1\n", ":2: column b: ", "a row that ends after 1 fields, expected 2 fields as in the header"},
      {"a,b\n1,2\n1,2,3\n", ":3: column 3: ", "a field too many, expected 2 fields"},
      {"a,b\n1,2,\n", ":2: column 3: ", "a field too many"},
      {"a,b\n1,2\n\n", ":3: column b: ", "an empty line"},
      {"a,b\n1,2\n\n3,4\n", ":3: column b: ", "an empty line"},
      {"a,b\n1,\"2\n3,4\n", ":2: column b: ", "a quote that is never closed"},
      {"a,\"b", ":1: column 2: ", "a quote that is never closed"},
      {"a,b\n\"1\"x,2\n", ":2: column a: ", "\"x\" after a closing quote"},
      {"a,b\n1\"x\",2\n", ":2: column a: ", "a quote inside an unquoted field"},
      {"a,b\n\"1\n2\",3\n4\n", ":4: column b: ", "a row that ends after 1 fields"},
      {"a,b,a\n1,2,3\n", ":1: column 3: ", "the name \"a\" a second time"},
      {"a,,c\n1,2,3\n", ":1: column 2: ", "an empty column name"},
      {"a,b,\n1,2,3\n", ":1: column 3: ", "an empty column name"},
      {"\na,b\n", ":1: column 1: ", "an empty column name"},
      {"a,b\n1,\0002\n"s, ":2: column b: ", "a NUL byte"},
      {"a,b\n1,\"\0002\"\n"s, ":2: column b: ", "a NUL byte"},
      {"a,b\r1,2\r", ":1: ", "a carriage return alone"},
      {"a,b\n1,\xe4\n", ":2: column b: ", "byte 228, expected UTF-8"},          // Latin-1
      {"a,b\n1,\xed\xa0\x80\n", ":2: column b: ", "byte 237, expected UTF-8"},  // a surrogate
      {"a,b\n1,\xc0\x80\n", ":2: column b: ", "byte 192, expected UTF-8"},      // overlong
      {"a,b\n1,\xe0\x80\x80\n", ":2: column b: ", "byte 224, expected UTF-8"},
      {"a,b\n1,\xf0\x80\x80\x80\n", ":2: column b: ", "byte 240, expected UTF-8"},
      {"a,b\n1,\xf4\x90\x80\x80\n", ":2: column b: ", "byte 244, expected UTF-8"},  // beyond the last character
      {"a,b\n1,\xf5\x80\x80\x80\n", ":2: column b: ", "byte 245, expected UTF-8"},
      {"a,b\n1,\x80\n", ":2: column b: ", "byte 128, expected UTF-8"},
      {"a,b\n1,\xe2(\xa1\n", ":2: column b: ", "byte 226, expected UTF-8"},
      {"a,b\n1,\xe2\x82", ":2: column b: ", "byte 226, expected UTF-8"},  // cut off
      {"\xff\xfe"
       "a\0,\0b\0"s,
       ":1: column 1: ", "byte 255, expected UTF-8"},  // UTF-16
  };
  for (const Case& wrong : cases) {
    const TemporaryFile file(wrong.bytes);
    const std::string message = message_of<InputError>([&] { read_csv(file.path()); });
    CAPTURE(wrong.bytes, message);
    CHECK(message.starts_with(file.path().string() + wrong.place));
    CHECK(message.find("found ") != std::string::npos);
    CHECK(message.find(wrong.found) != std::string::npos);
    CHECK(message.find(", expected ") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("a file that is not there, a folder") {
  const std::string missing = message_of<InputError>([] { read_csv("no/such/file.csv"); });
  CHECK(missing.find("no/such/file.csv: cannot be opened: No such file") == 0);
  CHECK(message_of<InputError>([] { read_csv("/"); }).find("found a folder") != std::string::npos);
}

TEST_CASE("numbers") {
  for (const auto& [field, value] : std::vector<std::pair<std::string, double>>{
           {"0", 0}, {"-1.5", -1.5}, {"+2", 2}, {".5", .5}, {"3.", 3}, {"1e3", 1000}, {"2E-3", .002}, {"-0", 0}}) {
    CAPTURE(field);
    REQUIRE(parse_number(field));
    CHECK(*parse_number(field) == value);
  }
  for (const std::string field : {"",          " ",    " 1",    "1 ", "1,5", "one", "1x",  "0x10", "nan", "NaN", "inf",
                                  "-Infinity", "1e39", "1e999", "+",  "-",   "+-1", "++1", "1e",   "--1", "true"}) {
    CAPTURE(field);
    CHECK(!parse_number(field));
  }
}
