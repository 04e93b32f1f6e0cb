#include <limits>

#include <catch2/catch.hpp>

#include <blinkbert/core/random.hpp>
#include <blinkbert/io/safetensors.hpp>

#include <tests/io/temporary_folder.hpp>

using namespace blinkbert;
using namespace std::string_view_literals;

namespace {

/// Length, header and data as they stand in a file.
std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

template <class T>
Tensor tensor(std::vector<std::int64_t> shape, const std::vector<T>& values) {
  return Tensor::of<T>(std::move(shape), values);
}

Safetensors example() {
  Safetensors file;
  file.metadata = {{"format_version", "1"}, {"config", R"({"a": "quoted \"text\""})"}, {"empty", ""}};
  file.tensors["byte"] = tensor<std::uint8_t>({3}, {0, 7, 255});
  file.tensors["scalar"] = tensor<double>({}, {-1.0 / 3});
  file.tensors["matrix"] = tensor<float>({2, 3}, {1, -2, 3.5f, std::numeric_limits<float>::infinity(), 0, -0.0f});
  file.tensors["integers"] = tensor<std::int32_t>({2, 1}, {std::numeric_limits<std::int32_t>::min(), 1});
  file.tensors["long"] = tensor<std::int64_t>({1}, {std::numeric_limits<std::int64_t>::min()});
  file.tensors["words"] = tensor<std::uint32_t>({1}, {0xffffffffu});
  file.tensors["counters"] = tensor<std::uint64_t>({2}, {~std::uint64_t{0}, 0});
  const bool bits[] = {true, false, true};
  file.tensors["bits"] = Tensor::of<bool>({3}, bits);
  file.tensors["nothing"] = tensor<float>({0, 4}, {});
  return file;
}

bool is_equal(const Tensor& left, const Tensor& right) {
  return left.dtype == right.dtype && left.shape == right.shape && left.data == right.data;
}

std::string error_of(const std::filesystem::path& path) {
  return message_of<InputError>([&] { read_safetensors(path); });
}

}  // namespace

TEST_CASE("what was written is read back bit for bit") {
  const TemporaryFolder folder;
  for (const Safetensors& file : {example(), Safetensors{}}) {
    write_safetensors(folder / "file", file);
    const Safetensors found = read_safetensors(folder / "file");
    CHECK(found.path == (folder / "file").string());
    CHECK(found.metadata == file.metadata);
    REQUIRE(found.tensors.size() == file.tensors.size());
    for (const auto& [name, tensor] : file.tensors) {
      CAPTURE(name);
      CHECK(is_equal(found.at(name), tensor));
    }
    CHECK(to_bytes(found) == to_bytes(file));
  }
}

TEST_CASE("the bytes are those of the format, each tensor at a multiple of its element's size") {
  Safetensors file;
  file.metadata["k"] = "v";
  file.tensors["b"] = tensor<float>({2}, {1, 2});
  file.tensors["a"] = tensor<std::uint8_t>({3}, {1, 2, 3});
  file.tensors["c"] = tensor<std::int64_t>({1}, {-1});
  const std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[3],"data_offsets":[16,19]},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"c":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})";
  const std::string padding((8 - header.size() % 8) % 8, ' ');
  const std::string data("\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x80\x3f\x00\x00\x00\x40\x01\x02\x03", 19);
  CHECK(to_bytes(file) == file_of(header + padding, data));
}

TEST_CASE("a file as PyTorch's ecosystem writes it is read") {
  const TemporaryFolder folder;
  const auto path =
      folder.put("file", file_of("{\"z\":{\"data_offsets\":[0,4],\"shape\":[1],\"dtype\":\"F32\"},"
                                 "\"a.b\":{\"shape\":[2,0],\"data_offsets\":[4,4],\"dtype\":\"F64\"},"
                                 "\"m\\u00fc\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[4,5]}}   ",
                                 std::string("\x00\x00\x80\x3f\x01", 5)));
  const Safetensors file = read_safetensors(path);
  CHECK(file.values<float>("z", {1})[0] == 1);
  CHECK(file.values<double>("a.b", {2, 0}).empty());
  CHECK(file.values<bool>("m\xc3\xbc", {})[0]);
  CHECK(file.metadata.empty());
}

