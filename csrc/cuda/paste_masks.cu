// paste_masks on GPUs. The windows of the boxes are computed on the device: the host does not wait for them.
#include "../paste_masks.h"
#include "cuda.h"

namespace adet_ext {
namespace {

constexpr int kColumns = 64; // threads along x; four rows of them a block
constexpr int kRows = 4;
constexpr unsigned kBlocks = 32; // a mask

// blockIdx.x: the mask. Blocks and threads stride over its window; the rest of the image is not touched.
template <typename T>
__global__ void __launch_bounds__(kColumns* kRows) paste(
    const T* __restrict__ masks, const T* __restrict__ boxes, bool* __restrict__ out, int side, int64_t height,
    int64_t width, T threshold) {
  const int64_t d = blockIdx.x;
  const T* box = boxes + d * 4;
  const T* mask = masks + d * side * side;
  int64_t left, right, top, bottom;
  paste_window(box[0], box[2], side, width, left, right);
  paste_window(box[1], box[3], side, height, top, bottom);
  for (int64_t y = top + static_cast<int64_t>(blockIdx.y) * kRows + threadIdx.y; y < bottom;
       y += static_cast<int64_t>(gridDim.y) * kRows) {
    int64_t y0, y1;
    T wy0, wy1;
    neighbours(paste_point(y, box[1], box[3], side), side, Border::zeros, y0, y1, wy0, wy1);
    if (wy0 == T(0) && wy1 == T(0)) {
      continue;
    }
    bool* row = out + (d * height + y) * width;
    for (int64_t x = left + threadIdx.x; x < right; x += kColumns) {
      int64_t x0, x1;
      T wx0, wx1;
      neighbours(paste_point(x, box[0], box[2], side), side, Border::zeros, x0, x1, wx0, wx1);
      const T above = wx0 * mask[y0 * side + x0] + wx1 * mask[y0 * side + x1];
      const T below = wx0 * mask[y1 * side + x0] + wx1 * mask[y1 * side + x1];
      row[x] = wy0 * above + wy1 * below >= threshold;
    }
  }
}

void paste_all(const Tensor& out, const Tensor& masks, const Tensor& boxes, double threshold) {
  const OnDeviceOf guard(out);
  const dim3 grid(static_cast<unsigned>(out.size(0)), kBlocks), block(kColumns, kRows);
  ADET_DISPATCH_SUMS(masks.scalar_type(), "paste_masks", [&] {
    paste<scalar_t><<<grid, block, 0, current_stream(out)>>>(
        masks.const_data_ptr<scalar_t>(), boxes.const_data_ptr<scalar_t>(), out.mutable_data_ptr<bool>(),
        static_cast<int>(masks.size(2)), out.size(1), out.size(2), static_cast<scalar_t>(threshold));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("paste_masks", TORCH_BOX(&adet_ext::paste_masks<adet_ext::paste_all>));
}
