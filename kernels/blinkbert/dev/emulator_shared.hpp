#pragma once

// The shared memory of a block: a race detector and a counter of bank conflicts.
//
// The race detector keeps vector clocks (Mattern 1988): every warp has a clock, which barriers and sync_warp advance, and
// knows the clocks of the other warps as of the last barrier it met them at. An access races with an earlier one whose
// clock it does not know. So a missing barrier is found on any schedule, not on an unlucky one only. Shuffles, ballots and
// tensor core instructions order nothing, as on the device.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <source_location>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <blinkbert/dev/emulator_memory.hpp>

namespace blinkbert::dev::emulator {

using Where = std::source_location;

inline std::string spell(Where where) {
  const std::string_view file = where.file_name();
  return text(file.substr(file.find_last_of('/') + 1), ':', where.line());
}

inline constexpr int lanes = 32, most_warps = 32;

class SharedWatch {
 public:
  static constexpr int whole_warp = -1;

  struct Record {
    std::uint32_t clock = 0;
    std::int32_t thread = whole_warp;  // or several of its lanes
    Where where;
  };
  struct Finding {
    enum Kind { nothing, unwritten, under_way, written, read } kind = nothing;
    Record other;
    std::size_t offset = 0;
  };

  void begin_launch(std::size_t bytes, int warps) {
    warps_ = static_cast<std::size_t>(warps);
    bytes_ = bytes;
    if (bytes > writes_room_ || bytes * warps_ > reads_room_) {
      writes_room_ = std::max(bytes, writes_room_);
      reads_room_ = std::max(bytes * warps_, reads_room_);
      forget();
    }
  }

  /// Clocks go on from block to block, so that what the blocks before left here is older than anything.
  void begin_block() {
    if (newest_clock_ > under_way / 2) forget();
    oldest_clock_ = ++newest_clock_;
    for (std::size_t w = 0; w < warps_; ++w) {
      known_[w].fill(oldest_clock_ - 1);
      known_[w][w] = oldest_clock_;
    }
  }

  /// What a block that broke off left here is no block's business.
  void forget() {
    writes_ = ZeroedArray<Record>(writes_room_);
    readers_ = ZeroedArray<std::uint32_t>(writes_room_);
    reads_ = ZeroedArray<Record>(reads_room_);
    oldest_clock_ = 1;
    newest_clock_ = 0;
  }

  void sync_warp(std::size_t warp) { newest_clock_ = std::max(newest_clock_, ++known_[warp][warp]); }

  /// These warps, a bit for each, meet at a barrier.
  void sync_warps(std::uint32_t met) {
    std::array<std::uint32_t, most_warps> known{};
    for (std::uint32_t rest = met; rest != 0; rest &= rest - 1) {
      const auto& one = known_[static_cast<std::size_t>(std::countr_zero(rest))];
      for (std::size_t k = 0; k < warps_; ++k) known[k] = std::max(known[k], one[k]);
    }
    for (std::uint32_t rest = met; rest != 0; rest &= rest - 1) {
      const auto w = static_cast<std::size_t>(std::countr_zero(rest));
      std::copy_n(known.begin(), warps_, known_[w].begin());
      sync_warp(w);
    }
  }

  /// An access by one thread, or by `whole_warp`: elements of `element` bytes each, from byte `offset` on. True where
  /// nothing is wrong with it; otherwise see `finding`.
  template <Access access>
  bool touch(int thread, std::size_t warp, std::size_t offset, std::size_t bytes, std::size_t element, Where where) {
    const Record now{known_[warp][warp], thread, where};
    Record noted;
    if (element == 1) {
      for (std::size_t i = offset; i < offset + bytes; ++i) {
        if (!touch_cell<access>(cell_of(i), warp, noted = now)) return is_found_at(i);
      }
      return true;
    }
    const std::size_t first = offset / 2, count = bytes / 2;
    if (access == Access::read && are_read(first, count, warp, now)) return true;
    if (count == 8 && are_alike<access>(first, warp)) {  // one decision for all of them
      if (!touch_cell<access>(first, warp, noted = now)) return is_found_at(offset);
      for (std::size_t i = first + 1; i < first + count; ++i) {
        readers_[i] = readers_[first];
        (access == Access::read ? reads_of(warp) : &writes_[0])[i] = noted;
      }
      return true;
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (!touch_cell<access>(first + i, warp, noted = now)) return is_found_at(offset + 2 * i);
    }
    return true;
  }
  const Finding& finding() const { return finding_; }

