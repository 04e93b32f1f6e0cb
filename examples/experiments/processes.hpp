#pragma once

// Runs in processes of their own: the programs pretrain and finetune that lie beside this one.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "../command_line.hpp"
#include "plan.hpp"

namespace programs {

/// The program of a stage, beside this one: pretrain, or blinkbert-pretrain where this one is called blinkbert-...
inline std::filesystem::path program_beside(const char* own_name, Task task) {
  std::error_code error;
  std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) own = std::filesystem::absolute(own_name);
  const std::string prefix = own.filename().string().starts_with("blinkbert-") ? "blinkbert-" : "";
  const std::filesystem::path program =
      own.parent_path() / (prefix + (task == Task::pretraining ? "pretrain" : "finetune"));
  if (::access(program.c_str(), X_OK) != 0)
    throw blinkbert::RunError(text("cannot find the program ", program.string(), ", which does the training"));
  return program;
}

/// One call at a time works in a folder. The lock is inherited by the processes of the runs, so a call that follows one
/// that was killed waits for what is still writing.
class FolderLock {
 public:
  /// Waits where the folder is taken; returns early, without the lock, where the user wants to stop.
  FolderLock(const std::filesystem::path& folder, bool is_quiet)
      : file_(::open((folder / "lock").c_str(), O_RDWR | O_CREAT, 0666)) {
    if (file_ < 0) throw blinkbert::RunError(text("cannot write in ", folder.string()));
    bool has_said = false;
    while (::flock(file_, LOCK_EX | LOCK_NB) != 0 && !stop_requested) {
      if (!has_said && !is_quiet)
        std::cerr << folder.string() << ": waiting for another call that works in this folder\n";
      has_said = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() { ::close(file_); }

 private:
  int file_;
};

/// Starts a program whose output goes to `log`. It does not get this terminal's Ctrl-C (it is told once, by `stop`), and it
/// is told to stop where this process is killed.
inline pid_t start_program(const std::vector<std::string>& words, const std::filesystem::path& log) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid(), child = ::fork();
  if (child < 0) throw blinkbert::RunError("cannot start a process");
  if (child > 0) return child;
  // Between fork and exec: calls that are safe there.
  ::setpgid(0, 0);
#if defined(__linux__)
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
  if (::getppid() != parent) ::_exit(failed_run);
  const int in = ::open("/dev/null", O_RDONLY), out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (in < 0 || out < 0) ::_exit(failed_run);
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::execv(argv[0], argv.data());
  ::_exit(failed_run);
}

/// The last line of a log that is not empty, for messages.
inline std::string last_line(const std::filesystem::path& log) {
  std::error_code error;
  if (!std::filesystem::exists(log, error)) return "no log";
  std::istringstream lines(blinkbert::read_file(log));
  std::string last = "no message";
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

struct RunnerFlags {
  int jobs = 1, threads = 0;
  std::string device = "auto";
  bool is_quiet = false;
};

/// Does all runs of the plan that are not finished, some at a time. A run that fails is named, what needs it fails with
/// it, the others go on. Returns false where the user stopped it.
class Runner {
 public:
  Runner(Plan& plan, const RunnerFlags& flags, const char* own_name)
      : plan_(&plan),
        flags_(flags),
        pretrain_(program_beside(own_name, Task::pretraining)),
        finetune_(program_beside(own_name, Task::finetuning)),
        progress_(!flags.is_quiet) {
    const int all =
        flags.threads > 0 ? flags.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    threads_each_ = std::max(1, all / flags.jobs);
  }

  bool run_all() {
    bool has_told = false;
    while (true) {
      plan_->extend();
      if (!stop_requested) start_ready();
      if (stop_requested && !has_told) {
        has_told = true;
        for (const auto& [child, job] : jobs_) ::kill(child, SIGINT);
      }
      if (jobs_.empty()) break;
      show();
      int status = 0;
      const pid_t child = ::waitpid(-1, &status, WNOHANG);
      if (child > 0 && jobs_.contains(child)) {
        end(child, status);
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
      }
    }
    progress_.clear();
    return !stop_requested;
  }

 private:
  struct Job {
    std::string id;
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  };

  void start_ready() {
    for (std::size_t i = 0; i < plan_->runs().size() && static_cast<int>(jobs_.size()) < flags_.jobs; ++i) {
      PlannedRun& run = plan_->runs()[i];
      if (run.state != RunState::waiting) continue;
      if (!run.backbone.empty()) {
        const PlannedRun& backbone = plan_->run(run.backbone);
        if (backbone.state == RunState::failed) fail(run, text("its backbone ", backbone.title, " failed"));
        if (backbone.state != RunState::finished) continue;
      }
      const std::filesystem::path split = plan_->input(run.id, ".split.json"), config = plan_->input(run.id, ".toml");
      blinkbert::write_split(split, run.split);
      blinkbert::write_file_atomically(config, run.configuration);
      std::vector<std::string> words{(run.task == Task::pretraining ? pretrain_ : finetune_).string(),
                                     "--data",
                                     plan_->data().string(),
                                     "--config",
                                     config.string(),
                                     "--split",
                                     split.string(),
                                     "--out",
                                     plan_->folder(run.id).path().string(),
                                     "--resume",
                                     "--threads",
                                     std::to_string(threads_each_),
                                     "--device",
                                     flags_.device};
      if (run.task == Task::finetuning && run.backbone.empty()) words.push_back("--from-scratch");
      if (!run.backbone.empty()) {
        words.push_back("--backbone");
        words.push_back(plan_->folder(run.backbone).checkpoint("best").string());
      }
      run.state = RunState::running;
      jobs_[start_program(words, plan_->log(run.id))] = {.id = run.id};
    }
  }

  void end(pid_t child, int status) {
    const Job job = jobs_[child];
    jobs_.erase(child);
    PlannedRun& run = plan_->run(job.id);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - job.begin).count();
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == good && plan_->folder(job.id).holds_report()) {
      run.state = RunState::finished;
      seconds_[run.task].push_back(seconds);
      say(text("done: ", run.title, ' ', spell(run.task), ", ", static_cast<int>(std::lround(seconds)), " s"));
    } else if (code == interrupted && stop_requested) {
      run.state = RunState::waiting;
    } else {
      fail(run, code >= 0 ? text("exit code ", code, ": ", blinkbert::printable(last_line(plan_->log(job.id))))
                          : text("ended by signal ", WTERMSIG(status)));
    }
  }

