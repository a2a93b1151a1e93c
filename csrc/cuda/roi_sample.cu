// roi_sample on GPUs. Two memory formats, two kernels:
// channels innermost: a warp computes a point, and reads four rows of C values, 128 bits a lane;
// planes (N, C, H, W): a block computes a box, keeps the positions and weights of its points, and writes its C x kh x
// kw values in a row. The gradient of the features is added atomically. In deterministic mode it is gathered: the
// neighbors of the points are sorted by cell, and a warp sums those of each cell.
#include "../roi_sample.h"
#include "cuda.h"

#include <algorithm>
#include <array>

namespace adet_ext {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;

template <typename T, typename acc>
__device__ __forceinline__ bool valid(const Levels<T, acc>& levels, const Boxes<acc>& boxes, int64_t d) {
  return boxes.level[d] >= 0 && boxes.level[d] < levels.count && boxes.image[d] >= 0 && boxes.image[d] < levels.images;
}

template <typename T, typename acc>
__device__ __forceinline__ Corners<acc> point(
    const Level<T, acc>& x, const Boxes<acc>& boxes, int64_t d, int64_t j, int64_t i) {
  const acc* box = boxes.corners + 4 * d;
  return corners(
      part_centre(box[1], box[3], j, boxes.kh, x.scale), part_centre(box[0], box[2], i, boxes.kw, x.scale), x.height,
      x.width, boxes.border);
}

__device__ __forceinline__ float not_a_number() {
  return __int_as_float(0x7fffffff);
}

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> load(const T* p) {
  return *reinterpret_cast<const Pack<T, V>*>(p);
}

// One warp a point; out is (B, kh, kw, C). V values are read and written at once: all addresses must be aligned to
// that.
template <typename T, typename acc, int V>
__global__ void __launch_bounds__(kThreads)
    forward_rows(const Levels<const T, acc> levels, const Boxes<acc> boxes, int64_t channels, T* out) {
  const int lane = threadIdx.x % kWarp;
  const int64_t points = boxes.kh * boxes.kw, total = boxes.count * points;
  for (int64_t p = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp; p < total; p += int64_t(gridDim.x) * kWarps) {
    const int64_t d = p / points, k = p % points;
    T* to = out + p * channels;
    if (!valid(levels, boxes, d)) {
      for (int64_t c = lane; c < channels; c += kWarp) {
        to[c] = static_cast<T>(not_a_number());
      }
      continue;
    }
    const auto& x = levels.at[boxes.level[d]];
    const Corners<acc> at = point(x, boxes, d, k / boxes.kw, k % boxes.kw);
    const T* image = x.data + boxes.image[d] * x.stride_n;
    const T* p00 = image + at.y0 * x.stride_y + at.x0 * x.stride_x;
    const T* p01 = image + at.y0 * x.stride_y + at.x1 * x.stride_x;
    const T* p10 = image + at.y1 * x.stride_y + at.x0 * x.stride_x;
    const T* p11 = image + at.y1 * x.stride_y + at.x1 * x.stride_x;
    for (int64_t c = lane * V; c < channels; c += kWarp * V) {
      const Pack<T, V> v00 = load<T, V>(p00 + c), v01 = load<T, V>(p01 + c);
      const Pack<T, V> v10 = load<T, V>(p10 + c), v11 = load<T, V>(p11 + c);
      Pack<T, V> sum;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sum.value[i] = static_cast<T>(
            at.w00 * static_cast<acc>(v00.value[i]) + at.w01 * static_cast<acc>(v01.value[i]) +
            at.w10 * static_cast<acc>(v10.value[i]) + at.w11 * static_cast<acc>(v11.value[i]));
      }
      *reinterpret_cast<Pack<T, V>*>(to + c) = sum;
    }
  }
}

// The points of a box, kept by the block: offset and weight of each neighbor, point by point.
template <typename acc>
struct Table {
  acc* weight; // (points, 4)
  int32_t* at; // (points, 4)
};

