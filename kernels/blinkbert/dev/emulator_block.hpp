#pragma once

// One block of threads on the emulator: a fibre for each thread, a scheduler that picks the next one at random from a seed,
// warp collectives and barriers as rendezvous, asynchronous copies. Memory is watched by emulator_shared.hpp and
// emulator_memory.hpp.

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <blinkbert/dev/basics.hpp>
#include <blinkbert/dev/emulator_fibers.hpp>
#include <blinkbert/dev/emulator_memory.hpp>
#include <blinkbert/dev/emulator_shared.hpp>

namespace blinkbert::dev::emulator {

/// How kernels run.
struct Options {
  std::uint64_t seed = 1;  // of the schedules
  int host_threads = 1;
  bool counts_bank_conflicts = false;
};

/// What the blocks of a launch have in common.
struct Launch {
  std::string kernel;
  std::uint32_t number = 0;
  LaunchShape shape;
  Options options;
  const MemoryMap* memory = nullptr;
};

/// Runs one block after another, also of different launches, on one host thread at a time.
class Block {
 public:
  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    is_ending_ = true;
    for (Thread& thread : threads_) fibers_.go(fibers_.host(), thread);
  }

  void begin_launch(const Launch& launch) {
    launch_ = launch;
    while (thread_count() > static_cast<int>(threads_.size())) {
      Thread& thread = threads_.emplace_back();
      thread.number = static_cast<int>(threads_.size()) - 1;
      if (thread.number % lanes == 0) warps_.emplace_back();
      warp_of(thread).lane[static_cast<std::size_t>(thread.number % lanes)] = &thread;
      fibers_.add(thread, [this, &thread] { work(thread); });
    }
    shared_size_ = static_cast<std::size_t>(launch.shape.shared_bytes + 15) / 16 * 16;
    if (shared_room_.size() < shared_size_ + shared_alignment) shared_room_.resize(shared_size_ + shared_alignment);
    void* begin = shared_room_.data();
    std::size_t room = shared_room_.size();
    shared_ = static_cast<std::byte*>(std::align(shared_alignment, shared_size_, begin, room));
    shared_watch_.begin_launch(shared_size_, thread_count() / lanes);
    memory_watch_.begin_launch(
        *launch.memory, launch.number,
        launch.options.host_threads > 1 ? MemoryWatch::Neighbours::other_host_threads : MemoryWatch::Neighbours::none);
  }

