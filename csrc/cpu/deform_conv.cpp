// deform_conv on CPUs, a chunk of places after the other: their samples are laid in rows of T C values, which stay in the
// cache for the product with the weights. Channels are innermost in x and in the rows, so a sample is a weighted sum of
// four rows of C / G values, vector by vector. The backward pass makes the samples again.
#include "../bilinear.h"
#include "../deform_conv.h"
#include "cpu.h"

#include <algorithm>

namespace adet_ext {
namespace {

// Bytes of the samples of a chunk, for each thread.
constexpr int64_t kChunk = 1 << 20;
// A thread computes at least about this many values.
constexpr int64_t kGrain = 1 << 14;
// The channels of a thread are a multiple of those of a cache line.
constexpr int64_t kChannelBlock = 16;

template <typename T>
struct Maps {
  const T *x, *offsets, *mask;
};

template <typename T>
struct MapGradients {
  T *x, *offsets, *mask;
};

// The sample of a tap: where it lies, and its neighbors.
template <typename T>
struct Sample {
  T y, x, factor;
  int64_t at[4]; // of the neighbors, in elements from the first of the image
  Corners<T> corners;
};

// `item` is a place of all images; `part` a tap of a group among all: g T + t.
template <typename T>
ADET_INLINE Sample<T> sample_of(const Maps<T>& maps, const DeformShape& s, int64_t item, int64_t part) {
  const int64_t places = s.places(), image = item / places, place = item % places, tap = part % s.taps();
  const int64_t plane = image * s.groups * s.taps() + part;
  const int64_t row = place / s.out[1] * s.stride[0] - s.padding[0] + tap / s.kernel[1] * s.dilation[0];
  const int64_t column = place % s.out[1] * s.stride[1] - s.padding[1] + tap % s.kernel[1] * s.dilation[1];
  const T* offset = maps.offsets + 2 * plane * places + place;
  Sample<T> found;
  found.y = static_cast<T>(row) + offset[0];
  found.x = static_cast<T>(column) + offset[places];
  found.factor = maps.mask[plane * places + place];
  const auto c = found.corners = corners(found.y, found.x, s.in[0], s.in[1], Border::zeros);
  const int64_t first = image * s.in[0];
  found.at[0] = ((first + c.y0) * s.in[1] + c.x0) * s.channels;
  found.at[1] = ((first + c.y0) * s.in[1] + c.x1) * s.channels;
  found.at[2] = ((first + c.y1) * s.in[1] + c.x0) * s.channels;
  found.at[3] = ((first + c.y1) * s.in[1] + c.x1) * s.channels;
  return found;
}

// The samples of places from begin to end; `rows` has those of the first one first.
template <typename T>
ADET_INLINE void sample_places(const Maps<T>& maps, const DeformShape& s, T* rows, int64_t begin, int64_t end) {
  const int64_t taps = s.taps(), width = s.width();
  for (int64_t item = begin; item < end; ++item, rows += s.row()) {
    for (int64_t part = 0; part < taps * s.groups; ++part) {
      const auto sample = sample_of(maps, s, item, part);
      const int64_t first = part / taps * width; // channel
      T* to = rows + part % taps * s.channels + first;
      const T *p00 = maps.x + sample.at[0] + first, *p01 = maps.x + sample.at[1] + first;
      const T *p10 = maps.x + sample.at[2] + first, *p11 = maps.x + sample.at[3] + first;
      const T w00 = sample.corners.w00 * sample.factor, w01 = sample.corners.w01 * sample.factor;
      const T w10 = sample.corners.w10 * sample.factor, w11 = sample.corners.w11 * sample.factor;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        to[c] = w00 * p00[c] + w01 * p01[c] + w10 * p10[c] + w11 * p11[c];
      }
    }
  }
}

// The gradients of offsets and factors at places from begin to end, from those of their samples.
template <typename T>
ADET_INLINE void backward_places(
    const T* rows, const Maps<T>& maps, const DeformShape& s, const MapGradients<T>& by, int64_t begin, int64_t end) {
  const int64_t places = s.places(), taps = s.taps(), width = s.width();
  for (int64_t item = begin; item < end; ++item, rows += s.row()) {
    for (int64_t part = 0; part < taps * s.groups; ++part) {
      const auto sample = sample_of(maps, s, item, part);
      const int64_t first = part / taps * width;
      const T* from = rows + part % taps * s.channels + first;
      const T *p00 = maps.x + sample.at[0] + first, *p01 = maps.x + sample.at[1] + first;
      const T *p10 = maps.x + sample.at[2] + first, *p11 = maps.x + sample.at[3] + first;
      T s00 = 0, s01 = 0, s10 = 0, s11 = 0;
#pragma omp simd reduction(+ : s00, s01, s10, s11)
      for (int64_t c = 0; c < width; ++c) {
        s00 += from[c] * p00[c];
        s01 += from[c] * p01[c];
        s10 += from[c] * p10[c];
        s11 += from[c] * p11[c];
      }
      int64_t i0, i1;
      T y0, y1, x0, x1, dy0, dy1, dx0, dx1;
      neighbours(sample.y, s.in[0], Border::zeros, i0, i1, y0, y1);
      neighbours(sample.x, s.in[1], Border::zeros, i0, i1, x0, x1);
      slopes(sample.y, s.in[0], Border::zeros, dy0, dy1);
      slopes(sample.x, s.in[1], Border::zeros, dx0, dx1);
      const int64_t place = item % places, plane = item / places * s.groups * taps + part;
      T* offsets = by.offsets + 2 * plane * places + place;
      by.mask[plane * places + place] = y0 * (x0 * s00 + x1 * s01) + y1 * (x0 * s10 + x1 * s11);
      offsets[0] = sample.factor * (dy0 * (x0 * s00 + x1 * s01) + dy1 * (x0 * s10 + x1 * s11));
      offsets[places] = sample.factor * (dx0 * (y0 * s00 + y1 * s10) + dx1 * (y0 * s01 + y1 * s11));
    }
  }
}

// The gradient of x in channels from low to high, from samples of places from begin to end.
template <typename T>
ADET_INLINE void backward_channels(
    const T* rows, const Maps<T>& maps, const DeformShape& s, const MapGradients<T>& by, int64_t begin, int64_t end,
    int64_t low, int64_t high) {
  const int64_t taps = s.taps(), width = s.width();
  for (int64_t item = begin; item < end; ++item, rows += s.row()) {
    for (int64_t part = low / width * taps; part < ((high - 1) / width + 1) * taps; ++part) {
      const auto sample = sample_of(maps, s, item, part);
      const T weights[4] = {sample.corners.w00, sample.corners.w01, sample.corners.w10, sample.corners.w11};
      const int64_t first = std::max(low, part / taps * width), last = std::min(high, (part / taps + 1) * width);
      const T* from = rows + part % taps * s.channels;
      // One neighbor after the other: at a border, two of them are the same cell.
      for (int corner = 0; corner < 4; ++corner) {
        const T w = weights[corner] * sample.factor;
        if (w == T(0)) {
          continue;
        }
        T* to = by.x + sample.at[corner];
#pragma omp simd
        for (int64_t c = first; c < last; ++c) {
          to[c] += w * from[c];
        }
      }
    }
  }
}

template <typename T>
ADET_INLINE void add(T* to, const T* from, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    to[i] += from[i];
  }
}

