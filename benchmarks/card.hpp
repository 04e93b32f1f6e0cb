#pragma once

// What the benchmarks ask a card: its name, its memory, times between places in a stream, the rate of copies.

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <blinkbert/cuda.hpp>

#include "measure.hpp"

namespace benchmarks {

inline std::string card_name() {
  int device = 0;
  cudaDeviceProp properties{};
  check_cuda(cudaGetDevice(&device), "looking for a device");
  check_cuda(cudaGetDeviceProperties(&properties, device), "asking the device");
  return properties.name;
}

inline std::size_t free_card_memory() {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "asking for free memory");
  return free;
}

/// Places in a stream's work, and the milliseconds from each to the next.
class Stopwatch {
 public:
  explicit Stopwatch(int most) : events_(static_cast<std::size_t>(most), nullptr) {
    for (cudaEvent_t& event : events_) check_cuda(cudaEventCreate(&event), "making an event");
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }

  void mark(cudaStream_t stream) { check_cuda(cudaEventRecord(events_.at(used_++), stream), "timing"); }

  /// Waits for the last mark.
  std::vector<double> ms() const {
    std::vector<double> all;
    for (std::size_t i = 1; i < used_; ++i) {
      if (i == 1) check_cuda(cudaEventSynchronize(events_[used_ - 1]), "timing");
      float ms = 0;
      check_cuda(cudaEventElapsedTime(&ms, events_[i - 1], events_[i]), "timing");
      all.push_back(ms);
    }
    return all;
  }

 private:
  std::vector<cudaEvent_t> events_;
  std::size_t used_ = 0;
};

/// GB/s of copies within the card, bytes read and bytes written: what the rate of kernels is compared with. 256 MB at a
/// time, less where the card is nearly full.
template <class Device>
double measure_copy_rate(Device& device) {
  constexpr int repetitions = 30, copies = 4, warmup = 5;
  const std::size_t bytes = std::min(std::size_t{256} << 20, free_card_memory() / 4 / 256 * 256);
  const CudaMemory from(bytes), to(bytes);
  device.zero(from.data(), bytes);
  Stopwatch watch(warmup + repetitions + 1);
  for (int i = 0; i <= warmup + repetitions; ++i) {
    watch.mark(device.stream());
    for (int copy = 0; copy < copies; ++copy) device.copy(to.data(), from.data(), bytes);
  }
  std::vector<double> ms = watch.ms();
  device.wait();
  ms.erase(ms.begin(), ms.begin() + warmup);
  return 2.0 * copies * static_cast<double>(bytes) / (1e6 * quantile(ms, 0.5));
}

template <class Real>
class DeviceNotes<Cuda<Real>> {
 public:
  DeviceNotes() {
    check_cuda(cudaFree(nullptr), "beginning");  // what every process holds is held from here on
    free_before_ = least_free_ = free_card_memory();
  }

  void set_up(Cuda<Real>& device, const Timing& timing) {
    if (timing.dtype == "tf32") device.use_tf32();
  }
  void look_at_memory() { least_free_ = std::min(least_free_, free_card_memory()); }

  /// The memory is all that the process holds beside its context: arenas, workspaces, the kernels that were loaded.
  void add_to(Json& result, Cuda<Real>& device) {
    result["gpu"] = card_name();
    result["device_memory_mib"] = static_cast<double>(free_before_ - least_free_) / (1 << 20);
    result["copy_gbyte_per_second"] = measure_copy_rate(device);
  }

 private:
  std::size_t free_before_ = 0, least_free_ = 0;
};

}  // namespace benchmarks
