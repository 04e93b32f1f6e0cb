#pragma once

// Which bytes every piece of work reads and writes, on which branch, and which events lie between: two accesses to the same
// bytes, one of them a write, must be ordered by events. Whether they are does not depend on when the work is done, so a missing
// event is found on any schedule. Where no fault is found, every schedule has the results of the order of the calls.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <span>
#include <stdexcept>
#include <string_view>

#include <blinkbert/core/expects.hpp>

namespace blinkbert::test {

struct Access {
  enum Kind { read, write, add } kind = read;  // add: read and written
  const std::byte* begin = nullptr;
  std::size_t bytes = 0;
};

/// Two branches touch the same bytes with no event between them, or bytes are read that nobody wrote.
class BranchFault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

class AccessLog {
 public:
  static constexpr std::size_t most_branches = 4;
  /// Of each branch, the pieces of work that come before.
  using Clock = std::array<std::int64_t, most_branches>;

  /// An event on a branch: all that was added to it, and all that came before that.
  Clock record(std::size_t branch) const { return clocks_.at(branch); }
  /// What is added to the branch from now on comes after the event.
  void wait(std::size_t branch, const Clock& event) {
    Clock& clock = clocks_.at(branch);
    for (std::size_t b = 0; b < most_branches; ++b) clock[b] = std::max(clock[b], event[b]);
  }

  /// The next piece of work on a branch. `who` must live as long as the log. Throws BranchFault.
  void add(std::size_t branch, std::string_view who, std::span<const Access> accesses) {
    const std::int64_t now = ++clocks_.at(branch)[branch];
    for (const Access& access : accesses) {
      if (access.bytes > 0) touch(branch, now, who, access);
    }
  }

  /// New memory: nobody wrote it, whatever was there before.
  void allocate(const std::byte* begin, std::size_t bytes) {
    if (bytes == 0) return;
    split(begin);
    split(begin + bytes);
    pieces_.erase(pieces_.lower_bound(begin), pieces_.lower_bound(begin + bytes));
    Piece fresh;
    fresh.end = begin + bytes;
    fresh.is_unwritten = true;
    pieces_.emplace(begin, fresh);
  }

 private:
  /// Bytes with one history.
  struct Piece {
    const std::byte* end = nullptr;
    bool is_unwritten = false;  // since it was allocated
    std::size_t writer = 0;     // the branch of the last one
    std::int64_t written = 0;   // by its how manieth piece of work
    Clock read{};               // of each branch, by which one since then
    std::string_view who_wrote;
    std::array<std::string_view, most_branches> who_read;
  };

  void split(const std::byte* at) {
    const auto next = pieces_.upper_bound(at);
    if (next == pieces_.begin()) return;
    auto& [begin, piece] = *std::prev(next);
    if (begin == at || piece.end <= at) return;
    const Piece rest = piece;
    piece.end = at;
    pieces_.emplace_hint(next, at, rest);
  }

  void touch(std::size_t branch, std::int64_t now, std::string_view who, const Access& access) {
    const std::byte* at = access.begin;
    const std::byte* const end = at + access.bytes;
    split(at);
    split(end);
    auto next = pieces_.lower_bound(at);
    while (at != end) {
      if (next == pieces_.end() || next->first != at) {  // memory of which nothing is known
        const std::byte* const until = next == pieces_.end() ? end : std::min(end, next->first);
        Piece fresh;
        fresh.end = until;
        next = pieces_.emplace_hint(next, at, fresh);
      }
      touch(next->second, branch, now, who, access.kind);
      at = next->second.end;
      ++next;
    }
  }

  void touch(Piece& piece, std::size_t branch, std::int64_t now, std::string_view who, Access::Kind kind) {
    const Clock& before = clocks_[branch];
    const auto fault = [&](std::string_view does, std::string_view other, std::string_view did, std::size_t on) {
      throw BranchFault(text(who, " on branch ", branch, ' ', does, " what ", other, " on branch ", on, ' ', did,
                             ", without an event between them"));
    };
    if (kind != Access::write && piece.is_unwritten) throw BranchFault(text(who, " reads what nobody wrote"));
    if (piece.written > before[piece.writer]) {
      fault(kind == Access::read ? "reads" : "writes", piece.who_wrote, "writes", piece.writer);
    }
    if (kind == Access::read) {
      piece.read[branch] = now;
      piece.who_read[branch] = who;
      return;
    }
    for (std::size_t b = 0; b < most_branches; ++b) {
      if (piece.read[b] > before[b]) fault("writes", piece.who_read[b], "reads", b);
    }
    piece.is_unwritten = false;
    piece.writer = branch;
    piece.written = now;
    piece.who_wrote = who;
    piece.read = {};
  }

  std::array<Clock, most_branches> clocks_{};
  std::map<const std::byte*, Piece> pieces_;  // by their begin
};

}  // namespace blinkbert::test
