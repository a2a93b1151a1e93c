// The threads of a block as fibers: each runs until it waits at a barrier, waits for its warp, or ends.
#include "runtime.h"

#include <sys/mman.h>

#include <cstdlib>

#if defined(EMULATOR_ASAN)
extern "C" void __sanitizer_start_switch_fiber(void**, const void*, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
#endif

#if !defined(__x86_64__)
#error "the emulator's fibers are written for x86-64"
#endif

// Store the registers that a function keeps and the stack in *from; go on where `to` was stored.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {

dim3 thread_index, block_index, block_size, grid_size;
Block* running = nullptr;

namespace {

constexpr uint64_t kCanary = 0x5ca1ab1e0ddba11ull;

Fiber fibers[kMostThreads];
char* stacks = nullptr;
void* outside = nullptr; // the stack that a fiber returns to
const void* outside_stack = nullptr;
size_t outside_size = 0;

void leave(Fiber& fiber, bool for_good) {
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, outside_stack, outside_size);
#endif
  emulator_switch(&fiber.sp, outside);
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
  (void)for_good;
}

void begin() {
  Fiber& fiber = *running->self;
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &outside_stack, &outside_size);
#endif
  running->entry(running->call);
  fiber.state = State::done;
  leave(fiber, true);
  abort();
}

void resume(Fiber& fiber) {
  running->self = &fiber;
  thread_index = fiber.index;
#if defined(EMULATOR_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack, kStack);
#endif
  emulator_switch(&outside, fiber.sp);
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void rewind(Fiber& fiber) {
  *reinterpret_cast<uint64_t*>(fiber.stack) = kCanary;
  void** top = reinterpret_cast<void**>(fiber.stack + kStack);
  *--top = nullptr; // the stack at the start of a function is 8 off a multiple of 16
  *--top = reinterpret_cast<void*>(&begin);
  for (int i = 0; i < 6; ++i) {
    *--top = nullptr;
  }
  fiber.sp = top;
  fiber.state = State::ready;
  fiber.exchanges = 0;
}

std::string where(const Fiber& fiber) {
  return std::string(fiber.file) + ":" + std::to_string(fiber.line);
}

bool together(const Fiber& a, const Fiber& b) {
  return a.line == b.line && std::string(a.file) == b.file;
}

void blame(Block& block, const std::string& what) {
  if (block.trouble.empty()) {
    block.trouble = what;
  }
}

// Let the block pass its barrier if all of its threads wait at it. A thread that has left the kernel never comes.
bool pass_barrier(Block& block) {
  const Fiber* first = nullptr;
  for (int i = 0; i < block.threads; ++i) {
    const Fiber& fiber = block.fibers[i];
    if (fiber.state == State::at_exchange) {
      return false;
    }
    first = first == nullptr && fiber.state == State::at_barrier ? &fiber : first;
  }
  if (first == nullptr) {
    return false;
  }
  for (int i = 0; i < block.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (fiber.state == State::done) {
      blame(block, "not all threads come to the barrier at " + where(*first) + ": " + place(fiber) + " has ended");
    } else if (!together(*first, fiber)) {
      blame(block, "threads of a block wait at different barriers: " + where(*first) + " and " + where(fiber));
    }
    fiber.state = State::ready;
    fiber.exchanges = 0;
  }
  block.interval = ++interval_count;
  return true;
}

// Let a warp pass its exchange if all the lanes that it names are there.
bool pass_exchange(Block& block, int start) {
  const int end = std::min(start + 32, block.threads);
  const Fiber* first = nullptr;
  unsigned there = 0, gone = end - start < 32 ? ~0u << (end - start) : 0;
  for (int i = start; i < end; ++i) {
    const Fiber& fiber = block.fibers[i];
    there |= static_cast<unsigned>(fiber.state == State::at_exchange) << (i - start);
    gone |= static_cast<unsigned>(fiber.state == State::done) << (i - start);
    first = first == nullptr && fiber.state == State::at_exchange ? &fiber : first;
  }
  if (first == nullptr) {
    return false;
  }
  if (first->mask & gone) {
    blame(block, "the exchange of a warp at " + where(*first) + " names lanes that are not there or have ended");
    return false;
  }
  if ((first->mask & there) != first->mask) {
    return false;
  }
  for (int i = start; i < end; ++i) {
    Fiber& fiber = block.fibers[i];
    if (first->mask >> (i - start) & 1) {
      if (!together(*first, fiber) || fiber.mask != first->mask) {
        blame(
            block, "lanes of a warp wait at different exchanges or with different masks: " + where(*first) + " and " +
                       where(fiber));
      }
      fiber.state = State::ready;
      ++fiber.exchanges;
    }
  }
  return true;
}

} // namespace

