// nms_mask: the rule that compares two boxes, and the checks.
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

// Whether the intersection over union exceeds the limit. False for NaN and between boxes without area.
ADET_HOST_DEVICE bool overlap(const Box& a, float area_a, const Box& b, float area_b, float limit) {
  const float x0 = a.x0 > b.x0 ? a.x0 : b.x0, x1 = a.x1 < b.x1 ? a.x1 : b.x1;
  const float y0 = a.y0 > b.y0 ? a.y0 : b.y0, y1 = a.y1 < b.y1 ? a.y1 : b.y1;
  const float w = x1 > x0 ? x1 - x0 : 0.0f, h = y1 > y0 ? y1 - y0 : 0.0f;
  const float both = w * h;
  return both / (area_a + area_b - both) > limit;
}

// The float32 limit that the same overlaps exceed as the float64 threshold.
inline float as_limit(double threshold) {
  const float limit = static_cast<float>(threshold);
  return static_cast<double>(limit) > threshold ? std::nextafter(limit, -std::numeric_limits<float>::infinity())
                                                : limit;
}

inline void check_candidates(const Tensor& boxes, const Tensor& classes, const Tensor& valid, double threshold) {
  check_shape(boxes, "boxes", {'N', 'K', 4});
  check_type(boxes, "boxes", ScalarType::Float);
  check_shape(classes, "classes", {boxes.size(0), boxes.size(1)});
  check_type(classes, "classes", ScalarType::Long);
  check_device(classes, "classes", boxes);
  check_shape(valid, "valid", {boxes.size(0), boxes.size(1)});
  check_type(valid, "valid", ScalarType::Bool);
  check_device(valid, "valid", boxes);
  ADET_CHECK(threshold == threshold, "threshold must be a number; got nan");
}

} // namespace adet_ext
