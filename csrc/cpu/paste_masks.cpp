// Masks into the image on CPUs, instances shared out among threads. Within a box, a row of the mask is interpolated along
// y once, then along x for each pixel.
#include "../paste_masks.h"
#include "blend_tables.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace adet_ext {
namespace {

template <typename T>
struct PasteArgs {
  const T *masks, *boxes;
  bool* out;
  int64_t side, height, width;
  T threshold;
};

// Lines of a task: a row of the mask with a zero on either side, and for each column what it reads.
template <typename T>
struct PasteTask {
  explicit PasteTask(const PasteArgs<T>& a)
      : arena(Arena::room<T>(a.side + 3) + Arena::room<int32_t>(a.width) + Arena::room<T>(a.width)),
        row(arena.template take<T>(a.side + 3)),
        cell(arena.template take<int32_t>(a.width)),
        weight(arena.template take<T>(a.width)) {}

  Arena arena;
  T* row;
  int32_t* cell;
  T* weight;
};

template <typename T>
ADET_INLINE void paste(const PasteArgs<T>& a, PasteTask<T>& task, int64_t begin, int64_t end) {
  for (int64_t d = begin; d < end; ++d) {
    const T* box = a.boxes + d * 4;
    const T* mask = a.masks + d * a.side * a.side;
    int64_t left, right, top, bottom;
    paste_window(box[0], box[2], a.side, a.width, left, right);
    paste_window(box[1], box[3], a.side, a.height, top, bottom);
    if (left >= right || top >= bottom) {
      continue;
    }
    const int64_t columns = right - left;
    // The row has a zero before it and two behind, so that points up to a cell outside read their neighbours there.
    for (int64_t i = 0; i < columns; ++i) {
      T p = paste_point(left + i, box[0], box[2], a.side);
      p = p > T(-1) ? p : T(-1);
      p = p < T(a.side) ? p : T(a.side);
      const T low = std::floor(p);
      task.cell[i] = static_cast<int32_t>(low) + 1;
      task.weight[i] = p - low;
    }
    task.row[0] = task.row[a.side + 1] = task.row[a.side + 2] = T(0);
    for (int64_t y = top; y < bottom; ++y) {
      const T p = paste_point(y, box[1], box[3], a.side);
      if (!(p > T(-1) && p < T(a.side))) {
        continue; // beyond the mask, where all is zero
      }
      const T low = std::floor(p);
      const int64_t j = static_cast<int64_t>(low);
      const T w1 = j + 1 < a.side ? p - low : T(0), w0 = j >= 0 ? T(1) - (p - low) : T(0);
      const T* above = mask + (j >= 0 ? j : 0) * a.side;
      const T* below = mask + (j + 1 < a.side ? j + 1 : j) * a.side;
#pragma omp simd
      for (int64_t i = 0; i < a.side; ++i) {
        task.row[i + 1] = w0 * above[i] + w1 * below[i];
      }
      bool* out = a.out + (d * a.height + y) * a.width + left;
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) {
        const T w = task.weight[i];
        const T value = (T(1) - w) * task.row[task.cell[i]] + w * task.row[task.cell[i] + 1];
        out[i] = value >= a.threshold;
      }
    }
  }
}

ADET_CLONES void run(const PasteArgs<float>& a, PasteTask<float>& task, int64_t begin, int64_t end) {
  paste(a, task, begin, end);
}
ADET_CLONES void run(const PasteArgs<double>& a, PasteTask<double>& task, int64_t begin, int64_t end) {
  paste(a, task, begin, end);
}

template <typename T>
void paste_all(const Tensor& out, const Tensor& masks, const Tensor& boxes, double threshold) {
  const PasteArgs<T> a{
      masks.const_data_ptr<T>(), boxes.const_data_ptr<T>(), out.mutable_data_ptr<bool>(),
      masks.size(2), out.size(1), out.size(2), static_cast<T>(threshold)};
  parallel_for(0, out.size(0), 1, [&](int64_t begin, int64_t end) {
    PasteTask<T> task(a);
    run(a, task, begin, end);
  });
}

} // namespace

void paste_masks_cpu(Tensor out, const Tensor& masks, const Tensor& boxes, double threshold) {
  check_paste(out, masks, boxes, threshold);
  if (out.numel() == 0 || masks.numel() == 0) {
    return;
  }
  const Tensor m = torch::stable::contiguous(masks), b = torch::stable::contiguous(boxes);
  if (masks.scalar_type() == ScalarType::Double) {
    paste_all<double>(out, m, b, threshold);
  } else {
    paste_all<float>(out, m, b, threshold);
  }
}

} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("paste_masks_", TORCH_BOX(&adet_ext::paste_masks_cpu));
}
