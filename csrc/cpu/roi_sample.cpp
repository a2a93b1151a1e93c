// roi_sample on CPUs. Two memory formats, two loops:
// channels innermost: a point reads four rows of C values, vector by vector;
// planes (N, C, H, W): the positions and weights of the points are computed once a box, then used for all C planes.
#include "../roi_sample.h"
#include "cpu.h"

#include <algorithm>

namespace adet_ext {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// Compilers vectorize conversions of their own half type, but not those of PyTorch's.
#if defined(__FLT16_MANT_DIG__)
using half_t = _Float16;
#else
using half_t = Half;
#endif

// A thread computes at least about this many values.
constexpr int64_t kGrain = 1 << 14;
// In the backward pass, the channels of a thread are a multiple of those of a cache line.
constexpr int64_t kChannelBlock = 16;

template <typename acc>
struct Neighbours {
  int64_t i0, i1;
  acc w0, w1, s0, s1;
};

// The neighbors of part i of a side of a box, among the `size` cells of a map.
template <typename acc>
ADET_INLINE Neighbours<acc> side(
    const acc* low_high, int64_t i, int64_t parts, acc scale, int64_t size, Border border) {
  const acc p = part_centre(low_high[0], low_high[2], i, parts, scale);
  Neighbours<acc> n;
  neighbours(p, size, border, n.i0, n.i1, n.w0, n.w1);
  slopes(p, size, border, n.s0, n.s1);
  return n;
}

// Points as four arrays of positions and four of weights, each with `points` entries.
template <typename acc>
ADET_INLINE void tabulate(
    const Boxes<acc>& boxes, int64_t d, int64_t height, int64_t width, int64_t stride_y, int64_t stride_x, acc scale,
    int32_t* at, acc* weight) {
  const int64_t points = boxes.kh * boxes.kw;
  const acc* box = boxes.corners + 4 * d;
  for (int64_t j = 0; j < boxes.kh; ++j) {
    const Neighbours<acc> y = side(box + 1, j, boxes.kh, scale, height, boxes.border);
    for (int64_t i = 0; i < boxes.kw; ++i) {
      const Neighbours<acc> x = side(box, i, boxes.kw, scale, width, boxes.border);
      const int64_t p = j * boxes.kw + i;
      at[p] = static_cast<int32_t>(y.i0 * stride_y + x.i0 * stride_x);
      at[p + points] = static_cast<int32_t>(y.i0 * stride_y + x.i1 * stride_x);
      at[p + 2 * points] = static_cast<int32_t>(y.i1 * stride_y + x.i0 * stride_x);
      at[p + 3 * points] = static_cast<int32_t>(y.i1 * stride_y + x.i1 * stride_x);
      weight[p] = y.w0 * x.w0;
      weight[p + points] = y.w0 * x.w1;
      weight[p + 2 * points] = y.w1 * x.w0;
      weight[p + 3 * points] = y.w1 * x.w1;
    }
  }
}

// Rows of points, of kw each, numbered over all boxes from begin to end; out is (B, kh, kw, C).
template <typename T, typename acc>
ADET_INLINE void forward_rows(
    const Levels<const T, acc>& levels, const Boxes<acc>& boxes, int64_t channels, T* out, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t d = row / boxes.kh;
    const auto& x = levels.at[boxes.level[d]];
    T* to = out + row * boxes.kw * channels;
    const T* image = x.data + boxes.image[d] * x.stride_n;
    const acc* box = boxes.corners + 4 * d;
    const Neighbours<acc> v = side(box + 1, row % boxes.kh, boxes.kh, x.scale, x.height, boxes.border);
    const T* upper = image + v.i0 * x.stride_y;
    const T* lower = image + v.i1 * x.stride_y;
    for (int64_t i = 0; i < boxes.kw; ++i, to += channels) {
      const Neighbours<acc> u = side(box, i, boxes.kw, x.scale, x.width, boxes.border);
      const T *p00 = upper + u.i0 * x.stride_x, *p01 = upper + u.i1 * x.stride_x;
      const T *p10 = lower + u.i0 * x.stride_x, *p11 = lower + u.i1 * x.stride_x;
      const acc w00 = v.w0 * u.w0, w01 = v.w0 * u.w1, w10 = v.w1 * u.w0, w11 = v.w1 * u.w1;
      if (x.stride_c == 1) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          to[c] = static_cast<T>(
              w00 * static_cast<acc>(p00[c]) + w01 * static_cast<acc>(p01[c]) + w10 * static_cast<acc>(p10[c]) +
              w11 * static_cast<acc>(p11[c]));
        }
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t k = c * x.stride_c;
          to[c] = static_cast<T>(
              w00 * static_cast<acc>(p00[k]) + w01 * static_cast<acc>(p01[k]) + w10 * static_cast<acc>(p10[k]) +
              w11 * static_cast<acc>(p11[k]));
        }
      }
    }
  }
}

