// Blending on GPUs: one pixel of a mask. Its sample of the crop, the attentions that it reads, how both are combined,
// and the gradients.
#pragma once

#include "../blend.h"
#include "cuda.h"

namespace adet_ext {

constexpr int kThreads = 256;
constexpr int kPixelsOfBlock = 2 * kThreads; // of one mask: a block computes a tile of it
constexpr int64_t kSharedBytes = 48 * 1024;  // what every GPU has by default

// Maps of any layout and the boxes that crop them.
template <typename T>
struct CropSource {
  const T* maps; // (N, C, H, W)
  const acc_t<T>* boxes;
  const int64_t* image;
  int64_t images, channels, height, width;
  int64_t stride_n, stride_c, stride_y, stride_x;
  int size;
  acc_t<T> scale;
  bool aligned;

  CropSource(
      const Tensor& bases, const Tensor& boxes_, const Tensor& image_, int64_t size_, double scale_, bool aligned_)
      : maps(bases.const_data_ptr<T>()),
        boxes(boxes_.const_data_ptr<acc_t<T>>()),
        image(image_.const_data_ptr<int64_t>()),
        images(bases.size(0)),
        channels(bases.size(1)),
        height(bases.size(2)),
        width(bases.size(3)),
        stride_n(bases.stride(0)),
        stride_c(bases.stride(1)),
        stride_y(bases.stride(2)),
        stride_x(bases.stride(3)),
        size(static_cast<int>(size_)),
        scale(static_cast<acc_t<T>>(scale_)),
        aligned(aligned_) {}

  // Four vectors of channels at once: channels-last, aligned.
  bool packs() const {
    const uintptr_t bytes = sizeof(T) * 4;
    return stride_c == 1 && channels % 4 == 0 && reinterpret_cast<uintptr_t>(maps) % bytes == 0 && stride_n % 4 == 0 &&
           stride_y % 4 == 0 && stride_x % 4 == 0;
  }
};

// The four neighbors of one sample, as offsets from the first number of its image.
template <typename T>
struct Sample {
  using acc = acc_t<T>;
  const T* base;
  int64_t at[4];
  acc weight[4];

  __device__ acc operator()(int64_t offset) const {
    return weight[0] * static_cast<acc>(base[at[0] + offset]) + weight[1] * static_cast<acc>(base[at[1] + offset]) +
           weight[2] * static_cast<acc>(base[at[2] + offset]) + weight[3] * static_cast<acc>(base[at[3] + offset]);
  }

  // Channels c to c + 3; only if CropSource::packs.
  __device__ void four(int64_t c, acc* value) const {
    for (int i = 0; i < 4; ++i) {
      value[i] = acc(0);
    }
    for (int j = 0; j < 4; ++j) {
      const Pack<T, 4> pack = *reinterpret_cast<const Pack<T, 4>*>(base + at[j] + c);
      for (int i = 0; i < 4; ++i) {
        value[i] += weight[j] * static_cast<acc>(pack.value[i]);
      }
    }
  }
};

// The neighbors of sample (y, x) of mask d, and their weights.
template <typename T>
__device__ Corners<acc_t<T>> corners_of(const CropSource<T>& s, int64_t d, int y, int x) {
  const acc_t<T>* box = s.boxes + d * 4;
  return corners(
      crop_point(box[1], box[3], y, s.size, s.scale, s.aligned),
      crop_point(box[0], box[2], x, s.size, s.scale, s.aligned), s.height, s.width, Border::clamp);
}

// An image out of range reads zeros, as a box that is not finite does: refusing it would make the host wait.
template <typename T>
__device__ Sample<T> sample_of(const CropSource<T>& s, int64_t d, int y, int x) {
  using acc = acc_t<T>;
  const int64_t n = s.image[d];
  const Corners<acc> c = corners_of(s, d, y, x);
  const bool exists = n >= 0 && n < s.images;
  const int64_t y0 = c.y0 * s.stride_y, y1 = c.y1 * s.stride_y, x0 = c.x0 * s.stride_x, x1 = c.x1 * s.stride_x;
  const acc one = exists ? acc(1) : acc(0);
  return {
      s.maps + (exists ? n * s.stride_n : 0),
      {y0 + x0, y0 + x1, y1 + x0, y1 + x1},
      {one * c.w00, one * c.w01, one * c.w10, one * c.w11}};
}

// The adjoint of a sample, into contiguous planes (H, W).
template <typename T>
struct Spread {
  using acc = acc_t<T>;
  int64_t at[4];
  acc weight[4];

  __device__ Spread(const CropSource<T>& s, int64_t d, int y, int x) {
    const Corners<acc> c = corners_of(s, d, y, x);
    at[0] = c.y0 * s.width + c.x0, at[1] = c.y0 * s.width + c.x1;
    at[2] = c.y1 * s.width + c.x0, at[3] = c.y1 * s.width + c.x1;
    weight[0] = c.w00, weight[1] = c.w01, weight[2] = c.w10, weight[3] = c.w11;
  }

