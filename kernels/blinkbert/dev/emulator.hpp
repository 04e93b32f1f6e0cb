#pragma once

// The device words on a host: the same kernel source, run by emulator_block.hpp. What each word means: dev/dev.hpp.
//
// What it cannot tell: time, registers, caches, launch bounds, and whether the device's own instructions do what
// dev/cuda.hpp says. It sees nothing of what a kernel does without the words (`view(i)` instead of `load(at(view, i))`).
// Lanes that are divided inside a function of the kernels' own, called from two places, meet there unnoticed.

#include <omp.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <string_view>

#include <blinkbert/dev/basics.hpp>
#include <blinkbert/dev/emulator_block.hpp>

#define BB_DEVICE inline
#define BB_KERNEL(threads, blocks) void
#define BB_UNROLL
#define BB_UNROLL_BY(count)

namespace blinkbert::dev {

namespace emulator {

/// The block that this host thread is running: kernels are plain functions, so the words find it here.
inline thread_local constinit Block* running_block = nullptr;
inline Block& current() { return *running_block; }

}  // namespace emulator

using emulator::Where;

// --- identity ----------------------------------------------------------------------------------------------------
inline int thread() { return emulator::current().thread(); }
inline int threads() { return emulator::current().thread_count(); }
inline int block() { return emulator::current().number(); }
inline int blocks() { return emulator::current().blocks(); }
inline int lane() { return thread() % warp_size; }
inline int warp() { return thread() / warp_size; }

// --- memory ------------------------------------------------------------------------------------------------------
template <class T>
struct Shared {
  T* data = nullptr;
  int count = 0;
  Shared from(int first, Where where = Where::current()) const {
    if (first < 0 || first > count) {
      emulator::current().fault(text("tile of ", count, " elements cut at ", first, " at ", emulator::spell(where)));
    }
    return {data + first, count - first};
  }
};

class SharedMemory {
 public:
  template <class T>
  Shared<T> take(int count, Where where = Where::current()) {
    emulator::Block& block = emulator::current();
    auto* data = reinterpret_cast<T*>(block.shared() + used_);
    used_ += static_cast<std::size_t>(shared_bytes<T>(count));
    if (count < 0 || used_ > block.shared_size()) {
      block.fault(text(used_, " bytes of shared memory taken at ", emulator::spell(where), ", launched with ",
                       block.shared_size()));
    }
    return {data, count};
  }

 private:
  std::size_t used_ = 0;
};

/// An element of global memory and how many follow it in its row, itself included. Negative where the view has no such
/// element: a mark for Block::fault_outside.
template <class T>
struct GlobalPlace {
  T* pointer;
  int left;

  /// The element, or faults where N of them together are no access that the device can make.
  template <int N>
  T* vector(Where where) const {
    constexpr std::size_t unit = alignment<N>();
    if (N > left) [[unlikely]]
      fault_beyond(N, where);
    if (reinterpret_cast<std::uintptr_t>(pointer) % unit != 0) [[unlikely]]
      fault_misaligned(N, unit, where);
    return pointer;
  }