  /// The 16 bytes from `offset` on, which the thread has just touched for writing, arrive later.
  void begin_copy(std::size_t offset, std::size_t element) { set_clock(offset, element, under_way); }
  void end_copy(std::size_t warp, std::size_t offset, std::size_t element) {
    set_clock(offset, element, known_[warp][warp]);
  }

 private:
  static constexpr std::uint32_t under_way = ~0u;

  /// As in emulator_memory.hpp: elements of two bytes and more keep to the cells of even bytes, which come first.
  std::size_t cell_of(std::size_t offset) const { return offset / 2 + offset % 2 * (bytes_ / 2); }
  Record* reads_of(std::size_t warp) const { return &reads_[warp * bytes_]; }

  void set_clock(std::size_t offset, std::size_t element, std::uint32_t clock) {
    const std::size_t step = element == 1 ? 1 : 2;
    for (std::size_t i = offset; i < offset + 16; i += step) writes_[cell_of(i)].clock = clock;
  }

  /// True where the thread, or several lanes of its warp, have read all of this at the same clock, and nobody has written
  /// or begun a copy since: what was right for them is right for any lane, and who must know of this read must know of
  /// theirs.
  bool are_read(std::size_t first, std::size_t count, std::size_t warp, const Record& now) const {
    const Record* const reads = reads_of(warp);
    for (std::size_t i = first; i < first + count; ++i) {
      const bool is_same = reads[i].clock == now.clock &&
                           (reads[i].thread == whole_warp || reads[i].thread == now.thread) &&
                           (readers_[i] >> warp & 1u) != 0;
      if (!is_same) return false;
    }
    return true;
  }

  /// True where eight cells have the same history, as far as it concerns this warp's next access.
  template <Access access>
  bool are_alike(std::size_t first, std::size_t warp) const {
    if (access == Access::write && (readers_[first] & all_warps() & ~(1u << warp)) != 0) return false;
    return all_equal(&readers_[first]) && all_equal(&writes_[first]) && all_equal(&reads_of(warp)[first]);
  }
  std::uint32_t all_warps() const { return ~0u >> (most_warps - warps_); }

  /// True where nothing orders the access in the record, of that warp, before one that is made now.
  bool is_unordered(const Record& record, std::size_t of_warp, std::size_t warp, const Record& now) const {
    if (of_warp != warp) return record.clock > known_[warp][of_warp];
    return record.clock >= now.clock && record.thread != now.thread;
  }

  bool is_found(Finding::Kind kind, const Record& other) {
    finding_ = {kind, other, 0};
    return false;
  }
  bool is_found_at(std::size_t offset) {
    finding_.offset = offset;
    return false;
  }

  /// Changes `now` to what it leaves in the cell.
  template <Access access>
  bool touch_cell(std::size_t cell, std::size_t warp, Record& now) {
    const Record& write = writes_[cell];
    if (write.clock < oldest_clock_) {
      if (access == Access::read) return is_found(Finding::unwritten, write);
    } else if (write.clock == under_way) {
      return is_found(Finding::under_way, write);
    } else if (is_unordered(write, static_cast<std::size_t>(write.thread / lanes), warp, now)) {
      return is_found(Finding::written, write);
    }
    if (access == Access::read) {
      Record& read = reads_of(warp)[cell];
      const bool is_another =
          (readers_[cell] >> warp & 1u) != 0 && read.clock == now.clock && read.thread != now.thread;
      if (is_another) now.thread = whole_warp;
      read = now;
      readers_[cell] |= 1u << warp;
      return true;
    }
    for (std::uint32_t rest = readers_[cell] & all_warps(); rest != 0; rest &= rest - 1) {
      const auto w = static_cast<std::size_t>(std::countr_zero(rest));
      const Record& read = reads_of(w)[cell];
      if (read.clock >= oldest_clock_ && is_unordered(read, w, warp, now)) return is_found(Finding::read, read);
    }
    // Whoever knows of this write knows of the reads before it.
    readers_[cell] = 0;
    writes_[cell] = now;
    return true;
  }

