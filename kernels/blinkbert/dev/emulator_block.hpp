#pragma once

// One block of threads on the emulator: a fibre for each thread, a scheduler that picks the next one at random from a seed,
// warp collectives and barriers as rendezvous, shared memory with a race detector, asynchronous copies, a counter of bank
// conflicts.
//
// The race detector keeps vector clocks (Mattern 1988): every warp has a clock, which barriers and sync_warp advance, and
// knows the clocks of the other warps as of the last barrier it met them at. An access races with an earlier one whose
// clock it does not know. So a missing barrier is found on any schedule, not on an unlucky one only. Shuffles, ballots and
// tensor core instructions order nothing, as on the device.

#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <source_location>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <boost/context/fiber.hpp>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <blinkbert/dev/emulator_memory.hpp>

namespace blinkbert::dev::emulator {

using Where = std::source_location;

inline std::string spell(const Where& where) {
  const std::string_view file = where.file_name();
  return text(file.substr(file.find_last_of('/') + 1), ':', where.line());
}

/// How kernels run.
struct Options {
  std::uint64_t seed = 1;  // of the schedules
  int host_threads = 1;
  bool counts_bank_conflicts = false;
};

/// Accesses to shared memory by whole warps at one line of a kernel: how many turns the banks would take at best, and how
/// many more they take.
struct BankCount {
  std::int64_t turns = 0;
  std::int64_t conflicts = 0;
};
using BankCounts = std::map<std::string, BankCount>;

/// Stacks of fibres, kept for the next block.
class StackPool {
 public:
  static constexpr std::size_t bytes = 256 * 1024;

  StackPool() = default;
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  ~StackPool() {
    for (void* stack : free_) munmap(stack, bytes);
  }

  boost::context::stack_context allocate() {
    void* bottom = nullptr;
    if (free_.empty()) {
      bottom = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (bottom == MAP_FAILED) throw std::bad_alloc();
    } else {
      bottom = free_.back();
      free_.pop_back();
    }
    last_ = bottom;
    boost::context::stack_context stack;
    stack.size = bytes;
    stack.sp = static_cast<char*>(bottom) + bytes;
    return stack;
  }
  const void* last() const { return last_; }
  void deallocate(const boost::context::stack_context& stack) { free_.push_back(static_cast<char*>(stack.sp) - bytes); }

 private:
  std::vector<void*> free_;
  const void* last_ = nullptr;
};

/// What Boost.Context asks for stacks.
struct PooledStacks {
  StackPool* pool;
  boost::context::stack_context allocate() { return pool->allocate(); }
  void deallocate(boost::context::stack_context& stack) noexcept { pool->deallocate(stack); }
};

class Block {
 public:
  static constexpr int lanes = 32;

  Block(std::string kernel, int blocks, int threads, int shared_bytes, const Options& options, std::uint32_t launch,
        const MemoryMap& memory)
      : kernel_(std::move(kernel)),
        blocks_(blocks),
        shared_size_(static_cast<std::size_t>(shared_bytes)),
        options_(options),
        launch_(launch),
        memory_(&memory),
        warps_(static_cast<std::size_t>(threads / lanes)),
        threads_(static_cast<std::size_t>(threads)),
        shared_room_(shared_size_ + 128),
        writes_(shared_size_ / 2),
        reads_(shared_size_ / 2 * warps_.size()) {
    void* begin = shared_room_.data();
    std::size_t room = shared_room_.size();
    shared_ = static_cast<std::byte*>(std::align(128, shared_size_, begin, room));
    for (std::size_t t = 0; t < threads_.size(); ++t) {
      threads_[t].number = static_cast<int>(t);
      warps_[t / lanes].lane[t % lanes] = &threads_[t];
    }
  }

