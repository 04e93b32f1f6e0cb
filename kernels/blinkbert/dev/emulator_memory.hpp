#pragma once

// Memory of an emulated device: host memory with a shadow that knows who wrote and read each element in which launch.
//
// Threads of a launch do not talk to each other through this memory: an element that one thread writes no other thread of
// the same launch may read or write. So the finding does not depend on the schedule, and blocks may run side by side on
// several host threads. Reading what nobody ever wrote is a fault too.
//
// A cell of the shadow stands for one byte. Elements of two bytes and more keep to the cells of their even bytes, so that
// neighbours never share one and half of the cells are never touched; odd bytes matter to elements of one byte.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include <blinkbert/core/expects.hpp>

namespace blinkbert::dev::emulator {

/// What a kernel did wrong: names kernel, block, thread, place, and what the other side did.
class KernelFault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

enum class Access { read, write };

/// Zeros from the start, which cost nothing until they are touched.
template <class T>
class ZeroedArray {
 public:
  ZeroedArray() = default;
  explicit ZeroedArray(std::size_t count)
      : data_(static_cast<T*>(std::calloc(std::max<std::size_t>(count, 1), sizeof(T)))) {
    if (!data_) throw std::bad_alloc();
  }
  T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
};

/// True where eight neighbours hold the same bytes.
template <class T>
bool all_equal(const T* first) {
  return std::memcmp(first, first + 1, 7 * sizeof(T)) == 0;
}

class MemoryMap {
 public:
  static constexpr std::size_t alignment = 256;
  static constexpr std::uint32_t most_threads = (1u << 22) - 2;  // in a launch
  static constexpr std::uint32_t first_launch = 2, most_launches = (1u << 20) - 1;

  struct Allocation {
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
    ZeroedArray<std::uint64_t> shadow;  // launch (20 bits), writer (22), reader (22): even bytes first, then odd ones

    bool holds(const std::byte* from, std::size_t count) const {
      const auto offset = static_cast<std::size_t>(from - begin);
      return from >= begin && count <= bytes && offset <= bytes - count;
    }
    std::size_t cells() const { return bytes + bytes % 2; }
    std::uint64_t& cell(std::size_t offset) const { return shadow[offset / 2 + offset % 2 * (cells() / 2)]; }
  };

  std::byte* add(std::size_t bytes) {
    Allocation made{nullptr, bytes, ZeroedArray<std::uint64_t>(bytes + bytes % 2)};
    made.begin = static_cast<std::byte*>(::operator new (std::max<std::size_t>(bytes, 1), std::align_val_t{alignment}));
    std::memset(made.begin, 0xff, bytes);
    std::byte* const begin = made.begin;
    allocations_[begin] = std::move(made);
    return begin;
  }
  void remove(std::byte* begin) {
    allocations_.erase(begin);
    ::operator delete (begin, std::align_val_t{alignment});
  }

  /// The host, or something else than a kernel, wrote these bytes.
  void note_written(const void* from, std::size_t bytes) const {
    const auto& [at, offset] = find_for("a write", from, bytes);
    for (std::size_t i = offset; i < offset + bytes; ++i) at.cell(i) = by_host;
  }
  /// Throws where the host, or something else than a kernel, reads bytes that nobody wrote. (Of two bytes the even one is
  /// looked at: whether the odd one belongs to the same element is not known here.)
  void require_written(const void* from, std::size_t bytes, const char* who) const {
    const auto& [at, offset] = find_for(who, from, bytes);
    for (std::size_t i = offset + offset % 2; i < offset + bytes; i += 2) {
      if (at.cell(i) == nobody)
        throw KernelFault(text(who, " reads byte ", i - offset, " of ", bytes, ", which nobody wrote"));
    }
  }

  /// The allocation that holds all these bytes; nullptr if none does.
  const Allocation* find(const void* from, std::size_t bytes) const {
    const auto* place = static_cast<const std::byte*>(from);
    const auto next = allocations_.upper_bound(place);
    if (next == allocations_.begin()) return nullptr;
    const Allocation& at = std::prev(next)->second;
    return at.holds(place, bytes) ? &at : nullptr;
  }

  /// Before numbers of launches are used again.
  void forget_launches() const {
    for (const auto& [begin, at] : allocations_) {
      for (std::size_t i = 0; i < at.cells(); ++i) {
        if (at.shadow[i] != nobody) at.shadow[i] = by_host;
      }
    }
  }

  static constexpr std::uint32_t several = (1u << 22) - 1;
  static constexpr std::uint64_t nobody = 0, by_host = std::uint64_t{1} << 44;
  static std::uint64_t packed(std::uint64_t launch, std::uint64_t writer, std::uint64_t reader) {
    return launch << 44 | writer << 22 | reader;
  }