  std::size_t warps_ = 0, bytes_ = 0, writes_room_ = 0, reads_room_ = 0;
  ZeroedArray<Record> writes_;          // [cells]         the last write
  ZeroedArray<std::uint32_t> readers_;  // [cells]         a bit for each warp that has read since, or in another launch
  ZeroedArray<Record> reads_;           // [warps, cells]  the last read of each warp
  std::array<std::array<std::uint32_t, most_warps>, most_warps> known_{};
  std::uint32_t oldest_clock_ = 1, newest_clock_ = 0;
  Finding finding_;
};

/// Accesses to shared memory by whole warps at one line of a kernel: how many turns the banks would take at best, and how
/// many more they take.
struct BankCount {
  std::int64_t turns = 0;
  std::int64_t conflicts = 0;
};
using BankCounts = std::map<std::string, BankCount>;

/// Counts for one block. The k-th visit of a place in the source by the lanes of a warp is taken for one instruction: where
/// lanes make different numbers of visits, the count is wrong.
class BankCounter {
 public:
  void begin_block() {
    visits_.clear();
    accesses_.clear();
  }

  /// A lane's part of an instruction.
  void note(int thread, std::size_t offset, std::size_t bytes, Where where) {
    const Place place = place_of(where);
    const int visit = visits_[{thread, place}]++;
    // More than 16 bytes, or 12, take several instructions.
    const std::size_t width = std::min(widest, std::size_t{1} << std::countr_zero(bytes));
    for (std::size_t piece = 0; piece < bytes; piece += width) {
      Access& access = accesses_[{thread / lanes, place, visit, piece}];
      access.bytes = width;
      access.where = where;
      access.offset[static_cast<std::size_t>(thread % lanes)] = static_cast<std::ptrdiff_t>(offset + piece);
    }
  }

  /// Lanes that are served in one turn, if they do not meet in a bank: places of `bytes` bytes.
  static void add_turn(const std::vector<std::size_t>& offsets, std::size_t bytes, BankCount& count) {
    std::array<std::vector<std::size_t>, banks> words;  // the different words of each bank
    std::size_t turns = 1;
    for (const std::size_t offset : offsets) {
      for (std::size_t word = offset / 4; word < (offset + bytes + 3) / 4; ++word) {
        auto& bank = words[word % banks];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        turns = std::max(turns, bank.size());
      }
    }
    count.turns += 1;
    count.conflicts += static_cast<std::int64_t>(turns) - 1;
  }

  void add_block_to(BankCounts& counts) const {
    for (const auto& [key, access] : accesses_) {
      // 32 banks of 4 bytes: a turn serves 32 lanes of 4 bytes, 16 of 8, 8 of 16.
      const std::size_t bytes = std::max<std::size_t>(access.bytes, 4), together = 4 * banks / bytes;
      for (std::size_t first = 0; first < lanes; first += together) {
        std::vector<std::size_t> turn;
        for (std::size_t l = first; l < first + together; ++l) {
          if (access.offset[l] >= 0) turn.push_back(static_cast<std::size_t>(access.offset[l]));
        }
        if (!turn.empty()) add_turn(turn, access.bytes, counts[spell(access.where)]);
      }
    }
  }

 private:
  static constexpr std::size_t banks = 32, widest = 16;
  using Place = std::tuple<const char*, std::uint32_t, std::uint32_t>;  // file, line, column

  struct Access {
    Access() { offset.fill(-1); }
    std::array<std::ptrdiff_t, lanes> offset;  // of each lane; -1 where it does not take part
    std::size_t bytes = 0;
    Where where;
  };

  static Place place_of(Where where) { return {where.file_name(), where.line(), where.column()}; }

  std::map<std::pair<int, Place>, int> visits_;
  std::map<std::tuple<int, Place, int, std::size_t>, Access> accesses_;
};

}  // namespace blinkbert::dev::emulator