  /// Runs the kernel as block `number`; throws what a thread threw.
  void run(int number, const std::function<void()>& kernel) {
    number_ = number;
    random_ =
        (options_.seed * 0x9e3779b97f4a7c15u) ^ (std::uint64_t{launch_} << 32) ^ static_cast<std::uint64_t>(number + 1);
    std::memset(shared_, 0xff, shared_size_);
    // Clocks go on from block to block, so that what the block before left in the shadow is older than anything.
    oldest_clock_ = newest_clock_ + 1;
    for (std::size_t w = 0; w < warps_.size(); ++w) {
      warps_[w].seen.assign(warps_.size(), oldest_clock_ - 1);
      warps_[w].seen[w] = oldest_clock_;
      warps_[w].arrived = 0;
      warps_[w].left = 0;
    }
    newest_clock_ = oldest_clock_;
    for (Barrier& barrier : barriers_) barrier.waiting.clear();
    ready_.clear();
    error_ = nullptr;
    live_ = static_cast<int>(threads_.size());
    for (Thread& thread : threads_) start(thread, kernel);
    while (live_ > 0 && !error_) {
      if (ready_.empty()) report_deadlock();
      resume_one();
    }
    running_ = nullptr;
    for (Thread& thread : threads_) on_fiber(thread, [&] { thread.fiber = {}; });  // unwinds what a fault left waiting
    if (options_.counts_bank_conflicts) count_banks();
    if (error_) std::rethrow_exception(error_);
  }

  int number() const { return number_; }
  int blocks() const { return blocks_; }
  int thread_count() const { return static_cast<int>(threads_.size()); }
  int thread() const { return running_->number; }
  std::byte* shared() const { return shared_; }
  std::size_t shared_size() const { return shared_size_; }
  const BankCounts& bank_counts() const { return bank_counts_; }

  template <class... Parts>
  [[noreturn]] void fault(const Parts&... parts) const {
    throw KernelFault(text("kernel ", kernel_, ", block ", number_, ", thread ", running_ ? running_->number : -1,
                           ", launch ", launch_, ", schedule seed ", options_.seed, ": ", parts...));
  }

  // --- rendezvous ------------------------------------------------------------------------------------------------

  /// All lanes of the warp meet; the last one runs `execute` over the arguments of all of them.
  template <class Arguments, class Execute>
  void collective(const char* what, const Where& where, Arguments& arguments, const Execute& execute) {
    Thread& me = *running_;
    Warp& warp = warp_of(me);
    if (warp.left > 0) fault(what, " at ", emulator::spell(where), " with lanes that have left the kernel");
    if (warp.arrived == 0) {
      warp.what = what;
      warp.where = where;
      warp.first = me.number;
    } else if (warp.what != what || !is_same(warp.where, where)) {
      fault("the warp is divided: this lane is in ", what, " at ", emulator::spell(where), ", thread ", warp.first,
            " in ", warp.what, " at ", emulator::spell(warp.where));
    }
    me.arguments = &arguments;
    if (++warp.arrived < lanes) {
      wait(what, where);
      return;
    }
    std::array<Arguments*, lanes> all{};
    for (std::size_t l = 0; l < lanes; ++l) all[l] = static_cast<Arguments*>(warp.lane[l]->arguments);
    execute(all);
    warp.arrived = 0;
    for (Thread* lane : warp.lane) {
      if (lane != &me) ready_.push_back(lane);
    }
    if (draw() % 2 == 0) let_others_run();
  }

  void sync_warp(const Where& where) {
    int nothing = 0;
    collective("sync_warp", where, nothing, [this](const auto&) { advance(warp_of(*running_)); });
  }

