#pragma once

// Safetensors: named tensors in one file, as PyTorch's ecosystem reads and writes them.
//
//   8 bytes     length n of the header, little-endian
//   n bytes     JSON {"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}},
//               padded with spaces so that the data begins at a multiple of 8
//   the rest    the tensors, row-major and little-endian, without gaps; offsets count from here
//
// Source: https://huggingface.co/docs/safetensors (format), whose limit of 100 MB for the header is kept.

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/io/atomic_file.hpp>
#include <blinkbert/io/jsonl.hpp>

namespace blinkbert {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are copied as they are");

enum class DType { f32, f64, i32, i64, u8, u32, u64, boolean };

namespace detail {

struct DTypeRow {
  std::string_view name;  // in the file
  std::size_t bytes;      // per element
};
inline constexpr std::array<DTypeRow, 8> dtype_rows{
    {{"F32", 4}, {"F64", 8}, {"I32", 4}, {"I64", 8}, {"U8", 1}, {"U32", 4}, {"U64", 8}, {"BOOL", 1}}};

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::same_as<T, float>) return DType::f32;
  if constexpr (std::same_as<T, double>) return DType::f64;
  if constexpr (std::same_as<T, std::int32_t>) return DType::i32;
  if constexpr (std::same_as<T, std::int64_t>) return DType::i64;
  if constexpr (std::same_as<T, std::uint8_t>) return DType::u8;
  if constexpr (std::same_as<T, std::uint32_t>) return DType::u32;
  if constexpr (std::same_as<T, std::uint64_t>) return DType::u64;
  if constexpr (std::same_as<T, bool>) return DType::boolean;
}

template <class T>
concept Stored = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, std::int32_t> ||
    std::same_as<T, std::int64_t> || std::same_as<T, std::uint8_t> || std::same_as<T, std::uint32_t> ||
    std::same_as<T, std::uint64_t> || std::same_as<T, bool>;

inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string list = "[";
  for (const std::int64_t extent : shape) list += text(list.size() > 1 ? ", " : "", extent);
  return list + "]";
}

/// Bytes of a tensor; empty if an extent is negative or the product does not fit into 63 bits.
inline std::optional<std::uint64_t> tensor_bytes(std::size_t element_bytes, const std::vector<std::int64_t>& shape) {
  constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t bytes = element_bytes;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return {};
    const auto factor = static_cast<std::uint64_t>(extent);
    if (factor > 0 && bytes > limit / factor) return {};
    bytes *= factor;
  }
  return bytes;
}

}  // namespace detail

/// The spelling in files: F32, F64, I32, I64, U8, U32, U64, BOOL.
constexpr std::string_view spell(DType dtype) { return detail::dtype_rows[static_cast<std::size_t>(dtype)].name; }

/// Bytes per element.
constexpr std::size_t element_size(DType dtype) { return detail::dtype_rows[static_cast<std::size_t>(dtype)].bytes; }

/// A dense row-major tensor of any rank; rank 0 is one number.
struct Tensor {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;

  /// A copy of `values`, as many as the shape holds. T: float, double, bool, (u)int32, (u)int64, uint8.
  template <detail::Stored T>
  static Tensor of(std::vector<std::int64_t> shape, std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    BLINKBERT_EXPECTS(detail::tensor_bytes(sizeof(T), shape) == bytes.size(), detail::shape_text(shape), values.size());
    return {.dtype = detail::dtype_of<T>(), .shape = std::move(shape), .data = {bytes.begin(), bytes.end()}};
  }

  /// The elements. Throws InputError if they have another type; there is no conversion.
  template <detail::Stored T>
  std::span<const T> as() const {
    constexpr DType wanted = detail::dtype_of<T>();
    if (dtype != wanted) throw InputError(text("a tensor holds ", spell(dtype), ", expected ", spell(wanted)));
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }
};

/// The contents of one file.
struct Safetensors {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string path;  // where it was read from, for messages

  /// Throws InputError that names file and tensor if there is none.
  const Tensor& at(const std::string& name) const {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw InputError(text(path, ": tensor ", printable(name), " is missing"));
    return found->second;
  }

  /// The elements of the tensor `name`. Throws InputError that names file and tensor if it is missing or has another
  /// type or shape.
  template <detail::Stored T>
  std::span<const T> values(const std::string& name, const std::vector<std::int64_t>& shape) const {
    const Tensor& tensor = at(name);
    constexpr DType dtype = detail::dtype_of<T>();
    if (tensor.dtype != dtype || tensor.shape != shape) {
      throw InputError(text(path, ": tensor ", printable(name), ": found ", spell(tensor.dtype), ' ',
                            detail::shape_text(tensor.shape), ", expected ", spell(dtype), ' ',
                            detail::shape_text(shape)));
    }
    return tensor.as<T>();
  }
};