// Boxes from begin to end; out is (B, C, kh, kw). at and weight: room for four numbers a point.
template <typename T, typename acc>
ADET_INLINE void forward_planes(
    const Levels<const T, acc>& levels, const Boxes<acc>& boxes, int64_t channels, T* out, int32_t* at, acc* weight,
    int64_t begin, int64_t end) {
  const int64_t points = boxes.kh * boxes.kw;
  const int32_t *a00 = at, *a01 = at + points, *a10 = at + 2 * points, *a11 = at + 3 * points;
  const acc *w00 = weight, *w01 = weight + points, *w10 = weight + 2 * points, *w11 = weight + 3 * points;
  for (int64_t d = begin; d < end; ++d) {
    const auto& x = levels.at[boxes.level[d]];
    T* to = out + d * channels * points;
    tabulate(boxes, d, x.height, x.width, x.stride_y, x.stride_x, x.scale, at, weight);
    const T* plane = x.data + boxes.image[d] * x.stride_n;
    for (int64_t c = 0; c < channels; ++c, plane += x.stride_c, to += points) {
#pragma omp simd
      for (int64_t p = 0; p < points; ++p) {
        to[p] = static_cast<T>(
            w00[p] * static_cast<acc>(plane[a00[p]]) + w01[p] * static_cast<acc>(plane[a01[p]]) +
            w10[p] * static_cast<acc>(plane[a10[p]]) + w11[p] * static_cast<acc>(plane[a11[p]]));
      }
    }
  }
}

// All boxes, channels from begin to end: no two threads write to the same place, and the order of sums is fixed.
// grad is (B, kh, kw, C).
template <typename T, typename acc>
ADET_INLINE void backward_rows(
    const T* grad, const Levels<acc, acc>& levels, const Boxes<acc>& boxes, int64_t channels, int64_t begin,
    int64_t end) {
  for (int64_t row = 0; row < boxes.count * boxes.kh; ++row) {
    const int64_t d = row / boxes.kh;
    const auto& x = levels.at[boxes.level[d]];
    acc* image = x.data + boxes.image[d] * x.stride_n;
    const acc* box = boxes.corners + 4 * d;
    const Neighbours<acc> v = side(box + 1, row % boxes.kh, boxes.kh, x.scale, x.height, boxes.border);
    for (int64_t i = 0; i < boxes.kw; ++i) {
      const Neighbours<acc> u = side(box, i, boxes.kw, x.scale, x.width, boxes.border);
      const T* from = grad + (row * boxes.kw + i) * channels;
      // One neighbor after the other: at a border, two of them are the same cell.
      for (int corner = 0; corner < 4; ++corner) {
        const acc w = (corner < 2 ? v.w0 : v.w1) * (corner % 2 == 0 ? u.w0 : u.w1);
        acc* to = image + (corner < 2 ? v.i0 : v.i1) * x.stride_y + (corner % 2 == 0 ? u.i0 : u.i1) * x.stride_x;
        if (w == acc(0)) {
          continue;
        }
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) {
          to[c] += w * static_cast<acc>(from[c]);
        }
      }
    }
  }
}

