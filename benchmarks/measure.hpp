#pragma once

// What step_bench and score_bench share: sizes, random data, timing, the machine, the JSON that they and the peers write.
// Nothing here knows a device, so a backend with a compiler of its own can include it.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/data/batches.hpp>
#include <blinkbert/io/config_file.hpp>
#include <blinkbert/train/checkpoint.hpp>

#include "flops.hpp"

namespace benchmarks {

using namespace blinkbert;
using Json = nlohmann::ordered_json;

/// What is timed. The names are the flags', here and in the peers.
struct Sizes {
  int B = 64, L = 30, E = 512, heads = 4, blocks = 4, N = 18;
  std::string upscaling = "linear", norm = "post";
};

/// How it is timed, and where the results go.
struct Timing {
  std::string device = "cpu", dtype = "fp32";
  int threads = 0;   // 0 = all
  int products = 2;  // of Products (backend/cpu/device.hpp)
  double seconds = 10, warmup = 3;
  std::filesystem::path json, weights, check;  // empty = not wanted
};

/// Batches that a measurement goes through in turn, so that no data stays in a cache that would not stay there in use.
inline constexpr int batches = 8;

/// The keys that follow from the sizes, of either task's configuration: N original features, no calibration.
inline nlohmann::json config_keys(const Sizes& sizes) {
  std::vector<std::string> features;
  for (int n = 0; n < sizes.N; ++n) features.push_back(text("x", n));
  return {{"data", {{"features", features}, {"calibration", "none"}, {"window", sizes.L}, {"min_length", 1}}},
          {"model",
           {{"width", sizes.E},
            {"heads", sizes.heads},
            {"blocks", sizes.blocks},
            {"upscaling", sizes.upscaling},
            {"norm", sizes.norm}}},
          {"train", {{"batch", sizes.B}}}};
}

inline Config make_config(Task task, const nlohmann::json& keys) {
  Config config = config_from_json(task, keys, "flags");
  resolve(config);
  validate(config);
  return config;
}

/// Rows of independent standard normals, and windows that cover each of them once; all are full.
struct RandomWindows {
  RowTable table;
  std::vector<NumberedWindow> windows;

  RandomWindows(int count, int L, int N) {
    std::mt19937_64 generator(1);
    std::normal_distribution<float> normal;
    table.N = N;
    table.x.resize(static_cast<std::size_t>(count) * static_cast<std::size_t>(L) * static_cast<std::size_t>(N));
    std::generate(table.x.begin(), table.x.end(), [&] { return normal(generator); });
    for (int w = 0; w < count; ++w) {
      windows.push_back({.window = {.recording = w, .start = w * L, .length = L, .label = 5},
                         .number = static_cast<std::uint32_t>(w)});
    }
  }
};

/// The model as a checkpoint, which the peers read.
template <class Device>
void write_weights(Device& device, const ParameterSet<Device>& set, const Config& config,
                   const std::filesystem::path& path) {
  CheckpointHeader header{.config = config, .scaler = {}, .data = "random", .training_drivers = {}};
  header.scaler.center.assign(config.data.features.size(), 0);
  header.scaler.scale.assign(config.data.features.size(), 1);
  write_safetensors(path,
                    make_checkpoint(set, to_host(device, set.values()), to_host(device, set.statistics()), header));
}

inline double now_in_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Times of what is repeated: nothing counts before `warmup` is over, and `seconds` later it is done; at least three do.
/// Where a repetition is short beside what starts it, a time is the mean over a block: as many repetitions as are given, or
/// fewer that take 200 ms. What the first repetition has to prepare is no part of the warm-up.
class Repetitions {
 public:
  Repetitions(double warmup, double seconds, int per_block = 1)
      : warmup_(1e3 * warmup), seconds_(1e3 * seconds), per_block_(per_block), last_(now_in_ms()) {}

  /// To be called after each repetition.
  void note() {
    const double now = now_in_ms();
    ++in_block_;
    if (first_ == 0) {
      first_ = now;
    } else if (in_block_ < per_block_ && now - last_ < 200) {
      return;
    } else if (last_ >= begin()) {
      ms_.push_back((now - last_) / in_block_);
    }
    last_ = now;
    in_block_ = 0;
  }
  bool is_done() const { return first_ > 0 && last_ >= begin() + seconds_ && ms_.size() >= 3; }
  const std::vector<double>& ms() const { return ms_; }
  /// When the first repetition was done, in milliseconds of now_in_ms.
  double first() const { return first_; }

 private:
  double begin() const { return first_ + warmup_; }