  void barrier(int id, int count, const Where& where) {
    Thread& me = *running_;
    Barrier& barrier = barriers_[static_cast<std::size_t>(id)];
    if (barrier.waiting.empty()) {
      barrier.count = count;
      barrier.where = where;
      if (count % lanes != 0 || count > thread_count())
        fault("a barrier of ", count, " threads at ", emulator::spell(where));
    } else if (barrier.count != count || !is_same(barrier.where, where)) {
      fault("the block is divided: this thread is in barrier ", id, " at ", emulator::spell(where), ", thread ",
            barrier.waiting.front()->number, " at ", emulator::spell(barrier.where));
    }
    barrier.waiting.push_back(&me);
    if (static_cast<int>(barrier.waiting.size()) < count) {
      wait("a barrier", where);
      return;
    }
    const std::vector<Thread*> met = std::exchange(barrier.waiting, {});
    std::vector<std::uint32_t> known(warps_.size(), 0);
    std::vector<int> lanes_met(warps_.size(), 0);
    for (const Thread* thread : met) {
      const auto w = static_cast<std::size_t>(thread->number / lanes);
      if (lanes_met[w]++ > 0) continue;
      for (std::size_t k = 0; k < known.size(); ++k) known[k] = std::max(known[k], warps_[w].seen[k]);
    }
    for (std::size_t w = 0; w < warps_.size(); ++w) {
      if (lanes_met[w] == 0) continue;
      if (lanes_met[w] != lanes) fault("a barrier at ", emulator::spell(where), " with a part of warp ", w);
      warps_[w].seen = known;
      advance(warps_[w]);
    }
    for (Thread* thread : met) {
      if (thread != &me) ready_.push_back(thread);
    }
    if (draw() % 2 == 0) let_others_run();
  }

  // --- memory ----------------------------------------------------------------------------------------------------

  void touch_global(const void* place, std::size_t bytes, Access access, const Where& where) const {
    const Toucher me{launch_, static_cast<std::uint32_t>(number_) * static_cast<std::uint32_t>(threads_.size()) +
                                  static_cast<std::uint32_t>(running_->number) + 1};
    const std::string wrong = memory_->touch(place, bytes, access, me);
    if (!wrong.empty()) fault(wrong, " (", emulator::spell(where), ")");
  }

  void touch_shared(const void* place, std::size_t bytes, Access access, const Where& where) {
    touch_shared_as(*running_, place, bytes, access, where);
    if (options_.counts_bank_conflicts) record_bank(place, bytes, where);
  }

  /// For a collective, which accesses shared memory for all its lanes at once.
  void touch_shared_as(int lane, const void* place, std::size_t bytes, Access access, const Where& where) {
    touch_shared_as(*warp_of(*running_).lane[static_cast<std::size_t>(lane)], place, bytes, access, where);
  }
  /// The eight rows that a matrix load reads in one turn.
  void count_turn(const std::array<const void*, 8>& rows, const Where& where) {
    if (!options_.counts_bank_conflicts) return;
    std::vector<const void*> places(rows.begin(), rows.end());
    count_turn(places, 16, bank_counts_[emulator::spell(where)]);
  }

  void copy_async(std::byte* to, const std::byte* from, bool is_wanted, const Where& where) {
    constexpr std::size_t bytes = 16;
    if (is_wanted) touch_global(from, bytes, Access::read, where);
    touch_shared(to, bytes, Access::write, where);
    for (std::size_t i = 0; i < bytes / 2; ++i) writes_[cell(to) + i].clock = under_way;
    // Until the wait the bytes may be there or not.
    std::memset(to, 0xff, bytes);
    const Copy copy{to, from, is_wanted, running_->open_group, where};
    if (draw() % 2 == 0) move(copy);
    running_->copies.push_back(copy);
  }
  void commit_copies() { ++running_->open_group; }
  void wait_copies(int under_way_still) {
    Thread& me = *running_;
    while (!me.copies.empty() && me.copies.front().group < me.open_group - under_way_still) {
      const Copy copy = me.copies.front();
      me.copies.pop_front();
      move(copy);
      for (std::size_t i = 0; i < 8; ++i) writes_[cell(copy.to) + i].clock = warp_of(me).clock(me);
    }
  }

  std::uint32_t draw() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return static_cast<std::uint32_t>(random_ >> 32);
  }

