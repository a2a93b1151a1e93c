// blur_pool on GPUs. Forward: a thread visits the input rows of a few outputs of one column and adds the blurred value
// of each row to all of them, so no row is blurred twice. Backward: a gather. Channels-last maps are read and written
// 128 bits at a time along the channels; contiguous ones column by column, with neighboring threads on neighboring
// columns.
#include "../blur_pool.h"
#include "cuda.h"

#include <algorithm>
#include <limits>

namespace adet_ext {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4; // outputs of a thread, forward

// Positions have 32 bits, which takes half the registers; offsets in memory have 64.
using Axis = BlurAxisOf<int32_t>;

// The maps of a kernel. Its units are V channels (channels-last) or single columns (contiguous).
struct Walk {
  Axis rows, columns;
  int64_t images, channels;
  BlurStrides read, written;
  bool channels_last;
  float weight[kMaxTaps];
};

template <typename T, int V>
__device__ __forceinline__ void add(acc_t<T> (&sum)[V], const T* from, acc_t<T> weight) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    sum[v] += weight * static_cast<acc_t<T>>(pack.value[v]);
  }
}

template <typename T, int V>
__device__ __forceinline__ void put(T* to, const acc_t<T> (&sum)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    pack.value[v] = static_cast<T>(sum[v]);
  }
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// Thread of an image -> channel c, row (block) y, column x. Neighboring threads access neighboring memory.
template <int V>
__device__ __forceinline__ void place(
    uint32_t i, const Walk& walk, uint32_t height, uint32_t width, uint32_t& c, uint32_t& y, uint32_t& x) {
  if (walk.channels_last) {
    const uint32_t units = static_cast<uint32_t>(walk.channels) / V;
    c = i % units * V;
    i /= units;
    x = i % width;
    y = i / width;
  } else {
    x = i % width;
    i /= width;
    y = i % height;
    c = i / height;
  }
}

// M is the number of taps, or 0 if it is known only at run time.
template <typename T, int M, int S, int V>
__global__ void __launch_bounds__(kThreads)
    blur_forward(const T* __restrict__ from, T* __restrict__ to, const __grid_constant__ Walk walk, uint32_t threads) {
  using acc = acc_t<T>;
  constexpr int most = M > 0 ? M : kMaxTaps;
  const int taps = M > 0 ? M : walk.rows.taps;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= threads) {
    return;
  }
  uint32_t c, y, x;
  place<V>(
      i, walk, static_cast<uint32_t>((walk.rows.out + kRows - 1) / kRows), static_cast<uint32_t>(walk.columns.out), c,
      y, x);
  int64_t column[most]; // offsets of the taps; -1 for a zero
  acc weight[most];
#pragma unroll
  for (int t = 0; t < most; ++t) {
    const int32_t place = t < taps ? walk.columns.source(walk.columns.first(static_cast<int32_t>(x)) + t) : -1;
    column[t] = place < 0 ? -1 : place * walk.read.column;
    weight[t] = static_cast<acc>(M > 0 ? binomial(most, t) : walk.weight[t]);
  }
  const int32_t output = static_cast<int32_t>(y) * kRows;
  const int32_t first = walk.rows.first(output);
  const int outputs = min(kRows, walk.rows.out - output);
  const int lines = (outputs - 1) * S + taps;

  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* map = from + n * walk.read.image + c * walk.read.channel;
    acc sum[kRows][V] = {};
#pragma unroll
    for (int k = 0; k < (kRows - 1) * S + most; ++k) {
      const int32_t row = k < lines ? walk.rows.source(first + k) : -1;
      if (row < 0) {
        continue;
      }
      const T* line = map + row * walk.read.line;
      acc blurred[V] = {};
#pragma unroll
      for (int t = 0; t < most; ++t) {
        if (column[t] >= 0) {
          add<T, V>(blurred, line + column[t], weight[t]);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int t = k - r * S;
        if (t >= 0 && t < most && t < taps) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            sum[r][v] += weight[t] * blurred[v];
          }
        }
      }
    }
    T* place =
        to + n * walk.written.image + c * walk.written.channel + output * walk.written.line + x * walk.written.column;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r < outputs) {
        put<T, V>(place + r * walk.written.line, sum[r]);
      }
    }
  }
}

// Calls take(output, weight) for every tap of an output that reads position p.
template <int S, typename Take>
__device__ __forceinline__ void taps_at(const Walk& walk, const Axis& axis, int32_t p, Take take) {
  const int32_t reach = p + axis.before; // not negative: p starts at -before
  for (int32_t t = reach % S; t < axis.taps; t += S) {
    const int32_t output = (reach - t) / S;
    if (reach >= t && output < axis.out) {
      take(output, walk.weight[t]);
    }
  }
}

