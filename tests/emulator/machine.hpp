#pragma once

// What the tests of the emulator share: a device with buffers, a line of the kernel found by a remark beside it, and the two
// questions asked of every kernel over several schedules: is the fault found and named, and is its correct sibling let pass?

#include <cstdint>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/dev/warp.hpp>

namespace blinkbert::test {

using dev::emulator::KernelFault;
using dev::emulator::Options;

/// A device for one test: what dev::launch asks for, and memory.
class Device {
 public:
  explicit Device(const Options& options = {}) : machine_(options) {}

  dev::emulator::Machine& machine() { return machine_; }

  template <class T>
  View<T, 1> holding(const std::vector<T>& values) {
    const View<T, 1> view = unwritten<T>(static_cast<int>(values.size()));
    if (!values.empty()) std::memcpy(view.data(), values.data(), values.size() * sizeof(T));
    machine_.memory()->note_written(view.data(), values.size() * sizeof(T));
    return view;
  }
  template <class T>
  View<T, 1> unwritten(int count) {
    memories_.emplace_back(machine_.memory(), static_cast<std::size_t>(count) * sizeof(T));
    return {reinterpret_cast<T*>(memories_.back().data()), {count}};
  }
  void forget_buffers() { memories_.clear(); }

 private:
  dev::emulator::Machine machine_;
  std::vector<dev::emulator::DeviceMemory> memories_;
};

template <class T, int Rank>
std::vector<T> values_of(const View<T, Rank>& view) {
  return {view.data(), view.data() + view.size()};
}

inline constexpr std::uint64_t seeds = 16;  // schedules of every kernel

/// "file.cpp:12" of the line that carries the remark `<- what`, in a file of tests/emulator.
inline std::string line_with(const std::string& file, const std::string& what) {
  const std::string name = file.substr(file.find_last_of('/') + 1);
  std::ifstream source(std::string(BLINKBERT_SOURCE_DIR "/tests/emulator/") + name);
  std::string line, found;
  for (int number = 1; std::getline(source, line); ++number) {
    if (!line.ends_with("// <- " + what)) continue;
    if (!found.empty()) throw std::logic_error("two lines with the remark: " + what);
    found = text(name, ':', number);
  }
  if (found.empty()) throw std::logic_error("no line with the remark: " + what);
  return found;
}

/// What a fault must say: of which kernel, block and thread, and what.
struct Words {
  std::string kernel;
  int block;
  std::string thread;  // "" where no thread is named, "*" for any
  std::string what;    // begins so
  int launch = 1;

  bool fit(const std::string& message, std::uint64_t seed) const {
    std::string rest = message;
    const auto is_next = [&](const std::string& part) {
      if (!rest.starts_with(part)) return false;
      rest.erase(0, part.size());
      return true;
    };
    if (!is_next("kernel " + kernel)) return false;
    if (rest.starts_with('<')) rest.erase(0, rest.find(", block "));  // template arguments
    if (!is_next(text(", block ", block))) return false;
    if (thread == "*") {
      if (!is_next(", thread ")) return false;
      rest.erase(0, rest.find(','));
    } else if (!thread.empty() && !is_next(", thread " + thread)) {
      return false;
    }
    return is_next(text(", launch ", launch, ", schedule seed ", seed, ": ")) && is_next(what);
  }
};

/// The message of the fault that run(device) ends with; "" if it ends well.
template <class Run>
std::string fault_of(Device& device, const Run& run) {
  try {
    run(device);
  } catch (const KernelFault& fault) {
    return fault.what();
  }
  return "";
}

/// Requires that run(device) ends with a fault in every schedule, each time with one of these messages. Returns how many of
/// them were met.
template <class Run>
std::size_t require_one_of(const std::vector<Words>& messages, const Run& run) {
  std::set<std::size_t> met;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    const std::string message = fault_of(device, run);
    std::string wanted;
    bool fits = false;
    for (std::size_t i = 0; i < messages.size(); ++i) {
      wanted += text("\n  ", messages[i].kernel, ", block ", messages[i].block, ", thread ", messages[i].thread, ": ",
                     messages[i].what);
      if (!messages[i].fit(message, seed)) continue;
      fits = true;
      met.insert(i);
    }
    INFO("seed " << seed << ": " << message << "\nwanted one of:" << wanted);
    REQUIRE(fits);
  }
  return met.size();
}
/// ... and that the schedules differ so much that each message is met.
template <class Run>
void require_each_of(const std::vector<Words>& messages, const Run& run) {
  REQUIRE(require_one_of(messages, run) == messages.size());
}
template <class Run>
void require_fault(const Words& message, const Run& run) {
  require_one_of({message}, run);
}

/// Requires that run(device) ends well in every schedule.
template <class Run>
void require_sound(const Run& run) {
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Device device({.seed = seed});
    REQUIRE_NOTHROW(run(device));
  }
}

}  // namespace blinkbert::test
