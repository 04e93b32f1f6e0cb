#include <bit>
#include <limits>

#include <catch2/catch.hpp>

#include <blinkbert/core/random.hpp>
#include <blinkbert/io/npy.hpp>

#include <tests/io/temporary_folder.hpp>

using namespace blinkbert;
using namespace std::string_view_literals;

namespace {

/// A file of format version 1 (2-byte length) or later (4 bytes) with this header.
std::string file_of(const std::string& header, const std::string& data, char major = 1) {
  const auto length = static_cast<std::uint32_t>(header.size());
  std::string bytes = std::string("\x93NUMPY") + major + '\0';
  bytes.append(reinterpret_cast<const char*>(&length), major == 1 ? 2 : 4);
  return bytes + header + data;
}

std::string header_of(const std::string& description, const std::string& shape) {
  return "{'descr': '" + description + "', 'fortran_order': False, 'shape': " + shape + ", }          \n";
}

template <class T>
std::string bytes_of(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(std::data(values)), values.size() * sizeof(T)};
}

std::string error_of(const std::filesystem::path& path) {
  return message_of<InputError>([&] { read_npy(path); });
}

}  // namespace

TEST_CASE("written arrays are read back") {
  const TemporaryFolder folder;
  const std::vector<float> values{1, -2, 3.5f, 0, std::numeric_limits<float>::infinity(), 1e-45f};
  const struct {
    std::vector<int> shape;
    std::size_t count;
  } cases[] = {{{}, 1}, {{6}, 6}, {{2, 3}, 6}, {{1, 2, 3}, 6}, {{0}, 0}, {{3, 0, 5}, 0}};
  for (const auto& [shape, count] : cases) {
    write_npy(folder / "x.npy", shape, std::span(values).first(count));
    const NpyArray array = read_npy(folder / "x.npy");
    CHECK(array.type == NpyType::f4);
    CHECK(array.shape == shape);
    CHECK(array.size() == count);
    CHECK(array.as<float>() == std::vector<float>(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count)));
    CHECK((std::filesystem::file_size(folder / "x.npy") - 4 * count) % 64 == 0);
  }
  CHECK_THROWS_AS(write_npy(folder / "x.npy", {7}, values), ContractViolation);
  CHECK_THROWS_AS(write_npy(folder / "x.npy", {-6}, values), ContractViolation);
}

TEST_CASE("headers as Python may write them are read") {
  const TemporaryFolder folder;
  const struct {
    std::string header;
    char major;
    std::vector<int> shape;
  } cases[] = {
      {header_of("<f4", "(2, 1)"), 1, {2, 1}},
      {header_of("<f4", "(2, 1)"), 2, {2, 1}},
      {header_of("<f4", "(2, 1)"), 3, {2, 1}},
      {header_of("<f4", "(2,)"), 1, {2}},
      {header_of("<f4", "(2, 1,)"), 1, {2, 1}},
      {R"({"shape":(1,2),"fortran_order":False,"descr":"<f4"})", 1, {1, 2}},
      {"{ 'shape' : ( 2 , ) , 'descr' : '<f4' , 'fortran_order' : False }", 1, {2}},
  };
  for (const auto& [header, major, shape] : cases) {
    CAPTURE(header);
    const NpyArray array = read_npy(folder.put("x.npy", file_of(header, bytes_of<float>({1, 2}), major)));
    CHECK(array.shape == shape);
    CHECK(array.as<float>() == std::vector<float>{1, 2});
  }
  const NpyArray empty =
      read_npy(folder.put("x.npy", file_of(header_of("<f8", "(2147483647, 2147483647, 2147483647, 0)"), "")));
  CHECK(empty.size() == 0);
}

