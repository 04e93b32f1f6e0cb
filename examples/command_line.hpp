#pragma once

// What all programs share: flags, exit codes, Ctrl-C, the progress line.
//
// Exit codes: 0 good, 1 failed run, 2 wrong usage or input, 3 diverged, 130 interrupted.
// Results go to stdout, logs and progress to stderr.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/version.hpp>

namespace programs {

enum ExitCode { good = 0, failed_run = 1, wrong_input = 2, diverged = 3, interrupted = 130 };

/// Flags with the same meaning in every program that has them.
struct CommonFlags {
  int threads = 0;  // 0 = all
  std::string device = "auto";
  bool is_quiet = false;
  bool wants_json = false;
};

inline void add_output_flags(CLI::App& app, CommonFlags& flags) {
  app.set_version_flag("--version", std::string("blinkbert ") + BLINKBERT_VERSION, "Print the version and leave");
  app.add_flag("--quiet", flags.is_quiet, "No log and no progress on stderr");
  app.add_flag("--json", flags.wants_json, "Print the result as one JSON object");
}

inline void add_device_flags(CLI::App& app, CommonFlags& flags) {
  app.add_option("--threads", flags.threads, "Threads; 0 takes all")->check(CLI::Range(0, 4096));
  app.add_option("--device", flags.device, "Where to run")
      ->check(CLI::IsMember(std::vector<std::string>{"auto", "cpu", "cuda"}))
      ->capture_default_str();
}

/// The call as typed, words with other than plain characters in quotes.
inline std::string command_of(int argc, char** argv) {
  std::string command;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    const bool is_plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 ||
             std::string_view("-_./=,:+%@").find(static_cast<char>(c)) != std::string_view::npos;
    });
    std::string quoted;
    for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    command += (i == 0 ? "" : " ") + (is_plain ? word : "'" + quoted + "'");
  }
  return command;
}

/// The whole of 64 bits and nothing else: CLI11 would let a minus wrap around and cut what is too large.
inline CLI::Validator is_seed() {
  const auto check = [](const std::string& word) -> std::string {
    std::uint64_t seed = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), seed);
    if (error == std::errc{} && end == word.data() + word.size()) return "";
    return "found " + word + ", expected an integer from 0 to 2^64 - 1";
  };
  return CLI::Validator(check, "");
}

// Ctrl-C: the first one lets the program finish its step and save; a second one ends it at once.
inline std::atomic<bool> stop_requested{false};

inline void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

/// A length of time for people: "95 s", "12 min", "3 h 20 min".
inline std::string rounded_time(double seconds) {
  if (seconds < 100) return blinkbert::text(std::lround(seconds), " s");
  const long minutes = std::lround(seconds / 60);
  if (minutes < 100) return blinkbert::text(minutes, " min");
  return blinkbert::text(minutes / 60, " h ", minutes % 60, " min");
}

/// One line on a terminal, rewritten in place; nothing where stderr is none, or one that cannot. Twenty lines of our own,
/// since the libraries for this bring threads and cursor control that a single line does not need.
class ProgressLine {
 public:
  explicit ProgressLine(bool is_wanted)
      : is_shown_(is_wanted && isatty(STDERR_FILENO) != 0 && std::getenv("CI") == nullptr && !is_dumb()) {}
  ~ProgressLine() { clear(); }

  void show(const std::function<std::string()>& line) {
    const auto now = std::chrono::steady_clock::now();
    if (!is_shown_ || now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    // Without wrapping: of a line longer than the terminal is wide, the terminal leaves out the end.
    std::fprintf(stderr, "\r\033[K\033[?7l%s\033[?7h", line().c_str());
  }
  bool is_shown() const { return is_shown_; }
  void clear() const {
    if (is_shown_) std::fputs("\r\033[K", stderr);
  }

 private:
  static bool is_dumb() {
    const char* const terminal = std::getenv("TERM");
    return terminal == nullptr || std::string_view(terminal) == "dumb";
  }

  bool is_shown_;
  std::chrono::steady_clock::time_point last_{};
};

/// Parses the flags, runs the program, turns exceptions into one line on stderr and an exit code.
inline int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& program) {
  const auto fail = [&](std::string_view message, int code) {
    std::cerr << app.get_name() << ": " << message << '\n';
    return code;
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return fail(std::string(error.what()) + " (see --help)", wrong_input);
  }
  try {
    const int code = program();
    std::cout.flush();
    if (!std::cout) return fail("cannot write the result to stdout", failed_run);
    return code;
  } catch (const blinkbert::InputError& error) {
    return fail(error.what(), wrong_input);
  } catch (const blinkbert::Diverged& error) {
    return fail(error.what(), diverged);
  } catch (const std::bad_alloc&) {
    return fail("out of memory: try a smaller model.width or train.batch", failed_run);
  } catch (const std::exception& error) {
    return fail(error.what(), failed_run);
  }
}

}  // namespace programs
