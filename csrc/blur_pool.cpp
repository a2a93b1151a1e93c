// Binomial blur with a stride (thesis equation 3.4), as adet_ext/layers/blur_pool.py documents it.
//
// N images, C channels, H x W a map.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // x (N, C, H, W) -> (N, C, ceil((H + 2 rows) / stride), ceil((W + 2 columns) / stride)). padding: 0 reflect,
  // 1 replicate, 2 zeros. The first output is centered `rows` and `columns` before the first pixel; both are 0 unless
  // stride is 1 and padding is 2. The result is channels-last if the channels of x are dense and its columns are not,
  // else contiguous.
  m.def("blur_pool(Tensor x, int taps, int stride, int padding, int rows, int columns) -> Tensor");
  // grad (N, C, H', W') of the result -> gradient of x, (N, C, height, width); with the layout of grad.
  m.def(
      "blur_pool_backward(Tensor grad, int height, int width, int taps, int stride, int padding, int rows, int columns)"
      " -> Tensor");
}
