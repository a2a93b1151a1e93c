// blend_masks on GPUs. Forward: a block computes a tile of the mask of one detection, with its attentions in shared
// memory. Backward, attentions: a block gathers one row of them, all bases at once, from the pixels that read it.
// Backward, bases: pixels add to the cells that they read, by atomics; in deterministic mode, cells gather.
#include "../blend_masks.h"

#include "blend_gather.cuh"

namespace adet_ext {
namespace {

template <typename T>
struct BlendSource {
  CropSource<T> crop;
  const T* attentions; // (D, K, M, M)
  int num, side;
  bool nearest, in_shared, packed;
  Weighting weighting;
};

// Calls body(attention, crop), two functions of k, for pixel (y, x) of mask d; `maps` are its attentions, in any
// memory. NUM is 4 for four bases, which then stay in registers, and are read at once if they are packed; else it is 0.
template <typename T, int NUM, typename A, typename Body>
__device__ auto at_pixel(const BlendSource<T>& s, const A* maps, int64_t d, int y, int x, const Body& body) {
  using acc = acc_t<T>;
  const Sample<T> sample = sample_of(s.crop, d, y, x);
  const ResizedPixel<acc> pixel(y, x, s.side, s.crop.size, s.nearest);
  if constexpr (NUM == 4) {
    acc attention[4], crop[4];
    if (s.packed) {
      sample.four(0, crop);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      attention[k] = pixel(maps + k * s.side * s.side);
      crop[k] = s.packed ? crop[k] : sample(k * s.crop.stride_c);
    }
    return body([&](int k) { return attention[k]; }, [&](int k) { return crop[k]; });
  } else if (s.weighting == Weighting::one_hot) {
    const ResizedPixel<acc> part(y, x, s.side, s.crop.size, true);
    const int64_t plane = (static_cast<int64_t>(part.y0) * s.side + part.x0) * s.crop.stride_c;
    return body([](int) { return acc(1); }, [&](int) { return sample(plane); });
  } else {
    return body(
        [&](int k) { return pixel(maps + k * s.side * s.side); }, [&](int k) { return sample(k * s.crop.stride_c); });
  }
}

// Load the attentions of detection d to shared memory. Every thread of the block must call it.
template <typename T>
__device__ const acc_t<T>* shared_maps(const BlendSource<T>& s, int64_t d, acc_t<T>* shared) {
  const int numbers = s.num * s.side * s.side;
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) {
    shared[i] = static_cast<acc_t<T>>(s.attentions[d * numbers + i]);
  }
  __syncthreads();
  return shared;
}

template <typename T, int NUM, typename Body>
__device__ void each_pixel(const BlendSource<T>& s, acc_t<T>* shared, const Body& body) {
  const bool maps = s.weighting != Weighting::one_hot;
  const acc_t<T>* near = maps && s.in_shared ? shared_maps(s, blockIdx.x, shared) : nullptr;
  each_pixel(s.crop, [&](int64_t d, int i, int y, int x) {
    auto here = [&](const auto& attention, const auto& crop) { return body(d, i, y, x, attention, crop); };
    if (near != nullptr) {
      at_pixel<T, NUM>(s, near, d, y, x, here);
    } else {
      at_pixel<T, NUM>(s, maps ? s.attentions + d * s.num * s.side * s.side : nullptr, d, y, x, here);
    }
  });
}

extern __shared__ __align__(16) char blend_shared[];

template <typename T, int NUM>
__global__ void __launch_bounds__(kThreads) blend_forward(BlendSource<T> s, T* __restrict__ out) {
  using acc = acc_t<T>;
  const int num = NUM > 0 ? NUM : (s.weighting == Weighting::one_hot ? 1 : s.num);
  each_pixel<T, NUM>(
      s, reinterpret_cast<acc*>(blend_shared),
      [&](int64_t d, int i, int, int, const auto& attention, const auto& crop) {
        out[d * s.crop.size * s.crop.size + i] = static_cast<T>(blended<acc>(s.weighting, num, attention, crop));
      });
}

// grads: (N, K, H, W) contiguous, summed; with per_crop (D, K, R, R), where every number is written once.
template <typename T, int NUM>
__global__ void __launch_bounds__(kThreads)
    blend_backward_bases(BlendSource<T> s, const T* __restrict__ grad, acc_t<T>* __restrict__ grads, bool per_crop) {
  using acc = acc_t<T>;
  const bool one_hot = s.weighting == Weighting::one_hot;
  const int num = NUM > 0 ? NUM : (one_hot ? 1 : s.num);
  const int64_t pixels = static_cast<int64_t>(s.crop.size) * s.crop.size, plane = s.crop.height * s.crop.width;
  const int64_t n = s.crop.image[blockIdx.x];
  if (!per_crop && (n < 0 || n >= s.crop.images)) {
    return; // the whole block
  }
  each_pixel<T, NUM>(
      s, reinterpret_cast<acc*>(blend_shared),
      [&](int64_t d, int i, int y, int x, const auto& attention, const auto& crop) {
        const Spread<T> spread(s.crop, d, y, x);
        int first = 0; // plane of the crop's number 0
        if (one_hot) {
          const ResizedPixel<acc> part(y, x, s.side, s.crop.size, true);
          first = part.y0 * s.side + part.x0;
        }
        blended_backward<acc>(
            s.weighting, num, attention, crop, static_cast<acc>(grad[d * pixels + i]), [&](int k, acc, acc value) {
              if (per_crop) {
                grads[(d * num + k) * pixels + i] = value;
              } else {
                spread.add(grads + (n * s.crop.channels + first + k) * plane, value);
              }
            });
      });
}

// A block computes row blockIdx.y of the attentions of detection blockIdx.x. Threads first gather along y, each for its
// own columns x and every groups-th row of pixels, then along x. No two threads write to the same place.
template <typename T, int NUM>
__global__ void __launch_bounds__(kThreads) blend_backward_attentions(
    BlendSource<T> s, const T* __restrict__ grad, T* __restrict__ grad_attentions, int groups) {
  using acc = acc_t<T>;
  acc* shared = reinterpret_cast<acc*>(blend_shared); // (groups, K, R), then the attentions
  const int num = NUM > 0 ? NUM : s.num, size = s.crop.size, side = s.side;
  const int64_t d = blockIdx.x;
  const int row = blockIdx.y;
  const int lines = groups * num * size;
  for (int i = threadIdx.x; i < lines; i += blockDim.x) {
    shared[i] = acc(0);
  }
  const T* far = s.attentions + d * num * side * side;
  const acc* near = s.in_shared ? shared_maps(s, d, shared + lines) : nullptr;
  __syncthreads();
  const int columns = blockDim.x / groups, group = threadIdx.x / columns;
  int top, bottom;
  readers(row, side, size, top, bottom);
  for (int y = top + group; y < bottom; y += groups) {
    int i0, i1;
    acc w0, w1;
    resize_neighbours(y, side, size, s.nearest, i0, i1, w0, w1);
    const acc w = (i0 == row ? w0 : acc(0)) + (i1 == row ? w1 : acc(0));
    if (w == acc(0)) {
      continue;
    }
    for (int x = threadIdx.x % columns; x < size; x += columns) {
      const acc g = static_cast<acc>(grad[(d * size + y) * size + x]);
      auto here = [&](const auto& attention, const auto& crop) {
        blended_backward<acc>(s.weighting, num, attention, crop, g, [&](int k, acc value, acc) {
          shared[(group * num + k) * size + x] += w * value;
        });
      };
      if (near != nullptr) {
        at_pixel<T, NUM>(s, near, d, y, x, here);
      } else {
        at_pixel<T, NUM>(s, far, d, y, x, here);
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < num * side; i += blockDim.x) {
    const int k = i / side, column = i % side;
    int left, right;
    readers(column, side, size, left, right);
    acc sum = acc(0);
    for (int x = left; x < right; ++x) {
      int i0, i1;
      acc w0, w1;
      resize_neighbours(x, side, size, s.nearest, i0, i1, w0, w1);
      const acc w = (i0 == column ? w0 : acc(0)) + (i1 == column ? w1 : acc(0));
      acc value = acc(0);
      for (int group_ = 0; group_ < groups; ++group_) {
        value += shared[(group_ * num + k) * size + x];
      }
      sum += w * value;
    }
    grad_attentions[((d * num + k) * side + row) * side + column] = static_cast<T>(sum);
  }
}

template <typename T>
BlendSource<T> source_of(const BlendCall& call) {
  const int64_t num = call.bases.size(1), side = call.attentions.size(3);
  ADET_CHECK(
      num * side * side < (int64_t(1) << 31), "attentions must have less than 2^31 numbers a detection on a GPU; got ",
      shape_of(call.attentions));
  BlendSource<T> s{
      CropSource<T>(call.bases, call.boxes, call.image, call.size, call.scale, call.aligned),
      call.attentions.const_data_ptr<T>(),
      static_cast<int>(num),
      static_cast<int>(side),
      call.nearest,
      false,
      false,
      call.weighting};
  s.packed = s.crop.packs();
  return s;
}

template <typename T>
bool has_four(const BlendSource<T>& s) {
  return s.num == 4 && s.weighting != Weighting::one_hot;
}

// Bytes of shared memory for the attentions, if they fit, and for `others`; sets in_shared.
template <typename T>
size_t shared_bytes(BlendSource<T>& s, int64_t others) {
  const int64_t maps = s.weighting == Weighting::one_hot
                           ? 0
                           : static_cast<int64_t>(s.num) * s.side * s.side * static_cast<int64_t>(sizeof(acc_t<T>));
  s.in_shared = others + maps <= kSharedBytes;
  return static_cast<size_t>(others + (s.in_shared ? maps : 0));
}

template <typename T>
void start_forward(BlendSource<T> s, Tensor& out, cudaStream_t stream) {
  const size_t bytes = shared_bytes(s, 0);
  const dim3 grid = tiles_of(out.size(0), s.crop.size);
  if (has_four(s)) {
    blend_forward<T, 4><<<grid, kThreads, bytes, stream>>>(s, out.mutable_data_ptr<T>());
  } else {
    blend_forward<T, 0><<<grid, kThreads, bytes, stream>>>(s, out.mutable_data_ptr<T>());
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward_attentions(BlendSource<T> s, const Tensor& grad, Tensor& grad_attentions, cudaStream_t stream) {
  const int64_t line = static_cast<int64_t>(s.num) * s.crop.size * static_cast<int64_t>(sizeof(acc_t<T>));
  ADET_CHECK(
      line <= kSharedBytes, "K * R must be at most ", kSharedBytes / static_cast<int64_t>(sizeof(acc_t<T>)),
      " on a GPU; got ", s.num, " * ", s.crop.size);
  const int groups = s.crop.size <= 64 && 4 * line <= kSharedBytes ? 4 : 1;
  const size_t bytes = shared_bytes(s, groups * line);
  const dim3 grid(static_cast<unsigned>(grad.size(0)), static_cast<unsigned>(s.side));
  const T* g = grad.const_data_ptr<T>();
  T* to = grad_attentions.mutable_data_ptr<T>();
  if (has_four(s)) {
    blend_backward_attentions<T, 4><<<grid, kThreads, bytes, stream>>>(s, g, to, groups);
  } else {
    blend_backward_attentions<T, 0><<<grid, kThreads, bytes, stream>>>(s, g, to, groups);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward_bases(BlendSource<T> s, const Tensor& grad, Tensor& sums, bool per_crop, cudaStream_t stream) {
  const size_t bytes = shared_bytes(s, 0);
  const dim3 grid = tiles_of(grad.size(0), s.crop.size);
  const T* g = grad.const_data_ptr<T>();
  acc_t<T>* to = sums.mutable_data_ptr<acc_t<T>>();
  if (has_four(s)) {
    blend_backward_bases<T, 4><<<grid, kThreads, bytes, stream>>>(s, g, to, per_crop);
  } else {
    blend_backward_bases<T, 0><<<grid, kThreads, bytes, stream>>>(s, g, to, per_crop);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

struct Cuda {
  static const Tensor& ready(const Tensor& t) {
    return t;
  }

  static const Tensor& ready_bases(const Tensor& t) {
    return t;
  }

  static void forward(const BlendCall& call, Tensor& out) {
    const OnDeviceOf guard(out);
    ADET_DISPATCH(
        out.scalar_type(), "blend_masks", [&] { start_forward(source_of<scalar_t>(call), out, current_stream(out)); });
  }

  static void backward(
      const BlendCall& call, const Tensor& grad, Tensor* grad_bases, Tensor* grad_attentions, bool deterministic) {
    const OnDeviceOf guard(grad);
    const cudaStream_t stream = current_stream(grad);
    const ScalarType wide = sum_type(grad);
    const Tensor& bases = call.bases;
    ADET_DISPATCH(grad.scalar_type(), "blend_masks_backward", [&] {
      const auto s = source_of<scalar_t>(call);
      if (grad_attentions != nullptr) {
        backward_attentions(s, grad, *grad_attentions, stream);
      }
      if (grad_bases == nullptr) {
        return;
      }
      if (deterministic) {
        const bool one_hot = call.weighting == Weighting::one_hot;
        const int64_t planes = one_hot ? 1 : s.num;
        Tensor crops = torch::stable::new_empty(bases, {grad.size(0), planes, call.size, call.size}, wide);
        backward_bases(s, grad, crops, true, stream);
        launch_gather<scalar_t>(
            s.crop, crops, nullptr, planes, one_hot ? s.side : 0, grad.size(0), *grad_bases, stream);
        return;
      }
      Tensor sums = torch::stable::new_zeros(bases, {bases.size(0), bases.size(1), bases.size(2), bases.size(3)}, wide);
      backward_bases(s, grad, sums, false, stream);
      torch::stable::copy_(*grad_bases, sums);
    });
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("blend_masks", TORCH_BOX(&adet_ext::blend_masks<adet_ext::Cuda>));
  m.impl("blend_masks_backward", TORCH_BOX(&adet_ext::blend_masks_backward<adet_ext::Cuda>));
}
