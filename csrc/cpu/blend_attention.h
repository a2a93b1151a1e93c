// Blending on CPUs: rows of attentions at the width of the mask, and their gradients.
#pragma once

#include "blend_tables.h"

namespace adet_ext {

// Maps of M x M, interpolated. Each of their M rows is resized to the width of the mask once.
template <typename T>
struct FullAttention {
  const T* maps; // (K, M, M)
  int64_t num, side, size, line;
  Axis<T> resize; // of both sides
  T* wide;        // (M, K, line)
  T* grad_wide;   // the same; null if no gradient is wanted
  bool* ready;    // (M,)
  T* grad_maps;   // (K, M, M)

  ADET_INLINE void begin() const {
    for (int64_t m = 0; m < side; ++m) {
      ready[m] = false;
    }
    if (grad_wide != nullptr) {
      for (int64_t i = 0; i < side * num * line; ++i) {
        grad_wide[i] = T(0);
      }
    }
  }

  ADET_INLINE const T* widened(int64_t m) const {
    T* rows = wide + m * num * line;
    if (!ready[m]) {
      ready[m] = true;
      for (int64_t k = 0; k < num; ++k) {
        const T* from = maps + (k * side + m) * side;
        T* to = rows + k * line;
#pragma omp simd
        for (int64_t i = 0; i < line; ++i) {
          to[i] = resize.w0[i] * from[resize.i0[i]] + resize.w1[i] * from[resize.i1[i]];
        }
      }
    }
    return rows;
  }

  ADET_INLINE void row(int64_t at, T* to) const {
    const T* a = widened(resize.i0[at]);
    const T* b = widened(resize.i1[at]);
    const T wa = resize.w0[at], wb = resize.w1[at];
#pragma omp simd
    for (int64_t i = 0; i < num * line; ++i) {
      to[i] = wa * a[i] + wb * b[i];
    }
  }

  ADET_INLINE void add(int64_t at, const T* grad) const {
    T* a = grad_wide + resize.i0[at] * num * line;
    T* b = grad_wide + resize.i1[at] * num * line;
    const T wa = resize.w0[at], wb = resize.w1[at];
    for (int64_t i = 0; i < num * line; ++i) {
      a[i] += wa * grad[i];
    }
    for (int64_t i = 0; i < num * line; ++i) { // a loop of its own: a and b can be the same row
      b[i] += wb * grad[i];
    }
  }

  ADET_INLINE void end() const {
    if (grad_wide == nullptr) {
      return;
    }
    for (int64_t i = 0; i < num * side * side; ++i) {
      grad_maps[i] = T(0);
    }
    for (int64_t m = 0; m < side; ++m) {
      for (int64_t k = 0; k < num; ++k) {
        const T* from = grad_wide + (m * num + k) * line;
        T* to = grad_maps + (k * side + m) * side;
        for (int64_t i = 0; i < size; ++i) {
          to[resize.i0[i]] += resize.w0[i] * from[i];
          to[resize.i1[i]] += resize.w1[i] * from[i];
        }
      }
    }
  }
};

// Weights of one, for the assembler.
template <typename T>
struct NoAttention {
  int64_t line;
  ADET_INLINE void begin() const {}
  ADET_INLINE void row(int64_t, T* to) const {
    for (int64_t i = 0; i < line; ++i) {
      to[i] = T(1);
    }
  }
  ADET_INLINE void add(int64_t, const T*) const {}
  ADET_INLINE void end() const {}
};

// U_k^T diag(sigma_k) V_k, row by row.
template <typename T>
struct FactoredAttention {
  const T *sigma, *u, *v; // (K, r); (K, r, R) both
  int64_t num, rank, size, line;
  T *along_x, *along_y; // (K, r, R): see csrc/blend_factored.cpp; null if no gradient is wanted

  ADET_INLINE void begin() const {
    if (along_x != nullptr) {
      for (int64_t i = 0; i < num * rank * size; ++i) {
        along_x[i] = along_y[i] = T(0);
      }
    }
  }

  ADET_INLINE void row(int64_t at, T* to) const {
    for (int64_t k = 0; k < num; ++k) {
      T* line_k = to + k * line;
      for (int64_t r = 0; r < rank; ++r) {
        const T weight = sigma[k * rank + r] * u[(k * rank + r) * size + at];
        const T* from = v + (k * rank + r) * size;
        if (r == 0) {
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) {
            line_k[i] = weight * from[i];
          }
        } else {
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) {
            line_k[i] += weight * from[i];
          }
        }
      }
    }
  }

  ADET_INLINE void add(int64_t at, const T* grad) const {
    for (int64_t k = 0; k < num; ++k) {
      const T* line_k = grad + k * line;
      for (int64_t r = 0; r < rank; ++r) {
        const int64_t start = (k * rank + r) * size;
        const T weight = sigma[k * rank + r] * u[start + at];
        T sum = T(0);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; ++i) {
          sum += line_k[i] * v[start + i];
          along_y[start + i] += weight * line_k[i];
        }
        along_x[start + at] = sum;
      }
    }
  }

  ADET_INLINE void end() const {}
};

} // namespace adet_ext
