// paste_masks: the pixels that the mask of a box can reach, the position of a pixel in the mask, and the checks.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <cmath>

namespace adet_ext {

// The position of the center of pixel i, in cells of a mask of `side` over [low, high]; the center of cell 0 is at 0.
// In the order of operations of Detectron2's paste_masks_in_image and of grid_sample.
template <typename T>
ADET_HOST_DEVICE T paste_point(int64_t i, T low, T high, int64_t side) {
  const T unit = (T(i) + T(0.5) - low) / (high - low) * T(2) - T(1); // [-1, 1] over the box
  return ((unit + T(1)) * T(side) - T(1)) / T(2);
}

// Pixels [first, last) of n that contain all whose centers are within half a cell of the box. None for a box that has
// no length or is not finite.
template <typename T>
ADET_HOST_DEVICE void paste_window(T low, T high, int64_t side, int64_t n, int64_t& first, int64_t& last) {
  first = last = 0;
  const T length = high - low;
  if (!(length > T(0)) || !(length < T(1e30)) || !(low > T(-1e30)) || !(low < T(1e30))) { // false for NaN
    return;
  }
  const T margin = length / T(2 * side) + T(1);
  const T start = std::floor(low - margin), end = std::ceil(high + margin);
  first = start > T(0) ? static_cast<int64_t>(start < T(n) ? start : T(n)) : 0;
  last = end < T(n) ? static_cast<int64_t>(end > T(0) ? end : T(0)) : n;
}

inline void check_paste(const Tensor& out, const Tensor& masks, const Tensor& boxes, double threshold) {
  check_shape(out, "out", {'D', 'H', 'W'});
  check_type(out, "out", ScalarType::Bool);
  ADET_CHECK(out.is_contiguous(), "out must be contiguous");
  check_shape(masks, "masks", {out.size(0), 'R', 'R'});
  check_type(masks, "masks", sum_type(masks));
  check_device(masks, "masks", out);
  check_shape(boxes, "boxes", {out.size(0), 4});
  check_like(boxes, "boxes", masks);
  ADET_CHECK(threshold > 0, "threshold must be a number above 0; got ", threshold);
}

// The operator of a device. paste is its kernel; masks and boxes are contiguous, and no tensor is empty.
template <void (*paste)(const Tensor&, const Tensor&, const Tensor&, double)>
void paste_masks(const Tensor& out, const Tensor& masks, const Tensor& boxes, double threshold) {
  check_paste(out, masks, boxes, threshold);
  if (out.numel() > 0 && masks.numel() > 0) {
    paste(out, torch::stable::contiguous(masks), torch::stable::contiguous(boxes), threshold);
  }
}

} // namespace adet_ext