// The same for planes; grad is (B, C, kh, kw).
template <typename T, typename acc>
ADET_INLINE void backward_planes(
    const T* grad, const Levels<acc, acc>& levels, const Boxes<acc>& boxes, int64_t channels, int32_t* at, acc* weight,
    int64_t begin, int64_t end) {
  const int64_t points = boxes.kh * boxes.kw;
  for (int64_t d = 0; d < boxes.count; ++d) {
    const auto& x = levels.at[boxes.level[d]];
    tabulate(boxes, d, x.height, x.width, x.stride_y, x.stride_x, x.scale, at, weight);
    for (int64_t c = begin; c < end; ++c) {
      const T* from = grad + (d * channels + c) * points;
      acc* plane = x.data + boxes.image[d] * x.stride_n + c * x.stride_c;
      for (int64_t p = 0; p < points; ++p) {
        const acc g = static_cast<acc>(from[p]);
        plane[at[p]] += weight[p] * g;
        plane[at[p + points]] += weight[p + points] * g;
        plane[at[p + 2 * points]] += weight[p + 2 * points] * g;
        plane[at[p + 3 * points]] += weight[p + 3 * points] * g;
      }
    }
  }
}

// Boxes from begin to end; grad is (B, kh, kw, C), out (B, 4).
template <typename T, typename acc>
ADET_INLINE void backward_boxes(
    const T* grad, const Levels<const T, acc>& levels, const Boxes<acc>& boxes, int64_t channels, acc* out,
    int64_t begin, int64_t end) {
  for (int64_t d = begin; d < end; ++d) {
    const auto& x = levels.at[boxes.level[d]];
    acc* to = out + 4 * d;
    to[0] = to[1] = to[2] = to[3] = acc(0);
    const T* image = x.data + boxes.image[d] * x.stride_n;
    const acc* box = boxes.corners + 4 * d;
    for (int64_t j = 0; j < boxes.kh; ++j) {
      const Neighbours<acc> v = side(box + 1, j, boxes.kh, x.scale, x.height, boxes.border);
      for (int64_t i = 0; i < boxes.kw; ++i) {
        const Neighbours<acc> u = side(box, i, boxes.kw, x.scale, x.width, boxes.border);
        const T* from = grad + ((d * boxes.kh + j) * boxes.kw + i) * channels;
        const T* p00 = image + v.i0 * x.stride_y + u.i0 * x.stride_x;
        const T* p01 = image + v.i0 * x.stride_y + u.i1 * x.stride_x;
        const T* p10 = image + v.i1 * x.stride_y + u.i0 * x.stride_x;
        const T* p11 = image + v.i1 * x.stride_y + u.i1 * x.stride_x;
        acc s00 = 0, s01 = 0, s10 = 0, s11 = 0;
        if (x.stride_c == 1) {
#pragma omp simd reduction(+ : s00, s01, s10, s11)
          for (int64_t c = 0; c < channels; ++c) {
            const acc g = static_cast<acc>(from[c]);
            s00 += g * static_cast<acc>(p00[c]);
            s01 += g * static_cast<acc>(p01[c]);
            s10 += g * static_cast<acc>(p10[c]);
            s11 += g * static_cast<acc>(p11[c]);
          }
        } else {
          for (int64_t c = 0; c < channels; ++c) {
            const acc g = static_cast<acc>(from[c]);
            const int64_t k = c * x.stride_c;
            s00 += g * static_cast<acc>(p00[k]);
            s01 += g * static_cast<acc>(p01[k]);
            s10 += g * static_cast<acc>(p10[k]);
            s11 += g * static_cast<acc>(p11[k]);
          }
        }
        const acc by_x = (v.w0 * (u.s0 * s00 + u.s1 * s01) + v.w1 * (u.s0 * s10 + u.s1 * s11)) * x.scale;
        const acc by_y = (u.w0 * (v.s0 * s00 + v.s1 * s10) + u.w1 * (v.s0 * s01 + v.s1 * s11)) * x.scale;
        const acc part_x = (acc(i) + acc(0.5)) / acc(boxes.kw), part_y = (acc(j) + acc(0.5)) / acc(boxes.kh);
        to[0] += by_x * (acc(1) - part_x);
        to[1] += by_y * (acc(1) - part_y);
        to[2] += by_x * part_x;
        to[3] += by_y * part_y;
      }
    }
  }
}

