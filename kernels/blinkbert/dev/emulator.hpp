#pragma once

// The device words on a host: the same kernel source, run by emulator_block.hpp. What each word means: dev/dev.hpp.
//
// What it cannot tell: time, registers, caches, and whether the device's own instructions do what dev/cuda.hpp says.

#include <bit>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <tuple>

#include <blinkbert/dev/basics.hpp>
#include <blinkbert/dev/emulator_block.hpp>

#define BB_DEVICE inline
#define BB_KERNEL(threads, blocks) void
#define BB_UNROLL
#define BB_UNROLL_BY(count)

namespace blinkbert::dev {

namespace emulator {

/// The block that this host thread is running: kernels are plain functions, so the words find it here.
inline thread_local Block* running_block = nullptr;
inline Block& current() { return *running_block; }

}  // namespace emulator

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
  Shared from(int first) const {
    if (first < 0 || first > count) emulator::current().fault("tile of ", count, " cut at ", first);
    return {data + first, count - first};
  }
};

class SharedMemory {
 public:
  template <class T>
  Shared<T> take(int count) {
    emulator::Block& block = emulator::current();
    auto* data = reinterpret_cast<T*>(block.shared() + used_);
    used_ += static_cast<std::size_t>(shared_bytes<T>(count));
    if (used_ > block.shared_size())
      block.fault(used_, " bytes of shared memory taken, launched with ", block.shared_size());
    return {data, count};
  }

 private:
  std::size_t used_ = 0;
};

/// An element of global memory and how many follow it in its row, itself included.
template <class T>
struct GlobalPlace {
  T* pointer;
  int left;

  template <int N>
  T* place(const emulator::Where& where) const {
    if (N > left) {
      emulator::current().fault("vector of ", N, " with ", left, " elements left in the row (", emulator::spell(where),
                                ")");
    }
    constexpr std::size_t unit = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
    if (N > 1 && reinterpret_cast<std::uintptr_t>(pointer) % unit != 0) {
      emulator::current().fault("vector of ", N, " at an address that is not a multiple of ", unit, " (",
                                emulator::spell(where), ")");
    }
    return pointer;
  }
};

/// An element of shared memory and how many follow it in its tile, itself included.
template <class T>
struct SharedPlace : GlobalPlace<T> {};