TEST_CASE("a tensor that is asked for wrongly is an InputError that names file and tensor") {
  Safetensors file = example();
  file.path = "x.safetensors";
  CHECK(message_of<InputError>([&] { file.at("other"); }) == "x.safetensors: tensor other is missing");
  CHECK(message_of<InputError>([&] { file.values<float>("other", {1}); }) == "x.safetensors: tensor other is missing");
  CHECK(message_of<InputError>([&] {
          file.values<double>("matrix", {2, 3});
        }) == "x.safetensors: tensor matrix: found F32 [2, 3], expected F64 [2, 3]");
  CHECK(message_of<InputError>([&] {
          file.values<float>("matrix", {3, 2});
        }) == "x.safetensors: tensor matrix: found F32 [2, 3], expected F32 [3, 2]");
  CHECK(message_of<InputError>([&] { file.at("matrix").as<std::int32_t>(); }) == "a tensor holds F32, expected I32");
}

TEST_CASE("a tensor that is no tensor is refused before anything is written") {
  const std::vector<float> three{1, 2, 3};
  CHECK_THROWS_AS(Tensor::of<float>({2}, three), ContractViolation);
  CHECK_THROWS_AS(Tensor::of<float>({-3}, three), ContractViolation);
  CHECK_THROWS_AS(Tensor::of<float>({std::int64_t{1} << 62, 4}, {}), ContractViolation);
  Safetensors file;
  file.tensors["a"] = {.dtype = DType::f32, .shape = {2}, .data = std::vector<std::byte>(7)};
  CHECK_THROWS_AS(to_bytes(file), ContractViolation);
  file.tensors = {{"__metadata__", tensor<float>({3}, three)}};
  CHECK_THROWS_AS(to_bytes(file), ContractViolation);
  file.tensors = {{"\xff", tensor<float>({3}, three)}};
  CHECK_THROWS_AS(to_bytes(file), InputError);
  file.tensors.clear();
  file.metadata["k"] = "\xff";
  CHECK_THROWS_AS(to_bytes(file), InputError);
}