  template <int N>
  static constexpr std::size_t alignment() {
    if constexpr (N == 1) return alignof(T);
    if constexpr (N > 1) return alignof(Vector<std::remove_const_t<T>, N>);
  }
  [[noreturn, gnu::cold]] void fault_beyond(int count, Where where) const {
    if (left < 0) emulator::current().fault_outside(left, where);
    emulator::current().fault(
        text("vector of ", count, " at ", emulator::spell(where), " with ", left, " elements left in the row"));
  }
  [[noreturn, gnu::cold]] static void fault_misaligned(int count, std::size_t unit, Where where) {
    emulator::current().fault(text(count == 1 ? std::string("element") : text("vector of ", count), " at ",
                                   emulator::spell(where), " is at an address that is not a multiple of ", unit));
  }
};

/// An element of shared memory and how many follow it in its tile, itself included.
template <class T>
struct SharedPlace : GlobalPlace<T> {};

namespace emulator {

template <class T, int Rank, class... Index>
GlobalPlace<T> place_in(const View<T, Rank>& view, Index... index) {
  static_assert(sizeof...(Index) == Rank);
  const std::int64_t indices[] = {static_cast<std::int64_t>(index)...};
  bool is_inside = true;
  for (int axis = 0; axis < Rank; ++axis) {
    is_inside = is_inside && indices[axis] >= 0 && indices[axis] < view.extent(axis);
  }
  if (!is_inside) [[unlikely]] {
    std::int64_t extents[Rank];
    for (int axis = 0; axis < Rank; ++axis) extents[axis] = view.extent(axis);
    return {view.data(), current().note_outside("a view", indices, extents)};
  }
  return {&view(index...), static_cast<int>(view.extent(Rank - 1) - indices[Rank - 1])};
}

}  // namespace emulator

template <class T, int Rank, class... Index>
GlobalPlace<T> at(const View<T, Rank>& view, Index... index) {
  return emulator::place_in(view, index...);
}
template <class T, int Rank, class... Index>
GlobalPlace<T> at(const Acc<T, Rank>& sum, Index... index) {
  return emulator::place_in(sum.view(), index...);
}
template <class T>
SharedPlace<T> at(const Shared<T>& tile, int i) {
  if (i < 0 || i >= tile.count) [[unlikely]]
    return {{tile.data, emulator::current().note_outside("a tile", {std::int64_t{i}}, {std::int64_t{tile.count}})}};
  return {{tile.data + i, tile.count - i}};
}

namespace emulator {

/// The place of N elements, after everything that can be wrong with an access to them has been looked at.
template <int N, Access access, class T>
T* accessed(const GlobalPlace<T>& place, Where where) {
  T* const pointer = place.template vector<N>(where);
  current().touch_global(pointer, N * sizeof(T), sizeof(T), access, where);
  return pointer;
}
template <int N, Access access, class T>
T* accessed(const SharedPlace<T>& place, Where where) {
  T* const pointer = place.template vector<N>(where);
  current().template touch_shared<access>(pointer, N * sizeof(T), sizeof(T), where);
  return pointer;
}

template <int N, class Place>
auto load_vector(const Place& place, Where where) {
  const auto* from = accessed<N, Access::read>(place, where);
  Vector<std::remove_cvref_t<decltype(*from)>, N> value;
  static_assert(sizeof(value) >= 2, "the device words move two bytes and more");
  std::copy_n(from, N, value.element);
  return value;
}

}  // namespace emulator

template <class T>
std::remove_const_t<T> load(const GlobalPlace<T>& place, Where where = Where::current()) {
  return *emulator::accessed<1, emulator::Access::read>(place, where);
}
template <class T>
std::remove_const_t<T> load(const SharedPlace<T>& place, Where where = Where::current()) {
  return *emulator::accessed<1, emulator::Access::read>(place, where);
}
template <int N, class T>
Vector<std::remove_const_t<T>, N> load(const GlobalPlace<T>& place, Where where = Where::current()) {
  return emulator::load_vector<N>(place, where);
}
template <int N, class T>
Vector<std::remove_const_t<T>, N> load(const SharedPlace<T>& place, Where where = Where::current()) {
  return emulator::load_vector<N>(place, where);
}
template <class T>
void store(const GlobalPlace<T>& place, std::type_identity_t<T> value, Where where = Where::current()) {
  *emulator::accessed<1, emulator::Access::write>(place, where) = value;
}
template <class T>
void store(const SharedPlace<T>& place, std::type_identity_t<T> value, Where where = Where::current()) {
  *emulator::accessed<1, emulator::Access::write>(place, where) = value;
}
template <class T, int N>
void store(const GlobalPlace<T>& place, const Vector<T, N>& value, Where where = Where::current()) {
  std::copy_n(value.element, N, emulator::accessed<N, emulator::Access::write>(place, where));
}
template <class T, int N>
void store(const SharedPlace<T>& place, const Vector<T, N>& value, Where where = Where::current()) {
  std::copy_n(value.element, N, emulator::accessed<N, emulator::Access::write>(place, where));
}

// --- waiting -----------------------------------------------------------------------------------------------------
inline void sync_block(Where where = Where::current()) { emulator::current().barrier(0, threads(), where); }
inline void sync_warp(Where where = Where::current()) { emulator::current().sync_warp(where); }
template <int Id>
void sync_group(int threads, Where where = Where::current()) {
  static_assert(Id > 0 && Id < 16);
  emulator::current().barrier(Id, threads, where);
}

// --- warps -------------------------------------------------------------------------------------------------------
namespace emulator {

/// What shuffles do: every lane gives a value and gets that of the lane it names.
template <class T>
T exchange(T value, int from_lane, const char* what, Where where) {
  if (from_lane < 0 || from_lane >= warp_size) [[unlikely]]
    current().fault(text(what, " at ", spell(where), " from lane ", from_lane));
  struct Arguments {
    T given;
    int from;
    T taken;
  } mine{value, from_lane, value};
  current().collective(what, where, mine, [](const auto& lane) {
    for (Arguments* one : lane) one->taken = lane[static_cast<std::size_t>(one->from)]->given;
  });
  return mine.taken;
}

}  // namespace emulator

template <class T>
T shuffle_xor(T value, int mask, Where where = Where::current()) {
  return emulator::exchange(value, lane() ^ mask, "shuffle_xor", where);
}
template <class T>
T shuffle(T value, int from_lane, Where where = Where::current()) {
  return emulator::exchange(value, from_lane, "shuffle", where);
}
inline std::uint32_t ballot(bool condition, Where where = Where::current()) {
  struct Arguments {
    bool condition;
    std::uint32_t votes;
  } mine{condition, 0};
  emulator::current().collective("ballot", where, mine, [](const auto& lane) {
    std::uint32_t votes = 0;
    for (std::size_t l = 0; l < lane.size(); ++l) votes |= std::uint32_t{lane[l]->condition} << l;
    for (Arguments* one : lane) one->votes = votes;
  });
  return mine.votes;
}
inline int popcount(std::uint32_t word) { return std::popcount(word); }

// --- asynchronous copies -----------------------------------------------------------------------------------------
template <class T>
void copy_async(const SharedPlace<std::remove_const_t<T>>& to, const GlobalPlace<T>& from, bool is_wanted,
                Where where = Where::current()) {
  constexpr int N = 16 / static_cast<int>(sizeof(T));
  auto* target = to.template vector<N>(where);
  const auto* source = is_wanted ? from.template vector<N>(where) : nullptr;
  emulator::current().copy_async(reinterpret_cast<std::byte*>(target), reinterpret_cast<const std::byte*>(source),
                                 sizeof(T), is_wanted, where);
}
inline void commit_copies() { emulator::current().commit_copies(); }
template <int UnderWay>
void wait_copies(Where where = Where::current()) {
  static_assert(UnderWay >= 0);
  emulator::current().wait_copies(UnderWay, where);
}

// --- maths -------------------------------------------------------------------------------------------------------
inline float exp2(float x) { return std::exp2(x); }
inline float log2(float x) { return std::log2(x); }
inline std::uint32_t pack(float low, float high) {
  return std::uint32_t{bf16_bits(low)} | std::uint32_t{bf16_bits(high)} << 16;
}

// --- launching ---------------------------------------------------------------------------------------------------
namespace emulator {

inline constexpr int most_shared_bytes = 227 * 1024;  // of a block, as on sm_90

/// What stands in for a device: its memory and the way kernels run on it.
class Machine {
 public:
  explicit Machine(const Options& options) : options_(options) {}

