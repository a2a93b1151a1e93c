// What the parts of the emulator share. launch.cpp starts a kernel, fibers.cpp runs its blocks, accesses.cpp checks
// what they read and write, memory.cpp knows the tensors and shared memory.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

#define EMULATOR_API extern "C" __attribute__((visibility("default")))

#pragma GCC visibility push(hidden)
namespace emulator {

constexpr int kMostThreads = 1024;
#if defined(EMULATOR_ASAN)
constexpr size_t kStack = 256 * 1024; // the sanitizer surrounds every variable
#else
constexpr size_t kStack = 64 * 1024;
#endif

enum class State : uint8_t { ready, at_barrier, at_exchange, done };

// A thread of a block.
struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  int number = 0;
  dim3 index;
  State state = State::done;
  const char* file = nullptr; // where it waits
  int line = 0;
  unsigned mask = 0;                  // the lanes that it waits for
  uint16_t exchanges = 0;             // of its warp since the last barrier
  void* fake_stack = nullptr;         // of the address sanitizer
  alignas(16) unsigned char slot[16]; // what it gives to its warp
};

// The block that runs; there is one at a time.
struct Block {
  Fiber* fibers = nullptr;
  int threads = 0;
  Fiber* self = nullptr;
  Entry entry = nullptr;
  void* call = nullptr;
  const char* name = nullptr;
  const void* kernel = nullptr;
  size_t dynamic = 0; // bytes of shared memory
  uint32_t interval = 0; // between two barriers; never the same again, in no block of any launch
  uint32_t first_interval = 0, first_interval_of_launch = 0;
  std::string trouble; // why the kernel ended early
};

extern Block* running; // null outside of kernels
extern uint32_t interval_count;

// fibers.cpp
Fiber* prepare_fibers(const dim3& size);
void run_block(Block& block, const std::vector<int>& order);

// memory.cpp. A part of memory that a kernel may use, and the records of accesses to its bytes.
struct Record {
  uint32_t interval = 0;
  uint16_t thread = 0;
  uint16_t exchanges : 12, atomic : 1, many : 1, foreign : 1, : 1;
};
struct Shadow {
  Record write, read;
};
struct Range {
  const char *begin = nullptr, *end = nullptr;
  Shadow* shadow = nullptr; // one for each byte
  bool shared = false;
};
Range* find_range(const void* at); // null: there is none
bool on_stack_of(const Fiber& fiber, const void* at);
bool on_any_stack(const void* at);
void start_shared(size_t dynamic, size_t limit); // for a block: nothing in it is written yet
std::string sizes_of_shared();

// counts.cpp. Notes an access of the running thread: 0 for a read, 1 for a write, 2 for an atomic.
void count(const void* at, size_t size, int kind, const void* pc);

// launch.cpp
std::string place(const Fiber& fiber); // the thread, for messages

} // namespace emulator
#pragma GCC visibility pop