template <typename T, typename acc>
__device__ __forceinline__ Table<acc> tabulate(
    unsigned char* shared, const Level<T, acc>& x, const Boxes<acc>& boxes, int64_t d) {
  const int points = static_cast<int>(boxes.kh * boxes.kw);
  Table<acc> table{reinterpret_cast<acc*>(shared), reinterpret_cast<int32_t*>(shared + 4 * points * sizeof(acc))};
  for (int k = threadIdx.x; k < points; k += kThreads) {
    const Corners<acc> at = point(x, boxes, d, k / boxes.kw, k % boxes.kw);
    table.at[4 * k] = static_cast<int32_t>(at.y0 * x.stride_y + at.x0 * x.stride_x);
    table.at[4 * k + 1] = static_cast<int32_t>(at.y0 * x.stride_y + at.x1 * x.stride_x);
    table.at[4 * k + 2] = static_cast<int32_t>(at.y1 * x.stride_y + at.x0 * x.stride_x);
    table.at[4 * k + 3] = static_cast<int32_t>(at.y1 * x.stride_y + at.x1 * x.stride_x);
    table.weight[4 * k] = at.w00;
    table.weight[4 * k + 1] = at.w01;
    table.weight[4 * k + 2] = at.w10;
    table.weight[4 * k + 3] = at.w11;
  }
  return table;
}

// Blocks (x: boxes, y: parts of the channels); out is (B, C, kh, kw), written in a row. Any strides.
template <typename T, typename acc>
__global__ void __launch_bounds__(kThreads)
    forward_planes(const Levels<const T, acc> levels, const Boxes<acc> boxes, int64_t channels, T* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int points = static_cast<int>(boxes.kh * boxes.kw);
  const int64_t values = channels * points, step = int64_t(gridDim.y) * kThreads;
  for (int64_t d = blockIdx.x; d < boxes.count; d += gridDim.x) {
    T* to = out + d * values;
    int64_t v = int64_t(blockIdx.y) * kThreads + threadIdx.x;
    if (!valid(levels, boxes, d)) {
      for (; v < values; v += step) {
        to[v] = static_cast<T>(not_a_number());
      }
      continue;
    }
    const auto& x = levels.at[boxes.level[d]];
    __syncthreads(); // the table of the last box is no longer needed
    const Table<acc> table = tabulate(shared, x, boxes, d);
    __syncthreads();
    const T* image = x.data + boxes.image[d] * x.stride_n;
    for (; v < values; v += step) {
      const int k = static_cast<int>(v % points);
      const T* plane = image + v / points * x.stride_c;
      acc sum = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum += table.weight[4 * k + i] * static_cast<acc>(plane[table.at[4 * k + i]]);
      }
      to[v] = static_cast<T>(sum);
    }
  }
}

// grad is (B, kh, kw, C); levels are buffers with the channels innermost.
template <typename T, typename acc>
__global__ void __launch_bounds__(kThreads)
    backward_rows(const T* grad, const Levels<acc, acc> levels, const Boxes<acc> boxes, int64_t channels) {
  const int lane = threadIdx.x % kWarp;
  const int64_t points = boxes.kh * boxes.kw, total = boxes.count * points;
  for (int64_t p = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp; p < total; p += int64_t(gridDim.x) * kWarps) {
    const int64_t d = p / points, k = p % points;
    if (!valid(levels, boxes, d)) {
      continue;
    }
    const auto& x = levels.at[boxes.level[d]];
    const Corners<acc> at = point(x, boxes, d, k / boxes.kw, k % boxes.kw);
    acc* image = x.data + boxes.image[d] * x.stride_n;
    const T* from = grad + p * channels;
    // Atomics of a warp on neighboring addresses are combined.
    for (int64_t c = lane; c < channels; c += kWarp) {
      const acc g = static_cast<acc>(from[c]);
      if (at.w00 != acc(0)) {
        atomicAdd(image + at.y0 * x.stride_y + at.x0 * x.stride_x + c, at.w00 * g);
      }
      if (at.w01 != acc(0)) {
        atomicAdd(image + at.y0 * x.stride_y + at.x1 * x.stride_x + c, at.w01 * g);
      }
      if (at.w10 != acc(0)) {
        atomicAdd(image + at.y1 * x.stride_y + at.x0 * x.stride_x + c, at.w10 * g);
      }
      if (at.w11 != acc(0)) {
        atomicAdd(image + at.y1 * x.stride_y + at.x1 * x.stride_x + c, at.w11 * g);
      }
    }
  }
}

