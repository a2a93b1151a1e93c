// group_norm_relu on GPUs, in two launches for all levels. A block has a group of channels at up to kPlaces locations:
// first it computes their mean and sum of squared deviations, then, from those of all blocks of its group, the result.
// Neighboring threads read the channels of neighboring locations, V at a time: as many sectors as the group has.
#include "../group_norm_relu.h"
#include "cuda.h"

#include <limits>

namespace adet_ext {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPlaces = 1024;

template <typename T>
struct NormMap {
  const T* from;
  T* to;
  int64_t places;  // of an image
  uint32_t first;  // block
  uint32_t chunks; // blocks of a group
};

template <typename T>
struct Norm {
  using acc = acc_t<T>;
  NormMap<T> at[kMaxMaps];
  int count;
  int channels, groups;
  const T *weight, *bias;
  acc eps;
  acc* moments; // of each block: mean, sum of squared deviations

  ADET_HOST_DEVICE int width() const { // of a group
    return channels / groups;
  }
};

// The part of a block.
template <typename T>
struct Part {
  const NormMap<T>* map;
  uint32_t begin; // the first block of its group, whose others follow
  int64_t offset; // of the first channel of its group at its first location
  int channel, places;
};

template <typename T>
__device__ __forceinline__ int places_of(const NormMap<T>& map, int64_t chunk) {
  return static_cast<int>(min(static_cast<int64_t>(kPlaces), map.places - chunk * kPlaces));
}

template <typename T>
__device__ __forceinline__ Part<T> part_of(const Norm<T>& norm, uint32_t block) {
  int l = 0;
  while (l + 1 < norm.count && block >= norm.at[l + 1].first) {
    ++l;
  }
  const NormMap<T>& map = norm.at[l];
  const uint32_t slot = (block - map.first) / map.chunks, chunk = (block - map.first) % map.chunks;
  const uint32_t groups = static_cast<uint32_t>(norm.groups);
  const int64_t image = slot / groups, place = static_cast<int64_t>(chunk) * kPlaces;
  const int channel = static_cast<int>(slot % groups) * norm.width();
  return {&map, block - chunk, (image * map.places + place) * norm.channels + channel, channel, places_of(map, chunk)};
}

// Calls take(offset, channel) for the numbers of a part, V at a time; channel counts within the group.
template <int V, typename T, typename Take>
__device__ __forceinline__ void for_each(const Norm<T>& norm, const Part<T>& part, Take take) {
  const int units = norm.width() / V;
  for (int i = threadIdx.x; i < part.places * units; i += kThreads) {
    const int channel = i % units * V;
    take(part.offset + static_cast<int64_t>(i / units) * norm.channels + channel, channel);
  }
}

// The sum over all threads, in the same order in each.
template <typename acc>
__device__ __forceinline__ acc block_sum(acc value, acc* shared) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % kWarp == 0) {
    shared[threadIdx.x / kWarp] = value;
  }
  __syncthreads();
  acc sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    sum += shared[w];
  }
  __syncthreads(); // before the next sum
  return sum;
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) norm_moments(const __grid_constant__ Norm<T> norm) {
  using acc = acc_t<T>;
  __shared__ acc shared[kWarps];
  const Part<T> part = part_of(norm, blockIdx.x);
  const T* from = part.map->from;
  acc sum = 0;
  for_each<V>(norm, part, [&](int64_t offset, int) {
    const auto pack = *reinterpret_cast<const Pack<T, V>*>(from + offset);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      sum += static_cast<acc>(pack.value[v]);
    }
  });
  const acc mean = block_sum(sum, shared) / static_cast<acc>(part.places * norm.width());
  acc squares = 0;
  for_each<V>(norm, part, [&](int64_t offset, int) { // once more, from the cache
    const auto pack = *reinterpret_cast<const Pack<T, V>*>(from + offset);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const acc deviation = static_cast<acc>(pack.value[v]) - mean;
      squares += deviation * deviation;
    }
  });
  squares = block_sum(squares, shared);
  if (threadIdx.x == 0) {
    norm.moments[2 * static_cast<int64_t>(blockIdx.x)] = mean;
    norm.moments[2 * static_cast<int64_t>(blockIdx.x) + 1] = squares;
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) norm_apply(const __grid_constant__ Norm<T> norm) {
  using acc = acc_t<T>;
  const Part<T> part = part_of(norm, blockIdx.x);
  const NormMap<T>& map = *part.map;
  const acc* moments = norm.moments + 2 * static_cast<int64_t>(part.begin);
  acc mean = 0, squares = 0;
  for (uint32_t k = 0; k < map.chunks; ++k) {
    mean += moments[2 * k] * (static_cast<acc>(places_of(map, k)) / static_cast<acc>(map.places));
  }
  for (uint32_t k = 0; k < map.chunks; ++k) {
    const acc apart = moments[2 * k] - mean;
    squares += moments[2 * k + 1] + apart * apart * static_cast<acc>(places_of(map, k)) * norm.width();
  }
  const acc scale = 1 / sqrt(squares / (static_cast<acc>(map.places) * norm.width()) + norm.eps);
  for_each<V>(norm, part, [&](int64_t offset, int channel) {
    const auto pack = *reinterpret_cast<const Pack<T, V>*>(map.from + offset);
    const T *weight = norm.weight + part.channel + channel, *bias = norm.bias + part.channel + channel;
    Pack<T, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const acc value =
          (static_cast<acc>(pack.value[v]) - mean) * (scale * static_cast<acc>(weight[v])) + static_cast<acc>(bias[v]);
      result.value[v] = static_cast<T>(value < 0 ? acc(0) : value); // NaN stays
    }
    *reinterpret_cast<Pack<T, V>*>(map.to + offset) = result;
  });
}

