#pragma once

// Memory of an emulated device: host memory with a shadow that knows, for each byte, who wrote and read it in which launch.
//
// Threads of a launch do not talk to each other through this memory: an element that one thread writes no other thread of
// the same launch may read or write. So the finding does not depend on the schedule, and blocks may run side by side on
// several host threads. Reading what nobody ever wrote is a fault too.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include <blinkbert/core/expects.hpp>

namespace blinkbert::dev::emulator {

/// What a kernel did wrong: names kernel, block, thread, place, and what the other side did.
class KernelFault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

enum class Access { read, write };

/// Who touches memory: one number for each thread of a launch, from 1.
struct Toucher {
  std::uint32_t launch = 0;
  std::uint32_t thread = 0;
};

class MemoryMap {
 public:
  static constexpr std::size_t alignment = 256;
  static constexpr std::uint32_t most_threads = (1u << 22) - 2;  // in a launch

  std::byte* add(std::size_t bytes) {
    auto* begin =
        static_cast<std::byte*>(::operator new (std::max<std::size_t>(bytes, 1), std::align_val_t{alignment}));
    std::memset(begin, 0xff, bytes);
    allocations_[begin] = {begin, bytes, std::make_unique<std::atomic<std::uint64_t>[]>(bytes)};
    return begin;
  }
  void remove(std::byte* begin) {
    allocations_.erase(begin);
    ::operator delete (begin, std::align_val_t{alignment});
  }

  /// The host, or something else than a kernel, wrote these bytes.
  void note_written(const void* from, std::size_t bytes) {
    Allocation* at = find(from, bytes);
    if (at == nullptr) throw KernelFault("memory that is not the device's");
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(from) - at->begin);
    for (std::size_t i = 0; i < bytes; ++i) at->shadow[offset + i].store(by_host, std::memory_order_relaxed);
  }
  /// Throws where the host, or something else than a kernel, reads bytes that nobody wrote.
  void require_written(const void* from, std::size_t bytes, const char* who) const {
    const Allocation* at = find(from, bytes);
    if (at == nullptr) throw KernelFault(text(who, " reads memory that is not the device's"));
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(from) - at->begin);
    for (std::size_t i = 0; i < bytes; i += 2) {
      if (at->shadow[offset + i].load(std::memory_order_relaxed) == nobody) {
        throw KernelFault(text(who, " reads byte ", i, " of ", bytes, ", which nobody wrote"));
      }
    }
  }

  /// A kernel's access. Returns an empty string, or what is wrong with it. An access of more than one byte touches the
  /// shadow of every second byte: no two elements share one.
  std::string touch(const void* from, std::size_t bytes, Access access, Toucher me) const {
    const Allocation* at = find(from, bytes);
    if (at == nullptr) return "outside of the device's memory";
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(from) - at->begin);
    for (std::size_t i = 0; i < bytes; i += 2) {
      std::atomic<std::uint64_t>& cell = at->shadow[offset + i];
      std::uint64_t before = cell.load(std::memory_order_relaxed), after = 0;
      do {
        const bool is_new = before >> 44 != me.launch;
        const auto writer = is_new ? 0u : static_cast<std::uint32_t>(before >> 22 & several);
        const auto reader = is_new ? 0u : static_cast<std::uint32_t>(before & several);
        if (writer != 0 && writer != me.thread) {
          return text(access == Access::read ? "read" : "write", " of what thread ", writer - 1,
                      " of the launch writes in the same launch");
        }
        if (access == Access::read) {
          if (before == nobody) return "read of global memory that nobody wrote";
          after = packed(me.launch, writer, reader == 0 || reader == me.thread ? me.thread : several);
        } else {
          if (reader != 0 && reader != me.thread) {
            return reader == several
                       ? std::string("write of what other threads read in the same launch")
                       : text("write of what thread ", reader - 1, " of the launch reads in the same launch");
          }
          after = packed(me.launch, me.thread, 0);
        }
      } while (after != before && !cell.compare_exchange_weak(before, after, std::memory_order_relaxed));
    }
    return {};
  }

 private:
  struct Allocation {
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
    std::unique_ptr<std::atomic<std::uint64_t>[]> shadow;  // launch (20 bits), writer (22), reader (22) of each byte
  };
  static constexpr std::uint32_t several = (1u << 22) - 1;
  static constexpr std::uint64_t nobody = 0, by_host = std::uint64_t{1} << 44;
  static std::uint64_t packed(std::uint32_t launch, std::uint32_t writer, std::uint32_t reader) {
    return std::uint64_t{launch} << 44 | std::uint64_t{writer} << 22 | reader;
  }

  const Allocation* find(const void* from, std::size_t bytes) const {
    const auto* place = static_cast<const std::byte*>(from);
    auto next = allocations_.upper_bound(const_cast<std::byte*>(place));
    if (next == allocations_.begin()) return nullptr;
    const Allocation& at = std::prev(next)->second;
    return place + bytes <= at.begin + at.bytes ? &at : nullptr;
  }
  Allocation* find(const void* from, std::size_t bytes) {
    return const_cast<Allocation*>(std::as_const(*this).find(from, bytes));
  }

  std::map<std::byte*, Allocation> allocations_;
};

/// Bytes of an emulated device; moved, never copied. They start as NaN, and as written by nobody.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(std::shared_ptr<MemoryMap> map, std::size_t bytes) : map_(std::move(map)), data_(map_->add(bytes)) {}
  DeviceMemory(DeviceMemory&& other) noexcept
      : map_(std::move(other.map_)), data_(std::exchange(other.data_, nullptr)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(map_, other.map_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) map_->remove(data_);
  }

  std::byte* data() const { return data_; }

 private:
  std::shared_ptr<MemoryMap> map_;
  std::byte* data_ = nullptr;
};

}  // namespace blinkbert::dev::emulator
