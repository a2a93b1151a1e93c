// The memory that a kernel may use: tensors, as far as they reach, and shared memory. Whatever an operator allocates is
// filled with the bits of NaN and of -1.
#include "runtime.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <cstdlib>

namespace emulator {
namespace {

constexpr size_t kArena = 256 * 1024; // of shared memory, more than any GPU has
constexpr size_t kGap = 64;           // between variables
constexpr int kPoison = 0xff;

std::vector<Range> ranges; // tensors
std::vector<Range> shared; // of the running block
size_t last = 0;           // the range that was found last
char* arena = nullptr;     // static variables, then the dynamic part
Shadow* arena_shadow = nullptr;
size_t static_end = 0, static_bytes = 0, dynamic_bytes = 0, shared_limit = 0;
bool has_dynamic = false;
struct Key {
  const void* key;
  void* at;
};
std::vector<Key> statics;
int64_t allocations = 0;
at::Allocator* before = nullptr;

void* map(size_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* room = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (room == MAP_FAILED) {
    abort();
  }
  return room;
}

void note(const void* begin, size_t bytes) {
  const char* from = static_cast<const char*>(begin);
  for (Range& range : ranges) {
    if (range.begin == from && bytes <= static_cast<size_t>(range.end - from)) {
      return;
    }
  }
  ranges.push_back({from, from + bytes, static_cast<Shadow*>(map((bytes + 1) * sizeof(Shadow))), false});
}

void forget(size_t i) {
  munmap(ranges[i].shadow, (ranges[i].end - ranges[i].begin + 1) * sizeof(Shadow));
  ranges.erase(ranges.begin() + i);
}

void free_tensor(void* at) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].begin == at) {
      forget(i);
      break;
    }
  }
  free(at);
}

// Gives the tensors of an operator exactly as many bytes as they ask for.
struct Allocator final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* at = nullptr;
    if (posix_memalign(&at, 64, bytes + 64)) {
      abort();
    }
    std::memset(at, kPoison, bytes);
    note(at, bytes);
    ++allocations;
    return {at, at, &free_tensor, at::Device(at::DeviceType::CPU)};
  }
  at::DeleterFnPtr raw_deleter() const override {
    return &free_tensor;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
Allocator allocator;

void* take_shared(size_t from, size_t bytes, size_t align) {
  // Exactly on this alignment, and on no higher one.
  char* at = arena + (from + 2 * align - 1) / (2 * align) * (2 * align) + align;
  std::memset(at, kPoison, bytes);
  Shadow* shadow = arena_shadow + (at - arena);
  std::memset(static_cast<void*>(shadow), 0, bytes * sizeof(Shadow));
  shared.push_back({at, at + bytes, shadow, true});
  return at;
}

void check_limit() {
  if (static_bytes + dynamic_bytes > shared_limit) {
    stop("a block needs more shared memory than it gets: " + sizes_of_shared());
  }
}

} // namespace

std::string sizes_of_shared() {
  return std::to_string(static_bytes) + " bytes static and " + std::to_string(dynamic_bytes) + " dynamic, of " +
         std::to_string(shared_limit);
}

void start_shared(size_t dynamic, size_t limit) {
  if (arena == nullptr) {
    arena = static_cast<char*>(map(2 * kArena));
    arena_shadow = static_cast<Shadow*>(map(2 * kArena * sizeof(Shadow)));
  }
  statics.clear();
  shared.clear();
  static_end = static_bytes = 0;
  dynamic_bytes = dynamic;
  shared_limit = limit;
  has_dynamic = false;
}

void* dynamic_memory(size_t align) {
  if (!has_dynamic) {
    has_dynamic = true;
    shared.insert(shared.begin(), Range{});
    take_shared(kArena, dynamic_bytes, align);
    shared.front() = shared.back();
    shared.pop_back();
  }
  return const_cast<char*>(shared.front().begin);
}

void* static_memory(const void* key, size_t size, size_t align) {
  for (const Key& known : statics) {
    if (known.key == key) {
      return known.at;
    }
  }
  void* at = take_shared(static_end, size, align);
  static_end = static_cast<char*>(at) - arena + size + kGap;
  static_bytes += (size + align - 1) / align * align;
  statics.push_back({key, at});
  check_limit();
  return at;
}

Range* find_range(const void* at) {
  const char* address = static_cast<const char*>(at);
  if (static_cast<size_t>(address - arena) < 2 * kArena) {
    for (Range& range : shared) {
      if (address >= range.begin && address < range.end) {
        return &range;
      }
    }
    return nullptr;
  }
  for (size_t tries = 0; tries <= ranges.size(); ++tries) {
    const size_t i = tries == 0 ? last : tries - 1;
    if (i < ranges.size() && address >= ranges[i].begin && address < ranges[i].end) {
      last = i;
      return &ranges[i];
    }
  }
  return nullptr;
}

} // namespace emulator

// An operator starts; a tensor of it; it ends. Returns the number of allocations in between.
EMULATOR_API void emulator_begin() {
  using namespace emulator;
  if (before == nullptr) {
    before = c10::GetCPUAllocator();
    allocations = 0;
    c10::SetCPUAllocator(&allocator, 255);
  }
}

EMULATOR_API void emulator_note(const void* begin, size_t bytes) {
  emulator::note(begin, bytes);
}

EMULATOR_API int64_t emulator_end() {
  using namespace emulator;
  if (before != nullptr) {
    c10::SetCPUAllocator(before, 255);
    before = nullptr;
  }
  while (!ranges.empty()) {
    forget(ranges.size() - 1);
  }
  return allocations;
}