 private:
  struct Copy {
    std::byte* to;
    const std::byte* from;
    bool is_wanted;
    int group;
    Where where;
  };
  struct Thread {
    int number = 0;
    boost::context::fiber fiber, scheduler;
    void* arguments = nullptr;  // of the collective it waits in
    const char* waits_for = "";
    Where waits_at;
    bool has_left = false;
    std::deque<Copy> copies;
    int open_group = 0;
    const void* stack = nullptr;
    void* fake_stack = nullptr;                     // AddressSanitizer's
    std::unordered_map<std::uint32_t, int> visits;  // of each line, for pairing accesses of a warp
  };
  struct Warp {
    std::array<Thread*, lanes> lane{};
    int arrived = 0, left = 0, first = 0;
    const char* what = "";
    Where where;
    std::vector<std::uint32_t> seen;  // the clocks it knows; its own at its own place
    std::uint32_t clock(const Thread& me) const { return seen[static_cast<std::size_t>(me.number / lanes)]; }
  };
  struct Barrier {
    int count = 0;
    Where where;
    std::vector<Thread*> waiting;
  };
  /// The last access to two bytes of shared memory: of all threads (write), of a warp (read).
  struct Record {
    std::uint32_t clock = 0;
    std::int32_t thread = several_lanes;
    std::uint32_t line = 0;
  };
  static constexpr std::int32_t several_lanes = -1;
  static constexpr std::uint32_t under_way = ~0u;

  /// What one instruction of a warp touches.
  struct BankAccess {
    std::array<const void*, lanes> place{};  // of each lane; nullptr where it does not take part
    std::size_t bytes = 0;
    std::uint32_t line = 0;
  };

  static bool is_same(const Where& a, const Where& b) {
    return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
  }
  Warp& warp_of(const Thread& thread) { return warps_[static_cast<std::size_t>(thread.number / lanes)]; }
  void advance(Warp& warp) {
    std::uint32_t& own = warp.seen[static_cast<std::size_t>(warp.lane[0]->number / lanes)];
    newest_clock_ = std::max(newest_clock_, ++own);
  }

  // --- fibres ----------------------------------------------------------------------------------------------------

  void start(Thread& thread, const std::function<void()>& kernel) {
    thread.has_left = false;
    thread.copies.clear();
    thread.open_group = 0;
    thread.visits.clear();
    thread.fake_stack = nullptr;
    thread.fiber = boost::context::fiber(std::allocator_arg, PooledStacks{&stacks_},
                                         [this, &thread, &kernel](boost::context::fiber&& scheduler) {
                                           arrive_on_fiber(thread);
                                           thread.scheduler = std::move(scheduler);
                                           try {
                                             kernel();
                                             leave(thread);
                                           } catch (const std::exception&) {
                                             error_ = std::current_exception();
                                           }
                                           leave_fiber(thread, Leaving::for_good);
                                           return std::move(thread.scheduler);
                                         });
    thread.stack = stacks_.last();
    ready_.push_back(&thread);
  }

  void leave(Thread& thread) {
    Warp& warp = warp_of(thread);
    if (warp.arrived > 0) {
      fault("leaves while its warp waits in ", warp.what, " at ", emulator::spell(warp.where));
    }
    if (!thread.copies.empty()) {
      fault("leaves with a copy under way that began at ", emulator::spell(thread.copies.front().where));
    }
    thread.has_left = true;
    ++warp.left;
    --live_;
  }

  void resume_one() {
    const std::size_t pick = draw() % ready_.size();
    running_ = ready_[pick];
    ready_[pick] = ready_.back();
    ready_.pop_back();
    Thread& thread = *running_;
    on_fiber(thread, [&] { thread.fiber = std::move(thread.fiber).resume(); });
  }

  void wait(const char* what, const Where& where) {
    running_->waits_for = what;
    running_->waits_at = where;
    yield(*running_);
  }
  void let_others_run() {
    ready_.push_back(running_);
    yield(*running_);
  }
  void yield(Thread& me) {
    leave_fiber(me, Leaving::for_now);
    try {
      me.scheduler = std::move(me.scheduler).resume();
    } catch (...) {  // Boost.Context unwinds a fibre that is destroyed by an exception of its own
      arrive_on_fiber(me);
      throw;
    }
    arrive_on_fiber(me);
  }