namespace detail {

inline constexpr std::uint64_t longest_safetensors_header = 100'000'000;

/// One tensor of a header: where its bytes lie, counted from the end of the header.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

inline DType dtype_from(const nlohmann::json& spelling, const std::string& where) {
  if (!spelling.is_string()) throw InputError(where + ": dtype is not a string");
  const auto& word = spelling.get_ref<const std::string&>();
  for (std::size_t i = 0; i < dtype_rows.size(); ++i) {
    if (dtype_rows[i].name == word) return static_cast<DType>(i);
  }
  throw InputError(
      text(where, ": found dtype ", printable(word), ", expected one of F32, F64, I32, I64, U8, U32, U64, BOOL"));
}

/// A list of at most `most` integers from 0 to 2^63 - 1.
inline std::vector<std::int64_t> integers_from(const nlohmann::json& list, std::size_t most, const std::string& where) {
  const auto fail = [&] {
    throw InputError(text(where, " is not a list of at most ", most, " integers from 0 to 2^63 - 1"));
  };
  if (!list.is_array() || list.size() > most) fail();
  std::vector<std::int64_t> integers;
  for (const auto& element : list) {
    if (!element.is_number_unsigned() || !std::in_range<std::int64_t>(element.get<std::uint64_t>())) fail();
    integers.push_back(element.get<std::int64_t>());
  }
  return integers;
}

/// The metadata goes to `file`; returns the tensors in the order of their bytes, which fill `data_bytes` exactly.
inline std::vector<TensorEntry> parse_safetensors_header(std::string_view header, std::uint64_t data_bytes,
                                                         Safetensors& file) {
  constexpr std::size_t highest_rank = 32;
  if (!header.starts_with('{'))
    throw InputError(file.path + ": header does not begin with '{', expected a JSON object");
  const nlohmann::json document = parse_json(header, file.path + ": header");

  std::vector<TensorEntry> entries;
  for (const auto& [name, content] : document.items()) {
    if (name == "__metadata__") {
      if (!content.is_object()) throw InputError(file.path + ": __metadata__ is not a JSON object");
      for (const auto& [key, value] : content.items()) {
        if (!value.is_string()) {
          throw InputError(text(file.path, ": __metadata__: ", printable(key), " is not a string"));
        }
        file.metadata[key] = value.get<std::string>();
      }
      continue;
    }

    const std::string where = text(file.path, ": tensor ", printable(name));
    if (!content.is_object() || content.size() != 3 || !content.contains("dtype") || !content.contains("shape") ||
        !content.contains("data_offsets")) {
      throw InputError(where + ": expected exactly dtype, shape and data_offsets");
    }
    TensorEntry entry{.name = name,
                      .dtype = dtype_from(content["dtype"], where),
                      .shape = integers_from(content["shape"], highest_rank, where + ": shape")};
    const auto offsets = integers_from(content["data_offsets"], 2, where + ": data_offsets");
    if (offsets.size() != 2) throw InputError(where + ": data_offsets are not two numbers");
    entry.begin = static_cast<std::uint64_t>(offsets[0]);
    entry.end = static_cast<std::uint64_t>(offsets[1]);
    if (entry.begin > entry.end || entry.end > data_bytes) {
      throw InputError(text(where, ": data_offsets are [", entry.begin, ", ", entry.end,
                            "], expected begin <= end <= ", data_bytes, ", the bytes of the file behind its header"));
    }
    const auto bytes = tensor_bytes(element_size(entry.dtype), entry.shape);
    if (bytes != entry.end - entry.begin) {
      throw InputError(text(where, ": data_offsets give ", entry.end - entry.begin, " bytes, expected ",
                            bytes ? text(*bytes) : "fewer than 2^63", " for ", spell(entry.dtype), ' ',
                            shape_text(entry.shape)));
    }
    entries.push_back(std::move(entry));
  }

  std::ranges::sort(entries, {}, [](const TensorEntry& entry) { return std::pair(entry.begin, entry.end); });
  std::uint64_t covered = 0;
  for (const TensorEntry& entry : entries) {
    if (entry.begin != covered) {
      throw InputError(text(file.path, ": tensor ", printable(entry.name), " begins at byte ", entry.begin,
                            ", expected ", covered, ": there is ", entry.begin < covered ? "an overlap" : "a gap"));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    throw InputError(text(file.path, ": the tensors end at byte ", covered, " of ", data_bytes,
                          " behind the header, expected no bytes after them"));
  }
  return entries;
}

}  // namespace detail

/// Throws InputError, one line with file and tensor, on everything that is not exactly this format: nothing in the file
/// is trusted, and no more memory is taken than the file is long.
inline Safetensors read_safetensors(const std::filesystem::path& path) {
  detail::InputFile input(path);
  Safetensors file{.tensors = {}, .metadata = {}, .path = path.string()};
  if (!input.is_regular()) throw InputError(file.path + ": is not a regular file, expected a safetensors file");

  constexpr std::uint64_t prefix = 8;
  if (input.size() < prefix) {
    throw InputError(text(file.path, ": holds ", input.size(), " bytes, expected a safetensors file of at least 8"));
  }
  std::uint64_t header_bytes = 0;
  input.read_exactly(std::as_writable_bytes(std::span(&header_bytes, 1)));
  if (header_bytes > detail::longest_safetensors_header) {
    throw InputError(text(file.path, ": header of ", header_bytes, " bytes, expected at most ",
                          detail::longest_safetensors_header, ": not a safetensors file"));
  }
  if (header_bytes > input.size() - prefix) {
    throw InputError(text(file.path, ": header of ", header_bytes, " bytes, but only ", input.size() - prefix,
                          " follow: the file is truncated or not a safetensors file"));
  }

  try {
    std::string header(static_cast<std::size_t>(header_bytes), '\0');
    input.read_exactly(std::as_writable_bytes(std::span(header)));
    for (auto& entry : detail::parse_safetensors_header(header, input.size() - prefix - header_bytes, file)) {
      Tensor& tensor = file.tensors[entry.name];
      tensor.dtype = entry.dtype;
      tensor.shape = std::move(entry.shape);
      tensor.data.resize(static_cast<std::size_t>(entry.end - entry.begin));
      input.read_exactly(tensor.data);
      const bool is_boolean = entry.dtype == DType::boolean;
      if (is_boolean && std::ranges::any_of(tensor.data, [](std::byte value) { return value > std::byte{1}; })) {
        throw InputError(text(file.path, ": tensor ", printable(entry.name), ": found a BOOL that is neither 0 nor 1"));
      }
    }
  } catch (const std::bad_alloc&) {
    throw InputError(text(file.path, ": its ", input.size(), " bytes do not fit into memory"));
  }
  return file;
}

/// The file's bytes, the same for equal contents: names in the header in ascending order, the data of wide elements
/// before that of narrow ones, so that every tensor lies at a multiple of its element's size; then by name.
inline std::string to_bytes(const Safetensors& file) {
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& item : file.tensors) order.push_back(&item);
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [](const auto* item) { return element_size(item->second.dtype); });

  std::map<std::string, std::uint64_t> begins;
  std::uint64_t data_bytes = 0;
  for (const auto* item : order) {
    const Tensor& tensor = item->second;
    BLINKBERT_EXPECTS(item->first != "__metadata__");
    BLINKBERT_EXPECTS(detail::tensor_bytes(element_size(tensor.dtype), tensor.shape) == tensor.data.size(), item->first,
                      detail::shape_text(tensor.shape), tensor.data.size());
    begins[item->first] = data_bytes;
    data_bytes += tensor.data.size();
  }

  auto document = nlohmann::ordered_json::object();
  if (!file.metadata.empty()) document["__metadata__"] = file.metadata;
  for (const auto& [name, tensor] : file.tensors) {
    const std::uint64_t begin = begins.at(name);
    document[name] = {
        {"dtype", spell(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, begin + tensor.data.size()}}};
  }
  std::string header;
  try {
    header = document.dump();
  } catch (const nlohmann::json::exception&) {
    throw InputError("a tensor's name or a text of the metadata is not UTF-8 and cannot be stored as safetensors");
  }
  header.append((8 - header.size() % 8) % 8, ' ');
  const std::uint64_t header_bytes = header.size();
  BLINKBERT_EXPECTS(header_bytes <= detail::longest_safetensors_header, header_bytes);

  std::string bytes;
  bytes.reserve(sizeof(header_bytes) + header.size() + static_cast<std::size_t>(data_bytes));
  bytes.append(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  bytes += header;
  for (const auto* item : order) {
    bytes.append(reinterpret_cast<const char*>(item->second.data.data()), item->second.data.size());
  }
  return bytes;
}

/// Writes `to_bytes(file)` as `write_file_atomically` does, with its errors. `file.path` plays no part.
inline void write_safetensors(const std::filesystem::path& path, const Safetensors& file) {
  write_file_atomically(path, to_bytes(file));
}

}  // namespace blinkbert
