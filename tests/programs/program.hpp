#pragma once

// Runs this project's programs as a user does: a process of its own, its exit code, what it printed.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace blinkbert::test {

using Path = std::filesystem::path;
using Arguments = std::vector<std::string>;

inline std::string bytes_of(const Path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + path.string());
  std::ostringstream bytes;
  bytes << stream.rdbuf();
  return bytes.str();
}

inline void put(const Path& path, const std::string& bytes, std::ios::openmode mode = std::ios::trunc) {
  std::ofstream stream(path, std::ios::binary | mode);
  stream << bytes;
  if (!stream.flush()) throw std::runtime_error("cannot write " + path.string());
}

struct Result {
  int exit_code = -1;  // -1 where a signal ended it
  int signal = 0;      // 0 where it left by itself
  std::string out, err;
};

/// Where a child's limits and streams differ from the parent's.
struct Surroundings {
  std::optional<std::uint64_t> largest_file;  // bytes; a longer write fails as on a full disk
  std::optional<Path> standard_output;        // instead of being captured
  bool has_terminal = false;                  // its stderr is one
};

/// One running program. Ends the process where the test forgets it.
class Program {
 public:
  /// `name` as built ("pretrain"), without its folder.
  Program(const std::string& name, const Arguments& arguments, const Surroundings& surroundings = {}) {
    std::string folder = (std::filesystem::temp_directory_path() / "blinkbert_program_XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
    folder_ = folder;
    const std::string program = (Path(BLINKBERT_PROGRAMS_DIR) / name).string();
    const std::string out = surroundings.standard_output.value_or(folder_ / "out").string();
    const std::string err = (folder_ / "err").string();
    std::string terminal;
    if (surroundings.has_terminal) {
      terminal_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
      if (terminal_ < 0 || ::grantpt(terminal_) != 0 || ::unlockpt(terminal_) != 0)
        throw std::runtime_error("cannot make a terminal");
      terminal = ::ptsname(terminal_);
    }
    std::vector<char*> argv{const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);

    child_ = ::fork();
    if (child_ < 0) throw std::runtime_error("cannot fork");
    if (child_ == 0) {
      // Between fork and exec: calls that are safe there, and no way back into the test.
      const int in_file = ::open("/dev/null", O_RDONLY);
      const int out_file = ::open(out.c_str(), O_WRONLY | O_CREAT, 0600);
      const int err_file = terminal.empty() ? ::open(err.c_str(), O_WRONLY | O_CREAT, 0600)
                                            : ::open(terminal.c_str(), O_RDWR | O_NOCTTY);
      if (in_file < 0 || out_file < 0 || err_file < 0) ::_exit(127);
      ::dup2(in_file, 0);
      ::dup2(out_file, 1);
      ::dup2(err_file, 2);
      if (surroundings.largest_file) {
        const rlimit limit{*surroundings.largest_file, *surroundings.largest_file};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        ::signal(SIGXFSZ, SIG_IGN);  // the write fails with EFBIG instead
      }
      ::execv(program.c_str(), argv.data());
      ::_exit(127);
    }
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    if (terminal_ >= 0) ::close(terminal_);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void send(int signal) const {
    if (child_ > 0) ::kill(child_, signal);
  }

  /// Has it ended? Once true, `wait` returns at once.
  bool has_ended() {
    if (child_ > 0 && ::waitpid(child_, &status_, WNOHANG) == child_) child_ = 0;
    return child_ == 0;
  }

  Result wait() {
    Result result;
    if (terminal_ >= 0) {
      char part[4096];
      for (ssize_t count; (count = ::read(terminal_, part, sizeof part)) > 0;)  // fails once the program has left it
        result.err.append(part, static_cast<std::size_t>(count));
    }
    if (child_ > 0) {
      ::waitpid(child_, &status_, 0);
      child_ = 0;
    }
    if (WIFEXITED(status_)) result.exit_code = WEXITSTATUS(status_);
    if (WIFSIGNALED(status_)) result.signal = WTERMSIG(status_);
    if (std::filesystem::exists(folder_ / "out")) result.out = bytes_of(folder_ / "out");
    if (terminal_ < 0) result.err = bytes_of(folder_ / "err");
    return result;
  }

 private:
  Path folder_;
  pid_t child_ = -1;
  int status_ = 0, terminal_ = -1;
};

inline Result run(const std::string& name, const Arguments& arguments, const Surroundings& surroundings = {}) {
  return Program(name, arguments, surroundings).wait();
}

/// Waits until `file` has been replaced `times` times (its coming into being counts), or the program has ended.
/// Returns whether it is still running.
inline bool wait_for_replacements(Program& program, const Path& file, int times) {
  const auto identity = [&] {
    struct stat status {};
    if (::stat(file.c_str(), &status) != 0) return std::pair<ino_t, std::int64_t>{0, 0};
    return std::pair<ino_t, std::int64_t>{status.st_ino,
                                          status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
  };
  auto known = identity();
  while (times > 0) {
    if (program.has_ended()) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    const auto now = identity();
    if (now == known) continue;
    known = now;
    --times;
  }
  return !program.has_ended();
}

inline Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

}  // namespace blinkbert::test