// grad is (B, C, kh, kw); levels are buffers of planes.
template <typename T, typename acc>
__global__ void __launch_bounds__(kThreads)
    backward_planes(const T* grad, const Levels<acc, acc> levels, const Boxes<acc> boxes, int64_t channels) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int points = static_cast<int>(boxes.kh * boxes.kw);
  const int64_t values = channels * points, step = int64_t(gridDim.y) * kThreads;
  for (int64_t d = blockIdx.x; d < boxes.count; d += gridDim.x) {
    if (!valid(levels, boxes, d)) {
      continue;
    }
    const auto& x = levels.at[boxes.level[d]];
    __syncthreads();
    const Table<acc> table = tabulate(shared, x, boxes, d);
    __syncthreads();
    acc* image = x.data + boxes.image[d] * x.stride_n;
    for (int64_t v = int64_t(blockIdx.y) * kThreads + threadIdx.x; v < values; v += step) {
      const int k = static_cast<int>(v % points);
      acc* plane = image + v / points * x.stride_c;
      const acc g = static_cast<acc>(grad[d * values + v]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (table.weight[4 * k + i] != acc(0)) {
          atomicAdd(plane + table.at[4 * k + i], table.weight[4 * k + i] * g);
        }
      }
    }
  }
}

// Deterministic, first step: the cell (counted over levels, images, rows and columns) and the weight of every neighbor
// of every point. A neighbor of weight zero has no cell.
constexpr int64_t kNoCell = std::numeric_limits<int64_t>::max();

template <typename acc>
__global__ void __launch_bounds__(kThreads)
    list_cells(const Levels<acc, acc> levels, const Boxes<acc> boxes, int64_t* cell, acc* weight) {
  const int64_t points = boxes.kh * boxes.kw, total = boxes.count * points;
  for (int64_t p = int64_t(blockIdx.x) * kThreads + threadIdx.x; p < total; p += int64_t(gridDim.x) * kThreads) {
    const int64_t d = p / points, k = p % points;
    if (!valid(levels, boxes, d)) {
      for (int i = 0; i < 4; ++i) {
        cell[4 * p + i] = kNoCell;
      }
      continue;
    }
    int64_t first = 0;
    for (int64_t l = 0; l < boxes.level[d]; ++l) {
      first += levels.images * levels.at[l].height * levels.at[l].width;
    }
    const auto& x = levels.at[boxes.level[d]];
    first += boxes.image[d] * x.height * x.width;
    const Corners<acc> at = point(x, boxes, d, k / boxes.kw, k % boxes.kw);
    const acc w[4] = {at.w00, at.w01, at.w10, at.w11};
    const int64_t c[4] = {
        at.y0 * x.width + at.x0, at.y0 * x.width + at.x1, at.y1 * x.width + at.x0, at.y1 * x.width + at.x1};
    for (int i = 0; i < 4; ++i) {
      cell[4 * p + i] = w[i] == acc(0) ? kNoCell : first + c[i];
      weight[4 * p + i] = w[i];
    }
  }
}

// Second step: each run of one cell in the sorted list is summed by one warp, in the order of the points. grad is
// (B, kh, kw, C).
template <typename T, typename acc>
__global__ void __launch_bounds__(kThreads) add_runs(
    const T* grad, const int64_t* cell, const int64_t* order, const acc* weight, int64_t count,
    const Levels<acc, acc> levels, int64_t channels) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t i = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp; i < count; i += int64_t(gridDim.x) * kWarps) {
    if (cell[i] == kNoCell || (i > 0 && cell[i - 1] == cell[i])) {
      continue;
    }
    int64_t rest = cell[i], l = 0;
    while (rest >= levels.images * levels.at[l].height * levels.at[l].width) {
      rest -= levels.images * levels.at[l].height * levels.at[l].width;
      ++l;
    }
    const auto& x = levels.at[l];
    const int64_t area = x.height * x.width;
    acc* to = x.data + rest / area * x.stride_n + rest % area / x.width * x.stride_y + rest % x.width * x.stride_x;
    for (int64_t c = lane; c < channels; c += kWarp) {
      acc sum = 0;
      for (int64_t j = i; j < count && cell[j] == cell[i]; ++j) {
        sum += weight[order[j]] * static_cast<acc>(grad[order[j] / 4 * channels + c]);
      }
      to[c * x.stride_c] = sum;
    }
  }
}

template <typename acc>
__device__ __forceinline__ acc warp_sum(acc v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    v += __shfl_down_sync(0xffffffffu, v, offset);
  }
  return v;
}

