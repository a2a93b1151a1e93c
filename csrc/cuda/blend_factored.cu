// blend_factored on GPUs: DR1Mask's factored attention. Its vector attention is the case of one base, whose factors are
// ones. Channels are projected pixel by pixel, as they are sampled. Backward, factors: a block computes all of one
// detection, row by row of its mask. Backward, bases: atomics; in deterministic mode, cells gather.
#include "../blend_factored.h"

#include "blend_gather.cuh"

namespace adet_ext {
namespace {

constexpr int kMostBases = 8; // projected bases kept in registers at once

template <typename T>
struct FactoredSource {
  CropSource<T> crop;
  const T *t, *sigma, *u, *v; // (D, K, C), (D, K, r), (K, r, R), (K, r, R)
  int num, rank;
  bool packed;
  Weighting weighting;
};

// Bases first to first + NUM of the projected crop at a sample; weights (K, C) are in shared memory.
template <typename T, int NUM>
__device__ void project(
    const FactoredSource<T>& s, const acc_t<T>* weights, const Sample<T>& sample, int first, int some,
    acc_t<T>* value) {
  using acc = acc_t<T>;
  const int channels = static_cast<int>(s.crop.channels);
#pragma unroll
  for (int k = 0; k < NUM; ++k) {
    value[k] = acc(0);
  }
  auto add = [&](int c, acc x) {
#pragma unroll
    for (int k = 0; k < NUM; ++k) {
      if (k < some) {
        value[k] += weights[(first + k) * channels + c] * x;
      }
    }
  };
  if (s.packed) {
    for (int c = 0; c < channels; c += 4) {
      acc four[4];
      sample.four(c, four);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        add(c + i, four[i]);
      }
    }
  } else {
    for (int c = 0; c < channels; ++c) {
      add(c, sample(c * s.crop.stride_c));
    }
  }
}

// Number k of Q at (y, x); sigma (K, r) is in shared memory.
template <typename T>
__device__ acc_t<T> attention_at(const FactoredSource<T>& s, const acc_t<T>* sigma, int k, int y, int x) {
  acc_t<T> sum = acc_t<T>(0);
  for (int r = 0; r < s.rank; ++r) {
    const int line = (k * s.rank + r) * s.crop.size;
    sum += sigma[k * s.rank + r] * static_cast<acc_t<T>>(s.u[line + y]) * static_cast<acc_t<T>>(s.v[line + x]);
  }
  return sum;
}

// Calls body(attention, crop), two functions of k, for pixel (y, x) of mask d.
template <typename T, typename Body>
__device__ void factored_at(
    const FactoredSource<T>& s, const acc_t<T>* weights, const acc_t<T>* sigma, int64_t d, int y, int x,
    const Body& body) {
  using acc = acc_t<T>;
  const Sample<T> sample = sample_of(s.crop, d, y, x);
  auto attention = [&](int k) { return attention_at(s, sigma, k, y, x); };
  if (s.num == 4) {
    acc crop[4], q[4];
    project<T, 4>(s, weights, sample, 0, 4, crop);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      q[k] = attention(k);
    }
    body([&](int k) { return q[k]; }, [&](int k) { return crop[k]; });
  } else if (s.num <= kMostBases) {
    acc crop[kMostBases];
    project<T, kMostBases>(s, weights, sample, 0, s.num, crop);
    body(attention, [&](int k) { return crop[k]; });
  } else {
    body(attention, [&](int k) {
      acc one[1];
      project<T, 1>(s, weights, sample, k, 1, one);
      return one[0];
    });
  }
}

extern __shared__ __align__(16) char factored_shared[];

// Load weights (K, C) and sigma (K, r) of detection d to shared memory. Every thread of the block must call it.
template <typename T>
__device__ void bring_weights(const FactoredSource<T>& s, int64_t d, acc_t<T>* weights, acc_t<T>* sigma) {
  const int numbers = s.num * static_cast<int>(s.crop.channels), diagonals = s.num * s.rank;
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) {
    weights[i] = static_cast<acc_t<T>>(s.t[d * numbers + i]);
  }
  for (int i = threadIdx.x; i < diagonals; i += blockDim.x) {
    sigma[i] = static_cast<acc_t<T>>(s.sigma[d * diagonals + i]);
  }
  __syncthreads();
}

