// Blending on CPUs: rows of bases that are projected from C channels to K (equation 5.7).
//
// Cropping and projecting are both linear and commute. The part of a source row within the box is projected as a whole,
// then interpolated. So each source row of the C channels is read once, no matter how many rows of the mask read it.
#pragma once

#include "blend_tables.h"

namespace adet_ext {

template <typename T>
struct Projected {
  const T* bases; // (C, H, W) of the image, contiguous
  const T* t;     // (K, C)
  int64_t num, channels, height, width, size, line;
  Axis<T> x;
  int64_t left, right; // columns that the box reads
  T* wide;             // (K, W) scratch
  T* grad;             // (C, band_rows, W); null if no gradient is wanted
  int64_t band_low, band_rows;
  T* grad_t; // (K, C); null if no gradient is wanted

  ADET_INLINE void find_columns() {
    left = width, right = 0;
    for (int64_t i = 0; i < size; ++i) {
      left = x.i0[i] < left ? x.i0[i] : left;
      right = x.i1[i] + 1 > right ? x.i1[i] + 1 : right;
    }
  }

  template <int NUM>
  ADET_INLINE void project(int64_t source, int64_t first) const {
    const T* plane = bases + source * width;
    constexpr int64_t tile = 16;
    int64_t at = left;
    for (; at + tile <= right; at += tile) {
      T sum[NUM][tile] = {};
      for (int64_t c = 0; c < channels; ++c) {
        const T* from = plane + c * height * width + at;
        for (int k = 0; k < NUM; ++k) {
          const T weight = t[(first + k) * channels + c];
#pragma omp simd
          for (int64_t i = 0; i < tile; ++i) {
            sum[k][i] += weight * from[i];
          }
        }
      }
      for (int k = 0; k < NUM; ++k) {
#pragma omp simd
        for (int64_t i = 0; i < tile; ++i) {
          wide[(first + k) * width + at + i] = sum[k][i];
        }
      }
    }
    for (; at < right; ++at) {
      T sum[NUM] = {};
      for (int64_t c = 0; c < channels; ++c) {
        const T value = plane[c * height * width + at];
        for (int k = 0; k < NUM; ++k) {
          sum[k] += t[(first + k) * channels + c] * value;
        }
      }
      for (int k = 0; k < NUM; ++k) {
        wide[(first + k) * width + at] = sum[k];
      }
    }
  }

  ADET_INLINE void load(int64_t source, int64_t, T* row) const {
    int64_t k = 0;
    for (; k + 4 <= num; k += 4) {
      project<4>(source, k);
    }
    for (; k < num; ++k) {
      project<1>(source, k);
    }
    for (k = 0; k < num; ++k) {
      const T* from = wide + k * width;
      T* to = row + k * line;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        to[i] = x.w0[i] * from[x.i0[i]] + x.w1[i] * from[x.i1[i]];
      }
    }
  }

  ADET_INLINE void add(int64_t source, int64_t, const T* row) const {
    const bool in_band = grad != nullptr && source >= band_low && source < band_low + band_rows;
    if (!in_band && grad_t == nullptr) {
      return;
    }
    for (int64_t k = 0; k < num; ++k) { // the gradient of the projected source row
      T* to = wide + k * width;
      const T* from = row + k * line;
      for (int64_t i = left; i < right; ++i) {
        to[i] = T(0);
      }
      for (int64_t i = 0; i < size; ++i) {
        to[x.i0[i]] += x.w0[i] * from[i];
        to[x.i1[i]] += x.w1[i] * from[i];
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      const T* plane = bases + (c * height + source) * width;
      T* to = in_band ? grad + (c * band_rows + source - band_low) * width : nullptr;
      for (int64_t k = 0; k < num; ++k) {
        const T* from = wide + k * width;
        const T weight = t[k * channels + c];
        if (in_band) {
#pragma omp simd
          for (int64_t i = left; i < right; ++i) {
            to[i] += weight * from[i];
          }
        }
        if (grad_t != nullptr) {
          T sum = T(0);
#pragma omp simd reduction(+ : sum)
          for (int64_t i = left; i < right; ++i) {
            sum += plane[i] * from[i];
          }
          grad_t[k * channels + c] += sum;
        }
      }
    }
  }

  ADET_INLINE int64_t lane(int64_t) const {
    return 0;
  }
};

} // namespace adet_ext
