// Blending on CPUs: one mask, row by row, forward and backward, for all kinds of rows and attentions.
#pragma once

#include "blend_combine.h"
#include "blend_rows.h"

namespace adet_ext {

// Scratch rows of one detection: three for the attentions and gradients, two for the crop, two for its gradients, and a
// line for the gradient of the mask.
template <typename T>
struct Scratch {
  T *attention, *grad_attention, *grad_crop;
  RowPair<T> crop, grads;
  T* grad;

  static int64_t room(int64_t num, int64_t line) {
    return 7 * Arena::room<T>(num * line) + Arena::room<T>(line);
  }
  static Scratch make(Arena& arena, int64_t num, int64_t line) {
    Scratch s;
    T* rows[7];
    for (T*& row : rows) {
      row = arena.take<T>(num * line);
      for (int64_t i = 0; i < num * line; ++i) {
        row[i] = T(0);
      }
    }
    s.attention = rows[0], s.grad_attention = rows[1], s.grad_crop = rows[2];
    s.crop.row[0] = rows[3], s.crop.row[1] = rows[4], s.grads.row[0] = rows[5], s.grads.row[1] = rows[6];
    s.grad = arena.take<T>(line);
    for (int64_t i = 0; i < line; ++i) {
      s.grad[i] = T(0);
    }
    return s;
  }
};

template <typename T>
ADET_INLINE void forget(RowPair<T>& pair) {
  pair.source[0] = pair.source[1] = pair.lane[0] = pair.lane[1] = -1;
}

// The crop, interpolated between the rows that row `at` of the mask reads.
template <typename T, typename Rows>
ADET_INLINE Between<T> crop_row(const Rows& rows, const Axis<T>& y, int64_t at, RowPair<T>& held) {
  int s0, s1;
  const int64_t lane = rows.lane(at);
  held.hold(
      y.i0[at], y.i1[at], lane, s0, s1, [](int) {},
      [&](int slot) { rows.load(held.source[slot], held.lane[slot], held.row[slot]); });
  return {held.row[s0], held.row[s1], y.w0[at], y.w1[at]};
}

template <typename T, typename Rows, typename Weights>
ADET_INLINE void blend_instance(
    const Rows& rows, const Weights& weights, const Axis<T>& y, Combine rule, int64_t num, int64_t size, int64_t line,
    Scratch<T>& s, T* out) {
  forget(s.crop);
  weights.begin();
  for (int64_t at = 0; at < size; ++at) {
    weights.row(at, s.attention);
    const Between<T> crop = crop_row(rows, y, at, s.crop);
    combine(rule, s.attention, crop, num, line, s.grad);
    for (int64_t i = 0; i < size; ++i) {
      out[at * size + i] = s.grad[i];
    }
  }
}

// grad (R, R). Only rows of the mask that read source rows in [low, high) are visited.
template <typename T, typename Rows, typename Weights>
ADET_INLINE void blend_instance_backward(
    const Rows& rows, const Weights& weights, const Axis<T>& y, Combine rule, int64_t num, int64_t size, int64_t line,
    int64_t low, int64_t high, bool to_rows, bool to_weights, Scratch<T>& s, const T* grad) {
  forget(s.crop);
  forget(s.grads);
  weights.begin();
  auto flush = [&](int slot) {
    if (s.grads.source[slot] >= 0) {
      rows.add(s.grads.source[slot], s.grads.lane[slot], s.grads.row[slot]);
    }
  };
  auto clear = [&](int slot) {
    T* row = s.grads.row[slot];
    for (int64_t i = 0; i < num * line; ++i) {
      row[i] = T(0);
    }
  };
  for (int64_t at = 0; at < size; ++at) {
    const bool touches = (y.i0[at] >= low && y.i0[at] < high) || (y.i1[at] >= low && y.i1[at] < high);
    if (!touches) {
      continue;
    }
    for (int64_t i = 0; i < size; ++i) {
      s.grad[i] = grad[at * size + i];
    }
    weights.row(at, s.attention);
    const Between<T> crop = crop_row(rows, y, at, s.crop);
    combine_backward(rule, s.attention, crop, num, line, s.grad, s.grad_attention, s.grad_crop);
    if (to_weights) {
      weights.add(at, s.grad_attention);
    }
    if (to_rows) {
      int s0, s1;
      s.grads.hold(y.i0[at], y.i1[at], rows.lane(at), s0, s1, flush, clear);
      T *a = s.grads.row[s0], *b = s.grads.row[s1];
      const T wa = y.w0[at], wb = y.w1[at];
      for (int64_t i = 0; i < num * line; ++i) {
        a[i] += wa * s.grad_crop[i];
      }
      for (int64_t i = 0; i < num * line; ++i) { // a loop of its own: a and b can be the same row
        b[i] += wb * s.grad_crop[i];
      }
    }
  }
  if (to_rows) {
    flush(0);
    flush(1);
  }
  weights.end();
}

} // namespace adet_ext