Fiber* prepare_fibers(const dim3& size) {
  if (stacks == nullptr) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* room = mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (room == MAP_FAILED) {
      abort();
    }
    stacks = static_cast<char*>(room);
  }
  const int threads = static_cast<int>(size.x * size.y * size.z);
  for (int i = 0; i < threads; ++i) {
    const unsigned n = static_cast<unsigned>(i);
    fibers[i].stack = stacks + kStack * n;
    fibers[i].number = i;
    fibers[i].index = dim3(n % size.x, n / size.x % size.y, n / size.x / size.y);
  }
  return fibers;
}

bool on_any_stack(const void* at) {
  return static_cast<size_t>(static_cast<const char*>(at) - stacks) < kStack * kMostThreads;
}

bool on_stack_of(const Fiber& fiber, const void* at) {
  return static_cast<size_t>(static_cast<const char*>(at) - fiber.stack) < kStack;
}

void run_block(Block& block, const std::vector<int>& order) {
  for (int i = 0; i < block.threads; ++i) {
    rewind(block.fibers[i]);
  }
  for (;;) {
    bool all_done = true;
    for (int i : order) {
      Fiber& fiber = block.fibers[i];
      if (fiber.state == State::ready) {
        resume(fiber);
        if (!block.trouble.empty()) {
          return;
        }
      }
      all_done = all_done && fiber.state == State::done;
    }
    if (all_done) {
      break;
    }
    bool passed = false;
    for (int start = 0; start < block.threads; start += 32) {
      passed = pass_exchange(block, start) || passed;
    }
    passed = passed || pass_barrier(block);
    if (!passed) {
      blame(block, "the threads of a block wait for one another");
      for (int i = 0; i < block.threads && block.trouble.size() < 200; ++i) {
        const Fiber& fiber = block.fibers[i];
        block.trouble += fiber.state == State::done ? "" : "; " + place(fiber) + " waits at " + where(fiber);
      }
    }
    if (!block.trouble.empty()) {
      return;
    }
  }
  for (int i = 0; i < block.threads; ++i) {
    if (*reinterpret_cast<uint64_t*>(block.fibers[i].stack) != kCanary) {
      blame(block, "a thread of the emulator needs more than its stack");
    }
  }
}

void barrier(const char* file, int line) {
  Fiber& self = *running->self;
  self.file = file;
  self.line = line;
  self.state = State::at_barrier;
  leave(self, false);
}

void warp_barrier(unsigned mask, const char* file, int line) {
  Fiber& self = *running->self;
  self.file = file;
  self.line = line;
  self.mask = mask;
  if (!(mask >> lane() & 1)) {
    stop("the mask of the exchange at " + where(self) + " does not name the lane that calls it");
  }
  self.state = State::at_exchange;
  leave(self, false);
}

void exchange(unsigned mask, const void* own, void* other, size_t size, int from, const char* file, int line) {
  Fiber& self = *running->self;
  std::memcpy(self.slot, own, size);
  warp_barrier(mask, file, line);
  if (!(mask >> from & 1)) {
    stop("the exchange at " + where(self) + " reads a lane that its mask does not name");
  }
  std::memcpy(other, running->fibers[self.number / 32 * 32 + from].slot, size);
  warp_barrier(mask, file, line); // before the slots are used again
}

unsigned ballot(unsigned mask, bool vote, const char* file, int line) {
  Fiber& self = *running->self;
  self.slot[0] = vote;
  warp_barrier(mask, file, line);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) {
    const bool counts = mask >> i & 1;
    votes |= static_cast<unsigned>(counts && running->fibers[self.number / 32 * 32 + i].slot[0]) << i;
  }
  warp_barrier(mask, file, line);
  return votes;
}

int lane() {
  return running->self->number % 32;
}

void stop(const std::string& what) {
  Fiber& self = *running->self;
  blame(*running, what + "; " + place(self));
  for (;;) { // nobody resumes it
    leave(self, false);
  }
}

} // namespace emulator
