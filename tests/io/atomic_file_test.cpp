#include <sys/resource.h>
#include <sys/wait.h>
#include <csignal>

#include <catch2/catch.hpp>

#include <blinkbert/io/atomic_file.hpp>

#include <tests/io/temporary_folder.hpp>

using namespace blinkbert;

namespace {

std::size_t entries(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

/// Runs `child` in a process of its own in which no file may grow beyond `bytes`; returns its exit code.
template <class Child>
int with_file_limit(rlim_t bytes, Child child) {
  const pid_t process = ::fork();
  if (process == 0) {
    const rlimit limit{bytes, bytes};
    std::signal(SIGXFSZ, SIG_IGN);  // so that write(2) reports the limit as an error
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::_exit(child());
  }
  int status = -1;
  ::waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("what was written is read back, and nothing else is left in the folder") {
  const TemporaryFolder folder;
  std::string all_bytes;
  for (int i = 0; i < 256; ++i) all_bytes += static_cast<char>(i);
  // 65536 is the reader's piece: sizes round it, and one that needs several.
  for (const std::string& bytes : {std::string(), std::string("x"), all_bytes, std::string(65535, 'a'),
                                   std::string(65536, 'b'), std::string(65537, 'c'), std::string(300000, 'd')}) {
    write_file_atomically(folder / "file", bytes);
    CHECK(read_file(folder / "file") == bytes);
    CHECK(entries(folder.path()) == 1);
  }
}

TEST_CASE("a path without a folder is in the current one") {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomically("plain", "bytes");
  std::filesystem::current_path(before);
  CHECK(read_file(folder / "plain") == "bytes");
}

TEST_CASE("a temporary that a killed process left behind is replaced") {
  const TemporaryFolder folder;
  folder.put("file", "old");
  folder.put("file.tmp", "half of something much longer than the new bytes");
  write_file_atomically(folder / "file", "new");
  CHECK(read_file(folder / "file") == "new");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a path that cannot be written is a RunError with path and reason") {
  const TemporaryFolder folder;
  folder.put("file", "content");
  std::filesystem::create_directory(folder / "folder");
  const struct {
    std::filesystem::path path;
    std::string reason;
  } cases[] = {
      {folder / "file/below", "Not a directory"},
      {folder / "missing/below", "No such file or directory"},
      {folder / "folder", "Is a directory"},
      {"/dev/full", "No space left on device"},
      {folder / std::string(300, 'n'), "File name too long"},
  };
  for (const auto& [path, reason] : cases) {
    CHECK(message_of<RunError>([&, &target = path] { write_file_atomically(target, "bytes"); }) ==
          "cannot write " + path.string() + ": " + reason);
  }
  CHECK(entries(folder.path()) == 2);
}

TEST_CASE("a full disk leaves the old file whole and no temporary") {
  const TemporaryFolder folder;
  folder.put("file", "the old bytes");
  const int code = with_file_limit(4096, [&] {
    const std::string message =
        message_of<RunError>([&] { write_file_atomically(folder / "file", std::string(100000, 'n')); });
    return message == "cannot write " + (folder / "file").string() + ": File too large" ? 0 : 1;
  });
  CHECK(code == 0);
  CHECK(read_file(folder / "file") == "the old bytes");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a writer killed at any moment leaves one whole file") {
  const TemporaryFolder folder;
  const std::string first(200000, '1'), second(300000, '2');
  write_file_atomically(folder / "file", first);
  for (int microseconds = 0; microseconds <= 20000; microseconds += 2000) {
    const pid_t process = ::fork();
    if (process == 0) {
      while (true) {
        write_file_atomically(folder / "file", second);
        write_file_atomically(folder / "file", first);
      }
    }
    ::usleep(static_cast<useconds_t>(microseconds));
    ::kill(process, SIGKILL);
    ::waitpid(process, nullptr, 0);
    const std::string found = read_file(folder / "file");
    CHECK((found == first || found == second));
  }
}

TEST_CASE("a device is written to, not replaced") {
  write_file_atomically("/dev/null", "bytes");
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK_FALSE(std::filesystem::exists("/dev/null.tmp"));
}

TEST_CASE("a file that cannot be read is an InputError with path and reason") {
  const TemporaryFolder folder;
  folder.put("file", "content");
  const struct {
    std::filesystem::path path;
    std::string reason;
  } cases[] = {
      {folder / "missing", "No such file or directory"},
      {folder / "file/below", "Not a directory"},
      {folder.path(), "Is a directory"},
      {"/dev/zero", "it is not a regular file and holds more than 64 MiB"},
      {"", "No such file or directory"},
  };
  for (const auto& [path, reason] : cases) {
    CHECK(message_of<InputError>([&, &source = path] { read_file(source); }) ==
          "cannot read " + path.string() + ": " + reason);
  }
  CHECK(read_file("/dev/null").empty());
}

TEST_CASE("printable text is one line of bounded length") {
  const struct {
    std::string text, line;
  } cases[] = {
      {"plain words", "plain words"},
      {"a\nb\tc\r", "a\\x0ab\\x09c\\x0d"},
      {std::string("\0\x1b\x7f", 3), "\\x00\\x1b\\x7f"},
      {"M\xc3\xbc"
       "de",
       "M\xc3\xbc"
       "de"},
      {std::string(120, 'x'), std::string(120, 'x')},
      {std::string(121, 'x'), std::string(120, 'x') + "..."},
      {std::string(119, 'x') + "\xc3\xbc", std::string(119, 'x') + "..."},
      {std::string(500, '\x80'), "..."},  // not UTF-8: nowhere to cut
  };
  for (const auto& [text, line] : cases) CHECK(printable(text) == line);
}
