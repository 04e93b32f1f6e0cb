#pragma once

// NumPy's .npy: one array in a file.
//
//   6 + 2 bytes  "\x93NUMPY", version (major, minor)
//   2 or 4       length of the header, little-endian (version 1: 2 bytes; 2 and 3: 4 bytes)
//   header       Python's {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, padded with spaces, newline
//   the rest     the elements
//
// Source: NumPy's documentation, numpy.lib.format.

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/io/atomic_file.hpp>

namespace blinkbert {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are copied as they are");

/// Element types that are read: float32, float64, int32, int64, bool, uint8.
enum class NpyType { f4, f8, i4, i8, b1, u1 };

namespace detail {

struct NpyTypeRow {
  std::string_view description;  // in the file
  std::size_t bytes;             // per element
};
inline constexpr std::array<NpyTypeRow, 6> npy_type_rows{
    {{"<f4", 4}, {"<f8", 8}, {"<i4", 4}, {"<i8", 8}, {"|b1", 1}, {"|u1", 1}}};

}  // namespace detail

/// A row-major array.
struct NpyArray {
  NpyType type = NpyType::f4;
  std::vector<int> shape;
  std::vector<std::byte> data;
  std::string path;  // where it was read from, for messages

  /// Number of elements.
  std::size_t size() const { return data.size() / detail::npy_type_rows[static_cast<std::size_t>(type)].bytes; }

  /// The elements as T: float or double from any number (float64 is rounded to float); int, std::int64_t or
  /// std::uint8_t from integers whose values fit; bool and std::uint8_t from bool.
  /// Throws InputError if the array holds another kind or a value does not fit.
  template <class T>
  std::vector<T> as() const {
    switch (type) {
      case NpyType::f4:
        return converted<T, float>();
      case NpyType::f8:
        return converted<T, double>();
      case NpyType::i4:
        return converted<T, std::int32_t>();
      case NpyType::i8:
        return converted<T, std::int64_t>();
      case NpyType::b1:
        return converted<T, bool>();
      default:
        return converted<T, std::uint8_t>();
    }
  }

 private:
  template <class T, class From>
  std::vector<T> converted() const {
    static_assert(std::is_arithmetic_v<T>);
    constexpr bool from_bool = std::same_as<From, bool>, to_bool = std::same_as<T, bool>;
    constexpr bool bool_fits = from_bool && (to_bool || std::same_as<T, std::uint8_t>);
    constexpr bool number_fits = !from_bool && !to_bool && (std::floating_point<T> || std::integral<From>);
    if constexpr (bool_fits || number_fits) {
      std::vector<T> values(size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        From value;
        std::memcpy(&value, data.data() + i * sizeof(From), sizeof(From));
        if (!fits<T>(value)) {
          throw InputError(text(path, ": element ", i, " is ", +value, ", which is out of range"));
        }
        values[i] = static_cast<T>(value);
      }
      return values;
    } else {
      throw InputError(text(path, ": found elements of type ",
                            detail::npy_type_rows[static_cast<std::size_t>(type)].description, ", expected ",
                            to_bool                  ? "bool (|b1)"
                            : std::floating_point<T> ? "numbers (<f4, <f8)"
                                                     : "integers (<i4, <i8, |u1)"));
    }
  }

  template <class T, class From>
  static bool fits(From value) {
    if constexpr (std::same_as<From, bool> || std::same_as<T, From>) {
      return true;
    } else if constexpr (std::integral<T>) {
      return std::in_range<T>(value);
    } else if constexpr (std::floating_point<From>) {
      return !std::isfinite(value) || std::abs(value) <= static_cast<From>(std::numeric_limits<T>::max());
    } else {
      return true;
    }
  }
};

namespace detail {

/// Reads the header's dictionary: three known keys in any order, each once, a comma after the last allowed.
class NpyHeader {
 public:
  NpyHeader(std::string_view header, const std::string& path) : rest_(header), path_(path) {
    bool has_order = false, has_shape = false;
    expect("{");
    while (!accept("}")) {
      const std::string_view key = quoted();
      expect(":");
      if (key == "descr" && description.empty()) {
        description = quoted();
      } else if (key == "fortran_order" && !has_order) {
        has_order = true;
        if (accept("True")) throw InputError(path_ + ": the array is in Fortran order, expected C order");
        expect("False");
      } else if (key == "shape" && !has_shape) {
        has_shape = true;
        read_shape();
      } else {
        fail(text("the key ", printable(key)));
      }
      if (accept(",")) continue;
      expect("}");
      break;
    }
    skip_space();
    if (!rest_.empty()) fail("text behind it");
    if (description.empty() || !has_order || !has_shape) fail("a key missing");
  }

  std::string_view description;
  std::vector<int> shape;

 private:
  [[noreturn]] void fail(const std::string& found) const {
    throw InputError(text(path_, ": header: found ", found,
                          ", expected {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }"));
  }

  void skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n"), rest_.size())); }

  bool accept(std::string_view token) {
    skip_space();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  void expect(std::string_view token) {
    if (!accept(token)) fail(text("\"", printable(rest_.substr(0, 20)), "\" where '", token, "' belongs"));
  }

  std::string_view quoted() {
    skip_space();
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) {
      fail(text("\"", printable(rest_.substr(0, 20)), "\" where a string belongs"));
    }
    const std::size_t end = rest_.find(rest_[0], 1);
    if (end == std::string_view::npos) fail("a string without end");
    const std::string_view content = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return content;
  }

