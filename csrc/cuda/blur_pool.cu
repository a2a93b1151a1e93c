// The blur on GPUs. Forward: a thread walks down the input rows of a few outputs of one column and adds each row's
// blurred value to all of them, so that no row is blurred twice. Backward: a gather. Channels-last maps are read and
// written 128 bits at a time along the channels; contiguous ones column by column, neighbours side by side.
#include "../blur_pool.h"
#include "cuda.h"

#include <algorithm>
#include <limits>

namespace adet_ext {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4; // outputs of a thread, forward

// A map as a kernel walks it: units are V channels (channels-last) or single columns (contiguous).
struct Walk {
  BlurAxis rows, columns;
  int64_t images, channels;
  int64_t image, channel, line, column; // strides of what is read
  int64_t to_image, to_channel, to_line, to_column; // and of what is written
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

// Thread of an image -> channel c, row (block) y, column x. Neighbouring threads have neighbouring memory.
template <int V>
__device__ __forceinline__ void
place(uint32_t i, const Walk& walk, uint32_t height, uint32_t width, uint32_t& c, uint32_t& y, uint32_t& x) {
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

// M is the number of taps, or 0 where it is known at run time only.
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
      i,
      walk,
      static_cast<uint32_t>((walk.rows.out + kRows - 1) / kRows),
      static_cast<uint32_t>(walk.columns.out),
      c,
      y,
      x);
  int64_t column[most]; // where the taps lie; -1 for a zero
  acc weight[most];
#pragma unroll
  for (int t = 0; t < most; ++t) {
    const int64_t place = t < taps ? walk.columns.source(walk.columns.first(x) + t) : -1;
    column[t] = place < 0 ? -1 : place * walk.column;
    weight[t] = static_cast<acc>(M > 0 ? binomial(most, t) : walk.weight[t]);
  }
  const int64_t output = static_cast<int64_t>(y) * kRows;
  const int64_t first = walk.rows.first(output);
  const int outputs = static_cast<int>(min(static_cast<int64_t>(kRows), walk.rows.out - output));
  const int lines = (outputs - 1) * S + taps;

  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* map = from + n * walk.image + c * walk.channel;
    acc sum[kRows][V] = {};
#pragma unroll
    for (int k = 0; k < (kRows - 1) * S + most; ++k) {
      const int64_t row = k < lines ? walk.rows.source(first + k) : -1;
      if (row < 0) {
        continue;
      }
      const T* line = map + row * walk.line;
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
    T* place = to + n * walk.to_image + c * walk.to_channel + output * walk.to_line + x * walk.to_column;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r < outputs) {
        put<T, V>(place + r * walk.to_line, sum[r]);
      }
    }
  }
}

// Calls take(output, weight) for every tap of an output that lies on position p.
template <int S, typename Take>
__device__ __forceinline__ void taps_at(const Walk& walk, const BlurAxis& axis, int64_t p, Take take) {
  const int64_t reach = p + axis.before; // not negative: p starts at -before
  for (int t = static_cast<int>(reach % S); t < axis.taps; t += S) {
    const int64_t output = (reach - t) / S;
    if (reach >= t && output < axis.out) {
      take(output, walk.weight[t]);
    }
  }
}

// The same for input i and all its images beyond the border.
template <int S, typename Take>
__device__ __forceinline__ void taps_on(const Walk& walk, const BlurAxis& axis, int64_t i, Take take) {
  taps_at<S>(walk, axis, i, take);
  if (axis.padding == BlurPadding::zeros || (i >= axis.taps && i < axis.in - axis.taps)) {
    return;
  }
  for (int64_t p = -axis.before; p < 0; ++p) {
    if (axis.source(p) == i) {
      taps_at<S>(walk, axis, p, take);
    }
  }
  for (int64_t p = axis.in; p < axis.in + axis.taps; ++p) {
    if (axis.source(p) == i) {
      taps_at<S>(walk, axis, p, take);
    }
  }
}

