// Starts kernels as a GPU of compute capability 8.0 to 9.0 does, and refuses what one of these would refuse.
#include "runtime.h"

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <unordered_map>

namespace emulator {
namespace {

constexpr size_t kShared = 48 * 1024;
constexpr size_t kMostShared = 99 * 1024; // that a kernel can ask for: the least of 8.0, 8.6, 8.9 and 9.0
// A kernel without __launch_bounds__ may use 255 registers a thread, of the 65536 of a block.
constexpr int kUnboundedThreads = 256;
void* const kStream = reinterpret_cast<void*>(0x5eed0);

cudaError_t error = cudaSuccess;
std::unordered_map<const void*, size_t> allowed; // shared memory of kernels that asked for more
std::map<std::string, int64_t> launches;
const char* unchecked = nullptr; // a launch whose error nobody has asked for
int guards = 0;
uint64_t seed = 1;
int the_mutant = 0;

uint32_t random_below(uint32_t limit) {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<uint32_t>((seed >> 33) % limit);
}

template <class T>
std::vector<T> shuffled(size_t count) {
  std::vector<T> order(count);
  for (size_t i = 0; i < count; ++i) {
    order[i] = static_cast<T>(i);
  }
  for (size_t i = count; i > 1; --i) {
    std::swap(order[i - 1], order[random_below(static_cast<uint32_t>(i))]);
  }
  return order;
}

std::string text_of(const dim3& v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

size_t threads_of(const dim3& v) {
  return static_cast<size_t>(v.x) * v.y * v.z;
}

bool can_launch(const Config& config, size_t limit, int bound) {
  const dim3 &grid = config.grid, &block = config.block;
  const size_t most = static_cast<size_t>(bound > 0 ? bound : kUnboundedThreads);
  return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 &&
         block.x > 0 && block.y > 0 && block.z > 0 && block.z <= 64 && threads_of(block) <= most &&
         threads_of(block) <= static_cast<size_t>(kMostThreads) && config.shared <= limit;
}

void check_call(const char* name, const Config& config) {
  const std::string kernel = std::string("kernel ") + name;
  if (running != nullptr) {
    throw std::runtime_error(kernel + " is launched by another kernel");
  }
  if (unchecked != nullptr) {
    throw std::runtime_error(std::string("the launch of kernel ") + unchecked + " is not followed by a check");
  }
  if (guards == 0) {
    throw std::runtime_error(kernel + " is launched without a guard of the tensors' device");
  }
  if (config.stream != kStream) {
    throw std::runtime_error(kernel + " is not launched on the current stream");
  }
}

} // namespace

std::string place(const Fiber& fiber) {
  return "thread " + text_of(fiber.index) + " of block " + text_of(block_index);
}

bool mutant(int number) {
  return number == the_mutant;
}

cudaError_t last_error() {
  const cudaError_t e = error;
  error = cudaSuccess;
  unchecked = nullptr;
  return e;
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kMostShared) {
    return cudaErrorInvalidValue;
  }
  allowed[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

void run(const char* name, const void* kernel, const Config& config, int bound, Entry entry, void* call) {
  check_call(name, config);
  unchecked = name;
  const auto found = allowed.find(kernel);
  const size_t limit = found == allowed.end() ? kShared : std::max(found->second, kShared);
  if (!can_launch(config, limit, bound)) {
    error = cudaErrorInvalidConfiguration;
    return;
  }
  ++launches[name];
  block_size = config.block;
  grid_size = config.grid;
  Block block;
  block.threads = static_cast<int>(threads_of(config.block));
  block.fibers = prepare_fibers(config.block);
  block.entry = entry;
  block.call = call;
  block.name = name;
  block.kernel = kernel;
  block.dynamic = config.shared;
  block.first_interval_of_launch = interval_count + 1;
  const std::vector<int> threads = shuffled<int>(static_cast<size_t>(block.threads));
  const uint32_t grid_x = config.grid.x, grid_y = config.grid.y;
  running = &block;
  for (size_t i : shuffled<size_t>(threads_of(config.grid))) {
    block_index = dim3(
        static_cast<unsigned>(i % grid_x), static_cast<unsigned>(i / grid_x % grid_y),
        static_cast<unsigned>(i / grid_x / grid_y));
    start_shared(config.shared, limit);
    block.interval = block.first_interval = ++interval_count;
    run_block(block, threads);
    if (!block.trouble.empty()) {
      break;
    }
  }
  running = nullptr;
  if (!block.trouble.empty()) {
    unchecked = nullptr;
    throw std::runtime_error(std::string("kernel ") + name + ": " + block.trouble);
  }
}

} // namespace emulator

// libtorch's functions for the device, under the names that build.py gives them.
struct DeviceGuardOpaque;

extern "C" int32_t emulated_current_stream(int32_t, void** stream) {
  *stream = emulator::kStream;
  return 0;
}

extern "C" int32_t emulated_create_device_guard(int32_t, DeviceGuardOpaque** guard) {
  ++emulator::guards;
  *guard = reinterpret_cast<DeviceGuardOpaque*>(&emulator::guards);
  return 0;
}

extern "C" int32_t emulated_delete_device_guard(DeviceGuardOpaque*) {
  --emulator::guards;
  return 0;
}

extern "C" int32_t emulated_check_msg(
    int32_t error, const char* file, const char*, uint32_t line, bool, char** message) {
  *message = nullptr;
  if (error != 0) {
    *message = static_cast<char*>(malloc(300));
    const char* what = error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "invalid argument";
    snprintf(*message, 300, "CUDA error: %s, at %s:%u", what, file, line);
  }
  return 0;
}

extern "C" void emulated_free_error_msg(char* message) {
  free(message);
}

EMULATOR_API void emulator_seed(uint64_t number) {
  emulator::seed = number * 2654435761u + 1;
}

EMULATOR_API void emulator_mutant(int number) {
  emulator::the_mutant = number;
}

// The launches since the last call.
EMULATOR_API int64_t emulator_launches() {
  int64_t sum = 0;
  for (const auto& [name, count] : emulator::launches) {
    sum += count;
  }
  emulator::launches.clear();
  return sum;
}

// The kernel whose launch nobody has asked about; null if there is none. Forgets it.
EMULATOR_API const char* emulator_unchecked() {
  const char* name = emulator::unchecked;
  emulator::unchecked = nullptr;
  return name;
}