  void fail(PlannedRun& run, const std::string& reason) {
    run.state = RunState::failed;
    run.reason = reason;
    progress_.clear();
    std::cerr << "experiments: " << run.title << ' ' << spell(run.task) << " failed: " << reason
              << " (log: " << plan_->log(run.id).string() << ")\n";
  }

  /// A line for each run where the progress line has no terminal.
  void say(const std::string& line) const {
    if (!flags_.is_quiet && !progress_.is_shown()) std::cerr << line << '\n';
  }

  void show() {
    progress_.show([&] {
      std::map<Task, std::size_t> left;
      std::size_t done = 0;
      for (const PlannedRun& run : plan_->runs()) {
        if (run.state == RunState::waiting || run.state == RunState::running) ++left[run.task];
        if (run.state == RunState::finished) ++done;
      }
      const std::size_t unplanned = plan_->unplanned();
      std::string line = text(done, " of ", plan_->runs().size() + unplanned, " runs done, ", jobs_.size(),
                              stop_requested ? " stopping" : " running");
      // Time left: what is left of each stage at the mean time of its runs so far; unknown stages count as the other one.
      double sum = 0, count = 0;
      for (const auto& [task, times] : seconds_)
        sum += std::accumulate(times.begin(), times.end(), 0.0), count += static_cast<double>(times.size());
      if (count > 0) {
        double seconds = static_cast<double>(unplanned) * sum / count;
        for (const auto& [task, runs] : left) {
          const auto& times = seconds_[task];
          const double mean =
              times.empty() ? sum / count
                            : std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
          seconds += mean * static_cast<double>(runs);
        }
        line += text(", about ", rounded_time(seconds / flags_.jobs), " left");
      }
      if (!jobs_.empty()) line += ": " + plan_->run(jobs_.begin()->second.id).title;
      return line;
    });
  }

  Plan* plan_;
  RunnerFlags flags_;
  std::filesystem::path pretrain_, finetune_;
  ProgressLine progress_;
  int threads_each_ = 1;
  std::map<pid_t, Job> jobs_;
  std::map<Task, std::vector<double>> seconds_;
};

}  // namespace programs