// One plain function for each type and loop, so that each is compiled for several instruction sets.
#define ADET_ROI_SAMPLE_KERNELS(T, acc)                                                                                \
  ADET_CLONES void run_forward_rows(                                                                                   \
      const Levels<const T, acc>& levels, const Boxes<acc>& boxes, int64_t channels, T* out, int64_t begin,            \
      int64_t end) {                                                                                                   \
    forward_rows<T, acc>(levels, boxes, channels, out, begin, end);                                                    \
  }                                                                                                                    \
  ADET_CLONES void run_forward_planes(                                                                                 \
      const Levels<const T, acc>& levels, const Boxes<acc>& boxes, int64_t channels, T* out, int32_t* at, acc* weight, \
      int64_t begin, int64_t end) {                                                                                    \
    forward_planes<T, acc>(levels, boxes, channels, out, at, weight, begin, end);                                      \
  }                                                                                                                    \
  ADET_CLONES void run_backward_rows(                                                                                  \
      const T* grad, const Levels<acc, acc>& levels, const Boxes<acc>& boxes, int64_t channels, int64_t begin,         \
      int64_t end) {                                                                                                   \
    backward_rows<T, acc>(grad, levels, boxes, channels, begin, end);                                                  \
  }                                                                                                                    \
  ADET_CLONES void run_backward_planes(                                                                                \
      const T* grad, const Levels<acc, acc>& levels, const Boxes<acc>& boxes, int64_t channels, int32_t* at,           \
      acc* weight, int64_t begin, int64_t end) {                                                                       \
    backward_planes<T, acc>(grad, levels, boxes, channels, at, weight, begin, end);                                    \
  }                                                                                                                    \
  ADET_CLONES void run_backward_boxes(                                                                                 \
      const T* grad, const Levels<const T, acc>& levels, const Boxes<acc>& boxes, int64_t channels, acc* out,          \
      int64_t begin, int64_t end) {                                                                                    \
    backward_boxes<T, acc>(grad, levels, boxes, channels, out, begin, end);                                            \
  }

ADET_ROI_SAMPLE_KERNELS(float, float)
ADET_ROI_SAMPLE_KERNELS(double, double)
ADET_ROI_SAMPLE_KERNELS(half_t, float)
ADET_ROI_SAMPLE_KERNELS(BFloat16, float)

template <typename T>
struct Storage {
  using type = T;
};
template <>
struct Storage<Half> {
  using type = half_t;
};

void check_indices(const Tensor& index, const char* name, int64_t size) {
  const int64_t* p = static_cast<const int64_t*>(index.const_data_ptr());
  for (int64_t d = 0; d < index.size(0); ++d) {
    ADET_CHECK(p[d] >= 0 && p[d] < size, name, "[", d, "] must be 0 to ", size - 1, "; got ", p[d]);
  }
}