  enum class Leaving { for_now, for_good };
#if defined(__SANITIZE_ADDRESS__)
  // AddressSanitizer wants to be told of every change of stacks.
  template <class Switch>
  static void on_fiber(Thread& thread, const Switch& change) {
    if (!thread.fiber) return change();
    void* own = nullptr;
    __sanitizer_start_switch_fiber(&own, thread.stack, StackPool::bytes);
    change();
    __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
  }
  void arrive_on_fiber(Thread& me) {
    __sanitizer_finish_switch_fiber(me.fake_stack, &scheduler_stack_, &scheduler_bytes_);
  }
  void leave_fiber(Thread& me, Leaving leaving) {
    __sanitizer_start_switch_fiber(leaving == Leaving::for_now ? &me.fake_stack : nullptr, scheduler_stack_,
                                   scheduler_bytes_);
  }
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_bytes_ = 0;
#else
  template <class Switch>
  static void on_fiber(Thread&, const Switch& change) {
    change();
  }
  void arrive_on_fiber(Thread&) {}
  void leave_fiber(Thread&, Leaving) {}
#endif

  [[noreturn]] void report_deadlock() {
    running_ = nullptr;
    std::map<std::string, int> waiting;
    int gone = 0;
    for (const Thread& thread : threads_) {
      if (thread.has_left) {
        ++gone;
      } else {
        ++waiting[text(thread.waits_for, " at ", emulator::spell(thread.waits_at))];
      }
    }
    std::string list;
    for (const auto& [what, count] : waiting) list += text(list.empty() ? "" : ", ", count, " threads wait in ", what);
    fault("deadlock: ", list, "; ", gone, " have left");
  }

  // --- shared memory ---------------------------------------------------------------------------------------------

  std::size_t cell(const void* place) const {
    return static_cast<std::size_t>(static_cast<const std::byte*>(place) - shared_) / 2;
  }

  void touch_shared_as(Thread& me, const void* place, std::size_t bytes, Access access, const Where& where) {
    const Warp& warp = warp_of(me);
    const std::uint32_t now = warp.clock(me), line = line_number(where);
    const std::size_t first = cell(place);
    for (std::size_t i = first; i < first + (bytes + 1) / 2; ++i) {
      Record& write = writes_[i];
      Record* reads = &reads_[i * warps_.size()];
      if (write.clock == under_way) race(me, access, "which an asynchronous copy is still writing", write, where);
      if (is_unknown(write, me)) race(me, access, "after a write", write, where);
      if (access == Access::read) {
        if (write.clock < oldest_clock_) {
          fault_as(me, "read of shared memory that nobody wrote (", emulator::spell(where), ")");
        }
        Record& read = reads[me.number / lanes];
        const bool is_shared = read.clock == now && read.thread != me.number;
        read = {now, is_shared ? several_lanes : me.number, line};
      } else {
        for (std::size_t w = 0; w < warps_.size(); ++w) {
          if (is_unknown(reads[w], me, w)) race(me, access, "after a read", reads[w], where);
        }
        write = {now, me.number, line};
      }
    }
  }

  /// True where nothing orders the recorded access before one that `me` makes now.
  bool is_unknown(const Record& write, const Thread& me) const {
    return write.clock >= oldest_clock_ && is_unknown(write, me, static_cast<std::size_t>(write.thread / lanes));
  }
  bool is_unknown(const Record& record, const Thread& me, std::size_t warp) const {
    if (record.clock < oldest_clock_) return false;
    const std::uint32_t known = warps_[static_cast<std::size_t>(me.number / lanes)].seen[warp];
    if (warp == static_cast<std::size_t>(me.number / lanes)) {
      return record.thread != me.number && record.clock >= known;
    }
    return record.clock > known;
  }

  [[noreturn]] void race(const Thread& me, Access access, const char* with, const Record& other, const Where& where) {
    fault_as(me, "race on shared memory: ", access == Access::read ? "read" : "write", " at ", emulator::spell(where),
             " ", with, " at ", lines_[other.line], " by ",
             other.thread == several_lanes ? std::string("several lanes") : text("thread ", other.thread),
             ", with no barrier between them");
  }
  template <class... Parts>
  [[noreturn]] void fault_as(const Thread& me, const Parts&... parts) {
    running_ = const_cast<Thread*>(&me);
    fault(parts...);
  }

