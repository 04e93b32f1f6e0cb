#pragma once

// Recorded: a backend whose work is done later, as on a device with two streams and graphs: on each branch in the order of the
// calls, and between them as the events demand. It waits with everything for as long as the host lets it, or does some of it
// earlier, now of this branch and now of that (by a seed). It finds a host that changes staging memory too soon or reads it too
// soon, and branches that touch the same memory without an event between them (access_log.hpp). Numbers are the inner backend's.

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/core/random.hpp>
#include <tests/branches/access_log.hpp>
#include <tests/branches/op_accesses.hpp>

namespace blinkbert::test {

template <class InnerType>
class Recorded {
 public:
  using Inner = InnerType;
  using Real = typename Inner::Real;
  using Memory = typename Inner::Memory;
  using Staging = HostMemory;
  using Work = std::function<void()>;
  using Graph = std::vector<Work>;  // what issues its work and its events
  struct Mark {
    std::int64_t position = 0;  // all that was issued before
  };
  enum class Event { fork, join };
  static constexpr bool is_asynchronous = true;

  explicit Recorded(int threads = 1) : inner_(threads) {}

  Inner& inner() { return inner_; }
  std::uint64_t seed = 1;  // of the moments at which work is done
  std::int64_t replays() const { return replays_; }

  /// Events to leave out, numbered from 0 for each kind in the order in which they come to be: for tests of what finds that.
  std::function<bool(Event, std::int64_t)> leaves_out = [](Event, std::int64_t) { return false; };
  std::int64_t events(Event kind) const { return events_[static_cast<std::size_t>(kind)]; }
  /// Pieces of work on the second branch so far.
  std::int64_t works_beside() const { return branches_[1].issued; }

  void issue(std::string_view who, std::vector<Access> accesses, Work work) {
    now_or_in_graph([this, b = branch_, who, accesses = std::move(accesses), work = std::move(work)] {
      log_.add(b, who, accesses);
      branches_[b].queue.push_back({work, branches_[b].needs});
      ++branches_[b].issued;
      const std::uint32_t word = RandomStream{.seed = seed, .purpose = Purpose::simulator}.word(
          static_cast<std::uint32_t>(branches_[0].issued + branches_[1].issued), 0);
      for (const std::size_t one : {word % 2, 1 - word % 2}) {
        const std::uint32_t bits = word / 2 >> 15 * one & 0x7fffu;
        Branch& branch = branches_[one];
        if (bits % 64 == 0) finish(one, branch.done + static_cast<std::int64_t>(bits / 64 % (branch.queue.size() + 1)));
      }
    });
  }

  template <class Body>
  void beside(const Body& body) {
    BLINKBERT_EXPECTS(branch_ == 0);
    is_forked_ = true;
    now_or_in_graph([this] { hold_back(1, Event::fork); });
    branch_ = 1;
    body();
    branch_ = 0;
  }
  void join() {
    if (!is_forked_) return;
    is_forked_ = false;
    now_or_in_graph([this] { hold_back(0, Event::join); });
  }

  template <class Body>
  Graph capture(const Body& body) {
    BLINKBERT_EXPECTS(captured_ == nullptr && !is_forked_);
    Graph graph;
    captured_ = &graph;
    body();
    BLINKBERT_EXPECTS(!is_forked_);
    captured_ = nullptr;
    return graph;
  }
  void replay(const Graph& graph) {
    BLINKBERT_EXPECTS(!is_forked_);
    ++replays_;
    for (const Work& work : graph) work();
  }

  Memory allocate(std::size_t bytes) {
    Memory memory = inner_.allocate(bytes);
    log_.allocate(memory.data(), bytes);
    return memory;
  }
  Staging stage(std::size_t bytes) { return Staging(bytes); }

  void upload(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    issue("an upload", {{Access::write, to, bytes}}, [this, to, copied = std::vector<std::byte>(from, from + bytes)] {
      inner_.upload(to, copied.data(), copied.size());
    });
  }
  void upload_later(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    issue("an upload", {{Access::write, to, bytes}}, [this, to, from, bytes, content = content_of(from, bytes)] {
      if (content_of(from, bytes) != content) {
        throw std::logic_error("the host changed staging memory that the device had not read yet");
      }
      inner_.upload(to, from, bytes);
    });
  }
  void download(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    join();
    log_.add(0, "a download", std::array{Access{Access::read, from, bytes}});
    finish(0, branches_[0].issued);
    inner_.download(to, from, bytes);
  }
  void download_later(std::byte* to, const std::byte* from, std::size_t bytes) {
    not_captured();
    if (bytes > 0) std::memset(to, 0xff, bytes);  // NaN until it is there
    issue("a download", {{Access::read, from, bytes}}, [this, to, from, bytes] { inner_.download(to, from, bytes); });
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    issue("a copy", {{Access::read, from, bytes}, {Access::write, to, bytes}},
          [this, to, from, bytes] { inner_.copy(to, from, bytes); });
  }
  void zero(std::byte* to, std::size_t bytes) {
    issue("a zeroing", {{Access::write, to, bytes}}, [this, to, bytes] { inner_.zero(to, bytes); });
  }

  void record(Mark& mark) {
    not_captured();
    mark.position = branches_[0].issued;
  }
  void wait(const Mark& mark) {
    not_captured();
    finish(0, mark.position);
  }

 private:
  struct Issued {
    Work work;
    std::int64_t needs = 0;  // pieces of the other branch's work that come before
  };
  struct Branch {
    std::deque<Issued> queue;
    std::int64_t issued = 0, done = 0;
    std::int64_t needs = 0;  // of what is issued next
  };

  void not_captured() const { BLINKBERT_EXPECTS(captured_ == nullptr); }

  static std::size_t content_of(const std::byte* from, std::size_t bytes) {
    return std::hash<std::string_view>()({reinterpret_cast<const char*>(from), bytes});
  }

  void now_or_in_graph(Work work) {
    if (captured_ != nullptr) return captured_->push_back(std::move(work));
    work();
  }

  /// What a branch is issued next comes after all that the other was issued.
  void hold_back(std::size_t branch, Event kind) {
    if (leaves_out(kind, events_[static_cast<std::size_t>(kind)]++)) return;
    log_.wait(branch, log_.record(1 - branch));
    branches_[branch].needs = branches_[1 - branch].issued;
  }

  /// Does what a branch was issued, up to a position, and what comes before that on the other.
  void finish(std::size_t branch, std::int64_t position) {
    Branch& one = branches_[branch];
    while (one.done < position) {
      finish(1 - branch, one.queue.front().needs);
      const Work work = std::move(one.queue.front().work);
      one.queue.pop_front();
      ++one.done;
      work();
    }
  }

  Inner inner_;
  std::array<Branch, 2> branches_;
  std::size_t branch_ = 0;  // that ops are issued to
  bool is_forked_ = false;  // since the last join
  std::array<std::int64_t, 2> events_{};
  AccessLog log_;
  std::int64_t replays_ = 0;
  Graph* captured_ = nullptr;
};

template <class Inner, class Op>
requires Runs<Inner, Op>
void run(Recorded<Inner>& device, const Op& op) {
  op.check();
  device.issue(name_of_op<Op>(), accesses_of(op), [&device, op] { run(device.inner(), op); });
}

template <class Inner>
requires FusesNarrowBlocks<Inner>
bool fuses_narrow_block(const Recorded<Inner>& device, int N, int H, int D, int L) {
  return fuses_narrow_block(const_cast<Recorded<Inner>&>(device).inner(), N, H, D, L);
}

}  // namespace blinkbert::test
