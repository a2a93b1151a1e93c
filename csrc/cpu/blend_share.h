// Blending on CPUs: how the work is divided. The gradient of the bases is divided into bands of rows of one image. Each
// band gathers from all detections of its image in their order, so no two threads write to the same place and the
// result does not depend on the number of threads. All other work is divided by detections.
#pragma once

#include "../blend.h"
#include "cpu.h"

#include <algorithm>
#include <vector>

namespace adet_ext {

inline void check_images(const int64_t* image, int64_t count, int64_t images) {
  for (int64_t d = 0; d < count; ++d) {
    ADET_CHECK(image[d] >= 0 && image[d] < images, "image[", d, "] must be 0 to ", images - 1, "; got ", image[d]);
  }
}

// With at least one image a thread, bands are whole images, and one pass over them computes all gradients.
inline bool whole_images(int64_t images) {
  return static_cast<int64_t>(torch::stable::get_num_threads()) <= images;
}

// run(image n, first row, last row + 1, detections of the image, their number) for each band of each image.
template <typename Run>
void for_bands(const int64_t* image, int64_t count, int64_t images, int64_t height, const Run& run) {
  std::vector<int64_t> order(count), start(images + 1, 0);
  for (int64_t d = 0; d < count; ++d) {
    ++start[image[d] + 1];
  }
  for (int64_t n = 0; n < images; ++n) {
    start[n + 1] += start[n];
  }
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  for (int64_t d = 0; d < count; ++d) {
    order[next[image[d]]++] = d;
  }
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t wished = whole_images(images) ? 1 : (4 * threads + images - 1) / images;
  const int64_t bands = std::min(wished, std::max<int64_t>(1, height / 4));
  parallel_for(0, images * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / bands, band = i % bands;
      run(n, band * height / bands, (band + 1) * height / bands, order.data() + start[n], start[n + 1] - start[n]);
    }
  });
}

// Write rows low to low + rows of the gradient of one image: band (planes, rows, width) -> a tensor of any layout.
template <typename T>
void write_band(const T* band, int64_t low, int64_t rows, T* image, const Tensor& like) {
  const int64_t planes = like.size(1), width = like.size(3);
  const int64_t sk = like.stride(1), sy = like.stride(2), sx = like.stride(3);
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t k = 0; k < planes; ++k) {
      const T* from = band + (k * rows + y) * width;
      T* to = image + k * sk + (low + y) * sy;
      for (int64_t x = 0; x < width; ++x) {
        to[x * sx] = from[x];
      }
    }
  }
}

// Both directions. A Task has the scratch memory of a thread: for the gradient of a band of rows of the bases, for that
// of the weights, or for neither. run(arguments, task, order, begin, end) computes detections order[begin] to order[end
// - 1].
template <class Task, class Args>
void share_forward(const Args& a, int64_t count) {
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Task task(a, 0, 0, false, false);
    run(a, task, nullptr, begin, end);
  });
}

template <class Task, class Args>
void share_backward(const Args& a, int64_t count, int64_t images, Tensor* grad_bases, bool to_weights) {
  using T = std::remove_const_t<decltype(a.scale)>;
  const bool at_once = grad_bases != nullptr && to_weights && whole_images(images);
  if (to_weights && !at_once) {
    parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      Task task(a, 0, a.height, false, true);
      run(a, task, nullptr, begin, end);
    });
  }
  if (grad_bases == nullptr) {
    return;
  }
  T* grad = grad_bases->mutable_data_ptr<T>();
  for_bands(
      a.image, count, images, a.height, [&](int64_t n, int64_t low, int64_t high, const int64_t* order, int64_t some) {
        Task task(a, low, high - low, true, at_once);
        run(a, task, order, 0, some);
        write_band(task.band, low, high - low, grad + n * grad_bases->stride(0), *grad_bases);
      });
}

} // namespace adet_ext
