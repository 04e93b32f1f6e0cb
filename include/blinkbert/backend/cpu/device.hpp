#pragma once

// Cpu: the host as a place to run ops. Owns threads' number and a grow-only workspace, nothing else.
//
// Work is cut into contiguous chunks whose bounds follow from the sizes and the number of threads alone, and partial sums
// are added in the order of the chunks: the same threads give the same bits, run to run.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include <omp.h>
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <blinkbert/core/expects.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// 256-byte aligned bytes on the host, uninitialised; moved, never copied. Throws std::bad_alloc. Much of it lies in huge
/// pages where the system has them: matrices are read across their rows, and each row would be in another page.
class HostMemory {
 public:
  static constexpr std::size_t alignment = 256;

  HostMemory() = default;
  explicit HostMemory(std::size_t bytes) {
    const std::align_val_t aligned{bytes < huge_page ? alignment : huge_page};
    bytes_ = {static_cast<std::byte*>(::operator new(bytes, aligned)), Release{aligned}};
#if defined(MADV_HUGEPAGE)
    if (bytes >= huge_page) madvise(bytes_.get(), bytes, MADV_HUGEPAGE);  // advice: that it fails does not matter
#endif
  }

  std::byte* data() const { return bytes_.get(); }

 private:
  static constexpr std::size_t huge_page = 1 << 21;
  struct Release {
    std::align_val_t aligned;
    void operator()(std::byte* bytes) const { ::operator delete(bytes, aligned); }
  };
  std::unique_ptr<std::byte, Release> bytes_;
};

/// Who may multiply the large matrices of linear layers, where it is there: each includes those before it.
enum class Products { portable, onednn, amx };

/// Weights of linear layers as products read them: packed when they are first used, for models that stay as they are.
/// Devices and threads may share one object; it outlives none of the weights.
class KeptWeights {
 public:
  struct Key {
    const void* weight;
    int columns, depth, format;
    auto operator<=>(const Key&) const = default;
  };

  /// The packed weight, `size` elements; `pack(to)` writes it where it is not there yet, and others wait for it.
  template <class Packed, class Pack>
  const Packed* get(const Key& key, std::int64_t size, const Pack& pack) {
    const std::lock_guard lock(mutex_);
    const auto [found, is_new] = packed_.try_emplace(key);
    if (is_new) {
      found->second = HostMemory(static_cast<std::size_t>(size) * sizeof(Packed));
      pack(reinterpret_cast<Packed*>(found->second.data()));
    }
    return reinterpret_cast<const Packed*>(found->second.data());
  }

 private:
  std::mutex mutex_;
  std::map<Key, HostMemory> packed_;
};

/// Runs every op on the threads of the host, in the number type `Number` (float or double).
/// One object serves one calling thread at a time: its workspace is shared by all its ops.
template <class Number>
class Cpu {
 public:
  using Real = Number;
  using Memory = HostMemory;
  using KeptWeights = blinkbert::KeptWeights;

  /// `threads` = 0 takes as many as OpenMP would.
  explicit Cpu(int threads = 0) : threads_(threads > 0 ? threads : omp_get_max_threads()) {
    BLINKBERT_EXPECTS(threads >= 0, threads);
  }

  int threads() const { return threads_; }

  /// From now on linear layers round what they multiply to bf16 and add up in float; all else stays in float. Only where
  /// bf16_obstacle() is empty.
  void multiply_in_bf16() requires std::is_same_v<Number, float> { multiplies_in_bf16_ = true; }
  bool multiplies_in_bf16() const { return multiplies_in_bf16_; }
  static std::string bf16_obstacle();  // why this cannot be had here
  /// For comparisons: from now on nothing beyond `most`, and in bf16 only where one of those multiplies in it.
  void limit_products(Products most) { products_ = most; }
  Products products() const { return products_; }
  /// For people: who multiplies, the first that is fit for a product, and in what.
  std::string describe_products() const;

  /// From now on the weights stay as they are, and linear layers keep them packed there.
  void keep_weights(std::shared_ptr<KeptWeights> kept) { kept_weights_ = std::move(kept); }
  KeptWeights* kept_weights() const { return kept_weights_.get(); }