  Options& options() { return options_; }
  const std::shared_ptr<MemoryMap>& memory() const { return memory_; }
  /// Of the launches since the last call of `forget_bank_counts`; needs Options::counts_bank_conflicts.
  const BankCounts& bank_counts() const { return bank_counts_; }
  void forget_bank_counts() { bank_counts_.clear(); }

  template <auto Kernel, class... Arguments>
  void launch(LaunchShape shape, const Arguments&... arguments) {
    run_grid(kernel_name(__PRETTY_FUNCTION__), shape, [&] { Kernel(arguments...); });
  }

 private:
  /// Throws what was thrown in the first of the blocks that threw.
  void run_grid(const std::string& kernel, LaunchShape shape, const std::function<void()>& body) {
    BLINKBERT_EXPECTS(shape.blocks > 0, shape.blocks);
    BLINKBERT_EXPECTS(shape.threads > 0 && shape.threads % warp_size == 0 && shape.threads <= 1024, shape.threads);
    BLINKBERT_EXPECTS(shape.shared_bytes >= 0 && shape.shared_bytes <= most_shared_bytes, shape.shared_bytes);
    BLINKBERT_EXPECTS(std::int64_t{shape.blocks} * shape.threads < MemoryMap::most_threads, shape.blocks,
                      shape.threads);
    if (launch_ == MemoryMap::most_launches) {
      memory_->forget_launches();
      launch_ = MemoryMap::first_launch;
    }
    const Launch launch{kernel, launch_++, shape, options_, memory_.get()};
    while (static_cast<int>(blocks_.size()) < options_.host_threads) blocks_.push_back(std::make_unique<Block>());
    std::exception_ptr error;
    int failed = std::numeric_limits<int>::max();  // the block
    std::mutex mutex;
    const auto attempt = [&](int number, const auto& work) {
      try {
        work();
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (number < failed) error = std::current_exception();
        failed = std::min(failed, number);
      }
    };
#pragma omp parallel num_threads(options_.host_threads) if (options_.host_threads > 1)
    {
      Block& block = *blocks_[static_cast<std::size_t>(omp_get_thread_num())];
      running_block = &block;
      attempt(-1, [&] { block.begin_launch(launch); });
#pragma omp barrier
#pragma omp for schedule(dynamic)
      for (int number = 0; number < shape.blocks; ++number) {
        {
          const std::lock_guard lock(mutex);
          if (number > failed) continue;
        }
        attempt(number, [&] { block.run(number, body); });
      }
      running_block = nullptr;
    }
    for (const auto& block : blocks_) {
      for (const auto& [line, count] : block->take_bank_counts()) {
        bank_counts_[line].turns += count.turns;
        bank_counts_[line].conflicts += count.conflicts;
      }
    }
    if (error) std::rethrow_exception(error);
  }