  /// A number for a line of source.
  std::uint32_t line_number(const Where& where) {
    const std::pair<const char*, std::uint32_t> key{where.file_name(), where.line()};
    if (last_line_ < line_keys_.size() && line_keys_[last_line_] == key) return last_line_;
    for (last_line_ = 0; last_line_ < line_keys_.size(); ++last_line_) {
      if (line_keys_[last_line_] == key) return last_line_;
    }
    line_keys_.push_back(key);
    lines_.push_back(emulator::spell(where));
    return last_line_;
  }

  static void move(const Copy& copy) {
    if (copy.is_wanted) {
      std::memcpy(copy.to, copy.from, 16);
    } else {
      std::memset(copy.to, 0, 16);
    }
  }

  // --- bank conflicts --------------------------------------------------------------------------------------------

  /// The k-th visit of a line by the lanes of a warp is taken for one instruction.
  void record_bank(const void* place, std::size_t bytes, const Where& where) {
    const std::uint32_t line = line_number(where);
    const int visit = running_->visits[line * 4096 + where.column()]++;
    BankAccess& access = bank_accesses_[{running_->number / lanes, line * 4096 + where.column(), visit}];
    access.place[static_cast<std::size_t>(running_->number % lanes)] = place;
    access.bytes = bytes;
    access.line = line;
  }

  void count_banks() {
    for (auto& [key, access] : bank_accesses_) {
      // 32 banks of 4 bytes: a turn serves 32 lanes of 4 bytes, 16 of 8, 8 of 16.
      const std::size_t width = std::max<std::size_t>(access.bytes, 4), together = 128 / width;
      for (std::size_t first = 0; first < lanes; first += together) {
        std::vector<const void*> turn;
        for (std::size_t l = first; l < first + together; ++l) {
          if (access.place[l] != nullptr) turn.push_back(access.place[l]);
        }
        if (!turn.empty()) count_turn(turn, width, bank_counts_[lines_[access.line]]);
      }
    }
    bank_accesses_.clear();
  }
  void count_turn(const std::vector<const void*>& places, std::size_t bytes, BankCount& count) const {
    std::array<std::vector<std::size_t>, 32> words;  // different words of each bank
    for (const void* place : places) {
      const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(place) - shared_);
      for (std::size_t word = offset / 4; word < (offset + bytes + 3) / 4; ++word) {
        auto& bank = words[word % 32];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
      }
    }
    std::size_t turns = 1;
    for (const auto& bank : words) turns = std::max(turns, bank.size());
    count.turns += 1;
    count.conflicts += static_cast<std::int64_t>(turns) - 1;
  }

  std::string kernel_;
  int blocks_;
  std::size_t shared_size_;
  Options options_;
  std::uint32_t launch_;
  const MemoryMap* memory_;
  StackPool stacks_;

  std::vector<Warp> warps_;
  std::vector<Thread> threads_;
  std::array<Barrier, 16> barriers_;
  std::vector<Thread*> ready_;
  Thread* running_ = nullptr;
  int number_ = 0, live_ = 0;
  std::uint64_t random_ = 1;
  std::exception_ptr error_;

  std::vector<std::byte> shared_room_;
  std::byte* shared_ = nullptr;
  std::vector<Record> writes_;  // [bytes / 2]
  std::vector<Record> reads_;   // [bytes / 2, warps]
  std::uint32_t oldest_clock_ = 1, newest_clock_ = 0;
  std::vector<std::pair<const char*, std::uint32_t>> line_keys_;
  std::vector<std::string> lines_;
  std::uint32_t last_line_ = 0;
  std::map<std::tuple<int, std::uint32_t, int>, BankAccess> bank_accesses_;
  BankCounts bank_counts_;
};

}  // namespace blinkbert::dev::emulator