struct Cpu {
  static void forward(
      const RoiCall& call, const std::vector<Tensor>& features, const std::vector<double>& scales, bool channels_last,
      Tensor& out) {
    const int64_t count = out.size(0), channels = out.size(1), kh = call.kh, kw = call.kw;
    check_indices(call.image, "image", features[0].size(0));
    check_indices(call.level, "level", static_cast<int64_t>(features.size()));
    ADET_DISPATCH(out.scalar_type(), "roi_sample", [&] {
      using T = typename Storage<scalar_t>::type;
      using acc = acc_t<scalar_t>;
      const auto levels = make_levels<const T, acc>(features, scales);
      const auto boxes = call.boxes<acc>();
      T* to = static_cast<T*>(out.mutable_data_ptr());
      if (channels_last) {
        const int64_t grain = std::max<int64_t>(kGrain / (channels * kw), 1);
        parallel_for(0, count * kh, grain, [&](int64_t begin, int64_t end) {
          run_forward_rows(levels, boxes, channels, to, begin, end);
        });
      } else {
        const int64_t grain = std::max<int64_t>(kGrain / (channels * kw * kh), 1);
        parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
          std::vector<int32_t> at(4 * kh * kw);
          std::vector<acc> weight(4 * kh * kw);
          run_forward_planes(levels, boxes, channels, to, at.data(), weight.data(), begin, end);
        });
      }
    });
  }

  static void backward_features(
      const RoiCall& call, const Tensor& grad, const std::vector<int64_t>& sizes, const std::vector<double>& scales,
      bool channels_last, bool /* deterministic: always the case */, std::vector<Tensor>& buffers) {
    const Tensor g = dense_grad(grad, channels_last);
    const int64_t channels = grad.size(1), points = call.kh * call.kw;
    ADET_DISPATCH(grad.scalar_type(), "roi_sample_backward_features", [&] {
      using T = typename Storage<scalar_t>::type;
      using acc = acc_t<scalar_t>;
      const auto levels = make_gradients<acc>(grad, sizes, scales, channels_last, buffers);
      check_indices(call.image, "image", levels.images);
      check_indices(call.level, "level", levels.count);
      const auto boxes = call.boxes<acc>();
      const T* from = static_cast<const T*>(g.const_data_ptr());
      const int64_t blocks = (channels + kChannelBlock - 1) / kChannelBlock;
      parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
        const int64_t begin = first * kChannelBlock, end = std::min(last * kChannelBlock, channels);
        if (channels_last) {
          run_backward_rows(from, levels, boxes, channels, begin, end);
        } else {
          std::vector<int32_t> at(4 * points);
          std::vector<acc> weight(4 * points);
          run_backward_planes(from, levels, boxes, channels, at.data(), weight.data(), begin, end);
        }
      });
    });
  }

  static void backward_boxes(
      const RoiCall& call, const Tensor& grad, const std::vector<Tensor>& features, const std::vector<double>& scales,
      Tensor& out) {
    check_indices(call.image, "image", features[0].size(0));
    check_indices(call.level, "level", static_cast<int64_t>(features.size()));
    ADET_DISPATCH(grad.scalar_type(), "roi_sample_backward_boxes", [&] {
      using T = typename Storage<scalar_t>::type;
      using acc = acc_t<scalar_t>;
      const auto levels = make_levels<const T, acc>(features, scales);
      const auto boxes = call.boxes<acc>();
      const T* from = static_cast<const T*>(grad.const_data_ptr());
      acc* to = out.mutable_data_ptr<acc>();
      const int64_t channels = features[0].size(1), values = std::max<int64_t>(channels * call.kh * call.kw, 1);
      parallel_for(0, boxes.count, std::max<int64_t>(kGrain / values, 1), [&](int64_t begin, int64_t end) {
        run_backward_boxes(from, levels, boxes, channels, to, begin, end);
      });
    });
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("roi_sample", TORCH_BOX(&adet_ext::roi_sample<adet_ext::Cpu>));
  m.impl("roi_sample_backward_features", TORCH_BOX(&adet_ext::roi_sample_backward_features<adet_ext::Cpu>));
  m.impl("roi_sample_backward_boxes", TORCH_BOX(&adet_ext::roi_sample_backward_boxes<adet_ext::Cpu>));
}
