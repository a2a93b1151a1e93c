// paste_masks on CPUs; masks are divided among threads. A row of a mask is interpolated along x once, for all rows of
// pixels that read it: boxes mostly have more pixels than masks have cells.
#include "../paste_masks.h"
#include "blend_tables.h"

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

// Lines of a task: a row of the mask with zeros around it; for each column what it reads; two rows resized to columns.
template <typename T>
struct PasteTask {
  explicit PasteTask(const PasteArgs<T>& a)
      : arena(Arena::room<T>(a.side + 3) + Arena::room<int32_t>(a.width) + 3 * Arena::room<T>(a.width)),
        row(arena.template take<T>(a.side + 3)),
        cell(arena.template take<int32_t>(a.width)),
        weight(arena.template take<T>(a.width)),
        wide{arena.template take<T>(a.width), arena.template take<T>(a.width)} {}

  Arena arena;
  T* row;
  int32_t* cell;
  T *weight, *wide[2];
};

// What each of the columns from `left` on reads. The row has one zero before it and two behind it, so that points up to
// a cell outside the mask have neighbors.
template <typename T>
ADET_INLINE void find_cells(const PasteTask<T>& task, int64_t left, int64_t columns, T low, T high, int64_t side) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    T p = paste_point(left + i, low, high, side);
    p = p > T(-1) ? p : T(-1);
    p = p < T(side) ? p : T(side);
    const T cell = std::floor(p);
    task.cell[i] = static_cast<int32_t>(cell) + 1;
    task.weight[i] = p - cell;
  }
}

// Row j of a mask, resized to the columns; zeros beyond the mask.
template <typename T>
ADET_INLINE void widen(const PasteTask<T>& task, const T* mask, int64_t j, int64_t side, int64_t columns, T* to) {
  if (j < 0 || j >= side) {
    std::fill(to, to + columns, T(0));
    return;
  }
  std::copy(mask + j * side, mask + (j + 1) * side, task.row + 1);
  const T* row = task.row;
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    const T w = task.weight[i];
    to[i] = (T(1) - w) * row[task.cell[i]] + w * row[task.cell[i] + 1];
  }
}

template <typename T>
ADET_INLINE void paste(const PasteArgs<T>& a, PasteTask<T>& task, int64_t begin, int64_t end) {
  task.row[0] = task.row[a.side + 1] = task.row[a.side + 2] = T(0);
  for (int64_t d = begin; d < end; ++d) {
    const T* box = a.boxes + d * 4;
    const T* mask = a.masks + d * a.side * a.side;
    int64_t left, right, top, bottom;
    paste_window(box[0], box[2], a.side, a.width, left, right);
    paste_window(box[1], box[3], a.side, a.height, top, bottom);
    const int64_t columns = right - left;
    if (columns <= 0 || top >= bottom) {
      continue;
    }
    find_cells(task, left, columns, box[0], box[2], a.side);
    int64_t held[2] = {-2, -2}; // rows of the mask in task.wide; row j is in slot j & 1
    for (int64_t y = top; y < bottom; ++y) {
      const T p = paste_point(y, box[1], box[3], a.side);
      if (!(p > T(-1) && p < T(a.side))) {
        continue; // beyond the mask: zeros
      }
      const T low = std::floor(p);
      const int64_t j = static_cast<int64_t>(low);
      for (int64_t row = j; row <= j + 1; ++row) {
        if (held[row & 1] != row) {
          held[row & 1] = row;
          widen(task, mask, row, a.side, columns, task.wide[row & 1]);
        }
      }
      const T *above = task.wide[j & 1], *below = task.wide[(j + 1) & 1];
      const T w1 = p - low, w0 = T(1) - w1, threshold = a.threshold;
      bool* out = a.out + (d * a.height + y) * a.width + left;
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) {
        out[i] = w0 * above[i] + w1 * below[i] >= threshold;
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

void paste_all(const Tensor& out, const Tensor& masks, const Tensor& boxes, double threshold) {
  ADET_DISPATCH_SUMS(masks.scalar_type(), "paste_masks", [&] {
    const PasteArgs<scalar_t> a{
        masks.const_data_ptr<scalar_t>(),
        boxes.const_data_ptr<scalar_t>(),
        out.mutable_data_ptr<bool>(),
        masks.size(2),
        out.size(1),
        out.size(2),
        static_cast<scalar_t>(threshold)};
    parallel_for(0, out.size(0), 1, [&](int64_t begin, int64_t end) {
      PasteTask<scalar_t> task(a);
      run(a, task, begin, end);
    });
  });
}

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&adet_ext::paste_masks<adet_ext::paste_all>));
}
