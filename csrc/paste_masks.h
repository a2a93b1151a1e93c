// What pasting masks shares on all devices: which pixels a box's mask can reach, and where a pixel lies in the mask.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <cmath>

namespace adet_ext {

// Where the centre of pixel i lies, in cells of a mask of `side` over [low, high], cell 0 having its centre at 0. In the
// order of operations of Detectron2's paste_masks_in_image and of grid_sample.
template <typename T>
ADET_HOST_DEVICE T paste_point(int64_t i, T low, T high, int64_t side) {
  const T unit = (T(i) + T(0.5) - low) / (high - low) * T(2) - T(1); // [-1, 1] over the box
  return ((unit + T(1)) * T(side) - T(1)) / T(2);
}

// Pixels [first, last) of n whose centres lie within half a cell of the box, and perhaps some more. None for a box
// without length or one that is not finite.
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
  check_dim(out, "out", 3);
  check_type(out, "out", ScalarType::Bool);
  STD_TORCH_CHECK(out.is_contiguous(), "out is not contiguous");
  check_dim(masks, "masks", 3);
  check_size(masks, "masks", 0, out.size(0));
  check_size(masks, "masks", 2, masks.size(1));
  check_same_device(masks, "masks", out);
  check_type(masks, "masks", sum_type(masks));
  check_boxes(boxes, masks);
  check_size(boxes, "boxes", 0, out.size(0));
  STD_TORCH_CHECK(threshold > 0, "threshold is ", threshold, "; it takes a number above 0");
}

// The operator of a device: paste(out, masks, boxes, threshold), the latter two contiguous, with something to do.
template <void (*paste)(const Tensor&, const Tensor&, const Tensor&, double)>
void paste_masks(const Tensor& out, const Tensor& masks, const Tensor& boxes, double threshold) {
  check_paste(out, masks, boxes, threshold);
  if (out.numel() > 0 && masks.numel() > 0) {
    paste(out, torch::stable::contiguous(masks), torch::stable::contiguous(boxes), threshold);
  }
}

} // namespace adet_ext
