#pragma once

// Fibres of Boost.Context that stay: a block's threads run on the fibres of the block before. A fibre is left only where it
// says so, and ended only where nothing of a kernel is left on its stack, so nothing is ever unwound from outside.

#include <cstddef>
#include <new>
#include <utility>

#include <sys/mman.h>

#include <boost/context/fiber.hpp>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace blinkbert::dev::emulator {

/// Something that can be left and gone on with: a fibre, or the host thread that it is run from.
struct Context {
  boost::context::fiber rest;  // what is still to run; empty while it runs
  const void* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

/// The contexts of one host thread.
class Fibers {
 public:
  static constexpr std::size_t stack_bytes = 256 * 1024;

  Context& host() { return host_; }

  /// A fibre that will run body(), which ends while nothing but the host waits for it.
  template <class Body>
  void add(Context& fiber, const Body& body) {
    Stacks stacks{&fiber, added_++};
    leave(host_, stacks.map());
    // Boost.Context enters the fibre and comes back at once.
    fiber.rest =
        boost::context::fiber(std::allocator_arg, stacks, [this, &fiber, body](boost::context::fiber&& came_from) {
          arrive(fiber, std::move(came_from));
          body();
          came_from_ = &fiber;
          leave_for_good(host_);
          return std::move(host_.rest);
        });
    come_back_from(fiber);
  }

  /// Leaves `from`, which runs, and goes on with `to`; returns when somebody goes on with `from`.
  void go(Context& from, Context& to) {
    came_from_ = &from;
    leave(from, to);
    boost::context::fiber came_from = std::move(to.rest).resume();
    arrive(from, std::move(came_from));
  }

 private:
  /// What Boost.Context asks for stacks. Below each lies a page that nobody may touch.
  struct Stacks {
    Context* fiber;
    std::size_t number;

    static constexpr std::size_t page = 4096;

    const Context& map() {
      void* bottom =
          mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (bottom == MAP_FAILED || mprotect(bottom, page, PROT_NONE) != 0) throw std::bad_alloc();
      fiber->stack = static_cast<char*>(bottom) + page;
      fiber->stack_bytes = stack_bytes;
      return *fiber;
    }
    boost::context::stack_context allocate() const {
      // Equal places of all stacks would meet in the same few lines of the caches.
      boost::context::stack_context stack;
      stack.size = stack_bytes - number % 16 * 256;
      stack.sp = static_cast<char*>(const_cast<void*>(fiber->stack)) + stack.size;
      return stack;
    }
    void deallocate(boost::context::stack_context&) const noexcept {
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(fiber->stack, stack_bytes);
#endif
      munmap(static_cast<char*>(const_cast<void*>(fiber->stack)) - page, page + stack_bytes);
    }
  };

  void arrive([[maybe_unused]] Context& me, boost::context::fiber&& came_from) {
    came_from_->rest = std::move(came_from);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(me.fake_stack, &came_from_->stack, &came_from_->stack_bytes);
#endif
  }

  // AddressSanitizer wants to be told of every change of stacks. Between `leave` and `arrive` it gives frames no place on a
  // fake stack, so what Boost.Context calls on the way, and the outermost frames of a fibre, stay on the real one.
#if defined(__SANITIZE_ADDRESS__)
  static void leave(Context& from, const Context& to) {
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
  }
  static void leave_for_good(const Context& to) { __sanitizer_start_switch_fiber(nullptr, to.stack, to.stack_bytes); }
  /// Says what the fibre would have said, had it not come back before it could.
  void come_back_from(Context& fiber) {
    __sanitizer_finish_switch_fiber(nullptr, &host_.stack, &host_.stack_bytes);
    __sanitizer_start_switch_fiber(&fiber.fake_stack, host_.stack, host_.stack_bytes);
    __sanitizer_finish_switch_fiber(host_.fake_stack, nullptr, nullptr);
  }
#else
  static void leave(Context&, const Context&) {}
  static void leave_for_good(const Context&) {}
  static void come_back_from(Context&) {}
#endif

  Context host_;
  Context* came_from_ = nullptr;
  std::size_t added_ = 0;
};

}  // namespace blinkbert::dev::emulator