namespace emulator {

template <class T, int Rank, class... Index>
GlobalPlace<T> place_in(const View<T, Rank>& view, Index... index) {
  static_assert(sizeof...(Index) == Rank);
  const int indices[] = {static_cast<int>(index)...};
  for (int axis = 0; axis < Rank; ++axis) {
    if (indices[axis] < 0 || indices[axis] >= view.extent(axis)) {
      std::string place, extents;
      for (int i = 0; i < Rank; ++i) {
        place += text(i == 0 ? "" : ", ", indices[i]);
        extents += text(i == 0 ? "" : ", ", view.extent(i));
      }
      current().fault("element (", place, ") of a view of (", extents, ")");
    }
  }
  return {&view(index...), view.extent(Rank - 1) - indices[Rank - 1]};
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
  if (i < 0 || i >= tile.count) emulator::current().fault("element ", i, " of a tile of ", tile.count);
  return {{tile.data + i, tile.count - i}};
}

template <class T>
std::remove_const_t<T> load(const GlobalPlace<T>& place, const emulator::Where& where = emulator::Where::current()) {
  emulator::current().touch_global(place.pointer, sizeof(T), emulator::Access::read, where);
  return *place.pointer;
}
template <class T>
std::remove_const_t<T> load(const SharedPlace<T>& place, const emulator::Where& where = emulator::Where::current()) {
  emulator::current().touch_shared(place.pointer, sizeof(T), emulator::Access::read, where);
  return *place.pointer;
}
template <int N, class T>
Vector<std::remove_const_t<T>, N> load(const GlobalPlace<T>& place,
                                       const emulator::Where& where = emulator::Where::current()) {
  Vector<std::remove_const_t<T>, N> value;
  const T* from = place.template place<N>(where);
  emulator::current().touch_global(from, sizeof(value), emulator::Access::read, where);
  std::copy_n(from, N, value.element);
  return value;
}
template <int N, class T>
Vector<std::remove_const_t<T>, N> load(const SharedPlace<T>& place,
                                       const emulator::Where& where = emulator::Where::current()) {
  Vector<std::remove_const_t<T>, N> value;
  const T* from = place.template place<N>(where);
  emulator::current().touch_shared(from, sizeof(value), emulator::Access::read, where);
  std::copy_n(from, N, value.element);
  return value;
}
template <class T>
void store(const GlobalPlace<T>& place, std::type_identity_t<T> value,
           const emulator::Where& where = emulator::Where::current()) {
  emulator::current().touch_global(place.pointer, sizeof(T), emulator::Access::write, where);
  *place.pointer = value;
}
template <class T>
void store(const SharedPlace<T>& place, std::type_identity_t<T> value,
           const emulator::Where& where = emulator::Where::current()) {
  emulator::current().touch_shared(place.pointer, sizeof(T), emulator::Access::write, where);
  *place.pointer = value;
}
template <class T, int N>
void store(const GlobalPlace<T>& place, const Vector<T, N>& value,
           const emulator::Where& where = emulator::Where::current()) {
  T* to = place.template place<N>(where);
  emulator::current().touch_global(to, sizeof(value), emulator::Access::write, where);
  std::copy_n(value.element, N, to);
}
template <class T, int N>
void store(const SharedPlace<T>& place, const Vector<T, N>& value,
           const emulator::Where& where = emulator::Where::current()) {
  T* to = place.template place<N>(where);
  emulator::current().touch_shared(to, sizeof(value), emulator::Access::write, where);
  std::copy_n(value.element, N, to);
}

// --- waiting -----------------------------------------------------------------------------------------------------
inline void sync_block(const emulator::Where& where = emulator::Where::current()) {
  emulator::current().barrier(0, threads(), where);
}
inline void sync_warp(const emulator::Where& where = emulator::Where::current()) {
  emulator::current().sync_warp(where);
}
template <int Id>
void sync_group(int threads, const emulator::Where& where = emulator::Where::current()) {
  static_assert(Id > 0 && Id < 16);
  emulator::current().barrier(Id, threads, where);
}

// --- warps -------------------------------------------------------------------------------------------------------
namespace emulator {

/// What shuffles do: every lane gives a value and gets that of the lane it names.
template <class T>
T exchange(T value, int from_lane, const char* what, const Where& where) {
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
T shuffle_xor(T value, int mask, const emulator::Where& where = emulator::Where::current()) {
  return emulator::exchange(value, lane() ^ mask, "shuffle_xor", where);
}
template <class T>
T shuffle(T value, int from_lane, const emulator::Where& where = emulator::Where::current()) {
  return emulator::exchange(value, from_lane, "shuffle", where);
}
inline std::uint32_t ballot(bool condition, const emulator::Where& where = emulator::Where::current()) {
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

// --- asynchronous copies -----------------------------------------------------------------------------------------
template <class T>
void copy_async(const SharedPlace<std::remove_const_t<T>>& to, const GlobalPlace<T>& from, bool is_wanted,
                const emulator::Where& where = emulator::Where::current()) {
  constexpr int N = 16 / static_cast<int>(sizeof(T));
  auto* target = to.template place<N>(where);
  const auto* source = is_wanted ? from.template place<N>(where) : from.pointer;
  emulator::current().copy_async(reinterpret_cast<std::byte*>(target), reinterpret_cast<const std::byte*>(source),
                                 is_wanted, where);
}
inline void commit_copies() { emulator::current().commit_copies(); }
template <int UnderWay>
void wait_copies() {
  emulator::current().wait_copies(UnderWay);
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
    BLINKBERT_EXPECTS(shape.threads > 0 && shape.threads % warp_size == 0 && shape.threads <= 1024, shape.threads);
    BLINKBERT_EXPECTS(shape.shared_bytes >= 0 && shape.shared_bytes <= most_shared_bytes, shape.shared_bytes);
    BLINKBERT_EXPECTS(std::int64_t{shape.blocks} * shape.threads < MemoryMap::most_threads, shape.blocks,
                      shape.threads);
    launches_ = launches_ % ((1u << 20) - 3) + 2;
    const std::string name = kernel_name(__PRETTY_FUNCTION__);
    std::exception_ptr error;
    std::mutex mutex;
#pragma omp parallel num_threads(options_.host_threads) if (options_.host_threads > 1)
    {
      Block block(name, shape.blocks, shape.threads, (shape.shared_bytes + 15) / 16 * 16, options_, launches_,
                  *memory_);
      running_block = &block;
#pragma omp for schedule(dynamic)
      for (int number = 0; number < shape.blocks; ++number) {
        {
          const std::lock_guard lock(mutex);
          if (error) continue;
        }
        try {
          block.run(number, [&] { Kernel(arguments...); });
        } catch (const std::exception&) {
          const std::lock_guard lock(mutex);
          if (!error) error = std::current_exception();
        }
      }
      running_block = nullptr;
      const std::lock_guard lock(mutex);
      for (const auto& [line, count] : block.bank_counts()) {
        bank_counts_[line].turns += count.turns;
        bank_counts_[line].conflicts += count.conflicts;
      }
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  static std::string kernel_name(std::string_view function) {
    const std::string_view mark = "Kernel = ";
    const std::size_t begin = function.find(mark) + mark.size();
    const std::string_view name = function.substr(begin, function.find(';', begin) - begin);
    return std::string(name.substr(name.rfind("::", name.find('<')) + 2));
  }

  Options options_;
  std::shared_ptr<MemoryMap> memory_ = std::make_shared<MemoryMap>();
  std::uint32_t launches_ = 0;
  BankCounts bank_counts_;
};

/// The seed of schedules: BLINKBERT_SCHEDULE_SEED, or 1.
inline std::uint64_t schedule_seed() {
  const char* seed = std::getenv("BLINKBERT_SCHEDULE_SEED");
  return seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10);
}

}  // namespace emulator

template <auto Kernel, class Gpu, class... Arguments>
void launch(Gpu& gpu, LaunchShape shape, const Arguments&... arguments) {
  if (shape.blocks > 0) gpu.machine().template launch<Kernel>(shape, arguments...);
}

}  // namespace blinkbert::dev
