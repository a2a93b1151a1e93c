// Blending on CPUs: rows of the cropped bases, interpolated along x, and their gradients.
#pragma once

#include "blend_tables.h"

namespace adet_ext {

// The planes of the bases. load: a source row, interpolated along x. add: the adjoint.
template <typename T>
struct Planes {
  const T* base; // of the image
  int64_t stride_k, stride_y, stride_x;
  int64_t num, size, line;
  Axis<T> x;
  T* grad; // planes of the band, num x band_rows x width; null if no gradient is wanted
  int64_t band_low, band_rows, width;

  ADET_INLINE void load(int64_t source, int64_t, T* row) const {
    for (int64_t k = 0; k < num; ++k) {
      const T* plane = base + k * stride_k + source * stride_y;
      T* to = row + k * line;
      const int32_t sx = static_cast<int32_t>(stride_x);
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        to[i] = x.w0[i] * plane[x.i0[i] * sx] + x.w1[i] * plane[x.i1[i] * sx];
      }
    }
  }

  ADET_INLINE void add(int64_t source, int64_t, const T* row) const {
    if (source < band_low || source >= band_low + band_rows) {
      return;
    }
    for (int64_t k = 0; k < num; ++k) {
      T* plane = grad + (k * band_rows + source - band_low) * width;
      const T* from = row + k * line;
      for (int64_t i = 0; i < size; ++i) {
        plane[x.i0[i]] += x.w0[i] * from[i];
        plane[x.i1[i]] += x.w1[i] * from[i];
      }
    }
  }

  ADET_INLINE int64_t lane(int64_t) const {
    return 0;
  }
};

// For the assembler: one line. Part j of lane i is read from basis i * side + j.
template <typename T>
struct Parts {
  Planes<T> planes;
  int64_t side;
  const int32_t* part; // of each position of a line, and of each line

  ADET_INLINE void load(int64_t source, int64_t lane, T* row) const {
    const T* plane = planes.base + lane * side * planes.stride_k + source * planes.stride_y;
    for (int64_t i = 0; i < planes.size; ++i) {
      const T* from = plane + part[i] * planes.stride_k;
      row[i] = planes.x.w0[i] * from[planes.x.i0[i] * planes.stride_x] +
               planes.x.w1[i] * from[planes.x.i1[i] * planes.stride_x];
    }
  }

  ADET_INLINE void add(int64_t source, int64_t lane, const T* row) const {
    if (source < planes.band_low || source >= planes.band_low + planes.band_rows) {
      return;
    }
    for (int64_t i = 0; i < planes.size; ++i) {
      T* to = planes.grad + ((lane * side + part[i]) * planes.band_rows + source - planes.band_low) * planes.width;
      to[planes.x.i0[i]] += planes.x.w0[i] * row[i];
      to[planes.x.i1[i]] += planes.x.w1[i] * row[i];
    }
  }

  ADET_INLINE int64_t lane(int64_t y) const {
    return part[y];
  }
};

// The last two rows that were loaded: neighboring rows of a mask mostly read the same rows of the bases.
template <typename T>
struct RowPair {
  T* row[2];
  int64_t source[2] = {-1, -1};
  int64_t lane[2] = {-1, -1};

  ADET_INLINE int find(int64_t s, int64_t l) const {
    return source[0] == s && lane[0] == l ? 0 : (source[1] == s && lane[1] == l ? 1 : -1);
  }

  // Finds the slots of rows s0 and s1 of a lane. If a slot gets another row, before(slot) and after(slot) are called.
  template <typename Before, typename After>
  ADET_INLINE void hold(
      int64_t s0, int64_t s1, int64_t l, int& slot0, int& slot1, const Before& before, const After& after) {
    slot0 = find(s0, l);
    slot1 = find(s1, l);
    if (slot0 < 0) {
      slot0 = slot1 == 0 ? 1 : 0;
      replace(slot0, s0, l, before, after);
      if (s1 == s0) {
        slot1 = slot0;
      }
    }
    if (slot1 < 0) {
      slot1 = 1 - slot0;
      replace(slot1, s1, l, before, after);
    }
  }

  template <typename Before, typename After>
  ADET_INLINE void replace(int slot, int64_t s, int64_t l, const Before& before, const After& after) {
    before(slot);
    source[slot] = s;
    lane[slot] = l;
    after(slot);
  }
};

} // namespace adet_ext