  /// Runs the kernel as block `number`; throws what a thread threw.
  void run(int number, const std::function<void()>& kernel) {
    number_ = number;
    kernel_ = &kernel;
    start_random();
    std::memset(shared_, 0xff, shared_size_);
    shared_watch_.begin_block();
    bank_counter_.begin_block();
    outside_.clear();
    for (Warp& warp : warps_) warp.arrived = warp.left = 0;
    for (Barrier& barrier : barriers_) barrier.clear();
    ready_.clear();
    live_ = thread_count();
    for (int t = 0; t < live_; ++t) {
      Thread& thread = threads_[static_cast<std::size_t>(t)];
      thread.has_left = false;
      thread.copies.clear();
      thread.committed = 0;
      ready_.push_back(&thread);
    }
    while (live_ > 0 && !error_) {
      if (ready_.empty()) {
        error_ = std::make_exception_ptr(deadlock());
      } else {
        running_ = &next();
        fibers_.go(fibers_.host(), *running_);
      }
    }
    if (error_) give_up();
    running_ = nullptr;
    if (launch_.options.counts_bank_conflicts) bank_counter_.add_block_to(bank_counts_);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  int number() const { return number_; }
  int blocks() const { return launch_.shape.blocks; }
  int thread_count() const { return launch_.shape.threads; }
  int thread() const { return running_->number; }
  std::byte* shared() const { return shared_; }
  std::size_t shared_size() const { return shared_size_; }
  BankCounts take_bank_counts() { return std::exchange(bank_counts_, {}); }

  [[noreturn, gnu::cold]] void fault(const std::string& what) const { fault(what, running_->number); }

  // --- rendezvous ------------------------------------------------------------------------------------------------

  /// All lanes of the warp meet; the last one runs `execute` over the arguments of all of them.
  template <class Arguments, class Execute>
  void collective(const char* what, Where where, Arguments& arguments, const Execute& execute) {
    running_->arguments = &arguments;
    Warp& warp = warp_of(*running_);
    if (!is_last_lane(warp, what, where)) return wait(what, where);
    std::array<Arguments*, lanes> all{};
    for (std::size_t l = 0; l < lanes; ++l) all[l] = static_cast<Arguments*>(warp.lane[l]->arguments);
    execute(all);
    warp.arrived = 0;
    release(warp.lane);
  }

  void sync_warp(Where where) {
    int nothing = 0;
    collective("sync_warp", where, nothing,
               [this](const auto&) { shared_watch_.sync_warp(static_cast<std::size_t>(running_->number / lanes)); });
  }

  void barrier(int id, int count, Where where) {
    Thread& me = *running_;
    Barrier& barrier = barriers_[static_cast<std::size_t>(id)];
    if (count <= 0 || count % lanes != 0 || count > thread_count()) {
      fault(text("barrier ", id, " at ", spell(where), " is for ", count, " threads: whole warps of a block of ",
                 thread_count(), " are wanted"));
    }
    if (barrier.waiting.empty()) {
      barrier.count = count;
      barrier.where = where;
    } else if (barrier.count != count || !is_same(barrier.where, where)) {
      fault(text("the block is divided: this thread is in barrier ", id, " for ", count, " threads at ", spell(where),
                 ", thread ", barrier.waiting.front()->number, " for ", barrier.count, " at ", spell(barrier.where)));
    }
    barrier.waiting.push_back(&me);
    barrier.met[static_cast<std::size_t>(me.number / lanes)] |= 1u << me.number % lanes;
    if (static_cast<int>(barrier.waiting.size()) < count)
      return wait(barrier_names[static_cast<std::size_t>(id)], where);
    std::uint32_t warps_met = 0;
    for (std::size_t w = 0; w < warps_.size(); ++w) {
      const std::uint32_t met = std::exchange(barrier.met[w], 0);
      if (met == 0) continue;
      if (met != ~0u) {
        fault(text("barrier ", id, " at ", spell(where), " is full with a part of warp ", w, ": thread ",
                   w * lanes + static_cast<std::size_t>(std::countr_one(met)), " is not there"));
      }
      warps_met |= 1u << w;
    }
    shared_watch_.sync_warps(warps_met);
    released_.swap(barrier.waiting);
    barrier.waiting.clear();
    release(released_);
  }

  // --- memory ----------------------------------------------------------------------------------------------------

  void touch_global(const void* place, std::size_t bytes, std::size_t element, Access access, Where where) {
    const auto me = static_cast<std::uint32_t>(number_) * static_cast<std::uint32_t>(thread_count()) +
                    static_cast<std::uint32_t>(running_->number);
    if (!memory_watch_.touch(place, bytes, element, access, me)) [[unlikely]]
      report(memory_watch_.finding(), place, access, where);
  }

  template <Access access>
  void touch_shared(const void* place, std::size_t bytes, std::size_t element, Where where) {
    const std::size_t offset = shared_offset(place);
    const int me = running_->number;
    if (!shared_watch_.touch<access>(me, static_cast<std::size_t>(me / lanes), offset, bytes, element, where))
        [[unlikely]]
      report(shared_watch_.finding(), access, where, me);
    if (launch_.options.counts_bank_conflicts) bank_counter_.note(me, offset, bytes, where);
  }

  /// Eight rows of 16 bytes that a warp reads in one turn, for all of its lanes; the first lane that names one is `first`.
  void touch_matrix(const std::array<const void*, 8>& rows, int first, Where where) {
    const auto warp = static_cast<std::size_t>(running_->number / lanes);
    std::vector<std::size_t> offsets;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const std::size_t offset = shared_offset(rows[r]);
      if (!shared_watch_.touch<Access::read>(SharedWatch::whole_warp, warp, offset, 16, 2, where)) [[unlikely]] {
        report(shared_watch_.finding(), Access::read, where,
               static_cast<int>(warp) * lanes + first + static_cast<int>(r));
      }
      if (launch_.options.counts_bank_conflicts) offsets.push_back(offset);
    }
    if (launch_.options.counts_bank_conflicts) BankCounter::add_turn(offsets, 16, bank_counts_[spell(where)]);
  }