// One block a box, one warp a point: the order of sums is fixed. grad is (B, kh, kw, C), out (B, 4).
template <typename T, typename acc>
__global__ void __launch_bounds__(kThreads) box_gradients(
    const T* grad, const Levels<const T, acc> levels, const Boxes<acc> boxes, int64_t channels, acc* out) {
  __shared__ acc partial[kWarps][4];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t points = boxes.kh * boxes.kw;
  for (int64_t d = blockIdx.x; d < boxes.count; d += gridDim.x) {
    acc sum[4] = {0, 0, 0, 0};
    const bool there = valid(levels, boxes, d);
    for (int64_t k = warp; there && k < points; k += kWarps) {
      const auto& x = levels.at[boxes.level[d]];
      const acc* box = boxes.corners + 4 * d;
      const int64_t j = k / boxes.kw, i = k % boxes.kw;
      const acc y = part_centre(box[1], box[3], j, boxes.kh, x.scale);
      const acc u = part_centre(box[0], box[2], i, boxes.kw, x.scale);
      int64_t y0, y1, x0, x1;
      acc wy0, wy1, wx0, wx1, sy0, sy1, sx0, sx1;
      neighbours(y, x.height, boxes.border, y0, y1, wy0, wy1);
      neighbours(u, x.width, boxes.border, x0, x1, wx0, wx1);
      slopes(y, x.height, boxes.border, sy0, sy1);
      slopes(u, x.width, boxes.border, sx0, sx1);
      const T* image = x.data + boxes.image[d] * x.stride_n;
      const T* from = grad + (d * points + k) * channels;
      acc by_y = 0, by_x = 0;
      for (int64_t c = lane; c < channels; c += kWarp) {
        const T* plane = image + c * x.stride_c;
        const acc v00 = static_cast<acc>(plane[y0 * x.stride_y + x0 * x.stride_x]);
        const acc v01 = static_cast<acc>(plane[y0 * x.stride_y + x1 * x.stride_x]);
        const acc v10 = static_cast<acc>(plane[y1 * x.stride_y + x0 * x.stride_x]);
        const acc v11 = static_cast<acc>(plane[y1 * x.stride_y + x1 * x.stride_x]);
        const acc g = static_cast<acc>(from[c]);
        by_y += g * (wx0 * (sy0 * v00 + sy1 * v10) + wx1 * (sy0 * v01 + sy1 * v11));
        by_x += g * (wy0 * (sx0 * v00 + sx1 * v01) + wy1 * (sx0 * v10 + sx1 * v11));
      }
      by_y *= x.scale;
      by_x *= x.scale;
      const acc part_y = (acc(j) + acc(0.5)) / acc(boxes.kh), part_x = (acc(i) + acc(0.5)) / acc(boxes.kw);
      sum[0] += by_x * (acc(1) - part_x);
      sum[1] += by_y * (acc(1) - part_y);
      sum[2] += by_x * part_x;
      sum[3] += by_y * part_y;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const acc s = warp_sum(sum[i]);
      if (lane == 0) {
        partial[warp][i] = s;
      }
    }
    __syncthreads();
    if (threadIdx.x < 4) {
      acc s = 0;
      for (int w = 0; w < kWarps; ++w) {
        s += partial[w][threadIdx.x];
      }
      out[4 * d + threadIdx.x] = s;
    }
    __syncthreads();
  }
}

// Blocks for a loop over `tasks` groups of work; the loops cover what does not fit into a grid.
unsigned grid(int64_t tasks) {
  return static_cast<unsigned>(std::clamp<int64_t>(tasks, 1, int64_t(1) << 30));
}

// Enough blocks a box for a hundred boxes to fill a GPU.
dim3 plane_grid(int64_t boxes, int64_t values) {
  return {grid(boxes), static_cast<unsigned>(std::clamp<int64_t>(values / (4 * kThreads), 1, 8)), 1};
}

template <typename acc>
size_t table_bytes(int64_t kh, int64_t kw) {
  const size_t bytes = 4 * kh * kw * (sizeof(acc) + sizeof(int32_t));
  ADET_CHECK(bytes <= 48 * 1024, "kh * kw must be at most 1024 on a GPU; got ", kh, " * ", kw);
  return bytes;
}

template <typename T, typename acc>
bool aligned(const Levels<const T, acc>& levels, int64_t channels, const T* out, int width) {
  bool good = channels % width == 0 && reinterpret_cast<uintptr_t>(out) % (width * sizeof(T)) == 0;
  for (int64_t l = 0; l < levels.count; ++l) {
    const auto& x = levels.at[l];
    good = good && x.stride_c == 1 && x.stride_n % width == 0 && x.stride_y % width == 0 && x.stride_x % width == 0 &&
           reinterpret_cast<uintptr_t>(x.data) % (width * sizeof(T)) == 0;
  }
  return good;
}

// Stable ascending sort: the sorted values and their former positions.
std::array<Tensor, 2> stable_sort(const Tensor& values) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t(0)), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

