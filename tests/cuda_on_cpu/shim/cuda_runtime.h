// CUDA's language and runtime for a host compiler. Sources of csrc/cuda include this in place of CUDA's header, after
// transform.py has rewritten launches and shared memory. The functions are in ../*.cpp.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define CUDART_VERSION 13000
#define EMULATED_PLAIN __attribute__((no_sanitize("thread", "undefined")))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {};

#pragma GCC visibility push(hidden)
namespace emulator {

extern dim3 thread_index, block_index, block_size, grid_size;

// The grid, the block, the bytes of dynamic shared memory and the stream of a launch. All must be named.
struct Config {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

using Entry = void (*)(void*);
// `bound` is that of __launch_bounds__; 0 if the kernel has none.
void run(const char* name, const void* kernel, const Config& config, int bound, Entry entry, void* call);
void barrier(const char* file, int line);
void warp_barrier(unsigned mask, const char* file, int line);
// The value of lane `from` of the warp, at most 16 bytes.
void exchange(unsigned mask, const void* own, void* other, size_t size, int from, const char* file, int line);
unsigned ballot(unsigned mask, bool vote, const char* file, int line);
int lane();
void* dynamic_memory(size_t align);
void* static_memory(const void* key, size_t size, size_t align);
void atomic_access(const void* at, size_t size); // declares one, and checks it
void count_matrix(const void* at, int rows, size_t row_bytes, size_t step); // what a warp reads or writes at once
void stop(const std::string& what);              // the kernel ends with this error
cudaError_t last_error();
cudaError_t allow_shared(const void* kernel, int bytes);
bool mutant(int number); // whether this planted fault is on

template <class T, size_t align>
T* dynamic_shared() {
  return static_cast<T*>(dynamic_memory(align > alignof(T) ? align : alignof(T)));
}

template <class T, int id>
T& static_shared() {
  static const char key = 0;
  return *static_cast<T*>(static_memory(&key, sizeof(T), alignof(T)));
}

// A kernel to be launched with arguments, which convert to its parameters as in CUDA.
template <class... P>
struct Launch {
  static_assert((sizeof(P) + ... + 0) <= 4096, "the parameters of a kernel have at most 4 KB");
  const char* name;
  void (*kernel)(P...);
  Config config;
  int bound;

  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  };

  // Every thread gets its own copies.
  template <size_t... i>
  EMULATED_PLAIN static void apply(Call& call, std::index_sequence<i...>) {
    call.kernel(std::get<i>(call.arguments)...);
  }

  EMULATED_PLAIN static void entry(void* self) {
    apply(*static_cast<Call*>(self), std::index_sequence_for<P...>());
  }

  void operator()(P... arguments) const {
    Call call{kernel, std::tuple<P...>(arguments...)};
    run(name, reinterpret_cast<const void*>(kernel), config, bound, &entry, &call);
  }
};

template <class... P>
Launch<P...> launch(const char* name, int bound, const Config& config, void (*kernel)(P...)) {
  return {name, kernel, config, bound};
}

template <class T>
T shuffle(unsigned mask, T v, int from, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  T other;
  exchange(mask, &v, &other, sizeof(T), from < 0 || from > 31 ? lane() : from, file, line);
  return other;
}

} // namespace emulator
#pragma GCC visibility pop

#define threadIdx (::emulator::thread_index)
#define blockIdx (::emulator::block_index)
#define blockDim (::emulator::block_size)
#define gridDim (::emulator::grid_size)
#define __syncthreads() ::emulator::barrier(__FILE__, __LINE__)
#define __syncwarp_of(mask, ...) ::emulator::warp_barrier(mask, __FILE__, __LINE__)
#define __syncwarp(...) __syncwarp_of(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu, 0)
#define __shfl_sync(mask, v, from) ::emulator::shuffle(mask, v, (from) & 31, __FILE__, __LINE__)
#define __shfl_down_sync(mask, v, by) ::emulator::shuffle(mask, v, ::emulator::lane() + (by), __FILE__, __LINE__)
#define __shfl_up_sync(mask, v, by) ::emulator::shuffle(mask, v, ::emulator::lane() - (by), __FILE__, __LINE__)
#define __shfl_xor_sync(mask, v, with) ::emulator::shuffle(mask, v, ::emulator::lane() ^ (with), __FILE__, __LINE__)
#define __ballot_sync(mask, vote) ::emulator::ballot(mask, vote, __FILE__, __LINE__)
#define __any_sync(mask, vote) (__ballot_sync(mask, vote) != 0)
#define __all_sync(mask, vote) (__ballot_sync(mask, vote) == (mask))

template <class T>
EMULATED_PLAIN inline T atomicAdd(T* to, T value) {
  emulator::atomic_access(to, sizeof(T));
  const T old = *to;
  *to = old + value;
  return old;
}

EMULATED_PLAIN inline unsigned long long atomicOr(unsigned long long* to, unsigned long long value) {
  emulator::atomic_access(to, sizeof(*to));
  const unsigned long long old = *to;
  *to = old | value;
  return old;
}

inline float __int_as_float(int v) {
  float f;
  std::memcpy(&f, &v, 4);
  return f;
}

using std::max;
using std::min;

inline cudaError_t cudaGetLastError() {
  return emulator::last_error();
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 8;
  return cudaSuccess;
}
template <class K>
cudaError_t cudaFuncSetAttribute(K* kernel, cudaFuncAttribute, int bytes) {
  return emulator::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}
template <class K>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, K*) {
  return cudaSuccess;
}