  /// 16 bytes, or zeros. The data arrive at once or at the wait; until then the place belongs to the copy.
  void copy_async(std::byte* to, const std::byte* from, std::size_t element, bool is_wanted, Where where) {
    if (is_wanted) touch_global(from, copy_bytes, element, Access::read, where);
    touch_shared<Access::write>(to, copy_bytes, element, where);
    shared_watch_.begin_copy(shared_offset(to), element);
    std::memset(to, 0xff, copy_bytes);
    Copy copy{to, from, {}, element, is_wanted, running_->committed, where};
    if (is_wanted) std::memcpy(copy.source.data(), from, copy_bytes);
    if (draw() % 2 == 0) arrive(copy);
    running_->copies.push_back(copy);
  }
  void commit_copies() { ++running_->committed; }
  void wait_copies(int under_way, Where where) {
    Thread& me = *running_;
    std::size_t done = 0;
    for (; done < me.copies.size() && me.copies[done].group < me.committed - under_way; ++done) {
      const Copy& copy = me.copies[done];
      if (copy.is_wanted && std::memcmp(copy.source.data(), copy.from, copy_bytes) != 0) {
        fault(text("the wait at ", spell(where), " ends a copy from ", spell(copy.where),
                   " whose source was written while it was under way"));
      }
      arrive(copy);
      shared_watch_.end_copy(static_cast<std::size_t>(me.number / lanes), shared_offset(copy.to), copy.element);
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(done));
  }

  /// An element that a view or tile does not have: a fault where it is accessed, not where its place is worked out, as on
  /// the device. Returns a negative mark for `fault_outside`.
  template <std::size_t Rank>
  int note_outside(const char* of, const std::int64_t (&indices)[Rank], const std::int64_t (&extents)[Rank]) {
    static_assert(Rank <= most_axes);
    Outside& noted = outside_.emplace_back();
    noted.of = of;
    noted.rank = Rank;
    std::copy_n(indices, Rank, noted.indices);
    std::copy_n(extents, Rank, noted.extents);
    return -static_cast<int>(outside_.size());
  }
  [[noreturn, gnu::cold]] void fault_outside(int mark, Where where) const {
    const Outside& noted = outside_[static_cast<std::size_t>(-mark - 1)];
    fault(text("element (", list(noted.indices, noted.rank), ") of ", noted.of, " of (",
               list(noted.extents, noted.rank), ") accessed at ", spell(where)));
  }

 private:
  struct Abandoned {};  // thrown through a thread that will not be gone on with

  static constexpr std::size_t copy_bytes = 16, shared_alignment = 128, most_axes = 8;
  struct Outside {
    const char* of = "";
    std::size_t rank = 0;
    std::int64_t indices[most_axes] = {}, extents[most_axes] = {};
  };
  struct Copy {
    std::byte* to;
    const std::byte* from;
    std::array<std::byte, copy_bytes> source;  // as it was
    std::size_t element;                       // bytes
    bool is_wanted;
    int group;
    Where where;
  };
  struct Thread : Context {
    int number = 0;
    void* arguments = nullptr;  // of the collective it waits in
    const char* waits_for = "";
    Where waits_at;
    bool is_in_kernel = false, has_left = false;
    std::vector<Copy> copies;  // under way
    int committed = 0;         // groups of copies
  };
  struct Warp {
    std::array<Thread*, lanes> lane{};
    int arrived = 0, left = 0;
    int first = 0;  // thread that arrived, or left, first
    const char* what = "";
    Where where;
  };
  struct Barrier {
    int count = 0;
    Where where;
    std::vector<Thread*> waiting;
    std::array<std::uint32_t, most_warps> met{};  // of each warp the lanes that wait

    void clear() {
      waiting.clear();
      met.fill(0);
    }
  };
  static constexpr std::array<const char*, 16> barrier_names{
      "barrier 0", "barrier 1", "barrier 2",  "barrier 3",  "barrier 4",  "barrier 5",  "barrier 6",  "barrier 7",
      "barrier 8", "barrier 9", "barrier 10", "barrier 11", "barrier 12", "barrier 13", "barrier 14", "barrier 15"};

