#pragma once

// Recorded: a backend whose work is done later, in the order of the calls, as on a device with a stream and graphs. It waits
// with everything for as long as the host lets it, or does some of it earlier (by a seed), and finds a host that changes
// staging memory too soon or reads it too soon. Numbers are the inner backend's.

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <stdexcept>
#include <string_view>
#include <vector>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/core/random.hpp>

namespace blinkbert::test {

template <class InnerType>
class Recorded {
 public:
  using Inner = InnerType;
  using Real = typename Inner::Real;
  using Memory = typename Inner::Memory;
  using Staging = HostMemory;
  using Work = std::function<void()>;
  using Graph = std::vector<Work>;
  struct Mark {
    std::int64_t position = 0;  // all that was issued before
  };
  static constexpr bool is_asynchronous = true;

  explicit Recorded(int threads = 1) : inner_(threads) {}

  Inner& inner() { return inner_; }
  std::uint64_t seed = 1;  // of the moments at which work is done
  std::int64_t replays() const { return replays_; }

  void issue(Work work) {
    if (captured_ != nullptr) {
      captured_->push_back(std::move(work));
      return;
    }
    queue_.push_back(std::move(work));
    ++issued_;
    const std::uint32_t word =
        RandomStream{.seed = seed, .purpose = Purpose::simulator}.word(static_cast<std::uint32_t>(issued_), 0);
    if (word % 64 == 0) finish(done_ + static_cast<std::int64_t>(word / 64 % queue_.size()));
  }

  template <class Body>
  Graph capture(const Body& body) {
    BLINKBERT_EXPECTS(captured_ == nullptr);
    Graph graph;
    captured_ = &graph;
    body();
    captured_ = nullptr;
    return graph;
  }
  void replay(const Graph& graph) {
    ++replays_;
    for (const Work& work : graph) issue(work);
  }

  Memory allocate(std::size_t bytes) { return inner_.allocate(bytes); }
  Staging stage(std::size_t bytes) { return Staging(bytes); }

  void upload(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    issue([this, to, copied = std::vector<std::byte>(from, from + bytes)] {
      inner_.upload(to, copied.data(), copied.size());
    });
  }
  void upload_later(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    issue([this, to, from, bytes, content = content_of(from, bytes)] {
      if (content_of(from, bytes) != content) {
        throw std::logic_error("the host changed staging memory that the device had not read yet");
      }
      inner_.upload(to, from, bytes);
    });
  }
  void download(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    finish(issued_);
    inner_.download(to, from, bytes);
  }
  void download_later(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    if (bytes > 0) std::memset(to, 0xff, bytes);  // NaN until it is there
    issue([this, to, from, bytes] { inner_.download(to, from, bytes); });
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    issue([this, to, from, bytes] { inner_.copy(to, from, bytes); });
  }
  void zero(std::byte* to, std::size_t bytes) {
    issue([this, to, bytes] { inner_.zero(to, bytes); });
  }

  void record(Mark& mark) {
    not_captured();
    mark.position = issued_;
  }
  void wait(const Mark& mark) {
    not_captured();
    finish(mark.position);
  }

 private:
  void not_captured() const { BLINKBERT_EXPECTS(captured_ == nullptr); }

  static std::size_t content_of(const std::byte* from, std::size_t bytes) {
    return std::hash<std::string_view>()({reinterpret_cast<const char*>(from), bytes});
  }

  void finish(std::int64_t position) {
    while (done_ < position) {
      const Work work = std::move(queue_.front());
      queue_.pop_front();
      ++done_;
      work();
    }
  }

  Inner inner_;
  std::deque<Work> queue_;
  std::int64_t issued_ = 0, done_ = 0, replays_ = 0;
  Graph* captured_ = nullptr;
};

template <class Inner, class Op>
requires Runs<Inner, Op>
void run(Recorded<Inner>& device, const Op& op) {
  op.check();
  device.issue([&device, op] { run(device.inner(), op); });
}

template <class Inner>
requires FusesNarrowBlocks<Inner>
bool fuses_narrow_block(const Recorded<Inner>& device, int N, int H, int D, int L) {
  return fuses_narrow_block(const_cast<Recorded<Inner>&>(device).inner(), N, H, D, L);
}

}  // namespace blinkbert::test