  static std::string kernel_name(std::string_view function) {
    const std::string_view mark = "Kernel = ";
    const std::size_t begin = function.find(mark) + mark.size();
    const std::string_view name = function.substr(begin, function.find(';', begin) - begin);
    const std::size_t space = name.rfind("::", name.find('<'));
    return std::string(space == name.npos ? name : name.substr(space + 2));
  }

  Options options_;
  std::shared_ptr<MemoryMap> memory_ = std::make_shared<MemoryMap>();
  std::uint32_t launch_ = MemoryMap::first_launch;
  std::vector<std::unique_ptr<Block>> blocks_;  // of each host thread
  BankCounts bank_counts_;
};

/// The seed of schedules: BLINKBERT_SCHEDULE_SEED, or 1.
inline std::uint64_t schedule_seed() {
  const char* seed = std::getenv("BLINKBERT_SCHEDULE_SEED");
  if (seed == nullptr) return 1;
  const char* const end = seed + std::strlen(seed);
  std::uint64_t value = 0;
  const auto [rest, error] = std::from_chars(seed, end, value);
  if (error != std::errc{} || rest != end) throw InputError(text("BLINKBERT_SCHEDULE_SEED is no seed: '", seed, "'"));
  return value;
}

}  // namespace emulator

template <auto Kernel, class Gpu, class... Arguments>
void launch(Gpu& gpu, LaunchShape shape, const Arguments&... arguments) {
  if (shape.blocks != 0) gpu.machine().template launch<Kernel>(shape, arguments...);
}

}  // namespace blinkbert::dev