  __device__ void add(acc* plane, acc value) const {
    for (int j = 0; j < 4; ++j) {
      if (weight[j] != acc(0)) {
        atomicAdd(plane + at[j], weight[j] * value);
      }
    }
  }
};

// Blocks (x: detections, y: tiles of their masks).
inline dim3 tiles_of(int64_t count, int64_t size) {
  ADET_CHECK(count < (int64_t(1) << 31), "boxes must have less than 2^31 rows on a GPU; got ", count);
  return dim3(static_cast<unsigned>(count), static_cast<unsigned>((size * size + kPixelsOfBlock - 1) / kPixelsOfBlock));
}

// Calls body(d, i, y, x) for the pixels i = (y, x) of this block's tile of mask d.
template <typename T, typename Body>
__device__ void each_pixel(const CropSource<T>& s, const Body& body) {
  const int pixels = s.size * s.size, start = blockIdx.y * kPixelsOfBlock;
  const int end = start + kPixelsOfBlock < pixels ? start + kPixelsOfBlock : pixels;
  for (int i = start + threadIdx.x; i < end; i += blockDim.x) {
    body(static_cast<int64_t>(blockIdx.x), i, i / s.size, i % s.size);
  }
}

// Maps of M x M, resized to the side of the mask.
template <typename acc>
struct ResizedPixel {
  int y0, y1, x0, x1;
  acc wy0, wy1, wx0, wx1;
  int side;

  __device__ ResizedPixel(int y, int x, int side_, int size, bool nearest) : side(side_) {
    resize_neighbours(y, side, size, nearest, y0, y1, wy0, wy1);
    resize_neighbours(x, side, size, nearest, x0, x1, wx0, wx1);
  }

  template <typename T>
  __device__ acc operator()(const T* map) const {
    const acc above = wx0 * static_cast<acc>(map[y0 * side + x0]) + wx1 * static_cast<acc>(map[y0 * side + x1]);
    const acc below = wx0 * static_cast<acc>(map[y1 * side + x0]) + wx1 * static_cast<acc>(map[y1 * side + x1]);
    return wy0 * above + wy1 * below;
  }
};

// Pixels [first, last) of n that contain all pixels that read cell i of m.
__device__ inline void readers(int i, int m, int n, int& first, int& last) {
  const float step = static_cast<float>(n) / static_cast<float>(m);
  const int low = static_cast<int>(floorf((static_cast<float>(i) - 0.5f) * step - 0.5f)) - 1;
  const int high = static_cast<int>(ceilf((static_cast<float>(i) + 1.5f) * step - 0.5f)) + 2;
  first = low > 0 ? low : 0;
  last = high < n ? high : n;
}

// log(p / (1 - p)) of p = sigmoid(a) sigmoid(b), and its derivatives.
template <typename acc>
__device__ acc product_of_sigmoids(acc a, acc b, acc& share_a, acc& share_b) {
  a = -a;
  b = -b;
  acc top = a > b ? a : b;
  top = a + b > top ? a + b : top;
  const acc ea = exp(a - top), eb = exp(b - top), both = exp(a + b - top), sum = ea + eb + both;
  share_a = (ea + both) / sum;
  share_b = (eb + both) / sum;
  return -(top + log(sum));
}

// The softmax of num attentions and the weighted sum of the crop, in one pass. attention(k) and crop(k) each return a
// number.
template <typename acc>
struct Weighted {
  acc top, sum, total;

  template <typename A, typename C>
  __device__ Weighted(int num, const A& attention, const C& crop) {
    top = attention(0);
    sum = acc(1);
    total = crop(0);
    for (int k = 1; k < num; ++k) {
      const acc a = attention(k), value = crop(k);
      if (a > top) {
        const acc less = exp(top - a);
        sum = sum * less + acc(1);
        total = total * less + value;
        top = a;
      } else {
        const acc e = exp(a - top);
        sum += e;
        total += e * value;
      }
    }
  }
};

// One number of a mask.
template <typename acc, typename A, typename C>
__device__ acc blended(Weighting weighting, int num, const A& attention, const C& crop) {
  if (weighting != Weighting::softmax) {
    acc sum = acc(0);
    for (int k = 0; k < num; ++k) {
      sum += attention(k) * crop(k);
    }
    return sum;
  }
  if (num == 1) {
    acc share_a, share_b;
    return product_of_sigmoids(attention(0), crop(0), share_a, share_b);
  }
  const Weighted<acc> w(num, attention, crop);
  return w.total / w.sum;
}

// Calls emit(k, gradient of attention k, gradient of number k of the crop) for the gradient g of a mask.
template <typename acc, typename A, typename C, typename Emit>
__device__ void blended_backward(
    Weighting weighting, int num, const A& attention, const C& crop, acc g, const Emit& emit) {
  if (weighting != Weighting::softmax) {
    for (int k = 0; k < num; ++k) {
      emit(k, g * crop(k), g * attention(k));
    }
    return;
  }
  if (num == 1) {
    acc share_a, share_b;
    product_of_sigmoids(attention(0), crop(0), share_a, share_b);
    emit(0, g * share_a, g * share_b);
    return;
  }
  const Weighted<acc> w(num, attention, crop);
  const acc out = w.total / w.sum;
  for (int k = 0; k < num; ++k) {
    const acc share = g * exp(attention(k) - w.top) / w.sum;
    emit(k, share * (crop(k) - out), share);
  }
}

} // namespace adet_ext
