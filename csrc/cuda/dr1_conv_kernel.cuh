// The kernel of dr1_conv on tensor cores: a 3x3 convolution of channels-last maps. The input is multiplied by its
// factors on the way to shared memory, and the sums by theirs while they are written.
//
// A block computes 8 x 16 locations of 32 outputs; each of its 4 warps computes two rows of them. The weights are
// loaded one column of the kernel at a time: a warp then loads each row of the patch once for the three places of the
// column. float32 is computed in TF32, as in cuDNN by default.
#pragma once

#include "../dr1_conv.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <cstdint>
#include <type_traits>

namespace adet_ext::dr1 {

constexpr int kRows = 8, kColumns = 16, kOutputs = 32, kThreads = 128;
constexpr int kPatch = (kRows + 2) * (kColumns + 2);
constexpr int kSumStep = kOutputs + 4; // from one location's sums to the next: 16 bytes more, for the banks

template <class T>
struct Problem : Dr1Maps<T> {
  int H, W, C, O;
  int down, across; // blocks of an image
  const T* weight;  // (O, 3, 3, C); turned: (C, 3, 3, O)
};

// The type in shared memory, its steps along the channels, and the padding of the patch's rows. Fragments of the patch
// begin at any row, and wmma wants them aligned to 32 bytes: so the rows are an odd multiple of 32 bytes apart, which
// puts two of eight on the same banks.
template <class T>
struct Core {
  using type = T;
  static constexpr int depth = 16, pad = 16;
  static __device__ T round(T v) {
    return v;
  }
};
template <>
struct Core<float> {
  static constexpr int depth = 8, pad = 8;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800 // older GPUs have no TF32, and no kernel
  using type = nvcuda::wmma::precision::tf32;
  static __device__ float round(float v) {
    return nvcuda::wmma::__float_to_tf32(v);
  }
#endif
};

__device__ __forceinline__ float to_float(float v) {
  return v;
}
__device__ __forceinline__ float to_float(__half v) {
  return __half2float(v);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
__device__ __forceinline__ void from_float(float v, float& to) {
  to = v;
}
__device__ __forceinline__ void from_float(float v, __half& to) {
  to = __float2half(v);
}
__device__ __forceinline__ void from_float(float v, __nv_bfloat16& to) {
  to = __float2bfloat16(v);
}

// 16 bytes.
template <class T>
struct alignas(16) Words {
  static constexpr int count = 16 / sizeof(T);
  T value[count];
};

// From one row of the weights to the next. Their fragments begin at even rows, so an odd multiple of 16 bytes is enough
// for wmma, and puts eight rows on different banks.
template <class T, bool turned>
__host__ __device__ constexpr int weight_step(int C) {
  return (turned ? kOutputs : 3 * C) + Words<T>::count;
}

template <class T>
__device__ __forceinline__ const Words<T>& words(const T* from) {
  return *reinterpret_cast<const Words<T>*>(from);
}

// Elements of shared memory: the patch of the input, which the sums replace in the end, and a column of the
// weights.
template <class T>
__host__ __device__ constexpr int64_t patch_elements(int C) {
  const int64_t patch = int64_t(kPatch) * (C + Core<T>::pad);
  const int64_t sums = int64_t(kRows) * kColumns * kSumStep * sizeof(float) / sizeof(T);
  return patch > sums ? patch : sums;
}
template <class T, bool turned>
__host__ __device__ constexpr int64_t shared_bytes(int C) {
  const int64_t rows = turned ? int64_t(3) * C : kOutputs;
  return (patch_elements<T>(C) + rows * weight_step<T, turned>(C)) * sizeof(T);
}

// Load the patch of block (y0, x0) of an image, with a border of one, times its factors; zeros outside the map.
template <class T>
__device__ __forceinline__ void bring_patch(const Problem<T>& p, int64_t image, int y0, int x0, T* patch) {
  const int pieces = p.C / Words<T>::count, step = p.C + Core<T>::pad;
  for (int i = threadIdx.x; i < kPatch * pieces; i += kThreads) {
    const int pixel = i / pieces, c = i % pieces * Words<T>::count;
    const int y = y0 - 1 + pixel / (kColumns + 2), x = x0 - 1 + pixel % (kColumns + 2);
    Words<T> v{};
    if (y >= 0 && y < p.H && x >= 0 && x < p.W) {
      v = words(p.x.at(image, y, x) + c);
      if (p.before.data) {
        const Words<T> f = words(p.before.at(image, y, x) + c);
#pragma unroll
        for (int k = 0; k < Words<T>::count; ++k) {
          from_float(to_float(v.value[k]) * to_float(f.value[k]), v.value[k]);
        }
      }
#pragma unroll
      for (int k = 0; k < Words<T>::count; ++k) {
        v.value[k] = Core<T>::round(v.value[k]);
      }
    }
    *reinterpret_cast<Words<T>*>(patch + pixel * step + c) = v;
  }
}

// Load column dx of the kernel for outputs from o0 on. Straight: (32 outputs, 3 C); turned: (3 C, 32 outputs).
template <class T, bool turned>
__device__ __forceinline__ void bring_weights(const Problem<T>& p, int dx, int o0, T* weights) {
  const int outputs = p.O - o0 < kOutputs ? p.O - o0 : kOutputs;
  const int across = turned ? outputs : 3 * p.C, lines = turned ? 3 * p.C : outputs;
  const int pieces = across / Words<T>::count, step = weight_step<T, turned>(p.C);
  for (int i = threadIdx.x; i < lines * pieces; i += kThreads) {
    const int line = i / pieces, k = i % pieces * Words<T>::count;
    const int64_t from = turned ? (int64_t(line % p.C) * 9 + 8 - (3 * (line / p.C) + dx)) * p.O + o0 + k
                                : (int64_t(o0 + line) * 9 + 3 * (k / p.C) + dx) * p.C + k % p.C;
    Words<T> v = words(p.weight + from);
#pragma unroll
    for (int j = 0; j < Words<T>::count; ++j) {
      v.value[j] = Core<T>::round(v.value[j]);
    }
    *reinterpret_cast<Words<T>*>(weights + line * step + k) = v;
  }
}

// Write 16 bytes of the results of a location: (sums + bias) * after.
template <class T>
__device__ __forceinline__ void put(
    const Dr1Map<T>& result, const Dr1Map<T>& after, const float* sums, int64_t image, int y, int x, int o) {
  Words<T> v, f;
  if (after.data) {
    f = words(after.at(image, y, x) + o);
  }
#pragma unroll
  for (int k = 0; k < Words<T>::count; ++k) {
    from_float(after.data ? sums[k] * to_float(f.value[k]) : sums[k], v.value[k]);
  }
  *reinterpret_cast<Words<T>*>(result.at(image, y, x) + o) = v;
}

template <class T, bool turned>
__global__ void __launch_bounds__(kThreads) convolve(const Problem<T> p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using namespace nvcuda;
  constexpr int depth = Core<T>::depth;
  using Layout = typename std::conditional<turned, wmma::row_major, wmma::col_major>::type;
  extern __shared__ __align__(32) unsigned char shared[];
  T* const patch = reinterpret_cast<T*>(shared);
  T* const weights = patch + patch_elements<T>(p.C);
  const int64_t image = blockIdx.x / (p.down * p.across);
  const int block = blockIdx.x % (p.down * p.across);
  const int y0 = block / p.across * kRows, x0 = block % p.across * kColumns, o0 = blockIdx.y * kOutputs;
  const int warp = threadIdx.x / 32;
  const int patch_step = p.C + Core<T>::pad, step = weight_step<T, turned>(p.C);
  const bool two = p.O - o0 > 16; // outputs are multiples of 16

  bring_patch(p, image, y0, x0, patch);
  wmma::fragment<wmma::accumulator, 16, 16, depth, float> sum[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    wmma::fill_fragment(sum[i / 2][i % 2], 0.0f);
  }
  for (int dx = 0; dx < 3; ++dx) {
    bring_weights<T, turned>(p, dx, o0, weights);
    __syncthreads();
    for (int c = 0; c < p.C; c += depth) {
      wmma::fragment<wmma::matrix_a, 16, 16, depth, typename Core<T>::type, wmma::row_major> a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int first = (2 * warp + i) * (kColumns + 2) + dx;
        wmma::load_matrix_sync(a[i], patch + first * patch_step + c, patch_step);
      }
#pragma unroll
      for (int dy = 0; dy < 3; ++dy) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (j == 0 || two) {
            wmma::fragment<wmma::matrix_b, 16, 16, depth, typename Core<T>::type, Layout> b;
            const T* from = turned ? weights + (dy * p.C + c) * step + 16 * j : weights + 16 * j * step + dy * p.C + c;
            wmma::load_matrix_sync(b, from, step);
            wmma::mma_sync(sum[0][j], a[dy], b, sum[0][j]);
            wmma::mma_sync(sum[1][j], a[dy + 1], b, sum[1][j]);
          }
        }
      }
    }
    __syncthreads(); // before the next weights, and, in the end, before the sums replace the patch
  }

  float* const sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float* const to = sums + (2 * warp + i / 2) * kColumns * kSumStep + i % 2 * 16;
    wmma::store_matrix_sync(to, sum[i / 2][i % 2], kSumStep, wmma::mem_row_major);
  }
  __syncthreads();
  constexpr int pieces = kOutputs / Words<T>::count;
  for (int i = threadIdx.x; i < kRows * kColumns * pieces; i += kThreads) {
    const int pixel = i / pieces, o = i % pieces * Words<T>::count;
    const int y = y0 + pixel / kColumns, x = x0 + pixel % kColumns;
    if (y >= p.H || x >= p.W || o0 + o >= p.O) {
      continue;
    }
    float v[Words<T>::count];
#pragma unroll
    for (int k = 0; k < Words<T>::count; k += 4) {
      const Words<float> four = words(sums + pixel * kSumStep + o + k);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[k + j] = four.value[j] + (p.bias ? to_float(p.bias[o0 + o + k + j]) : 0.0f);
      }
    }
    put(p.result, p.after, v, image, y, x, o0 + o);
    if (p.result2.data) {
      put(p.result2, p.after2, v, image, y, x, o0 + o);
    }
  }
#endif
}

} // namespace adet_ext::dr1