// The same for input i and all positions beyond the border that read it.
template <int S, typename Take>
__device__ __forceinline__ void taps_on(const Walk& walk, const Axis& axis, int32_t i, Take take) {
  taps_at<S>(walk, axis, i, take);
  if (axis.padding == BlurPadding::zeros || (i >= axis.taps && i < axis.in - axis.taps)) {
    return;
  }
  for (int32_t p = -axis.before; p < 0; ++p) {
    if (axis.source(p) == i) {
      taps_at<S>(walk, axis, p, take);
    }
  }
  for (int32_t p = axis.in; p < axis.in + axis.taps; ++p) {
    if (axis.source(p) == i) {
      taps_at<S>(walk, axis, p, take);
    }
  }
}

template <typename T, int S, int V>
__global__ void __launch_bounds__(kThreads, 4) // up to 64 registers, so that none is spilled
    blur_backward(const T* __restrict__ from, T* __restrict__ to, const __grid_constant__ Walk walk, uint32_t threads) {
  using acc = acc_t<T>;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= threads) {
    return;
  }
  uint32_t c, y, x;
  place<V>(i, walk, static_cast<uint32_t>(walk.rows.in), static_cast<uint32_t>(walk.columns.in), c, y, x);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* map = from + n * walk.read.image + c * walk.read.channel;
    acc sum[V] = {};
    taps_on<S>(walk, walk.rows, static_cast<int32_t>(y), [&](int32_t row, float row_weight) {
      const T* line = map + row * walk.read.line;
      taps_on<S>(walk, walk.columns, static_cast<int32_t>(x), [&](int32_t column, float weight) {
        add<T, V>(sum, line + column * walk.read.column, static_cast<acc>(row_weight * weight));
      });
    });
    put<T, V>(
        to + n * walk.written.image + c * walk.written.channel + y * walk.written.line + x * walk.written.column, sum);
  }
}

template <typename T, int S, int V>
void launch(const T* from, T* to, const Walk& walk, bool backward, cudaStream_t stream) {
  const int32_t rows = backward ? walk.rows.in : (walk.rows.out + kRows - 1) / kRows;
  const int32_t columns = backward ? walk.columns.in : walk.columns.out;
  const int64_t threads = walk.channels / V * rows * columns; // an image
  ADET_CHECK(
      threads <= std::numeric_limits<int32_t>::max(), "x must have less than 2^31 numbers an image on a GPU; got ",
      walk.channels, " x ", walk.rows.in, " x ", walk.columns.in);
  const dim3 grid(
      static_cast<unsigned>((threads + kThreads - 1) / kThreads),
      static_cast<unsigned>(std::min<int64_t>(walk.images, 65535)));
  const auto count = static_cast<uint32_t>(threads);
  if (backward) {
    blur_backward<T, S, V><<<grid, kThreads, 0, stream>>>(from, to, walk, count);
  } else if (walk.rows.taps == 3) {
    blur_forward<T, 3, S, V><<<grid, kThreads, 0, stream>>>(from, to, walk, count);
  } else {
    blur_forward<T, 0, S, V><<<grid, kThreads, 0, stream>>>(from, to, walk, count);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, int V>
void launch(const T* from, T* to, const Walk& walk, bool backward, cudaStream_t stream) {
  switch (walk.rows.stride) {
    case 1: return launch<T, 1, V>(from, to, walk, backward, stream);
    case 2: return launch<T, 2, V>(from, to, walk, backward, stream);
    default: return launch<T, 4, V>(from, to, walk, backward, stream);
  }
}

Axis narrow(const BlurAxis& axis) {
  constexpr int64_t most = int64_t(1) << 28; // so that no position or period overflows
  ADET_CHECK(axis.in <= most && axis.out <= most, "x must have sides of at most 2^28 on a GPU; got ", axis.in);
  return {int32_t(axis.in), int32_t(axis.out), int32_t(axis.stride), int32_t(axis.before), axis.taps, axis.padding};
}

void run(const BlurCall& call) {
  const OnDeviceOf guard(call.from);
  const Tensor& x = call.from;
  Walk walk{narrow(call.rows), narrow(call.columns), x.size(0),          x.size(1),
            BlurStrides(x),    BlurStrides(call.to), call.channels_last, {}};
  for (int k = 0; k < call.rows.taps; ++k) {
    walk.weight[k] = binomial(call.rows.taps, k);
  }
  ADET_DISPATCH(x.scalar_type(), "blur_pool", [&] {
    constexpr int V = sizeof(scalar_t) == 8 ? 1 : 16 / sizeof(scalar_t); // float64 serves gradient checks
    const auto* from = x.const_data_ptr<scalar_t>();
    auto* to = call.to.mutable_data_ptr<scalar_t>();
    const bool wide = call.channels_last && walk.channels % V == 0 && walk.read.image % V == 0 &&
                      walk.read.line % V == 0 && walk.read.column % V == 0 &&
                      reinterpret_cast<uintptr_t>(from) % 16 == 0;
    const auto start = wide ? launch<scalar_t, V> : launch<scalar_t, 1>;
    start(from, to, walk, call.backward, current_stream(x));
  });
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("blur_pool", TORCH_BOX(&blur_pool<run>));
  m.impl("blur_pool_backward", TORCH_BOX(&blur_pool_backward<run>));
}

} // namespace adet_ext
