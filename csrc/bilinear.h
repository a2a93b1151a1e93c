// Bilinear sampling and resizing, for all operators, devices and directions: the neighbors of a point, their weights.
#pragma once

#include "common.h"

#include <cmath>

namespace adet_ext {

// The values beyond the border of a map. clamp, as in RoIAlign: the value at the border up to one cell outside, zero
// further out. zeros, as in deformable convolution: zeros, interpolated over the cell outside the border.
enum class Border : int64_t { clamp = 0, zeros = 1 };

// Four neighbors as rows and columns, and their weights. The weight of a neighbor outside the map is zero, and its row
// and column are valid: callers need no bounds check.
template <typename acc>
struct Corners {
  int64_t y0, y1, x0, x1;
  acc w00, w01, w10, w11; // row 0 column 0, row 0 column 1, ...
};

// One direction: the neighbors of coordinate p among `size` cells, and their weights. They are zero if p is not finite.
template <typename acc>
ADET_HOST_DEVICE void neighbours(acc p, int64_t size, Border border, int64_t& i0, int64_t& i1, acc& w0, acc& w1) {
  i0 = i1 = 0;
  w0 = w1 = acc(0);
  // The comparison is false for NaN. RoIAlign takes points at -1 and size, deformable convolution does not.
  const bool inside = border == Border::clamp ? (p >= acc(-1) && p <= acc(size)) : (p > acc(-1) && p < acc(size));
  if (!inside || size == 0) {
    return;
  }
  if (border == Border::clamp) {
    p = p < acc(0) ? acc(0) : p;
    p = p > acc(size - 1) ? acc(size - 1) : p;
  }
  const acc low = std::floor(p);
  const int64_t i = static_cast<int64_t>(low);
  const acc high_weight = p - low;
  w0 = i >= 0 ? acc(1) - high_weight : acc(0);
  w1 = i + 1 < size ? high_weight : acc(0);
  i0 = i >= 0 ? i : 0;
  i1 = i + 1 < size ? i + 1 : size - 1;
}

// Derivatives of the two weights of neighbours() with respect to p, from above where they jump; zero if p is clamped.
template <typename acc>
ADET_HOST_DEVICE void slopes(acc p, int64_t size, Border border, acc& s0, acc& s1) {
  s0 = s1 = acc(0);
  if (border == Border::clamp) {
    if (p >= acc(0) && p < acc(size - 1)) {
      s0 = acc(-1);
      s1 = acc(1);
    }
  } else if (p >= acc(-1) && p < acc(size)) {
    s0 = p >= acc(0) ? acc(-1) : acc(0);
    s1 = p < acc(size - 1) ? acc(1) : acc(0);
  }
}

template <typename acc>
ADET_HOST_DEVICE Corners<acc> corners(acc y, acc x, int64_t height, int64_t width, Border border) {
  Corners<acc> c;
  acc wy0, wy1, wx0, wx1;
  neighbours(y, height, border, c.y0, c.y1, wy0, wy1);
  neighbours(x, width, border, c.x0, c.x1, wx0, wx1);
  c.w00 = wy0 * wx0;
  c.w01 = wy0 * wx1;
  c.w10 = wy1 * wx0;
  c.w11 = wy1 * wx1;
  return c;
}

// The two cells of m that cell i of n reads, and their weights: F.interpolate with align_corners=False.
template <typename acc>
ADET_HOST_DEVICE void resize_neighbours(
    int64_t i, int64_t m, int64_t n, bool nearest, int& i0, int& i1, acc& w0, acc& w1) {
  if (nearest) {
    // In float32 for all types, as PyTorch does.
    const int64_t at =
        n == m ? i : static_cast<int64_t>(static_cast<float>(i) * (static_cast<float>(m) / static_cast<float>(n)));
    i0 = i1 = static_cast<int>(at < m - 1 ? at : m - 1);
    w0 = acc(1);
    w1 = acc(0);
    return;
  }
  acc p = (acc(i) + acc(0.5)) * (acc(m) / acc(n)) - acc(0.5);
  p = p < acc(0) ? acc(0) : p;
  const int64_t low = static_cast<int64_t>(p) < m - 1 ? static_cast<int64_t>(p) : m - 1;
  i0 = static_cast<int>(low);
  i1 = static_cast<int>(low < m - 1 ? low + 1 : low);
  w1 = p - acc(low);
  w0 = acc(1) - w1;
}

// The sampling points of an evenly divided box: the center of part i of a side from low to high, in cells of a map with
// this scale (1 / stride). The center of cell 0 is at half a stride (equations 3.2 and 3.3).
template <typename acc>
ADET_HOST_DEVICE acc part_centre(acc low, acc high, int64_t i, int64_t parts, acc scale) {
  const acc start = low * scale - acc(0.5);
  const acc step = (high * scale - acc(0.5) - start) / acc(parts);
  return start + (acc(i) + acc(0.5)) * step;
}

} // namespace adet_ext
