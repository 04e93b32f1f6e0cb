#pragma once

// Arena: memory for what a pass computes, planned once per (B, L) bucket.
//
// `take` hands out views at offsets that stay valid for the arena's life: blocks are only ever added, never moved. Each
// bucket starts again at offset 0 (`restart`), so all buckets share the same memory; planning the largest bucket first
// gives one block. After a bucket was planned once, a training step allocates nothing.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// `Device::Memory` is constructed with a size in bytes, owns that much 256-byte aligned memory, and has `data()`.
template <class Device>
class Arena {
 public:
  explicit Arena(Device& device) : device_(&device) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A place in the arena; `rewind` gives everything taken after it to others.
  struct Mark {
    std::size_t block = 0;
    std::size_t offset = 0;
  };

  Mark mark() const { return position_; }
  void rewind(Mark mark) { position_ = mark; }
  void restart() { position_ = {}; }

  /// Uninitialised memory.
  template <class T, class... Extent>
  View<T, sizeof...(Extent)> take(Extent... extents) {
    const std::array<int, sizeof...(Extent)> shape{static_cast<int>(extents)...};
    const std::size_t bytes = align(static_cast<std::size_t>(element_count(shape)) * sizeof(T));
    return {reinterpret_cast<T*>(take_bytes(bytes)), shape};
  }

  /// Bytes held, over all blocks.
  std::size_t capacity() const {
    std::size_t bytes = 0;
    for (const Block& block : blocks_) bytes += block.bytes;
    return bytes;
  }

 private:
  struct Block {
    typename Device::Memory memory;
    std::size_t bytes = 0;
  };

  static constexpr std::size_t alignment = 256;
  static std::size_t align(std::size_t bytes) {
    return bytes == 0 ? alignment : (bytes + alignment - 1) / alignment * alignment;
  }

  std::byte* take_bytes(std::size_t bytes) {
    while (position_.block < blocks_.size() && position_.offset + bytes > blocks_[position_.block].bytes) {
      position_ = {.block = position_.block + 1, .offset = 0};
    }
    if (position_.block == blocks_.size()) {
      const std::size_t size = std::max({bytes, capacity(), std::size_t{1} << 20});
      blocks_.push_back({.memory = device_->allocate(size), .bytes = size});
    }
    std::byte* data = blocks_[position_.block].memory.data() + position_.offset;
    position_.offset += bytes;
    return data;
  }

  Device* device_;
  std::vector<Block> blocks_;
  Mark position_;
};

}  // namespace blinkbert
