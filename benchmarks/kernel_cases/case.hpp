#pragma once

// What kernel_bench times: an op at one size, its buffers, the bytes that must move and the flops.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../card.hpp"

namespace benchmarks {

/// The published size: width, heads and their width, features.
inline constexpr int E = 512, H = 4, D = 128, N = 18;

/// B full sequences of L rows; of each, 15 % of the rows are chosen as by mask.count = "batch" and hidden as keys.
struct Sequences {
  int B, L;
  int T() const { return B * L; }
  int M() const { return chosen_before(B); }
  int chosen_before(int b) const { return static_cast<int>((std::int64_t{150000} * L * b + 500000) / 1000000); }
  std::string name() const { return text("B ", B, ", L ", L); }
};

/// Device memory for one copy of an op's tensors.
template <class Device>
class Buffers {
 public:
  using Real = typename Device::Real;

  explicit Buffers(Device& device) : device_(device), arena_(device) {
    std::mt19937_64 generator(3);
    std::normal_distribution<float> normal;
    std::vector<float> wide(pool_size);
    std::generate(wide.begin(), wide.end(), [&] { return normal(generator); });
    const std::vector<bf16> narrow(wide.begin(), wide.end());
    wide_pool_ = upload_pool(wide);
    narrow_pool_ = upload_pool(narrow);
    device.wait();
  }

  /// Gives everything back to be taken again.
  void restart() {
    arena_.restart();
    bytes_ = pool_place_ = 0;
  }
  std::int64_t bytes() const { return bytes_; }

  /// Normals, from another place of the pool for each tensor.
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> normals(Extent... extents) {
    const auto view = take<Number>(extents...);
    const std::byte* const pool = sizeof(Number) == sizeof(float) ? wide_pool_.data() : narrow_pool_.data();
    for (std::int64_t done = 0; done < view.size();) {
      const std::int64_t count = std::min<std::int64_t>(pool_size - pool_place_, view.size() - done);
      device_.copy(reinterpret_cast<std::byte*>(view.data() + done),
                   pool + static_cast<std::size_t>(pool_place_) * sizeof(Number),
                   static_cast<std::size_t>(count) * sizeof(Number));
      done += count;
      pool_place_ = (pool_place_ + count + 1032) / 8 * 8 % pool_size;
    }
    return view;
  }
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> zeros(Extent... extents) {
    const auto view = take<Number>(extents...);
    fill_zero(device_, view);
    return view;
  }
  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> given(const std::vector<Number>& values, Extent... extents) {
    const auto view = take<Number>(extents...);
    upload(device_, view, values.data());
    device_.wait();
    return view;
  }
  template <class... Extent>
  auto real(Extent... extents) {
    return normals<Real>(extents...);
  }
  template <class... Extent>
  auto wide(Extent... extents) {
    return normals<Wide<Real>>(extents...);
  }
  View<int, 1> lengths(const Sequences& of) {
    return given(std::vector<int>(static_cast<std::size_t>(of.B), of.L), of.B);
  }

  /// Rows chosen: which, where each sequence's begin, the place of each row among them, the keys that are left.
  struct Chosen {
    View<int, 1> rows, offsets, slots;
    View<std::uint32_t, 2> visible;
  };
  Chosen choose(const Sequences& of) {
    const auto T = static_cast<std::size_t>(of.T());
    const int words = visible_words(of.L);
    std::mt19937_64 generator(4);
    std::vector<int> rows, offsets{0}, slots(T, -1), order(static_cast<std::size_t>(of.L));
    std::vector<std::uint32_t> visible(static_cast<std::size_t>(of.B * words), 0);
    for (int b = 0; b < of.B; ++b) {
      for (int l = 0; l < of.L; ++l) order[static_cast<std::size_t>(l)] = l;
      std::shuffle(order.begin(), order.end(), generator);
      const auto count = static_cast<std::ptrdiff_t>(of.chosen_before(b + 1) - of.chosen_before(b));
      std::sort(order.begin(), order.begin() + count);
      for (int l = 0; l < of.L; ++l) {
        const bool is_chosen = std::binary_search(order.begin(), order.begin() + count, l);
        if (is_chosen) {
          slots[static_cast<std::size_t>(b * of.L + l)] = static_cast<int>(rows.size());
          rows.push_back(b * of.L + l);
        } else {
          visible[static_cast<std::size_t>(b * words + l / 32)] |= std::uint32_t{1} << l % 32;
        }
      }
      offsets.push_back(static_cast<int>(rows.size()));
    }
    return {.rows = given(rows, of.M()),
            .offsets = given(offsets, of.B + 1),
            .slots = given(slots, of.T()),
            .visible = given(visible, of.B, words)};
  }

 private:
  static constexpr int pool_size = (1 << 22) - 8;

  template <class Number, class... Extent>
  View<Number, sizeof...(Extent)> take(Extent... extents) {
    const auto view = arena_.template take<Number>(extents...);
    bytes_ += view.size() * static_cast<std::int64_t>(sizeof(Number));
    return view;
  }
  template <class Number>
  CudaMemory upload_pool(const std::vector<Number>& values) {
    CudaMemory memory(values.size() * sizeof(Number));
    upload(device_, View<Number, 1>(reinterpret_cast<Number*>(memory.data()), {pool_size}), values.data());
    return memory;
  }

  Device& device_;
  Arena<Device> arena_;
  CudaMemory wide_pool_, narrow_pool_;
  std::int64_t bytes_ = 0, pool_place_ = 0;
};

/// One op at one size.
template <class Device>
struct Case {
  using Issue = std::function<void(Device&)>;

  std::string op, shape;
  double bytes, flops;
  std::function<Issue(Buffers<Device>&)> make;  // an op over buffers of its own
  int products_of = 0;                          // T, where it is one of the twelve products of a block
};

inline Dropout dropout(Purpose purpose) { return {RandomStream{.seed = 1, .purpose = purpose}, 0, 0.01}; }

template <class Device>
using Cases = std::vector<Case<Device>>;

/// `make(buffers)` is the op.
template <class Device, class Make>
void add(Cases<Device>& cases, const std::string& op, const std::string& shape, double bytes, double flops,
         const Make& make, int products_of = 0) {
  using Issue = typename Case<Device>::Issue;
  const auto issue = [make](Buffers<Device>& buffers) -> Issue {
    return [op = make(buffers)](Device& device) { run(device, op); };
  };
  cases.push_back({op, shape, bytes, flops, issue, products_of});
}

}  // namespace benchmarks