struct Cuda {
  static void forward(
      const RoiCall& call, const std::vector<Tensor>& features, const std::vector<double>& scales, bool channels_last,
      Tensor& out) {
    const OnDeviceOf guard(out);
    const cudaStream_t stream = current_stream(out);
    const int64_t count = out.size(0), channels = out.size(1), kh = call.kh, kw = call.kw;
    ADET_DISPATCH(out.scalar_type(), "roi_sample", [&] {
      using acc = acc_t<scalar_t>;
      const auto levels = make_levels<const scalar_t, acc>(features, scales);
      const auto boxes = call.boxes<acc>();
      scalar_t* to = out.mutable_data_ptr<scalar_t>();
      if (channels_last) {
        for (const Tensor& x : features) {
          ADET_CHECK(x.stride(1) == 1, "features must have their channels innermost for channels_last on a GPU");
        }
        constexpr int width = 16 / sizeof(scalar_t);
        const auto rows =
            aligned(levels, channels, to, width) ? forward_rows<scalar_t, acc, width> : forward_rows<scalar_t, acc, 1>;
        rows<<<grid((count * kh * kw + kWarps - 1) / kWarps), kThreads, 0, stream>>>(levels, boxes, channels, to);
      } else {
        const size_t bytes = table_bytes<acc>(kh, kw);
        forward_planes<scalar_t, acc>
            <<<plane_grid(count, channels * kh * kw), kThreads, bytes, stream>>>(levels, boxes, channels, to);
      }
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  static void backward_features(
      const RoiCall& call, const Tensor& grad, const std::vector<int64_t>& sizes, const std::vector<double>& scales,
      bool channels_last, bool deterministic, std::vector<Tensor>& buffers) {
    const OnDeviceOf guard(grad);
    const cudaStream_t stream = current_stream(grad);
    const Tensor g = dense_grad(grad, channels_last || deterministic);
    const int64_t channels = grad.size(1), points = grad.size(0) * call.kh * call.kw;
    ADET_DISPATCH(grad.scalar_type(), "roi_sample_backward_features", [&] {
      using acc = acc_t<scalar_t>;
      const auto levels = make_gradients<acc>(grad, sizes, scales, channels_last, buffers);
      const auto boxes = call.boxes<acc>();
      const scalar_t* from = g.const_data_ptr<scalar_t>();
      if (points * channels == 0) {
        return;
      }
      if (deterministic) {
        Tensor cell = torch::stable::new_empty(call.image, {4 * points});
        Tensor weight = torch::stable::new_empty(call.corners, {4 * points});
        list_cells<acc><<<grid((points + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
            levels, boxes, cell.mutable_data_ptr<int64_t>(), weight.mutable_data_ptr<acc>());
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        const auto [sorted, order] = stable_sort(cell);
        add_runs<scalar_t, acc><<<grid((4 * points + kWarps - 1) / kWarps), kThreads, 0, stream>>>(
            from, sorted.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>(), weight.const_data_ptr<acc>(),
            4 * points, levels, channels);
      } else if (channels_last) {
        backward_rows<scalar_t, acc>
            <<<grid((points + kWarps - 1) / kWarps), kThreads, 0, stream>>>(from, levels, boxes, channels);
      } else {
        const size_t bytes = table_bytes<acc>(call.kh, call.kw);
        backward_planes<scalar_t, acc>
            <<<plane_grid(boxes.count, channels * call.kh * call.kw), kThreads, bytes, stream>>>(
                from, levels, boxes, channels);
      }
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  static void backward_boxes(
      const RoiCall& call, const Tensor& grad, const std::vector<Tensor>& features, const std::vector<double>& scales,
      Tensor& out) {
    const OnDeviceOf guard(grad);
    ADET_DISPATCH(grad.scalar_type(), "roi_sample_backward_boxes", [&] {
      using acc = acc_t<scalar_t>;
      const auto levels = make_levels<const scalar_t, acc>(features, scales);
      box_gradients<scalar_t, acc><<<grid(out.size(0)), kThreads, 0, current_stream(grad)>>>(
          grad.const_data_ptr<scalar_t>(), levels, call.boxes<acc>(), features[0].size(1), out.mutable_data_ptr<acc>());
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("roi_sample", TORCH_BOX(&adet_ext::roi_sample<adet_ext::Cuda>));
  m.impl("roi_sample_backward_features", TORCH_BOX(&adet_ext::roi_sample_backward_features<adet_ext::Cuda>));
  m.impl("roi_sample_backward_boxes", TORCH_BOX(&adet_ext::roi_sample_backward_boxes<adet_ext::Cuda>));
}