  double warmup_, seconds_;
  int per_block_, in_block_ = 0;
  double last_, first_ = 0;
  std::vector<double> ms_;
};

/// Repetitions in a block, and products between two waits: on a device that works later, enough to keep it busy.
template <class Device>
inline constexpr int per_block = Device::is_asynchronous ? 20 : 1;

/// The value below which a share of the values lies, interpolated between neighbours.
inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

/// What follows the colon in the first line of a /proc file that begins with `key`; empty where there is none.
inline std::string proc_value(const std::string& file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    if (!line.starts_with(key)) continue;
    const auto begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

inline std::string processor_name() { return proc_value("/proc/cpuinfo", "model name"); }

/// Most memory that the process had, with all that its libraries take.
inline double peak_memory_mib() {
  const std::string kib = proc_value("/proc/self/status", "VmHWM");
  return kib.empty() ? 0 : std::stod(kib) / 1024;
}

/// Rate of the library's matrix product [B L, E] x [E, 4 E] (the first of a feed-forward), GFLOP/s: what the rate of a
/// whole step is compared with.
template <class Device>
double measure_gemm_rate(Device& device, const Sizes& sizes) {
  using Real = typename Device::Real;
  const int T = sizes.B * sizes.L, E = sizes.E, F = 4 * E;
  Arena<Device> arena(device);
  const auto y = arena.template take<Real>(T, F), x = arena.template take<Real>(T, E),
             weight = arena.template take<Real>(F, E);
  const auto bias = arena.template take<Real>(F);
  std::mt19937_64 generator(2);
  std::normal_distribution<float> normal;
  const auto fill = [&](auto view) {
    std::vector<Real> values(static_cast<std::size_t>(view.size()));
    std::generate(values.begin(), values.end(), [&] { return static_cast<Real>(normal(generator)); });
    upload(device, view, values.data());
  };
  fill(x), fill(weight), fill(bias);
  Real last{};
  Repetitions products(0.1, 0.3);
  while (!products.is_done()) {
    for (int i = 0; i < per_block<Device>; ++i) {
      run(device, LinearForward<Real>{.y = y, .x = x, .weight = weight, .bias = bias});
    }
    download(device, &last, View<Real, 1>{y.data(), {1}});  // waits for the device
    products.note();
  }
  return 2.0 * T * E * F * per_block<Device> / (1e6 * quantile(products.ms(), 0.5));
}

/// What only the device itself can say, and the flags that concern it alone; specialised for cards in card.hpp. Made before
/// the device.
template <class Device>
struct DeviceNotes {
  void set_up(Device& device, const Timing& timing) {
    if constexpr (RoundsProducts<Device>) {
      if (timing.dtype == "bf16") device.multiply_in_bf16();
    }
    if constexpr (requires { device.products(); }) {
      using Products = std::remove_cvref_t<decltype(device.products())>;
      device.limit_products(static_cast<Products>(timing.products));
    }
  }
  void look_at_memory() {}  // where much is held
  void add_to(Json& result, Device& device) {
    if constexpr (requires { device.products(); }) result["products"] = device.describe_products();
  }
};

/// Threads of the host that a device computes with.
template <class Device>
int threads_of(const Device& device) {
  if constexpr (requires { device.threads(); }) return device.threads();
  return 1;
}

/// What was measured of one repetition, which reads B L rows.
struct Measured {
  std::vector<double> ms;
  double flops;
  double peak_memory_mib;  // before anything else was measured
  double gemm_rate;        // GFLOP/s
  double start_seconds;    // until the first repetition was done: model, plans, memory
};

inline Json make_result(const std::string& program, const Sizes& sizes, const Timing& timing, int threads,
                        const Measured& measured) {
  const double median = quantile(measured.ms, 0.5);
  return {{"program", program},
          {"library", text("blinkbert ", BLINKBERT_VERSION)},
          {"mode", "blinkbert"},
          {"device", timing.device},
          {"processor", processor_name()},
          {"threads", threads},
          {"dtype", timing.dtype},
          {"B", sizes.B},
          {"L", sizes.L},
          {"E", sizes.E},
          {"heads", sizes.heads},
          {"blocks", sizes.blocks},
          {"N", sizes.N},
          {"upscaling", sizes.upscaling},
          {"norm", sizes.norm},
          {"repetitions", measured.ms.size()},
          {"ms",
           {{"median", median},
            {"lower_quartile", quantile(measured.ms, 0.25)},
            {"upper_quartile", quantile(measured.ms, 0.75)}}},
          {"rows_per_second", 1e3 * sizes.B * sizes.L / median},
          {"gflop", measured.flops / 1e9},
          {"gflop_per_second", measured.flops / (1e6 * median)},
          {"formula", flops_formula},
          {"gemm_gflop_per_second", measured.gemm_rate},
          {"peak_memory_mib", measured.peak_memory_mib},
          {"start_seconds", measured.start_seconds},
          {"all_ms", measured.ms}};
}

/// Prints a result for people, and writes all of it where a file is named.
inline void report(const Json& result, const Timing& timing) {
  const auto number = [](const Json& value) {
    std::ostringstream stream;
    stream << std::setprecision(4) << value.get<double>();
    return stream.str();
  };
  const Json& ms = result["ms"];
  const std::string machine = result.value("gpu", result["processor"].get<std::string>());
  std::cout << result["library"].get<std::string>() << ", " << machine << ", " << result["threads"] << " threads, "
            << timing.dtype;
  if (result.contains("products")) std::cout << ", products by " << result["products"].get<std::string>();
  std::cout << '\n'
            << "ms               " << number(ms["median"]) << "  [" << number(ms["lower_quartile"]) << ", "
            << number(ms["upper_quartile"]) << "], median and quartiles of " << result["repetitions"] << '\n'
            << "rows/s           " << number(result["rows_per_second"]) << '\n'
            << "GFLOP/s          " << number(result["gflop_per_second"]) << "  (" << number(result["gflop"])
            << " GFLOP: " << result["formula"].get<std::string>() << ")\n"
            << "GEMM GFLOP/s     " << number(result["gemm_gflop_per_second"]) << '\n'
            << "peak memory MiB  " << number(result["peak_memory_mib"]) << '\n';
  if (result.contains("gpu")) {
    std::cout << "  of the device  " << number(result["device_memory_mib"]) << '\n'
              << "copies GB/s      " << number(result["copy_gbyte_per_second"]) << "  (read and written)\n";
  }
  if (result.contains("gemm_share")) {
    std::cout << "in products      " << number(100 * result["gemm_share"].get<double>()) << " %; ms of each op:";
    for (const auto& [op, op_ms] : result["ms_by_op"].items()) std::cout << ' ' << op << ' ' << number(op_ms);
    std::cout << '\n';
  }
  if (timing.json.empty()) return;
  std::ofstream file(timing.json);
  file << result.dump() << '\n';
  if (!file.flush()) throw RunError(text("cannot write ", timing.json.string()));
}

}  // namespace benchmarks