// One plain function for each type and loop, so that each is compiled for several instruction sets.
#define ADET_DEFORM_KERNELS(T)                                                                                    \
  ADET_CLONES void run_samples(const Maps<T>& maps, const DeformShape& s, T* rows, int64_t begin, int64_t end) {  \
    sample_places(maps, s, rows, begin, end);                                                                     \
  }                                                                                                               \
  ADET_CLONES void run_backward_places(                                                                           \
      const T* rows, const Maps<T>& maps, const DeformShape& s, const MapGradients<T>& by, int64_t begin,         \
      int64_t end) {                                                                                              \
    backward_places(rows, maps, s, by, begin, end);                                                               \
  }                                                                                                               \
  ADET_CLONES void run_backward_channels(                                                                         \
      const T* rows, const Maps<T>& maps, const DeformShape& s, const MapGradients<T>& by, int64_t begin,         \
      int64_t end, int64_t low, int64_t high) {                                                                   \
    backward_channels(rows, maps, s, by, begin, end, low, high);                                                  \
  }                                                                                                               \
  ADET_CLONES void run_add(T* to, const T* from, int64_t begin, int64_t end) {                                    \
    add(to, from, begin, end);                                                                                    \
  }

ADET_DEFORM_KERNELS(float)
ADET_DEFORM_KERNELS(double)

