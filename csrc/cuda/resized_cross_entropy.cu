// resized_cross_entropy on GPUs. A thread has a pixel: it makes the pixel's logits from their four neighbors, class by
// class, and keeps the logarithm of the sum of their exponentials. For the gradient a thread has a logit and visits the
// pixels that read it: no atomics, so the result is the same each time.
#include "../resized_cross_entropy.h"
#include "cuda.h"

#include <algorithm>

namespace adet_ext {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096; // of pixels: each has one part of the sum

// What the kernels of a call share.
template <typename T>
struct Job : CrossEntropyCall<T> {
  using CrossEntropyCall<T>::CrossEntropyCall;

  T* normalizer = nullptr; // (N, H', W'): the logarithm of the sum of the exponentials; infinity for an ignored label
  double* parts = nullptr; // of the sum
  bool channels_last = false;
};

// The sum of a value over the threads of a block, for thread 0.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double values[kThreads];
  values[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      values[threadIdx.x] += values[threadIdx.x + half];
    }
    __syncthreads();
  }
  return values[0];
}

template <typename T>
__global__ void __launch_bounds__(kThreads) losses_of_pixels(const __grid_constant__ Job<T> job) {
  const ResizedSizes& s = job.sizes;
  const int64_t pixels = s.images * s.pixels();
  double sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < pixels; i += int64_t(gridDim.x) * kThreads) {
    const int64_t label = job.labels[i];
    if (label == job.ignored) {
      job.normalizer[i] = T(INFINITY);
      continue;
    }
    const int64_t image = i / s.pixels(), at = i % s.pixels();
    const PixelNeighbors<T> y(at / s.out[1], s.in[0], s.out[0]), x(at % s.out[1], s.in[1], s.out[1]);
    const T* low = job.logits + image * job.read.image + y.low * job.read.row;
    const T* high = job.logits + image * job.read.image + y.high * job.read.row;
    const int64_t left = x.low * job.read.column, right = x.high * job.read.column;
    T top = 0, total = 0, own = T(NAN); // if the label is no class
    for (int64_t k = 0; k < s.classes; ++k, low += job.read.channel, high += job.read.channel) {
      const T z = y.low_weight * (x.low_weight * low[left] + x.high_weight * low[right]) +
                  y.high_weight * (x.low_weight * high[left] + x.high_weight * high[right]);
      own = k == label ? z : own;
      if (k == 0 || z > top) {
        total = k == 0 ? T(1) : total * exp(top - z) + T(1);
        top = z;
      } else {
        total += exp(z - top);
      }
    }
    const T normalizer = top + log(total);
    job.normalizer[i] = normalizer;
    sum += static_cast<double>(normalizer - own);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    job.parts[blockIdx.x] = sum;
  }
}

// One block.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_of_parts(const double* parts, int count, T* total) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    sum += parts[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    *total = static_cast<T>(sum);
  }
}

// The pixels that may read a place, one too many on either side: callers ask for the weight.
__device__ __forceinline__ void readers_of(int64_t place, int64_t in, int64_t out, int64_t& begin, int64_t& end) {
  const double ratio = static_cast<double>(out) / static_cast<double>(in);
  const double low = (static_cast<double>(place) - 0.5) * ratio - 0.5;
  const double high = (static_cast<double>(place) + 1.5) * ratio - 0.5;
  begin = max(int64_t(0), static_cast<int64_t>(low) - 1);
  end = min(out, static_cast<int64_t>(high) + 2);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) gradients(const __grid_constant__ Job<T> job, int64_t threads) {
  const ResizedSizes& s = job.sizes;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < threads; i += int64_t(gridDim.x) * kThreads) {
    // Neighboring threads access neighboring memory.
    int64_t rest = i, k = 0;
    if (job.channels_last) {
      k = rest % s.classes;
      rest /= s.classes;
    }
    const int64_t column = rest % s.in[1];
    rest /= s.in[1];
    const int64_t row = rest % s.in[0];
    rest /= s.in[0];
    if (!job.channels_last) {
      k = rest % s.classes;
      rest /= s.classes;
    }
    const int64_t image = rest;
    const T* map = job.logits + image * job.read.image + k * job.read.channel;
    int64_t top, bottom, left, right;
    readers_of(row, s.in[0], s.out[0], top, bottom);
    readers_of(column, s.in[1], s.out[1], left, right);
    T sum = 0;
    for (int64_t py = top; py < bottom; ++py) {
      const PixelNeighbors<T> y(py, s.in[0], s.out[0]);
      const T weight = y.weight_of(row);
      if (weight == T(0)) {
        continue;
      }
      const T *low = map + y.low * job.read.row, *high = map + y.high * job.read.row;
      const int64_t line = (image * s.out[0] + py) * s.out[1];
      T of_line = 0; // a sum of its own: where much is enlarged, one sum would lose digits
      for (int64_t px = left; px < right; ++px) {
        const PixelNeighbors<T> x(px, s.in[1], s.out[1]);
        const T share = x.weight_of(column);
        const int64_t a = x.low * job.read.column, b = x.high * job.read.column;
        const T z = y.low_weight * (x.low_weight * low[a] + x.high_weight * low[b]) +
                    y.high_weight * (x.low_weight * high[a] + x.high_weight * high[b]);
        const int64_t label = job.labels[line + px];
        const T own = label == k && label != job.ignored ? T(1) : T(0);
        of_line += share * (exp(z - job.normalizer[line + px]) - own);
      }
      sum += weight * of_line;
    }
    job.grad
        [image * job.written.image + k * job.written.channel + row * job.written.row + column * job.written.column] =
        sum;
  }
}

unsigned blocks_for(int64_t threads, int64_t most) {
  return static_cast<unsigned>(std::min((threads + kThreads - 1) / kThreads, most));
}

struct Cuda {
  static void run(
      const ResizedSizes& s, const Tensor& logits, const Tensor& labels, int64_t ignored, Tensor& total, Tensor& by) {
    const OnDeviceOf guard(logits);
    const cudaStream_t stream = current_stream(logits);
    const unsigned blocks = blocks_for(s.images * s.pixels(), kMaxBlocks);
    Tensor normalizer = torch::stable::new_empty(logits, {s.images, s.out[0], s.out[1]});
    Tensor parts = torch::stable::new_empty(logits, {blocks}, ScalarType::Double);
    ADET_DISPATCH_SUMS(logits.scalar_type(), "resized_cross_entropy", [&] {
      using T = scalar_t;
      Job<T> job(s, logits, labels, ignored, by);
      job.normalizer = normalizer.mutable_data_ptr<T>();
      job.parts = parts.mutable_data_ptr<double>();
      job.channels_last = logits.stride(1) == 1 && logits.stride(3) != 1;
      losses_of_pixels<T><<<blocks, kThreads, 0, stream>>>(job);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      sum_of_parts<T><<<1, kThreads, 0, stream>>>(job.parts, static_cast<int>(blocks), total.mutable_data_ptr<T>());
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      if (job.grad != nullptr) {
        gradients<T><<<blocks_for(by.numel(), 1 << 20), kThreads, 0, stream>>>(job, by.numel());
        STD_CUDA_KERNEL_LAUNCH_CHECK();
      }
    });
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("resized_cross_entropy", TORCH_BOX(&adet_ext::resized_cross_entropy<adet_ext::Cuda>));
}