template <typename T, int S, int V>
__global__ void __launch_bounds__(kThreads)
    blur_backward(const T* __restrict__ from, T* __restrict__ to, const __grid_constant__ Walk walk, uint32_t threads) {
  using acc = acc_t<T>;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= threads) {
    return;
  }
  uint32_t c, y, x;
  place<V>(i, walk, static_cast<uint32_t>(walk.rows.in), static_cast<uint32_t>(walk.columns.in), c, y, x);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* map = from + n * walk.image + c * walk.channel;
    acc sum[V] = {};
    taps_on<S>(walk, walk.rows, y, [&](int64_t row, float row_weight) {
      const T* line = map + row * walk.line;
      taps_on<S>(walk, walk.columns, x, [&](int64_t column, float weight) {
        add<T, V>(sum, line + column * walk.column, static_cast<acc>(row_weight * weight));
      });
    });
    put<T, V>(to + n * walk.to_image + c * walk.to_channel + y * walk.to_line + x * walk.to_column, sum);
  }
}

template <typename T, int S, int V>
void launch(const T* from, T* to, const Walk& walk, bool backward, cudaStream_t stream) {
  const int64_t rows = backward ? walk.rows.in : (walk.rows.out + kRows - 1) / kRows;
  const int64_t columns = backward ? walk.columns.in : walk.columns.out;
  const int64_t threads = walk.channels / V * rows * columns; // an image
  STD_TORCH_CHECK(
      threads <= std::numeric_limits<int32_t>::max(),
      "blur_pool: an image of ",
      walk.channels,
      " channels and ",
      walk.rows.in,
      " x ",
      walk.columns.in,
      " is too large");
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

Tensor apply(const Tensor& x, const BlurAxis& vertical, const BlurAxis& horizontal, bool backward) {
  const OnDeviceOf guard(x);
  const BlurInput input = blur_input(x);
  const Tensor& t = input.tensor;
  Tensor out = blur_output(input, backward ? vertical.in : vertical.out, backward ? horizontal.in : horizontal.out);
  if (out.numel() == 0) {
    return out;
  }
  Walk walk{};
  walk.rows = vertical;
  walk.columns = horizontal;
  walk.images = t.size(0);
  walk.channels = t.size(1);
  walk.image = t.stride(0);
  walk.channel = t.stride(1);
  walk.line = t.stride(2);
  walk.column = t.stride(3);
  walk.to_image = out.stride(0);
  walk.to_channel = out.stride(1);
  walk.to_line = out.stride(2);
  walk.to_column = out.stride(3);
  walk.channels_last = input.channels_last;
  for (int k = 0; k < vertical.taps; ++k) {
    walk.weight[k] = binomial(vertical.taps, k);
  }
  ADET_DISPATCH(t.scalar_type(), "blur_pool", [&] {
    constexpr int V = sizeof(scalar_t) == 8 ? 1 : 16 / sizeof(scalar_t); // float64 is there to be checked with
    const auto* from = static_cast<const scalar_t*>(t.const_data_ptr());
    auto* to = static_cast<scalar_t*>(out.mutable_data_ptr());
    const bool wide = input.channels_last && walk.channels % V == 0 && walk.image % V == 0 && walk.line % V == 0 &&
        walk.column % V == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0;
    const cudaStream_t stream = current_stream(t);
    wide ? launch<scalar_t, V>(from, to, walk, backward, stream) : launch<scalar_t, 1>(from, to, walk, backward, stream);
  });
  return out;
}

Tensor blur_pool(Tensor x, int64_t taps, int64_t stride, int64_t padding, int64_t rows, int64_t columns) {
  check_blur(x, "x", taps, stride, padding, rows, columns);
  return apply(
      x,
      make_blur_axis(x.size(2), taps, stride, padding, rows),
      make_blur_axis(x.size(3), taps, stride, padding, columns),
      false);
}

Tensor blur_pool_backward(
    Tensor grad,
    int64_t height,
    int64_t width,
    int64_t taps,
    int64_t stride,
    int64_t padding,
    int64_t rows,
    int64_t columns) {
  check_blur(grad, "grad", taps, stride, padding, rows, columns);
  const BlurAxis vertical = make_blur_axis(height, taps, stride, padding, rows);
  const BlurAxis horizontal = make_blur_axis(width, taps, stride, padding, columns);
  check_size(grad, "grad", 2, vertical.out);
  check_size(grad, "grad", 3, horizontal.out);
  return apply(grad, vertical, horizontal, true);
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("blur_pool", TORCH_BOX(&blur_pool));
  m.impl("blur_pool_backward", TORCH_BOX(&blur_pool_backward));
}

} // namespace adet_ext