TEST_CASE("elements are converted where their values survive") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& type, const std::string& data) {
    return read_npy(folder.put("x.npy", file_of(header_of(type, "(2,)"), data)));
  };
  const NpyArray f4 = read("<f4", bytes_of<float>({1.5f, -2}));
  const NpyArray f8 = read("<f8", bytes_of<double>({0.1, -std::numeric_limits<double>::infinity()}));
  const NpyArray i4 = read("<i4", bytes_of<std::int32_t>({7, -1}));
  const NpyArray i8 = read("<i8", bytes_of<std::int64_t>({7, 2147483648}));
  const NpyArray b1 = read("|b1", bytes_of<bool>({true, false}));
  const NpyArray u1 = read("|u1", bytes_of<std::uint8_t>({7, 255}));

  CHECK(f4.as<float>() == std::vector<float>{1.5f, -2});
  CHECK(f4.as<double>() == std::vector<double>{1.5, -2});
  CHECK(f8.as<float>() == std::vector<float>{0.1f, -std::numeric_limits<float>::infinity()});
  CHECK(f8.as<double>()[0] == 0.1);
  CHECK(i4.as<int>() == std::vector<int>{7, -1});
  CHECK(i4.as<std::int64_t>() == std::vector<std::int64_t>{7, -1});
  CHECK(i4.as<float>() == std::vector<float>{7, -1});
  CHECK(i8.as<std::int64_t>() == std::vector<std::int64_t>{7, 2147483648});
  CHECK(u1.as<int>() == std::vector<int>{7, 255});
  CHECK(u1.as<std::uint8_t>() == std::vector<std::uint8_t>{7, 255});
  CHECK(b1.as<bool>() == std::vector<bool>{true, false});
  CHECK(b1.as<std::uint8_t>() == std::vector<std::uint8_t>{1, 0});

  const std::string prefix = (folder / "x.npy").string() + ": ";
  const auto message = [](auto call) { return message_of<InputError>(call); };
  CHECK(message([&] { i8.as<int>(); }) == prefix + "element 1 is 2147483648, which is out of range");
  CHECK(message([&] { i4.as<std::uint8_t>(); }) == prefix + "element 1 is -1, which is out of range");
  CHECK(message([&] {
          read("<f8", bytes_of<double>({1, 1e300})).as<float>();
        }) == prefix + "element 1 is 1e+300, which is out of range");
  CHECK(message([&] { f4.as<int>(); }) == prefix + "found elements of type <f4, expected integers (<i4, <i8, |u1)");
  CHECK(message([&] { b1.as<float>(); }) == prefix + "found elements of type |b1, expected numbers (<f4, <f8)");
  CHECK(message([&] { b1.as<int>(); }) == prefix + "found elements of type |b1, expected integers (<i4, <i8, |u1)");
  CHECK(message([&] { u1.as<bool>(); }) == prefix + "found elements of type |u1, expected bool (|b1)");
}

