// Small kernels with one fault each, which test_emulator.py expects to be found, and one without.
#include <cuda_runtime.h>

#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>

extern "C" int32_t emulated_current_stream(int32_t, void** stream);
extern "C" int32_t emulated_create_device_guard(int32_t, struct DeviceGuardOpaque** guard);
extern "C" int32_t emulated_delete_device_guard(struct DeviceGuardOpaque* guard);

namespace {

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xffffffffu;

struct alignas(16) Four {
  float value[4];
};

// Sums 64 numbers a block: shared memory, barriers, shuffles, atomics.
__global__ void __launch_bounds__(kThreads) good(const float* from, float* to) {
  __shared__ float part[kThreads];
  part[threadIdx.x] = from[blockIdx.x * kThreads + threadIdx.x];
  __syncthreads();
  float v = part[kThreads - 1 - threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) {
    v += __shfl_down_sync(kAll, v, offset);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(to, v);
  }
}

__global__ void __launch_bounds__(kThreads) race_in_a_block(float* to) {
  __shared__ float part[kThreads];
  part[threadIdx.x] = 1.0f;
  __syncthreads();
  part[threadIdx.x] += 1.0f;
  to[threadIdx.x] = part[threadIdx.x ^ 1];
}

__global__ void __launch_bounds__(kThreads) race_of_writes(float* to) {
  to[threadIdx.x / 2] = 1.0f;
}

__global__ void __launch_bounds__(kThreads) race_of_blocks(float* to) {
  to[threadIdx.x] += 1.0f;
}

__global__ void __launch_bounds__(kThreads) race_with_an_atomic(float* to) {
  if (threadIdx.x == 0) {
    to[0] = 1.0f;
  } else {
    atomicAdd(to, 1.0f);
  }
}

__global__ void __launch_bounds__(kThreads) left_before_a_barrier() {
  if (threadIdx.x == 5) {
    return;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) a_barrier_and_an_exchange() {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kThreads) mask_without_the_lane() {
  __shfl_down_sync(0xffffu, 1, 1);
}

__global__ void __launch_bounds__(kThreads) mask_with_ended_lanes() {
  if (threadIdx.x % 32 < 16) {
    __shfl_down_sync(kAll, 1, 1);
  }
}

__global__ void __launch_bounds__(kThreads) lane_outside_the_mask() {
  if (threadIdx.x % 32 < 16) {
    __shfl_down_sync(0xffffu, 1, 8);
  }
}

__global__ void __launch_bounds__(kThreads) two_masks() {
  __shfl_down_sync(threadIdx.x % 2 ? kAll : 0x55555555u, 1, 2);
}

__global__ void __launch_bounds__(kThreads) read_past_a_tensor(const float* from, float* to) {
  to[threadIdx.x] = from[threadIdx.x + 1];
}

__global__ void __launch_bounds__(kThreads) write_past_shared() {
  __shared__ float part[kThreads];
  float* from = part;
  from[threadIdx.x + 1] = 1.0f;
}

__global__ void __launch_bounds__(kThreads) write_past_dynamic() {
  extern __shared__ float room[];
  room[threadIdx.x] = 1.0f;
}

__global__ void __launch_bounds__(kThreads) read_of_what_was_not_written(float* to) {
  __shared__ float part[kThreads];
  if (threadIdx.x > 0) {
    part[threadIdx.x] = 1.0f;
  }
  __syncthreads();
  to[threadIdx.x] = part[threadIdx.x];
}

__global__ void __launch_bounds__(kThreads) misaligned_pack(const float* from, float* to) {
  if (threadIdx.x == 0) {
    *reinterpret_cast<Four*>(to) = *reinterpret_cast<const Four*>(from + 1);
  }
}

__global__ void __launch_bounds__(kThreads) memory_of_another_thread(float* to) {
  __shared__ float* place;
  float own[2] = {1.0f, 2.0f};
  if (threadIdx.x == 0) {
    place = own;
  }
  __syncthreads();
  to[threadIdx.x] = place[blockIdx.x];
}

__global__ void __launch_bounds__(kThreads) overflow(int64_t big, int64_t* to) {
  to[threadIdx.x] = static_cast<int>(big) * static_cast<int>(big);
}

__global__ void __launch_bounds__(kThreads) nothing() {}
__global__ void nothing_without_bounds() {}

__global__ void __launch_bounds__(kThreads) much_static() {
  __shared__ float part[13 * 1024];
  part[threadIdx.x] = 1.0f;
}

struct Guard {
  Guard() {
    emulated_create_device_guard(0, &guard);
  }
  ~Guard() {
    emulated_delete_device_guard(guard);
  }
  DeviceGuardOpaque* guard;
};

void ask_for_more_than_a_gpu_has() {
  if (cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 * 1024)) {
    throw std::runtime_error("invalid argument");
  }
}

std::map<std::string, std::function<void()>> launches(float* from, float* to, void* stream) {
  const dim3 two(2), one(1);
  return {
      {"good", [=] { good<<<two, kThreads, 0, stream>>>(from, to); }},
      {"race_in_a_block", [=] { race_in_a_block<<<one, kThreads, 0, stream>>>(to); }},
      {"race_of_writes", [=] { race_of_writes<<<one, kThreads, 0, stream>>>(to); }},
      {"race_of_blocks", [=] { race_of_blocks<<<two, kThreads, 0, stream>>>(to); }},
      {"race_with_an_atomic", [=] { race_with_an_atomic<<<one, kThreads, 0, stream>>>(to); }},
      {"left_before_a_barrier", [=] { left_before_a_barrier<<<one, kThreads, 0, stream>>>(); }},
      {"two_barriers", [=] { two_barriers<<<one, kThreads, 0, stream>>>(); }},
      {"a_barrier_and_an_exchange", [=] { a_barrier_and_an_exchange<<<one, kThreads, 0, stream>>>(); }},
      {"mask_without_the_lane", [=] { mask_without_the_lane<<<one, kThreads, 0, stream>>>(); }},
      {"mask_with_ended_lanes", [=] { mask_with_ended_lanes<<<one, kThreads, 0, stream>>>(); }},
      {"lane_outside_the_mask", [=] { lane_outside_the_mask<<<one, kThreads, 0, stream>>>(); }},
      {"two_masks", [=] { two_masks<<<one, kThreads, 0, stream>>>(); }},
      {"read_past_a_tensor", [=] { read_past_a_tensor<<<one, kThreads, 0, stream>>>(from + 64, to); }},
      {"write_past_shared", [=] { write_past_shared<<<one, kThreads, 0, stream>>>(); }},
      {"write_past_dynamic", [=] { write_past_dynamic<<<one, kThreads, 4 * kThreads - 4, stream>>>(); }},
      {"read_of_what_was_not_written", [=] { read_of_what_was_not_written<<<one, kThreads, 0, stream>>>(to); }},
      {"misaligned_pack", [=] { misaligned_pack<<<one, kThreads, 0, stream>>>(from, to); }},
      {"memory_of_another_thread", [=] { memory_of_another_thread<<<one, kThreads, 0, stream>>>(to); }},
      {"overflow", [=] { overflow<<<one, 8, 0, stream>>>(1ll << 30, reinterpret_cast<int64_t*>(to)); }},
      {"much_static", [=] { much_static<<<one, kThreads, 0, stream>>>(); }},
      {"much_dynamic", [=] { nothing<<<one, kThreads, 48 * 1024 + 1, stream>>>(); }},
      {"more_than_a_gpu_has", ask_for_more_than_a_gpu_has},
      {"more_threads_than_bounds", [=] { nothing<<<one, kThreads + 1, 0, stream>>>(); }},
      {"more_threads_than_registers", [=] { nothing_without_bounds<<<one, 512, 0, stream>>>(); }},
      {"high_grid", [=] { nothing<<<dim3(1, 65536), kThreads, 0, stream>>>(); }},
      {"empty_grid", [=] { nothing<<<dim3(0), kThreads, 0, stream>>>(); }},
      {"other_stream", [=] { nothing<<<one, kThreads, 0, nullptr>>>(); }},
      {"no_check", [=] { nothing<<<one, kThreads, 0, stream>>>(); }},
  };
}

} // namespace

// Launches the kernel of this name; `from` has 128 numbers, `to` 64. Writes what is wrong to `message`, or nothing.
extern "C" __attribute__((visibility("default"))) void emulator_fault(
    const char* name, float* from, float* to, char* message, size_t room) {
  message[0] = 0;
  try {
    void* stream = nullptr;
    emulated_current_stream(0, &stream);
    if (std::string(name) == "no_guard") {
      nothing<<<dim3(1), kThreads, 0, stream>>>();
    }
    const Guard guard;
    launches(from, to, stream).at(name)();
    if (std::string(name) != "no_check" && cudaGetLastError() != cudaSuccess) {
      throw std::runtime_error("invalid configuration");
    }
  } catch (const std::exception& error) {
    snprintf(message, room, "%s", error.what());
  }
}
