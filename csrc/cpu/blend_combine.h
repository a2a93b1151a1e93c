// Blending on CPUs: from a row of attentions and a row of the crop to a row of the mask, and its gradients.
#pragma once

#include "blend_tables.h"
#include "exponential.h"

namespace adet_ext {

enum class Combine { softmax, product_of_sigmoids, as_is };

inline Combine combine_rule(Weighting weighting, int64_t num) {
  return weighting != Weighting::softmax ? Combine::as_is : num == 1 ? Combine::product_of_sigmoids : Combine::softmax;
}

// Two rows of the crop and their weights; calling it interpolates between them.
template <typename T>
struct Between {
  const T *a, *b;
  T wa, wb;
  ADET_INLINE T operator()(int64_t i) const {
    return wa * a[i] + wb * b[i];
  }
};

// The largest of the attentions at a position.
template <typename T>
ADET_INLINE T largest(const T* attention, int64_t n, int64_t line) {
  T top = attention[0];
  for (int64_t k = 1; k < n; ++k) {
    const T a = attention[k * line];
    top = a > top ? a : top;
  }
  return top;
}

template <typename T, int NUM>
ADET_INLINE void combine_softmax(const T* attention, const Between<T>& crop, int64_t num, int64_t line, T* out) {
  const int64_t n = NUM > 0 ? NUM : num;
#pragma omp simd
  for (int64_t i = 0; i < line; ++i) {
    const T top = largest(attention + i, n, line);
    T sum = T(0), total = T(0);
    for (int64_t k = 0; k < n; ++k) {
      const T e = exp_of_negative(attention[k * line + i] - top);
      sum += e;
      total += e * crop(k * line + i);
    }
    out[i] = total / sum;
  }
}

// Gradients with respect to the attentions before the softmax, and to the crop.
template <typename T, int NUM>
ADET_INLINE void combine_softmax_backward(
    const T* attention, const Between<T>& crop, int64_t num, int64_t line, const T* grad, T* grad_attention,
    T* grad_crop) {
  const int64_t n = NUM > 0 ? NUM : num;
#pragma omp simd
  for (int64_t i = 0; i < line; ++i) {
    const T top = largest(attention + i, n, line);
    T sum = T(0), total = T(0);
    for (int64_t k = 0; k < n; ++k) {
      const T e = exp_of_negative(attention[k * line + i] - top);
      grad_crop[k * line + i] = e;
      sum += e;
      total += e * crop(k * line + i);
    }
    const T out = total / sum;
    const T share = grad[i] / sum;
    for (int64_t k = 0; k < n; ++k) {
      const T g = grad_crop[k * line + i] * share;
      grad_crop[k * line + i] = g;
      grad_attention[k * line + i] = g * (crop(k * line + i) - out);
    }
  }
}

template <typename T>
ADET_INLINE void combine(Combine rule, const T* attention, const Between<T>& crop, int64_t num, int64_t line, T* out) {
  if (rule == Combine::softmax) {
    if (num == 4) {
      combine_softmax<T, 4>(attention, crop, num, line, out);
    } else {
      combine_softmax<T, 0>(attention, crop, num, line, out);
    }
  } else if (rule == Combine::product_of_sigmoids) {
    for (int64_t i = 0; i < line; ++i) { // log(p / (1 - p)) of p = sigmoid(a) sigmoid(b)
      const T a = -attention[i], b = -crop(i);
      T top = a > b ? a : b;
      top = a + b > top ? a + b : top;
      out[i] = -(top + std::log(exp_of_negative(a - top) + exp_of_negative(b - top) + exp_of_negative(a + b - top)));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < line; ++i) {
      out[i] = attention[i] * crop(i);
    }
    for (int64_t k = 1; k < num; ++k) {
#pragma omp simd
      for (int64_t i = 0; i < line; ++i) {
        out[i] += attention[k * line + i] * crop(k * line + i);
      }
    }
  }
}

template <typename T>
ADET_INLINE void combine_backward(
    Combine rule, const T* attention, const Between<T>& crop, int64_t num, int64_t line, const T* grad,
    T* grad_attention, T* grad_crop) {
  if (rule == Combine::softmax) {
    if (num == 4) {
      combine_softmax_backward<T, 4>(attention, crop, num, line, grad, grad_attention, grad_crop);
    } else {
      combine_softmax_backward<T, 0>(attention, crop, num, line, grad, grad_attention, grad_crop);
    }
  } else if (rule == Combine::product_of_sigmoids) {
    for (int64_t i = 0; i < line; ++i) {
      const T a = -attention[i], b = -crop(i);
      T top = a > b ? a : b;
      top = a + b > top ? a + b : top;
      const T ea = exp_of_negative(a - top), eb = exp_of_negative(b - top), both = exp_of_negative(a + b - top);
      const T share = grad[i] / (ea + eb + both);
      grad_attention[i] = share * (ea + both);
      grad_crop[i] = share * (eb + both);
    }
  } else {
    for (int64_t k = 0; k < num; ++k) {
#pragma omp simd
      for (int64_t i = 0; i < line; ++i) {
        const T a = attention[k * line + i];
        grad_attention[k * line + i] = grad[i] * crop(k * line + i);
        grad_crop[k * line + i] = grad[i] * a;
      }
    }
  }
}

} // namespace adet_ext