template <typename T, typename Body>
__device__ void each_pixel(const FactoredSource<T>& s, const Body& body) {
  acc_t<T>* weights = reinterpret_cast<acc_t<T>*>(factored_shared);
  acc_t<T>* sigma = weights + s.num * s.crop.channels;
  bring_weights(s, blockIdx.x, weights, sigma);
  each_pixel(s.crop, [&](int64_t d, int i, int y, int x) {
    factored_at(s, weights, sigma, d, y, x, [&](const auto& attention, const auto& crop) {
      body(d, i, y, x, weights, attention, crop);
    });
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads) factored_forward(FactoredSource<T> s, T* __restrict__ out) {
  using acc = acc_t<T>;
  const int64_t pixels = static_cast<int64_t>(s.crop.size) * s.crop.size;
  each_pixel(s, [&](int64_t d, int i, int, int, const acc*, const auto& attention, const auto& crop) {
    out[d * pixels + i] = static_cast<T>(blended<acc>(s.weighting, s.num, attention, crop));
  });
}

// grads: (N, C, H, W) contiguous, summed; with per_crop (D, K, R, R), of the projected crops.
template <typename T>
__global__ void __launch_bounds__(kThreads) factored_backward_bases(
    FactoredSource<T> s, const T* __restrict__ grad, acc_t<T>* __restrict__ grads, bool per_crop) {
  using acc = acc_t<T>;
  const int64_t pixels = static_cast<int64_t>(s.crop.size) * s.crop.size, plane = s.crop.height * s.crop.width;
  const int64_t n = s.crop.image[blockIdx.x];
  if (!per_crop && (n < 0 || n >= s.crop.images)) {
    return; // the whole block
  }
  each_pixel(s, [&](int64_t d, int i, int y, int x, const acc* weights, const auto& attention, const auto& crop) {
    const Spread<T> spread(s.crop, d, y, x);
    const int channels = static_cast<int>(s.crop.channels);
    acc* planes = grads + n * channels * plane;
    acc held[kMostBases];
    const bool at_once = s.num <= kMostBases;
    blended_backward<acc>(
        s.weighting, s.num, attention, crop, static_cast<acc>(grad[d * pixels + i]), [&](int k, acc, acc value) {
          if (per_crop) {
            grads[(d * s.num + k) * pixels + i] = value;
          } else if (at_once) {
            held[k] = value;
          } else {
            for (int j = 0; j < channels; ++j) {
              spread.add(planes + j * plane, weights[k * channels + j] * value);
            }
          }
        });
    if (per_crop || !at_once) {
      return;
    }
    for (int j = 0; j < channels; ++j) {
      acc share = acc(0);
      for (int k = 0; k < s.num; ++k) {
        share += weights[k * channels + j] * held[k];
      }
      spread.add(planes + j * plane, share);
    }
  });
}

// One block a detection. Shared memory, in numbers: weights K C, sigma K r, gradients of a few rows of Q and of the
// projected crop 2 K rows R, and the sums over all rows: along_y K r R, grad_t K C.
template <typename T>
__global__ void __launch_bounds__(kThreads) factored_backward_factors(
    FactoredSource<T> s, const T* __restrict__ grad, T* __restrict__ grad_t, acc_t<T>* __restrict__ along_x,
    acc_t<T>* __restrict__ along_y, int rows) {
  using acc = acc_t<T>;
  const int size = s.crop.size, num = s.num, rank = s.rank, channels = static_cast<int>(s.crop.channels);
  const int64_t d = blockIdx.x;
  acc* weights = reinterpret_cast<acc*>(factored_shared);
  acc* sigma = weights + num * channels;
  acc* grad_q = sigma + num * rank;            // (K, rows, R)
  acc* grad_crop = grad_q + num * rows * size; // (K, rows, R)
  acc* down = grad_crop + num * rows * size;   // (K, r, R)
  acc* products = down + num * rank * size;    // (K, C)
  for (int i = threadIdx.x; i < num * rank * size; i += blockDim.x) {
    down[i] = acc(0);
  }
  for (int i = threadIdx.x; i < num * channels; i += blockDim.x) {
    products[i] = acc(0);
  }
  bring_weights(s, d, weights, sigma);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int top = 0; top < size; top += rows) {
    const int some = top + rows < size ? rows : size - top, pixels = some * size;
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
      const int y = top + i / size, x = i % size;
      factored_at(s, weights, sigma, d, y, x, [&](const auto& attention, const auto& crop) {
        const acc g = static_cast<acc>(grad[(d * size + y) * size + x]);
        blended_backward<acc>(s.weighting, num, attention, crop, g, [&](int k, acc to_q, acc to_crop) {
          grad_q[k * rows * size + i] = to_q;
          grad_crop[k * rows * size + i] = to_crop;
        });
      });
    }
    __syncthreads();
    // Sums over x of grad Q times v, row by row.
    for (int i = threadIdx.x; i < num * rank * some; i += blockDim.x) {
      const int y = i % some, line = i / some, k = line / rank;
      acc sum = acc(0);
      for (int x = 0; x < size; ++x) {
        sum += grad_q[(k * rows + y) * size + x] * static_cast<acc>(s.v[line * size + x]);
      }
      along_x[(d * num * rank + line) * size + top + y] = sum;
    }
    // Sums over y of grad Q times sigma u; each number belongs to one thread.
    for (int i = threadIdx.x; i < num * rank * size; i += blockDim.x) {
      const int x = i % size, line = i / size, k = line / rank;
      acc sum = acc(0);
      for (int y = 0; y < some; ++y) {
        sum += grad_q[(k * rows + y) * size + x] * static_cast<acc>(s.u[line * size + top + y]);
      }
      down[i] += sigma[line] * sum;
    }
    // The crop times the gradient of its projection: a warp a channel.
    for (int c = warp; c < channels; c += warps) {
      for (int first = 0; first < num; first += kMostBases) {
        acc sum[kMostBases];
#pragma unroll
        for (int k = 0; k < kMostBases; ++k) {
          sum[k] = acc(0);
        }
        for (int i = lane; i < pixels; i += 32) {
          const acc value = sample_of(s.crop, d, top + i / size, i % size)(c * s.crop.stride_c);
#pragma unroll
          for (int k = 0; k < kMostBases; ++k) {
            if (first + k < num) {
              sum[k] += value * grad_crop[(first + k) * rows * size + i];
            }
          }
        }
#pragma unroll
        for (int k = 0; k < kMostBases; ++k) {
          for (int offset = 16; offset > 0; offset /= 2) {
            sum[k] += __shfl_down_sync(0xffffffffu, sum[k], offset);
          }
          if (lane == 0 && first + k < num) {
            products[(first + k) * channels + c] += sum[k];
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < num * rank * size; i += blockDim.x) {
    along_y[d * num * rank * size + i] = down[i];
  }
  for (int i = threadIdx.x; i < num * channels; i += blockDim.x) {
    grad_t[d * num * channels + i] = static_cast<T>(products[i]);
  }
}

template <typename T>
FactoredSource<T> source_of(const FactoredCall& call) {
  const Tensor& u = call.u;
  FactoredSource<T> s{
      CropSource<T>(call.bases, call.boxes, call.image, u.size(2), call.scale, call.aligned),
      call.t.const_data_ptr<T>(),
      call.sigma.const_data_ptr<T>(),
      u.const_data_ptr<T>(),
      call.v.const_data_ptr<T>(),
      static_cast<int>(u.size(0)),
      static_cast<int>(u.size(1)),
      false,
      call.weighting};
  s.packed = s.crop.packs();
  return s;
}

template <typename T>
int64_t weight_bytes(const FactoredSource<T>& s) {
  const int64_t bytes = s.num * (s.crop.channels + s.rank) * static_cast<int64_t>(sizeof(acc_t<T>));
  ADET_CHECK(
      bytes <= kSharedBytes, "K * (C + r) must be at most ", kSharedBytes / static_cast<int64_t>(sizeof(acc_t<T>)),
      " on a GPU; got ", s.num, " * (", s.crop.channels, " + ", s.rank, ")");
  return bytes;
}

template <typename T>
void backward_factors(const FactoredSource<T>& s, const Tensor& grad, const FactorGrads& to, cudaStream_t stream) {
  const int64_t number = sizeof(acc_t<T>), line = static_cast<int64_t>(s.num) * s.crop.size * number;
  const int64_t fixed = weight_bytes(s) + s.num * s.crop.channels * number + s.rank * line;
  const int64_t rows = 4 * 2 * line + fixed <= kSharedBytes ? 4 : 1;
  const int64_t bytes = rows * 2 * line + fixed;
  ADET_CHECK(
      bytes <= kSharedBytes, "the gradient of u must need at most ", kSharedBytes,
      " bytes of shared memory on a GPU; got ", bytes, " for K ", s.num, ", r ", s.rank, ", R ", s.crop.size, ", C ",
      s.crop.channels);
  factored_backward_factors<T><<<static_cast<unsigned>(grad.size(0)), kThreads, static_cast<size_t>(bytes), stream>>>(
      s, grad.const_data_ptr<T>(), to.t->mutable_data_ptr<T>(), to.along_x->mutable_data_ptr<acc_t<T>>(),
      to.along_y->mutable_data_ptr<acc_t<T>>(), static_cast<int>(rows));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

struct Cuda {
  static const Tensor& ready(const Tensor& t) {
    return t;
  }

  static const Tensor& ready_bases(const Tensor& t) {
    return t;
  }

  static void forward(const FactoredCall& call, Tensor& out) {
    const OnDeviceOf guard(out);
    ADET_DISPATCH(out.scalar_type(), "blend_factored", [&] {
      const auto s = source_of<scalar_t>(call);
      const size_t bytes = static_cast<size_t>(weight_bytes(s));
      factored_forward<scalar_t><<<tiles_of(out.size(0), out.size(1)), kThreads, bytes, current_stream(out)>>>(
          s, out.mutable_data_ptr<scalar_t>());
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }

  static void backward(
      const FactoredCall& call, const Tensor& grad, Tensor* grad_bases, const FactorGrads* factors,
      bool deterministic) {
    const OnDeviceOf guard(grad);
    const cudaStream_t stream = current_stream(grad);
    const int64_t count = grad.size(0), size = grad.size(1), num = call.u.size(0);
    const Tensor& bases = call.bases;
    ADET_DISPATCH(grad.scalar_type(), "blend_factored_backward", [&] {
      const auto s = source_of<scalar_t>(call);
      if (factors != nullptr) {
        backward_factors(s, grad, *factors, stream);
      }
      if (grad_bases == nullptr) {
        return;
      }
      const ScalarType wide = sum_type(grad);
      Tensor sums = deterministic ? torch::stable::new_empty(bases, {count, num, size, size}, wide)
                                  : torch::stable::new_zeros(
                                        bases, {bases.size(0), bases.size(1), bases.size(2), bases.size(3)}, wide);
      const size_t bytes = static_cast<size_t>(weight_bytes(s));
      factored_backward_bases<scalar_t><<<tiles_of(count, size), kThreads, bytes, stream>>>(
          s, grad.const_data_ptr<scalar_t>(), sums.mutable_data_ptr<acc_t<scalar_t>>(), deterministic);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      if (deterministic) {
        launch_gather<scalar_t>(s.crop, sums, s.t, num, 0, count, *grad_bases, stream);
      } else {
        torch::stable::copy_(*grad_bases, sums);
      }
    });
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("blend_factored", TORCH_BOX(&adet_ext::blend_factored<adet_ext::Cuda>));
  m.impl("blend_factored_backward", TORCH_BOX(&adet_ext::blend_factored_backward<adet_ext::Cuda>));
}