  void read_shape() {
    constexpr std::size_t highest_rank = 32;
    expect("(");
    while (!accept(")")) {
      skip_space();
      int extent = 0;
      const auto result = std::from_chars(rest_.data(), rest_.data() + rest_.size(), extent);
      if (result.ec != std::errc{} || extent < 0) {
        throw InputError(text(path_, ": header: found the extent \"",
                              printable(rest_.substr(0, rest_.find_first_of(",)"))),
                              "\", expected an integer from 0 to ", std::numeric_limits<int>::max()));
      }
      rest_.remove_prefix(static_cast<std::size_t>(result.ptr - rest_.data()));
      shape.push_back(extent);
      if (shape.size() > highest_rank) fail("more than 32 extents");
      if (accept(",")) continue;
      expect(")");
      if (shape.size() == 1) fail("a number in parentheses as the shape");  // (3) is a number in Python, (3,) a tuple
      break;
    }
  }

  std::string_view rest_;
  const std::string& path_;
};

}  // namespace detail

/// Reads format versions 1, 2 and 3. Throws InputError, one line, on everything that is not exactly one little-endian
/// row-major array of a type in NpyType.
inline NpyArray read_npy(const std::filesystem::path& path) {
  constexpr std::string_view magic = "\x93NUMPY";
  detail::InputFile input(path);
  NpyArray array;
  array.path = path.string();
  if (!input.is_regular()) throw InputError(array.path + ": is not a regular file, expected an .npy file");

  std::array<char, 8> start{};
  const std::size_t found = input.read(std::as_writable_bytes(std::span(start)));
  if (found < start.size() || std::string_view(start.data(), magic.size()) != magic) {
    throw InputError(array.path + ": does not begin as an .npy file");
  }
  const int major = static_cast<unsigned char>(start[6]), minor = static_cast<unsigned char>(start[7]);
  if (major < 1 || major > 3 || minor != 0) {
    throw InputError(text(array.path, ": found .npy version ", major, '.', minor, ", expected 1.0, 2.0 or 3.0"));
  }

  std::uint32_t header_bytes = 0;
  const std::size_t length_bytes = major == 1 ? 2 : 4, prefix = start.size() + length_bytes;
  if (input.size() < prefix) throw InputError(array.path + ": ends inside its header");
  input.read_exactly(std::as_writable_bytes(std::span(&header_bytes, 1)).first(length_bytes));
  if (header_bytes > input.size() - prefix) {
    throw InputError(text(array.path, ": header of ", header_bytes, " bytes, but only ", input.size() - prefix,
                          " follow: the file is truncated"));
  }

  try {
    std::string text_of_header(header_bytes, '\0');
    input.read_exactly(std::as_writable_bytes(std::span(text_of_header)));
    detail::NpyHeader header(text_of_header, array.path);
    const auto row = std::ranges::find(detail::npy_type_rows, header.description, &detail::NpyTypeRow::description);
    if (row == detail::npy_type_rows.end()) {
      throw InputError(text(array.path, ": found elements of type ", printable(header.description),
                            ", expected one of <f4, <f8, <i4, <i8, |b1, |u1"));
    }
    array.type = static_cast<NpyType>(row - detail::npy_type_rows.begin());
    array.shape = std::move(header.shape);

    const std::uint64_t data_bytes = input.size() - prefix - header_bytes;
    const bool is_empty = std::ranges::count(array.shape, 0) > 0;
    std::uint64_t wanted = is_empty ? 0 : row->bytes;
    for (const int extent : array.shape) {
      // Comparing before multiplying keeps the product below 2^64: nothing larger than the file is of interest.
      const bool is_too_large = wanted > 0 && wanted > data_bytes / static_cast<std::uint64_t>(extent);
      if (is_too_large)
        throw InputError(text(array.path, ": the shape needs more than the ", data_bytes, " bytes behind the header"));
      wanted *= static_cast<std::uint64_t>(extent);
    }
    if (wanted != data_bytes) {
      throw InputError(text(array.path, ": the shape needs ", wanted, " bytes behind the header, found ", data_bytes));
    }
    array.data.resize(static_cast<std::size_t>(data_bytes));
    input.read_exactly(array.data);
  } catch (const std::bad_alloc&) {
    throw InputError(text(array.path, ": its ", input.size(), " bytes do not fit into memory"));
  }
  if (array.type == NpyType::b1 &&
      std::ranges::any_of(array.data, [](std::byte value) { return value > std::byte{1}; })) {
    throw InputError(array.path + ": found a bool that is neither 0 nor 1");
  }
  return array;
}

/// Writes float32 values, as many as the shape holds, as format version 1; errors as `write_file_atomically`.
inline void write_npy(const std::filesystem::path& path, const std::vector<int>& shape, std::span<const float> values) {
  constexpr std::size_t alignment = 64, prefix = 10;
  std::size_t count = 1;
  std::string extents;
  for (const int extent : shape) {
    BLINKBERT_EXPECTS(extent >= 0, extent);
    count *= static_cast<std::size_t>(extent);
    extents += text(extent, ", ");
  }
  BLINKBERT_EXPECTS(count == values.size(), count, values.size());
  std::string header = text("{'descr': '<f4', 'fortran_order': False, 'shape': (", extents, "), }");
  header.append(alignment - 1 - (prefix + header.size()) % alignment, ' ');
  header += '\n';
  BLINKBERT_EXPECTS(header.size() <= 0xffff, shape.size());

  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += {static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  write_file_atomically(path, bytes);
}

}  // namespace blinkbert