 private:
  std::pair<const Allocation&, std::size_t> find_for(const char* who, const void* from, std::size_t bytes) const {
    const Allocation* at = find(from, bytes);
    if (at == nullptr) throw KernelFault(text(who, " of memory that is not the device's"));
    return {*at, static_cast<std::size_t>(static_cast<const std::byte*>(from) - at->begin)};
  }

  std::map<const std::byte*, Allocation> allocations_;
};

/// Watches the global memory for the blocks of a launch that run on one host thread.
class MemoryWatch {
 public:
  /// What is wrong with an access, where it is in its allocation, and who else is concerned.
  struct Finding {
    enum Kind { nothing, outside, unwritten, written_by_another, read_by_another } kind = nothing;
    std::uint32_t other = 0;  // thread of the launch; MemoryMap::several
    std::size_t offset = 0, bytes = 0;
  };
  enum class Neighbours { none, other_host_threads };

  void begin_launch(const MemoryMap& map, std::uint32_t launch, Neighbours neighbours) {
    map_ = &map;
    launch_ = launch;
    neighbours_ = neighbours;
    cache_.fill(nullptr);
  }

  /// `thread` counts the threads of the launch; elements are of `element` bytes each. True where nothing is wrong with the
  /// access; otherwise see `finding`.
  bool touch(const void* from, std::size_t bytes, std::size_t element, Access access, std::uint32_t thread) {
    const auto* place = static_cast<const std::byte*>(from);
    const MemoryMap::Allocation*& cached = cache_[reinterpret_cast<std::uintptr_t>(from) / 4096 % cache_.size()];
    if (cached == nullptr || !cached->holds(place, bytes)) {
      const MemoryMap::Allocation* found = map_->find(from, bytes);
      if (found == nullptr) return is_found(Finding::outside);
      cached = found;
    }
    const auto offset = static_cast<std::size_t>(place - cached->begin);
    std::uint64_t* const first = &cached->cell(offset);
    if (bytes == 16 && element > 1 && neighbours_ == Neighbours::none) {
      if (all_equal(first)) {  // one decision for all of them
        if (!touch_cell(first[0], access, thread + 1)) return is_found_at(*cached, offset);
        for (std::size_t i = 1; i < 8; ++i) first[i] = first[0];
        return true;
      }
    }
    const std::size_t step = element == 1 ? 1 : 2;
    for (std::size_t i = 0; i < bytes; i += step) {
      if (!touch_cell(cached->cell(offset + i), access, thread + 1)) return is_found_at(*cached, offset + i);
    }
    return true;
  }
  const Finding& finding() const { return finding_; }

 private:
  bool is_found(Finding::Kind kind, std::uint32_t other = 0) {
    finding_ = {kind, other, 0, 0};
    return false;
  }
  bool is_found_at(const MemoryMap::Allocation& at, std::size_t offset) {
    finding_.offset = offset;
    finding_.bytes = at.bytes;
    return false;
  }

  bool touch_cell(std::uint64_t& plain, Access access, std::uint32_t me) {
    const std::atomic_ref<std::uint64_t> cell(plain);
    std::uint64_t before = cell.load(std::memory_order_relaxed);
    while (true) {
      const bool is_new = before >> 44 != launch_;
      const auto writer = is_new ? 0u : static_cast<std::uint32_t>(before >> 22 & MemoryMap::several);
      const auto reader = is_new ? 0u : static_cast<std::uint32_t>(before & MemoryMap::several);
      if (writer != 0 && writer != me) return is_found(Finding::written_by_another, writer - 1);
      std::uint64_t after = 0;
      if (access == Access::read) {
        if (before == MemoryMap::nobody) return is_found(Finding::unwritten);
        after = MemoryMap::packed(launch_, writer, reader == 0 || reader == me ? me : MemoryMap::several);
      } else {
        if (reader != 0 && reader != me)
          return is_found(Finding::read_by_another, reader == MemoryMap::several ? reader : reader - 1);
        after = MemoryMap::packed(launch_, me, 0);
      }
      if (after == before) return true;
      if (neighbours_ == Neighbours::none) {
        cell.store(after, std::memory_order_relaxed);
        return true;
      }
      if (cell.compare_exchange_weak(before, after, std::memory_order_relaxed)) return true;
    }
  }

  const MemoryMap* map_ = nullptr;
  std::uint32_t launch_ = 0;
  Neighbours neighbours_ = Neighbours::none;
  Finding finding_;
  std::array<const MemoryMap::Allocation*, 64> cache_{};  // by page: where the last access to it found its allocation
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