template <typename T>
Maps<T> maps_of(const DeformInputs& inputs) {
  return {
      inputs.x.const_data_ptr<T>(), inputs.offsets.const_data_ptr<T>(), inputs.mask.const_data_ptr<T>()};
}

// A channels-last tensor as a matrix: a row of channels for each place.
Tensor matrix_of(const Tensor& t, int64_t rows, int64_t columns) {
  return torch::stable::view(torch::stable::permute(t, {0, 2, 3, 1}), {rows, columns});
}

// Calls `run(samples, begin, end)` with the samples (places, T C) of chunks of places.
template <typename T, typename Run>
void for_chunks(const DeformShape& s, const DeformInputs& inputs, const Run& run) {
  const auto maps = maps_of<T>(inputs);
  const int64_t items = s.images * s.places();
  const int64_t budget = kChunk * torch::stable::get_num_threads() / (s.row() * sizeof(T));
  // At least as many as the weights have rows, which are read once a chunk.
  const int64_t size = std::min(std::max<int64_t>(budget, s.outputs), items);
  Tensor room = torch::stable::new_empty(inputs.x, {size, s.row()});
  for (int64_t begin = 0; begin < items; begin += size) {
    const int64_t end = std::min(begin + size, items);
    Tensor samples = torch::stable::narrow(room, 0, 0, end - begin);
    T* rows = samples.mutable_data_ptr<T>();
    parallel_for(begin, end, std::max<int64_t>(kGrain / s.row(), 1), [&](int64_t first, int64_t last) {
      run_samples(maps, s, rows + (first - begin) * s.row(), first, last);
    });
    run(samples, begin, end);
  }
}

struct Cpu {
  static void forward(const DeformShape& s, const DeformInputs& inputs, Tensor& out) {
    const Tensor weights = torch::stable::transpose(matrix_of(inputs.weight, s.outputs, s.row()), 0, 1);
    Tensor found = matrix_of(out, s.images * s.places(), s.outputs);
    ADET_DISPATCH_SUMS(out.scalar_type(), "deform_conv", [&] {
      for_chunks<scalar_t>(s, inputs, [&](const Tensor& samples, int64_t begin, int64_t end) {
        Tensor part = torch::stable::narrow(found, 0, begin, end - begin);
        torch::stable::copy_(part, torch::stable::matmul(samples, weights));
      });
    });
  }

  static void backward(const DeformShape& s, const Tensor& grad, const DeformInputs& inputs, DeformInputs& by) {
    const Tensor weights = matrix_of(inputs.weight, s.outputs, s.row());
    Tensor from = matrix_of(grad, s.images * s.places(), s.outputs);
    ADET_DISPATCH_SUMS(grad.scalar_type(), "deform_conv_backward", [&] {
      using T = scalar_t;
      const auto maps = maps_of<T>(inputs);
      const MapGradients<T> to{
          by.x.mutable_data_ptr<T>(), by.offsets.mutable_data_ptr<T>(), by.mask.mutable_data_ptr<T>()};
      T* by_weight = by.weight.mutable_data_ptr<T>();
      for_chunks<T>(s, inputs, [&](const Tensor& samples, int64_t begin, int64_t end) {
        Tensor part = torch::stable::narrow(from, 0, begin, end - begin);
        const Tensor more = torch::stable::matmul(torch::stable::transpose(part, 0, 1), samples);
        parallel_for(0, s.outputs * s.row(), kGrain, [&](int64_t first, int64_t last) {
          run_add(by_weight, more.const_data_ptr<T>(), first, last);
        });
        const Tensor by_samples = torch::stable::matmul(part, weights);
        const T* rows = by_samples.const_data_ptr<T>();
        parallel_for(begin, end, std::max<int64_t>(kGrain / s.row(), 1), [&](int64_t first, int64_t last) {
          run_backward_places(rows + (first - begin) * s.row(), maps, s, to, first, last);
        });
        parallel_for(0, (s.channels + kChannelBlock - 1) / kChannelBlock, 1, [&](int64_t first, int64_t last) {
          run_backward_channels(
              rows, maps, s, to, begin, end, first * kChannelBlock, std::min(last * kChannelBlock, s.channels));
        });
      });
    });
  }
};

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("deform_conv", TORCH_BOX(&deform_conv<Cpu>));
  m.impl("deform_conv_backward", TORCH_BOX(&deform_conv_backward<Cpu>));
}

} // namespace adet_ext