TEST_CASE("a header that lies is an InputError of one line") {
  const TemporaryFolder folder;
  const std::string prefix = (folder / "file").string() + ": ";
  const std::string lying_dimensions = "shape is not a list of at most 32 integers from 0 to 2^63 - 1";
  std::string shape_of_33 = "1";
  for (int i = 0; i < 32; ++i) shape_of_33 += ",1";

  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  const struct {
    std::string header;
    std::size_t data_bytes;
    std::string message;  // how it begins, after the path
  } cases[] = {
      // not the JSON that belongs here
      {"", 0, "header does not begin with '{'"},
      {" {}", 0, "header does not begin with '{'"},
      {"\xef\xbb\xbf{}", 0, "header does not begin with '{'"},
      {"[]", 0, "header does not begin with '{'"},
      {"{", 0, "header: not JSON: "},
      {"{}}", 0, "header: not JSON: "},
      {std::string("{}\0\0", 4), 0, "header: not JSON: found a byte 0"},
      {std::string("{}\0more", 7), 0, "header: not JSON: found a byte 0"},
      {"{\"\xff\": 1}", 0, "header: not JSON: "},
      {"{\"" + std::string(1000000, 'x'), 0, "header: not JSON: "},
      {"{\"a\":" + std::string(1000000, '['), 0, "header: JSON nested deeper than 64"},
      {R"({"a":1,"a":1})", 0, "header: the name \"a\" stands twice"},
      {R"({"\u0061":1,"a":1})", 0, "header: the name \"a\" stands twice"},
      {R"({"t":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0, "header: the name \"dtype\" stands"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "header: the name \"a\" stands twice"},
      {R"({"__metadata__":[]})", 0, "__metadata__ is not a JSON object"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__: a is not a string"},
      {R"({"__metadata__":{"a\n":null}})", 0, "__metadata__: a\\x0a is not a string"},
      // not a tensor
      {R"({"t":3})", 0, "tensor t: expected exactly dtype, shape and data_offsets"},
      {R"({"t\n":3})", 0, "tensor t\\x0a: expected exactly dtype, shape and data_offsets"},
      {R"({"t":{}})", 0, "tensor t: expected exactly dtype, shape and data_offsets"},
      {R"({"t":{"dtype":"U8","shape":[]}})", 1, "tensor t: expected exactly dtype, shape and data_offsets"},
      {R"({"t":{"dtype":"U8","shape":[],"data_offsets":[0,1],"more":1}})", 1, "tensor t: expected exactly dtype"},
      {one("3", "[]", "[0,1]"), 1, "tensor t: dtype is not a string"},
      {one("null", "[]", "[0,1]"), 1, "tensor t: dtype is not a string"},
      {one(R"("BF16")", "[]", "[0,2]"), 2, "tensor t: found dtype BF16, expected one of F32, F64, I32, I64, U8, U32"},
      {one(R"("f32")", "[]", "[0,4]"), 4, "tensor t: found dtype f32, expected one of"},
      {one(R"("")", "[]", "[0,4]"), 4, "tensor t: found dtype , expected one of"},
      {one(R"("U8")", "1", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "{}", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[-1]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[-1,-1]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[1.0]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", R"(["1"])", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[[1]]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[9223372036854775808]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[99999999999999999999999]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[" + shape_of_33 + "]", "[0,1]"), 1, "tensor t: " + lying_dimensions},
      {one(R"("U8")", "[1]", "[0]"), 1, "tensor t: data_offsets are not two numbers"},
      {one(R"("U8")", "[1]", "[0,1,1]"), 1, "tensor t: data_offsets is not a list of at most 2"},
      {one(R"("U8")", "[1]", "[-1,0]"), 1, "tensor t: data_offsets is not a list of at most 2"},
      {one(R"("U8")", "[1]", "[0,1e0]"), 1, "tensor t: data_offsets is not a list of at most 2"},
      {one(R"("U8")", "[1]", "null"), 1, "tensor t: data_offsets is not a list of at most 2"},
      // sizes that do not fit
      {one(R"("U8")", "[1]", "[1,0]"), 1, "tensor t: data_offsets are [1, 0], expected begin <= end <= 1"},
      {one(R"("U8")", "[2]", "[0,2]"), 1, "tensor t: data_offsets are [0, 2], expected begin <= end <= 1"},
      {one(R"("U8")", "[0]", "[2,2]"), 1, "tensor t: data_offsets are [2, 2], expected begin <= end <= 1"},
      {one(R"("U8")", "[9223372036854775807]", "[0,9223372036854775807]"), 1,
       "tensor t: data_offsets are [0, 9223372036854775807], expected begin <= end <= 1"},
      {one(R"("F32")", "[2]", "[0,4]"), 4, "tensor t: data_offsets give 4 bytes, expected 8 for F32 [2]"},
      {one(R"("F32")", "[]", "[0,0]"), 0, "tensor t: data_offsets give 0 bytes, expected 4 for F32 []"},
      {one(R"("F32")", "[0]", "[0,4]"), 4, "tensor t: data_offsets give 4 bytes, expected 0 for F32 [0]"},
      // 2^32 * 2^32 is 0 in 64 bits, and 4 * (2^62 + 1) is 4
      {one(R"("U8")", "[4294967296,4294967296]", "[0,0]"), 0,
       "tensor t: data_offsets give 0 bytes, expected fewer than 2^63 for U8 [4294967296, 4294967296]"},
      {one(R"("F32")", "[4611686018427387905]", "[0,4]"), 4,
       "tensor t: data_offsets give 4 bytes, expected fewer than 2^63 for F32 [4611686018427387905]"},
      {one(R"("F64")", "[9223372036854775807,9223372036854775807]", "[0,8]"), 8,
       "tensor t: data_offsets give 8 bytes, expected fewer than 2^63"},
      // what lies between tensors, and behind them
      {two("[0,4]", "[0,4]"), 4, "tensor b begins at byte 0, expected 4: there is an overlap"},
      {two("[0,4]", "[3,7]"), 7, "tensor b begins at byte 3, expected 4: there is an overlap"},
      {two("[3,7]", "[0,4]"), 7, "tensor a begins at byte 3, expected 4: there is an overlap"},
      {two("[0,4]", "[5,9]"), 9, "tensor b begins at byte 5, expected 4: there is a gap"},
      {two("[1,5]", "[5,9]"), 9, "tensor a begins at byte 1, expected 0: there is a gap"},
      {two("[0,4]", "[4,8]"), 9, "the tensors end at byte 8 of 9 behind the header, expected no bytes after them"},
      {"{}", 1, "the tensors end at byte 0 of 1 behind the header, expected no bytes after them"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       4, "tensor b begins at byte 2, expected 4: there is an overlap"},
      {one(R"("BOOL")", "[1]", "[0,1]"), 1, "tensor t: found a BOOL that is neither 0 nor 1"},
  };
  for (const auto& [header, data_bytes, message] : cases) {
    CAPTURE(header.substr(0, 200));
    const auto found = error_of(folder.put("file", file_of(header, std::string(data_bytes, '\x02'))));
    CHECK_THAT(found, Catch::StartsWith(prefix + message));
    CHECK(found.find('\n') == std::string::npos);
    CHECK(found.size() < 600);
  }
}

TEST_CASE("a length that lies is an InputError, without memory being taken for it") {
  const TemporaryFolder folder;
  const std::string prefix = (folder / "file").string() + ": ";
  const struct {
    std::uint64_t length;
    std::string message;
  } cases[] = {
      {3, "header of 3 bytes, but only 2 follow: the file is truncated or not a safetensors file"},
      {100'000'000, "header of 100000000 bytes, but only 2 follow: the file is truncated or not a safetensors file"},
      {100'000'001, "header of 100000001 bytes, expected at most 100000000: not a safetensors file"},
      {~std::uint64_t{0}, "header of 18446744073709551615 bytes, expected at most 100000000: not a safetensors file"},
      {~std::uint64_t{0} - 7,
       "header of 18446744073709551608 bytes, expected at most 100000000: not a safetensors file"},
  };
  for (const auto& [length, message] : cases) {
    const std::string bytes = std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + "{}";
    CHECK(error_of(folder.put("file", bytes)) == prefix + message);
  }

  // A terabyte that takes no room on the disk.
  folder.put("file", "");
  std::filesystem::resize_file(folder / "file", std::uintmax_t{1} << 40);
  CHECK(error_of(folder / "file") == prefix + "header does not begin with '{', expected a JSON object");
}

TEST_CASE("what is not a file is an InputError") {
  const TemporaryFolder folder;
  CHECK(error_of(folder / "missing") == "cannot read " + (folder / "missing").string() + ": No such file or directory");
  CHECK(error_of(folder.path()) == "cannot read " + folder.path().string() + ": Is a directory");
  CHECK(error_of("/dev/zero") == "/dev/zero: is not a regular file, expected a safetensors file");
  CHECK(error_of(folder.put("file", "")) ==
        (folder / "file").string() + ": holds 0 bytes, expected a safetensors file of at least 8");
}

TEST_CASE("a file cut anywhere, or with a byte too many, is an InputError") {
  const TemporaryFolder folder;
  const std::string bytes = to_bytes(example());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(error_of(folder.put("file", bytes.substr(0, length))).empty());
  }
  CHECK_FALSE(error_of(folder.put("file", bytes + '\0')).empty());
  CHECK(error_of(folder.put("file", bytes)).empty());
}