  /// Rows of `width` numbers that the second caches of all threads hold.
  int near_rows(int width) const {
    return static_cast<int>(second_cache() / (static_cast<std::int64_t>(sizeof(Real)) * width) * threads_);
  }

  Memory allocate(std::size_t bytes) { return Memory(bytes); }
  void upload(std::byte* to, const std::byte* from, std::size_t bytes) { copy(to, from, bytes); }
  void download(std::byte* to, const std::byte* from, std::size_t bytes) { copy(to, from, bytes); }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    for_pieces(bytes, [&](std::size_t first, std::size_t count) { std::memcpy(to + first, from + first, count); });
  }
  void zero(std::byte* to, std::size_t bytes) {
    for_pieces(bytes, [&](std::size_t first, std::size_t count) { std::memset(to + first, 0, count); });
  }

  // Everything is done when a call returns.
  struct Mark {};
  using Staging = HostMemory;
  static constexpr bool is_asynchronous = false;
  Staging stage(std::size_t bytes) { return Staging(bytes); }
  void upload_later(std::byte* to, const std::byte* from, std::size_t bytes) { upload(to, from, bytes); }
  void download_later(std::byte* to, const std::byte* from, std::size_t bytes) { download(to, from, bytes); }
  void record(Mark&) {}
  void wait(const Mark&) {}

  /// Uninitialised room for `count` elements, valid until the next call; allocates only where it has to grow.
  template <class T>
  T* workspace(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > workspace_bytes_) {
      workspace_ = Memory(bytes);
      workspace_bytes_ = bytes;
    }
    return reinterpret_cast<T*>(workspace_.data());
  }

  /// How many chunks `items` are cut into: one per thread, but fewer where a chunk would be too little work to be worth
  /// waking a thread. `work_per_item` counts simple operations.
  int chunks(std::int64_t items, std::int64_t work_per_item) const {
    const std::int64_t worthwhile = items * std::max<std::int64_t>(work_per_item, 1) / least_work;
    return static_cast<int>(std::clamp<std::int64_t>(std::min(worthwhile, items), 1, threads_));
  }

  /// Calls body(first, last, chunk) for every chunk of [0, items); `body` must not throw.
  template <class Body>
  void for_chunks(int items, int chunks, const Body& body) const {
    if (chunks == 1) {
      body(0, items, 0);
      return;
    }
#pragma omp parallel for num_threads(chunks) schedule(static, 1)
    for (int chunk = 0; chunk < chunks; ++chunk) {
      body(border(items, chunks, chunk), border(items, chunks, chunk + 1), chunk);
    }
  }

 private:
  static constexpr std::int64_t least_work =
      1 << 16;  // operations; about 20 us, several times what waking a thread takes

  /// Calls body(first, count) for pieces of many bytes, on all threads.
  template <class Body>
  void for_pieces(std::size_t bytes, const Body& body) const {
    constexpr std::size_t piece = 1 << 18;
    const int pieces = static_cast<int>((bytes + piece - 1) / piece);
    for_chunks(pieces, chunks(pieces, piece), [&](int first, int last, int) {
      const std::size_t begin = static_cast<std::size_t>(first) * piece;
      const std::size_t end = std::min(bytes, static_cast<std::size_t>(last) * piece);
      if (begin < end) body(begin, end - begin);
    });
  }

  /// Bytes of one core.
  static std::int64_t second_cache() {
    static const std::int64_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
      if (const long found = sysconf(_SC_LEVEL2_CACHE_SIZE); found > 0) return static_cast<std::int64_t>(found);
#endif
      return std::int64_t{1} << 20;
    }();
    return bytes;
  }

  static int border(int items, int chunks, int chunk) { return static_cast<int>(std::int64_t{items} * chunk / chunks); }

  int threads_;
  Products products_ = Products::amx;
  bool multiplies_in_bf16_ = false;
  std::shared_ptr<KeptWeights> kept_weights_;
  Memory workspace_;
  std::size_t workspace_bytes_ = 0;
};

namespace cpu_detail {

/// `count` elements rounded up to whole cache lines, so that chunks never write to the same one.
constexpr std::int64_t padded(std::int64_t count) { return (count + 63) / 64 * 64; }

}  // namespace cpu_detail
}  // namespace blinkbert
