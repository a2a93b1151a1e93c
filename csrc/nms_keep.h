// What the CPU and the CUDA kernels of nms_keep share.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <cmath>
#include <limits>

namespace adet_ext {

struct Box {
  float x0, y0, x1, y1;
};

ADET_HOST_DEVICE float area_of(const Box& a) {
  return (a.x1 - a.x0) * (a.y1 - a.y0);
}

// Whether the intersection over union exceeds the limit. Not with NaN, and not between boxes of no area.
ADET_HOST_DEVICE bool overlap(const Box& a, float area_a, const Box& b, float area_b, float limit) {
  const float x0 = a.x0 > b.x0 ? a.x0 : b.x0, x1 = a.x1 < b.x1 ? a.x1 : b.x1;
  const float y0 = a.y0 > b.y0 ? a.y0 : b.y0, y1 = a.y1 < b.y1 ? a.y1 : b.y1;
  const float w = x1 > x0 ? x1 - x0 : 0.0f, h = y1 > y0 ? y1 - y0 : 0.0f;
  const float both = w * h;
  return both / (area_a + area_b - both) > limit;
}

// The float32 that an overlap must exceed to exceed the float64 threshold.
inline float as_limit(double threshold) {
  const float limit = static_cast<float>(threshold);
  return static_cast<double>(limit) > threshold ? std::nextafter(limit, -std::numeric_limits<float>::infinity()) : limit;
}

inline void check_candidates(const Tensor& boxes, const Tensor& classes, const Tensor& valid) {
  check_dim(boxes, "boxes", 3);
  check_size(boxes, "boxes", 2, 4);
  check_type(boxes, "boxes", ScalarType::Float);
  check_type(classes, "classes", ScalarType::Long);
  check_type(valid, "valid", ScalarType::Bool);
  check_dim(classes, "classes", 2);
  check_dim(valid, "valid", 2);
  for (int64_t axis = 0; axis < 2; ++axis) {
    check_size(classes, "classes", axis, boxes.size(axis));
    check_size(valid, "valid", axis, boxes.size(axis));
  }
  check_same_device(classes, "classes", boxes);
  check_same_device(valid, "valid", boxes);
}

} // namespace adet_ext