template <typename T, int V>
void launch(const Norm<T>& norm, uint32_t blocks, cudaStream_t stream) {
  norm_moments<T, V><<<blocks, kThreads, 0, stream>>>(norm);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  norm_apply<T, V><<<blocks, kThreads, 0, stream>>>(norm);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void compute(const NormCall& call) {
  constexpr int V = 16 / sizeof(T);
  Norm<T> norm{};
  norm.channels = static_cast<int>(call.channels);
  norm.groups = static_cast<int>(call.groups);
  norm.weight = call.weight.const_data_ptr<T>();
  norm.bias = call.bias.const_data_ptr<T>();
  norm.eps = static_cast<acc_t<T>>(call.eps);
  bool wide = norm.width() % V == 0;
  int64_t blocks = 0;
  for (size_t l = 0; l < call.maps.size(); ++l) {
    const int64_t places = call.maps[l].size(2) * call.maps[l].size(3);
    if (places == 0) {
      continue;
    }
    const int64_t chunks = (places + kPlaces - 1) / kPlaces;
    NormMap<T>& map = norm.at[norm.count++];
    map = {
        call.maps[l].const_data_ptr<T>(), call.results[l].mutable_data_ptr<T>(), places, static_cast<uint32_t>(blocks),
        static_cast<uint32_t>(chunks)};
    wide = wide && reinterpret_cast<uintptr_t>(map.from) % 16 == 0 && reinterpret_cast<uintptr_t>(map.to) % 16 == 0;
    blocks += call.images * call.groups * chunks;
    ADET_CHECK(
        blocks <= std::numeric_limits<int32_t>::max() && call.channels < (1 << 20),
        "maps must have fewer numbers on a GPU; got ", shape_of(call.maps[l]));
  }
  const Tensor moments = torch::stable::new_empty(call.maps[0], {2 * blocks}, sum_type(call.maps[0]));
  norm.moments = moments.mutable_data_ptr<acc_t<T>>();
  const auto start = wide ? launch<T, V> : launch<T, 1>;
  start(norm, static_cast<uint32_t>(blocks), current_stream(call.maps[0]));
}

void run(const NormCall& call) {
  const OnDeviceOf guard(call.maps[0]);
  ADET_DISPATCH(call.maps[0].scalar_type(), "group_norm_relu", [&] { compute<scalar_t>(call); });
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("group_norm_relu", TORCH_BOX(&group_norm_relu<run>));
}

} // namespace adet_ext
