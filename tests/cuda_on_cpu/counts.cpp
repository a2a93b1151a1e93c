// Counts what kernels read and write, for traffic.py: the variant "counted", whose accesses are not checked.
// The accesses of the lanes of a warp at one place of the code are one request, as on a GPU: the n-th of each lane since
// the last barrier. Of a request in global memory the sectors of 32 bytes are counted, of one in shared memory the
// passes over its 32 banks. Blocks are kept apart, because each multiprocessor has a cache of its own.
#include "runtime.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

namespace emulator {
namespace {

constexpr size_t kSector = 32, kBanks = 32, kBank = 4;
constexpr int kKinds = 3; // as in Kind: reads, writes, atomics

struct Access {
  const void* pc;
  uint32_t warp, count; // count: of the lane at this place
  uint8_t lane, kind, size;
  bool shared;
  uintptr_t at;
};

struct Requests {
  uint64_t requests = 0, lanes = 0, bytes = 0, widest = 0; // widest: bytes of accesses of 16 bytes a lane
  uint64_t sectors = 0, least = 0;                         // least: sectors of as many bytes in a row
  uint64_t of_blocks = 0, of_launches = 0;                 // sectors, each once in a block and in a launch
};

struct Kernel {
  size_t code = 0; // its place in the library
  uint64_t launches = 0, blocks = 0, most_blocks = 0, threads = 0, dynamic = 0, barriers = 0;
  Requests global[kKinds];
  uint64_t shared_requests = 0, passes = 0, least_passes = 0;
};

std::map<std::string, Kernel> kernels;
std::vector<Access> accesses; // since the last barrier
std::unordered_map<uint64_t, uint32_t> counts;
std::vector<uintptr_t> of_block[kKinds];
std::unordered_set<uintptr_t> of_launch[kKinds], of_all[kKinds];
Kernel* current = nullptr;
uint32_t interval = 0, block = 0, launch = 0;

extern "C" char __ehdr_start __attribute__((visibility("hidden")));

template <class T>
void make_unique(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

void count_global(const Access* first, const Access* last) {
  Requests& to = current->global[first->kind];
  static std::vector<uintptr_t> sectors, bytes;
  sectors.clear();
  bytes.clear();
  for (const Access* a = first; a != last; ++a) {
    for (uintptr_t at = a->at; at < a->at + a->size; ++at) {
      bytes.push_back(at);
    }
    for (uintptr_t s = a->at / kSector; s <= (a->at + a->size - 1) / kSector; ++s) {
      sectors.push_back(s);
    }
    to.bytes += a->size;
    to.widest += a->size == 16 ? 16 : 0;
  }
  make_unique(sectors);
  make_unique(bytes);
  ++to.requests;
  to.lanes += static_cast<uint64_t>(last - first);
  to.sectors += sectors.size();
  to.least += (bytes.size() + kSector - 1) / kSector;
  of_block[first->kind].insert(of_block[first->kind].end(), sectors.begin(), sectors.end());
}

// Lanes that ask for 8 or 16 bytes are served in halves and quarters of the warp.
void count_shared(const Access* first, const Access* last) {
  ++current->shared_requests;
  const size_t size = first->size < kBank ? kBank : first->size;
  const size_t lanes = 32 * kBank / size;
  static std::vector<uintptr_t> words;
  for (size_t start = 0; start < 32; start += lanes) {
    words.clear();
    for (const Access* a = first; a != last; ++a) {
      if (a->lane >= start && a->lane < start + lanes) {
        for (uintptr_t w = a->at / kBank; w <= (a->at + a->size - 1) / kBank; ++w) {
          words.push_back(w);
        }
      }
    }
    make_unique(words);
    uint64_t in_bank[kBanks] = {}, most = 0;
    for (uintptr_t w : words) {
      most = std::max(most, ++in_bank[w % kBanks]);
    }
    current->passes += most;
    current->least_passes += (words.size() + kBanks - 1) / kBanks;
  }
}

void end_interval() {
  std::sort(accesses.begin(), accesses.end(), [](const Access& a, const Access& b) {
    return std::tie(a.warp, a.pc, a.count, a.lane) < std::tie(b.warp, b.pc, b.count, b.lane);
  });
  for (size_t i = 0, j = 0; i < accesses.size(); i = j) {
    const Access& a = accesses[i];
    while (j < accesses.size() && accesses[j].warp == a.warp && accesses[j].pc == a.pc && accesses[j].count == a.count) {
      ++j;
    }
    a.shared ? count_shared(&a, &a + (j - i)) : count_global(&a, &a + (j - i));
  }
  accesses.clear();
  counts.clear();
}

void end_block() {
  for (int kind = 0; kind < kKinds; ++kind) {
    make_unique(of_block[kind]);
    current->global[kind].of_blocks += of_block[kind].size();
    of_launch[kind].insert(of_block[kind].begin(), of_block[kind].end());
    of_block[kind].clear();
  }
}

void end_launch() {
  for (int kind = 0; kind < kKinds; ++kind) {
    current->global[kind].of_launches += of_launch[kind].size();
    of_all[kind].insert(of_launch[kind].begin(), of_launch[kind].end());
    of_launch[kind].clear();
  }
}

// Close what ended since the last access.
void close(bool this_launch) {
  if (current == nullptr) {
    return;
  }
  const bool new_launch = this_launch || running->first_interval_of_launch != launch;
  const bool new_block = new_launch || running->first_interval != block;
  if (new_block || running->interval != interval) {
    end_interval();
    current->barriers += !new_block;
  }
  if (new_block) {
    end_block();
  }
  if (new_launch) {
    end_launch();
    current = nullptr;
  }
}

void open() {
  close(false);
  if (current == nullptr) {
    const std::string key = running->name + std::string(" ") + std::to_string(reinterpret_cast<size_t>(running->kernel));
    current = &kernels[key];
    current->code = static_cast<size_t>(static_cast<const char*>(running->kernel) - &__ehdr_start);
    current->launches += 1;
    const uint64_t blocks = static_cast<uint64_t>(grid_size.x) * grid_size.y * grid_size.z;
    current->blocks += blocks;
    current->most_blocks = std::max(current->most_blocks, blocks);
    current->threads = static_cast<uint64_t>(running->threads);
    current->dynamic = std::max(current->dynamic, static_cast<uint64_t>(running->dynamic));
  }
  interval = running->interval;
  block = running->first_interval;
  launch = running->first_interval_of_launch;
}

void note_access(uintptr_t at, size_t size, int kind, const void* pc, bool shared) {
  const Fiber& self = *running->self;
  const uint64_t key = reinterpret_cast<uintptr_t>(pc) * kMostThreads + static_cast<uint64_t>(self.number);
  const uint32_t count = counts[key]++;
  const uint32_t thread = static_cast<uint32_t>(self.number);
  accesses.push_back(
      {pc, thread / 32, count, static_cast<uint8_t>(thread % 32), static_cast<uint8_t>(kind),
       static_cast<uint8_t>(size), shared, at});
}

} // namespace

void count(const void* at, size_t size, int kind, const void* pc) {
  if (running == nullptr || size == 0 || on_any_stack(at)) {
    return;
  }
  const Range* range = find_range(at);
  if (range == nullptr) {
    return; // a constant
  }
  open();
  for (size_t done = 0; done < size; done += 16) {
    note_access(reinterpret_cast<uintptr_t>(at) + done, std::min<size_t>(16, size - done), kind, pc, range->shared);
  }
}

// A matrix of a warp, from its lane 0: rows of 16 bytes, eight at a time, as ldmatrix reads them.
void count_matrix(const void* at, int rows, size_t row_bytes, size_t step) {
  open();
  const uintptr_t first = reinterpret_cast<uintptr_t>(at);
  ++current->shared_requests;
  for (int row = 0; row < rows; row += 8) {
    for (size_t column = 0; column < row_bytes; column += 16) {
      uint64_t in_bank[kBanks] = {}, most = 0;
      for (int i = row; i < row + 8; ++i) {
        for (size_t byte = 0; byte < 16; byte += kBank) {
          most = std::max(most, ++in_bank[(first + static_cast<size_t>(i) * step + column + byte) / kBank % kBanks]);
        }
      }
      current->passes += most;
      ++current->least_passes;
    }
  }
}

} // namespace emulator

// The sectors in a part of memory that kernels read (0), wrote (1) or added to (2) since the last emulator_counts.
EMULATOR_API int64_t emulator_touched(const void* begin, size_t bytes, int kind) {
  using namespace emulator;
  close(true);
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin);
  int64_t sum = 0;
  for (uintptr_t s = first / kSector; s < (first + bytes + kSector - 1) / kSector; ++s) {
    sum += static_cast<int64_t>(of_all[kind].count(s));
  }
  return sum;
}

// A line a kernel since the last call: its name, and the numbers in the order of traffic's counted.py.
EMULATOR_API const char* emulator_counts() {
  using namespace emulator;
  close(true);
  static std::string text;
  text.clear();
  for (const auto& [key, k] : kernels) {
    text += key.substr(0, key.find(' ')) + " " + std::to_string(k.code);
    for (uint64_t number :
         {k.launches, k.blocks, k.most_blocks, k.threads, k.dynamic, k.barriers, k.shared_requests, k.passes,
          k.least_passes}) {
      text += " " + std::to_string(number);
    }
    for (const Requests& r : k.global) {
      for (uint64_t number :
           {r.requests, r.lanes, r.bytes, r.widest, r.sectors, r.least, r.of_blocks, r.of_launches}) {
        text += " " + std::to_string(number);
      }
    }
    text += "\n";
  }
  kernels.clear();
  for (auto& sectors : of_all) {
    sectors.clear();
  }
  return text.c_str();
}