TEST_CASE("changed bytes end in an InputError or in tensors that keep the format's promises") {
  const TemporaryFolder folder;
  const std::string bytes = to_bytes(example());
  // Mostly in the header, where a change matters, and with the characters that JSON is made of.
  constexpr std::string_view alphabet = "0123456789{}[]\",:-.eE \\\x00\x01\x7f\xff"sv;
  const RandomStream stream{.seed = 11};
  int refused = 0, accepted = 0;
  for (std::uint32_t round = 0; round < 4000; ++round) {
    std::string changed = bytes;
    const std::uint32_t changes = 1 + round % 4;
    for (std::uint32_t i = 0; i < changes; ++i) {
      const auto words = stream.words(i, round);
      char& byte = changed[words[0] % changed.size()];
      byte = words[1] % 2 == 0 ? alphabet[words[2] % alphabet.size()] : static_cast<char>(byte ^ (1 << (words[2] % 8)));
    }
    folder.put("file", changed);
    try {
      const Safetensors file = read_safetensors(folder / "file");
      ++accepted;
      for (const auto& [name, tensor] : file.tensors) {
        std::uint64_t wanted = element_size(tensor.dtype);
        for (const std::int64_t extent : tensor.shape) wanted *= static_cast<std::uint64_t>(extent);
        CHECK(wanted == tensor.data.size());
        if (tensor.dtype == DType::boolean) {
          for (const bool bit : tensor.as<bool>()) CHECK((bit || !bit));
        }
      }
      to_bytes(file);
    } catch (const InputError& error) {
      ++refused;
      CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    }
  }
  CHECK(refused > 1000);
  CHECK(accepted > 100);
}

TEST_CASE("a checkpoint that cannot be written leaves the old one") {
  const TemporaryFolder folder;
  folder.put("file", "");
  CHECK(message_of<RunError>([&] { write_safetensors(folder / "file/below", example()); }) ==
        "cannot write " + (folder / "file/below").string() + ": Not a directory");
}