  static bool is_same(Where a, Where b) {
    return a.line() == b.line() && a.column() == b.column() &&
           (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
  }
  Warp& warp_of(const Thread& thread) { return warps_[static_cast<std::size_t>(thread.number / lanes)]; }

  // --- schedule --------------------------------------------------------------------------------------------------

  /// A function of seed, launch and block (SplitMix64, Steele, Lea, Flood 2014).
  void start_random() {
    random_ = launch_.options.seed;
    for (const std::uint64_t part : {std::uint64_t{launch_.number}, static_cast<std::uint64_t>(number_) + 1}) {
      random_ += part * 0x9e3779b97f4a7c15u;
      random_ = (random_ ^ random_ >> 30) * 0xbf58476d1ce4e5b9u;
      random_ = (random_ ^ random_ >> 27) * 0x94d049bb133111ebu;
      random_ ^= random_ >> 31;
    }
    if (random_ == 0) random_ = 1;
  }
  std::uint32_t draw() {  // xorshift (Marsaglia 2003)
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return static_cast<std::uint32_t>(random_ >> 32);
  }
  Thread& next() {
    const std::size_t pick = std::uint64_t{draw()} * ready_.size() >> 32;
    Thread& thread = *ready_[pick];
    ready_[pick] = ready_.back();
    ready_.pop_back();
    return thread;
  }

  /// What every fibre does: the kernel, as often as there are blocks.
  void work(Thread& me) {
    while (!is_ending_) {
      me.is_in_kernel = true;
      try {
        (*kernel_)();
        leave(me);
      } catch (const Abandoned&) {
      } catch (...) {
        error_ = std::current_exception();
      }
      me.is_in_kernel = false;
      go_on_with_another(me);
    }
  }

  void leave(Thread& me) {
    Warp& warp = warp_of(me);
    if (warp.arrived > 0) {
      fault(text("leaves the kernel while thread ", warp.first, " waits for it in ", warp.what, " at ",
                 spell(warp.where)));
    }
    if (!me.copies.empty()) {
      fault(text("leaves the kernel with a copy under way that began at ", spell(me.copies.front().where)));
    }
    me.has_left = true;
    if (warp.left++ == 0) warp.first = me.number;
    --live_;
  }

  void go_on_with_another(Thread& me) {
    if (error_ || ready_.empty()) {
      running_ = nullptr;
      return fibers_.go(me, fibers_.host());
    }
    running_ = &next();
    if (running_ != &me) fibers_.go(me, *running_);
  }
  void yield(Thread& me) {
    go_on_with_another(me);
    if (error_) throw Abandoned{};
  }
  void wait(const char* what, Where where) {
    running_->waits_for = what;
    running_->waits_at = where;
    yield(*running_);
  }
  /// This thread was the last of those that met: all of them may go on.
  template <class Threads>
  void release(const Threads& met) {
    Thread& me = *running_;
    for (Thread* thread : met) {
      if (thread != &me) ready_.push_back(thread);
    }
    if (draw() % 2 == 0) return;
    ready_.push_back(&me);
    yield(me);
  }

  bool is_last_lane(Warp& warp, const char* what, Where where) {
    if (warp.left > 0) {
      fault(text(what, " at ", spell(where), " with lanes that have left the kernel, thread ", warp.first, " first"));
    }
    if (warp.arrived == 0) {
      warp.what = what;
      warp.where = where;
      warp.first = running_->number;
    } else if (warp.what != what || !is_same(warp.where, where)) {
      fault(text("the warp is divided: this lane is in ", what, " at ", spell(where), ", thread ", warp.first, " in ",
                 warp.what, " at ", spell(warp.where)));
    }
    return ++warp.arrived == lanes;
  }

  /// Takes every thread out of the kernel that is still in it.
  void give_up() {
    for (Thread& thread : threads_) {
      if (!thread.is_in_kernel) continue;
      running_ = &thread;
      fibers_.go(fibers_.host(), thread);
    }
    shared_watch_.forget();
  }

  // --- messages --------------------------------------------------------------------------------------------------

  std::string heading() const { return text("kernel ", launch_.kernel, ", block ", number_); }
  std::string circumstances() const {
    return text(", launch ", launch_.number - MemoryMap::first_launch + 1, ", schedule seed ", launch_.options.seed,
                ": ");
  }
  [[noreturn, gnu::cold]] void fault(const std::string& what, int thread) const {
    throw KernelFault(text(heading(), ", thread ", thread, circumstances(), what));
  }

  static std::string list(const std::int64_t* numbers, std::size_t count) {
    std::string list;
    for (std::size_t i = 0; i < count; ++i) list += text(i == 0 ? "" : ", ", numbers[i]);
    return list;
  }

  KernelFault deadlock() const {
    std::map<std::string, std::vector<int>> waiting;
    for (int t = 0; t < thread_count(); ++t) {
      const Thread& thread = threads_[static_cast<std::size_t>(t)];
      waiting[thread.has_left ? "have left the kernel"
                              : text("wait in ", thread.waits_for, " at ", spell(thread.waits_at))]
          .push_back(t);
    }
    std::string list;
    for (const auto& [what, threads] : waiting) {
      list += list.empty() ? "threads" : "; threads";
      for (std::size_t i = 0; i < threads.size(); ++i) {
        const int first = threads[i];
        while (i + 1 < threads.size() && threads[i + 1] == threads[i] + 1) ++i;
        list += first == threads[i] ? text(' ', first) : text(' ', first, '-', threads[i]);
      }
      list += ' ' + what;
    }
    return KernelFault(text(heading(), circumstances(), "deadlock: ", list));
  }

  [[noreturn, gnu::cold]] void report(const MemoryWatch::Finding& finding, const void* place, Access access,
                                      Where where) const {
    using Finding = MemoryWatch::Finding;
    const std::string act = text(access == Access::read ? "read" : "write", " at ", spell(where));
    if (finding.kind == Finding::outside) fault(text(act, " outside of the device's memory, at address ", place));
    const std::string byte = text(" byte ", finding.offset, " of an allocation of ", finding.bytes);
    if (finding.kind == Finding::unwritten) fault(text(act, " of", byte, ", which nobody wrote"));
    const std::string other = finding.other == MemoryMap::several
                                  ? std::string("several threads")
                                  : text("block ", finding.other / static_cast<std::uint32_t>(thread_count()),
                                         ", thread ", finding.other % static_cast<std::uint32_t>(thread_count()));
    fault(text(act, " of", byte, ", which ", other, finding.kind == Finding::written_by_another ? " wrote" : " read",
               " in the same launch"));
  }

  [[noreturn, gnu::cold]] void report(const SharedWatch::Finding& finding, Access access, Where where,
                                      int thread) const {
    using Finding = SharedWatch::Finding;
    const std::string act = text(access == Access::read ? "read" : "write", " at ", spell(where), " of byte ",
                                 finding.offset, " of shared memory");
    if (finding.kind == Finding::unwritten) fault(act + ", which nobody wrote", thread);
    const SharedWatch::Record& other = finding.other;
    const std::string by = text(" at ", spell(other.where), " by ",
                                other.thread == SharedWatch::whole_warp ? std::string("several lanes of a warp")
                                                                        : text("thread ", other.thread));
    if (finding.kind == Finding::under_way) fault(text(act, " while a copy is under way to it, begun", by), thread);
    fault(text("race: ", act, " after a ", finding.kind == Finding::written ? "write" : "read", by,
               ", with no barrier between them"),
          thread);
  }

  std::size_t shared_offset(const void* place) const {
    return static_cast<std::size_t>(static_cast<const std::byte*>(place) - shared_);
  }

  static void arrive(const Copy& copy) {
    if (copy.is_wanted) {
      std::memcpy(copy.to, copy.from, copy_bytes);
    } else {
      std::memset(copy.to, 0, copy_bytes);
    }
  }

  Launch launch_;
  int number_ = 0, live_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  Fibers fibers_;
  std::deque<Thread> threads_;  // as many as any launch needed
  std::deque<Warp> warps_;
  std::array<Barrier, 16> barriers_;
  std::vector<Thread*> ready_, released_;
  Thread* running_ = nullptr;
  bool is_ending_ = false;
  std::uint64_t random_ = 1;
  std::exception_ptr error_;

  std::vector<std::byte> shared_room_;
  std::byte* shared_ = nullptr;
  std::size_t shared_size_ = 0;
  SharedWatch shared_watch_;
  MemoryWatch memory_watch_;
  BankCounter bank_counter_;
  BankCounts bank_counts_;
  std::vector<Outside> outside_;
};

}  // namespace blinkbert::dev::emulator
