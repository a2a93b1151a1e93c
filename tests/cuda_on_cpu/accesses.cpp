// Checks each access of a kernel to memory. The kernels are compiled with -fsanitize=thread and -fsanitize=undefined,
// whose calls end here and not in the sanitizers' own libraries. An error is an access
// - to an address that is of no tensor and no variable in shared memory, or of another thread's local memory,
// - that reads shared memory that no thread of the block wrote,
// - that is not aligned to its type,
// - that races: another thread used the same byte, one of both wrote, not both by atomics, and there is neither a
//   barrier nor an exchange of their warp in between. Between blocks of a launch there is never one.
#include "runtime.h"

namespace emulator {

uint32_t interval_count = 0;

namespace {

enum class Kind { read, write, atomic };

// Of this library, where constants are.
extern "C" char __ehdr_start __attribute__((visibility("hidden")));
extern "C" char _end __attribute__((visibility("hidden")));

const char* name_of(Kind kind) {
  return kind == Kind::read ? "reads" : kind == Kind::write ? "writes" : "adds to";
}

std::string hex(size_t number) {
  char text[20];
  snprintf(text, sizeof(text), "0x%zx", number);
  return text;
}

// The place in the library, which emulation.py looks up in its table of lines.
std::string code_at(const void* pc) {
  return " at code " + hex(static_cast<const char*>(pc) - &__ehdr_start - 1);
}

[[gnu::noinline]] void report(const char* what, Kind kind, const void* at, size_t size, const void* pc) {
  const Range* range = find_range(at);
  std::string text = std::string(what) + ": a thread " + name_of(kind) + " " + std::to_string(size) + " bytes";
  if (range != nullptr) {
    text += " of " + std::string(range->shared ? "shared memory" : "a tensor") + " from byte " +
            std::to_string(static_cast<const char*>(at) - range->begin) + " of " +
            std::to_string(range->end - range->begin);
  }
  stop(text + code_at(pc));
}

// Whether an earlier access, of the same launch, is ordered before one of this thread.
bool ordered(const Record& earlier, const Block& block, const Fiber& self) {
  if (earlier.foreign || earlier.interval < block.first_interval) {
    return false; // another block's
  }
  if (earlier.interval < block.interval || (earlier.thread == self.number && !earlier.many)) {
    return true;
  }
  return earlier.thread / 32 == self.number / 32 && !earlier.many && earlier.exchanges < (self.exchanges & 0xfff);
}

void check_byte(Shadow& shadow, Kind kind, const void* at, size_t size, const void* pc) {
  Block& block = *running;
  const Fiber& self = *block.self;
  const uint32_t start = block.first_interval_of_launch;
  Record now;
  now.interval = block.interval;
  now.thread = static_cast<uint16_t>(self.number);
  now.exchanges = self.exchanges & 0xfff;
  now.atomic = kind == Kind::atomic;
  now.many = now.foreign = false;
  const Record& wrote = shadow.write;
  if (wrote.interval >= start && !(wrote.atomic && now.atomic) && !ordered(wrote, block, self)) {
    report("a race with a write", kind, at, size, pc);
  }
  Record& read = shadow.read;
  const bool was_read = read.interval >= start;
  if (kind == Kind::read) {
    now.foreign = was_read && (read.foreign || read.interval < block.first_interval);
    now.many = was_read && read.interval == block.interval && (read.many || read.thread != now.thread);
    read = now;
    return;
  }
  if (was_read && !ordered(read, block, self)) {
    report("a race with a read", kind, at, size, pc);
  }
  shadow.write = now;
}

void check(const void* at, size_t size, Kind kind, const void* pc) {
#if defined(EMULATOR_COUNTS)
  count(at, size, static_cast<int>(kind), pc);
  return;
#endif
  if (running == nullptr || size == 0) {
    return; // the host's code
  }
  if (on_any_stack(at)) {
    if (!on_stack_of(*running->self, at)) {
      report("local memory of another thread", kind, at, size, pc);
    }
    return;
  }
  Range* range = find_range(at);
  if (range == nullptr || static_cast<const char*>(at) + size > range->end) {
    const bool constant = at >= &__ehdr_start && at < &_end;
    if (range == nullptr && constant) {
      return;
    }
    report("out of bounds", kind, at, size, pc);
  }
  Shadow* shadow = range->shadow + (static_cast<const char*>(at) - range->begin);
  for (size_t i = 0; i < size; ++i) {
    if (range->shared && kind != Kind::write && shadow[i].write.interval < running->first_interval) {
      report("shared memory that was never written", kind, at, size, pc);
    }
    check_byte(shadow[i], kind, at, size, pc);
  }
}

} // namespace

void atomic_access(const void* at, size_t size) {
  const void* pc = __builtin_return_address(0);
  if (reinterpret_cast<uintptr_t>(at) % size != 0) {
    report("misaligned", Kind::atomic, at, size, pc);
  }
#if defined(EMULATOR_CHECKS) || defined(EMULATOR_COUNTS)
  check(at, size, Kind::atomic, pc);
#endif
}

} // namespace emulator

