// The gradient of the bases without atomics, so that it is the same in every run: each number of it gathers from the
// masks that read it, detection by detection. It needs the gradients of the (projected) crops, (D, K, R, R), in memory.
#pragma once

#include "blend_pixel.cuh"

namespace adet_ext {

// Points [first, last) of n of a side of a box that contain all points that read cell i.
template <typename acc>
__device__ void crop_readers(
    acc low, acc high, int n, acc scale, bool aligned, int64_t i, int64_t cells, int& first, int& last) {
  const acc p0 = crop_point(low, high, 0, n, scale, aligned);
  const acc step = n > 1 ? crop_point(low, high, 1, n, scale, aligned) - p0 : acc(0);
  // The first and last cells are also read from up to a cell outside.
  const acc from = (i == 0 ? acc(-1) : acc(i - 1)) - p0, to = (i == cells - 1 ? acc(cells) : acc(i + 1)) - p0;
  first = 0;
  last = n;
  if (step > acc(1e-6) || step < acc(-1e-6)) {
    const acc a = (step > acc(0) ? from : to) / step, b = (step > acc(0) ? to : from) / step;
    const acc lowest = floor(a) - acc(1), highest = ceil(b) + acc(2);
    first = lowest > acc(0) ? static_cast<int>(lowest < acc(n) ? lowest : acc(n)) : 0;
    last = highest < acc(n) ? static_cast<int>(highest > acc(0) ? highest : acc(0)) : n;
  }
}

// The weight with which a point reads cell i.
template <typename acc>
__device__ acc weight_on(acc p, int64_t i, int64_t cells) {
  int64_t i0, i1;
  acc w0, w1;
  neighbours(p, cells, Border::clamp, i0, i1, w0, w1);
  return (i0 == i ? w0 : acc(0)) + (i1 == i ? w1 : acc(0));
}

// One thread for each cell (n, y, x) and channel. grads (D, K, R, R); t (D, K, C); if null, channel c gathers from its
// own plane k = c. With `side` > 0 (the assembler), grads has one plane, and channel c gathers from its part of it.
template <typename T>
__global__ void gather_crops(
    CropSource<T> s, const acc_t<T>* __restrict__ grads, const T* __restrict__ t, int num, int side, int64_t count,
    T* __restrict__ out, int64_t out_n, int64_t out_c, int64_t out_y, int64_t out_x) {
  using acc = acc_t<T>;
  const int64_t cells = s.images * s.channels * s.height * s.width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < cells;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t x = i % s.width, y = i / s.width % s.height, c = i / (s.width * s.height) % s.channels;
    const int64_t n = i / (s.width * s.height * s.channels);
    acc sum = acc(0);
    for (int64_t d = 0; d < count; ++d) {
      if (s.image[d] != n) {
        continue;
      }
      const acc* box = s.boxes + d * 4;
      int top, bottom, left, right;
      crop_readers(box[1], box[3], s.size, s.scale, s.aligned, y, s.height, top, bottom);
      crop_readers(box[0], box[2], s.size, s.scale, s.aligned, x, s.width, left, right);
      for (int py = top; py < bottom; ++py) {
        const acc wy = weight_on(crop_point(box[1], box[3], py, s.size, s.scale, s.aligned), y, s.height);
        if (wy == acc(0)) {
          continue;
        }
        for (int px = left; px < right; ++px) {
          const acc w = wy * weight_on(crop_point(box[0], box[2], px, s.size, s.scale, s.aligned), x, s.width);
          if (w == acc(0)) {
            continue;
          }
          const int64_t pixel = static_cast<int64_t>(py) * s.size + px, plane = static_cast<int64_t>(s.size) * s.size;
          if (side > 0) {
            const ResizedPixel<acc> part(py, px, side, s.size, true);
            sum += part.y0 * side + part.x0 == c ? w * grads[d * plane + pixel] : acc(0);
          } else if (t == nullptr) {
            sum += w * grads[(d * num + c) * plane + pixel];
          } else {
            for (int k = 0; k < num; ++k) {
              sum += w * static_cast<acc>(t[(d * num + k) * s.channels + c]) * grads[(d * num + k) * plane + pixel];
            }
          }
        }
      }
    }
    out[n * out_n + c * out_c + y * out_y + x * out_x] = static_cast<T>(sum);
  }
}

template <typename T>
void launch_gather(
    const CropSource<T>& s, const Tensor& grads, const T* t, int64_t num, int64_t side, int64_t count, Tensor& out,
    cudaStream_t stream) {
  const int64_t cells = out.numel();
  if (cells == 0) {
    return;
  }
  const int64_t blocks = (cells + kThreads - 1) / kThreads;
  gather_crops<T><<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), kThreads, 0, stream>>>(
      s, grads.const_data_ptr<acc_t<T>>(), t, static_cast<int>(num), static_cast<int>(side), count,
      out.mutable_data_ptr<T>(), out.stride(0), out.stride(1), out.stride(2), out.stride(3));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

} // namespace adet_ext