TEST_CASE("a file that is not one plain array is an InputError of one line") {
  const TemporaryFolder folder;
  const std::string four(4, '\2');
  const std::string types = ", expected one of <f4, <f8, <i4, <i8, |b1, |u1";
  const std::string extents = ", expected an integer from 0 to 2147483647";
  std::string shape_of_33 = "(";
  for (int i = 0; i < 33; ++i) shape_of_33 += "1,";
  const struct {
    std::string bytes, message;  // how it begins, after the path
  } cases[] = {
      {"", "does not begin as an .npy file"},
      {"\x93NUMPY", "does not begin as an .npy file"},
      {"PK\x03\x04 an .npz", "does not begin as an .npy file"},
      {std::string("\x93NUMPY\x04\x00\x10\x00", 10), "found .npy version 4.0, expected 1.0, 2.0 or 3.0"},
      {std::string("\x93NUMPY\x00\x00\x10\x00", 10), "found .npy version 0.0, expected 1.0, 2.0 or 3.0"},
      {std::string("\x93NUMPY\x01\x01\x10\x00", 10), "found .npy version 1.1, expected 1.0, 2.0 or 3.0"},
      {std::string("\x93NUMPY\xff\xff\x10\x00", 10), "found .npy version 255.255, expected 1.0, 2.0 or 3.0"},
      {std::string("\x93NUMPY\x01\x00\x10", 9), "ends inside its header"},
      {std::string("\x93NUMPY\x01\x00\x10\x00", 10), "header of 16 bytes, but only 0 follow: the file is truncated"},
      {std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff{}", 14), "header of 4294967295 bytes, but only 2 follow"},
      {file_of("", four), "header: found \"\" where '{' belongs"},
      {file_of("{}", four), "header: found a key missing"},
      {file_of(std::string(60000, '('), four), "header: found \"((((((((((((((((((((\" where '{' belongs"},
      {file_of("{'descr': '<f4', 'shape': (1,)}", four), "header: found a key missing"},
      {file_of("{'descr': '<f4', 'fortran_order': False}", four), "header: found a key missing"},
      {file_of("{'fortran_order': False, 'shape': (1,)}", four), "header: found a key missing"},
      {file_of("{'descr': '', 'fortran_order': False, 'shape': (1,)}", four), "header: found a key missing"},
      {file_of("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", four),
       "header: found the key descr"},
      {file_of("{'shape': (1,), 'shape': (1,)}", four), "header: found the key shape"},
      {file_of("{'more\n': 3}", four), "header: found the key more\\x0a"},
      {file_of("{'descr", four), "header: found a string without end"},
      {file_of("{'descr': [('x', '<f4')]}", four), "header: found \"[('x', '<f4')]}\" where a string belongs"},
      {file_of("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}", four),
       "the array is in Fortran order, expected C order"},
      {file_of("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}", four), "header: found \"0, 'shape': (1,)}\""},
      {file_of(header_of("<f4", "(1,)") + "x", four), "header: found text behind it"},
      {file_of(header_of("<f4", "(1,)") + '\0', four), "header: found text behind it"},
      {file_of(header_of(">f4", "(1,)"), four), "found elements of type >f4" + types},
      {file_of(header_of("<f2", "(2,)"), four), "found elements of type <f2" + types},
      {file_of(header_of("<c8", "(1,)"), four), "found elements of type <c8" + types},
      {file_of(header_of("|O", "(1,)"), four), "found elements of type |O" + types},
      {file_of(header_of("|S4", "(1,)"), four), "found elements of type |S4" + types},
      {file_of(header_of("<f4 ", "(1,)"), four), "found elements of type <f4 " + types},
      {file_of(header_of("<f4", "[1]"), four), "header: found \"[1], }"},
      {file_of(header_of("|u1", "(4)"), four), "header: found a number in parentheses as the shape"},
      {file_of(header_of("<f4", "(,)"), four), "header: found the extent \"\"" + extents},
      {file_of(header_of("<f4", "(-1,)"), four), "header: found the extent \"-1\"" + extents},
      {file_of(header_of("<f4", "(1.0,)"), four), "header: found \".0,), }"},
      {file_of(header_of("<f4", "(1L,)"), four), "header: found \"L,), }"},
      {file_of(header_of("<f4", "(2147483648,)"), four), "header: found the extent \"2147483648\"" + extents},
      {file_of(header_of("<f4", "(1,,)"), four), "header: found the extent \"\"" + extents},
      {file_of(header_of("<f4", shape_of_33 + ")"), four), "header: found more than 32 extents"},
      {file_of("{'shape': (1, 2", four), "header: found \"\" where ')' belongs"},
      {file_of("{'shape': (1,", four), "header: found the extent \"\"" + extents},
      {file_of(header_of("<f4", "(1,)"), ""), "the shape needs more than the 0 bytes behind the header"},
      {file_of(header_of("<f4", "()"), ""), "the shape needs 4 bytes behind the header, found 0"},
      {file_of(header_of("<f4", "(1,)"), "\2\2\2"), "the shape needs more than the 3 bytes behind the header"},
      {file_of(header_of("<f4", "(1,)"), four + "\2"), "the shape needs 4 bytes behind the header, found 5"},
      {file_of(header_of("<f4", "(0,)"), four), "the shape needs 0 bytes behind the header, found 4"},
      {file_of(header_of("<f4", "(2,)"), four), "the shape needs more than the 4 bytes behind the header"},
      // 2^31 * 2^31 * 4 is 0 in 64 bits
      {file_of(header_of("<f4", "(1073741824, 1073741824, 16)"), ""), "the shape needs more than the 0 bytes"},
      {file_of(header_of("<f8", "(2147483647, 2147483647, 2147483647)"), four),
       "the shape needs more than the 4 bytes"},
      {file_of(header_of("|b1", "(4,)"), four), "found a bool that is neither 0 nor 1"},
  };
  const std::string prefix = (folder / "x.npy").string() + ": ";
  for (const auto& [bytes, message] : cases) {
    CAPTURE(bytes.substr(0, 100));
    const auto found = error_of(folder.put("x.npy", bytes));
    CHECK_THAT(found, Catch::StartsWith(prefix + message));
    CHECK(found.find('\n') == std::string::npos);
    CHECK(found.size() < 500);
  }
}

TEST_CASE("what is not a file is an InputError") {
  const TemporaryFolder folder;
  CHECK(error_of(folder / "missing") == "cannot read " + (folder / "missing").string() + ": No such file or directory");
  CHECK(error_of(folder.path()) == "cannot read " + folder.path().string() + ": Is a directory");
  CHECK(error_of("/dev/zero") == "/dev/zero: is not a regular file, expected an .npy file");
}

TEST_CASE("a file cut anywhere is an InputError") {
  const TemporaryFolder folder;
  const std::string bytes = file_of(header_of("<i8", "(2, 2)"), bytes_of<std::int64_t>({1, 2, 3, 4}));
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(error_of(folder.put("x.npy", bytes.substr(0, length))).empty());
  }
  CHECK(error_of(folder.put("x.npy", bytes)).empty());
}

TEST_CASE("changed bytes end in an InputError or in an array whose shape fits its data") {
  const TemporaryFolder folder;
  const std::string bytes = file_of(header_of("|u1", "(2, 12)"), std::string(24, '\1'));
  constexpr std::string_view alphabet = "0123456789{}()[]'\",:-.<|ufib \\\x00\x01\xff"sv;
  const RandomStream stream{.seed = 12};
  int refused = 0, accepted = 0;
  for (std::uint32_t round = 0; round < 4000; ++round) {
    std::string changed = bytes;
    const std::uint32_t changes = 1 + round % 3;
    for (std::uint32_t i = 0; i < changes; ++i) {
      const auto words = stream.words(i, round);
      char& byte = changed[words[0] % changed.size()];
      byte = words[1] % 2 == 0 ? alphabet[words[2] % alphabet.size()] : static_cast<char>(byte ^ (1 << (words[2] % 8)));
    }
    folder.put("x.npy", changed);
    try {
      const NpyArray array = read_npy(folder / "x.npy");
      ++accepted;
      std::size_t count = 1;
      for (const int extent : array.shape) count *= static_cast<std::size_t>(extent);
      CHECK(count == array.size());
      array.as<std::uint8_t>();
    } catch (const InputError& error) {
      ++refused;
      CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    }
  }
  CHECK(refused > 1000);
  CHECK(accepted > 100);
}