using emulator::Kind;

#define CALLER __builtin_return_address(0)
#define ACCESSES(SIZE)                                        \
  EMULATED_HOOK void __tsan_read##SIZE(void* at) {            \
    emulator::check(at, SIZE, Kind::read, CALLER);            \
  }                                                           \
  EMULATED_HOOK void __tsan_write##SIZE(void* at) {           \
    emulator::check(at, SIZE, Kind::write, CALLER);           \
  }                                                           \
  EMULATED_HOOK void __tsan_unaligned_read##SIZE(void* at) {  \
    emulator::check(at, SIZE, Kind::read, CALLER);            \
  }                                                           \
  EMULATED_HOOK void __tsan_unaligned_write##SIZE(void* at) { \
    emulator::check(at, SIZE, Kind::write, CALLER);           \
  }
#define EMULATED_HOOK extern "C" __attribute__((visibility("hidden")))

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

EMULATED_HOOK void __tsan_read_range(void* at, unsigned long size) {
  emulator::check(at, size, Kind::read, CALLER);
}
EMULATED_HOOK void __tsan_write_range(void* at, unsigned long size) {
  emulator::check(at, size, Kind::write, CALLER);
}
EMULATED_HOOK void __tsan_init() {}
EMULATED_HOOK void __tsan_vptr_update(void**, void*) {}

// What the host's code does with std::shared_ptr.
#define ATOMICS(BITS)                                                                                      \
  EMULATED_HOOK uint##BITS##_t __tsan_atomic##BITS##_load(const volatile void* at, int) {                  \
    return __atomic_load_n(static_cast<const volatile uint##BITS##_t*>(at), __ATOMIC_SEQ_CST);             \
  }                                                                                                        \
  EMULATED_HOOK void __tsan_atomic##BITS##_store(volatile void* at, uint##BITS##_t v, int) {               \
    __atomic_store_n(static_cast<volatile uint##BITS##_t*>(at), v, __ATOMIC_SEQ_CST);                      \
  }                                                                                                        \
  EMULATED_HOOK uint##BITS##_t __tsan_atomic##BITS##_fetch_add(volatile void* at, uint##BITS##_t v, int) { \
    return __atomic_fetch_add(static_cast<volatile uint##BITS##_t*>(at), v, __ATOMIC_SEQ_CST);             \
  }

ATOMICS(8)
ATOMICS(32)
ATOMICS(64)

// Undefined behavior that the compiler looks for. The data of each begin with the place in the source.
struct Place {
  const char* file;
  uint32_t line, column;
};

static void undefined(const char* what, const void* data) {
  const Place* place = static_cast<const Place*>(data);
  const std::string text = std::string(what) + " at " + place->file + ":" + std::to_string(place->line);
  if (emulator::running != nullptr) {
    emulator::stop(text);
  }
  fprintf(stderr, "%s\n", text.c_str());
  abort(); // the host's code
}

#define UNDEFINED(NAME, WHAT)                                          \
  EMULATED_HOOK void __ubsan_handle_##NAME(void* data, void*, void*) { \
    undefined(WHAT, data);                                             \
  }

UNDEFINED(type_mismatch_v1, "a misaligned or null address")
UNDEFINED(add_overflow, "an overflow of a sum")
UNDEFINED(sub_overflow, "an overflow of a difference")
UNDEFINED(mul_overflow, "an overflow of a product")
UNDEFINED(negate_overflow, "an overflow of a negation")
UNDEFINED(divrem_overflow, "a division by zero or its overflow")
UNDEFINED(shift_out_of_bounds, "a shift by too many bits")
UNDEFINED(out_of_bounds, "an index beyond its array")
UNDEFINED(pointer_overflow, "an overflow of an address")
