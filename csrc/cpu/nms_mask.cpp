// nms_mask on CPUs: candidates are grouped by class first, so that only boxes of the same class are compared.
#include "../nms_mask.h"
#include "cpu.h"

#include <algorithm>

namespace adet_ext {
namespace {

// Boxes of one class, best first; each coordinate is a row of `count` numbers. removed: zeros on entry.
ADET_CLONES void suppress(
    const float* x0, const float* y0, const float* x1, const float* y1, const float* area, int64_t count, float limit,
    int32_t* removed) {
  for (int64_t i = 0; i < count; ++i) {
    if (removed[i]) {
      continue;
    }
    const Box best{x0[i], y0[i], x1[i], y1[i]};
    const float best_area = area[i];
#pragma omp simd
    for (int64_t j = i + 1; j < count; ++j) {
      const Box other{x0[j], y0[j], x1[j], y1[j]};
      removed[j] |= overlap(best, best_area, other, area[j], limit);
    }
  }
}

// One image of `count` candidates. keep: zeros on entry.
void keep_of_image(
    const Box* boxes, const int64_t* classes, const bool* valid, int64_t count, float limit, bool* keep) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i) {
    if (valid[i]) {
      order.push_back(i);
    }
  }
  // By class, and within a class in the order given.
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return classes[a] != classes[b] ? classes[a] < classes[b] : a < b;
  });
  const int64_t total = static_cast<int64_t>(order.size());
  std::vector<float> numbers(5 * total);
  float *x0 = numbers.data(), *y0 = x0 + total, *x1 = y0 + total, *y1 = x1 + total, *area = y1 + total;
  for (int64_t i = 0; i < total; ++i) {
    const Box& box = boxes[order[i]];
    x0[i] = box.x0;
    y0[i] = box.y0;
    x1[i] = box.x1;
    y1[i] = box.y1;
    area[i] = area_of(box);
  }
  std::vector<int32_t> removed(total, 0);
  for (int64_t begin = 0, end; begin < total; begin = end) {
    end = begin + 1;
    while (end < total && classes[order[end]] == classes[order[begin]]) {
      ++end;
    }
    suppress(x0 + begin, y0 + begin, x1 + begin, y1 + begin, area + begin, end - begin, limit, removed.data() + begin);
  }
  for (int64_t i = 0; i < total; ++i) {
    keep[order[i]] = !removed[i];
  }
}

Tensor nms_mask(Tensor boxes, Tensor classes, Tensor valid, double threshold) {
  check_candidates(boxes, classes, valid, threshold);
  const Tensor b = torch::stable::contiguous(boxes), c = torch::stable::contiguous(classes),
               v = torch::stable::contiguous(valid);
  const int64_t images = boxes.size(0), count = boxes.size(1);
  Tensor keep = torch::stable::new_zeros(v, {images, count});
  const Box* box = static_cast<const Box*>(b.const_data_ptr());
  const int64_t* kind = static_cast<const int64_t*>(c.const_data_ptr());
  const bool* use = static_cast<const bool*>(v.const_data_ptr());
  bool* to = static_cast<bool*>(keep.mutable_data_ptr());
  parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin * count; n < end * count; n += count) {
      keep_of_image(box + n, kind + n, use + n, count, as_limit(threshold), to + n);
    }
  });
  return keep;
}

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("nms_mask", TORCH_BOX(&adet_ext::nms_mask));
}
