// Binomial blur with a stride (thesis equation 3.4), as adet_ext/layers/blur_pool.py documents it.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m) {
  // x (N, C, H, W) -> (N, C, ceil((H + 2 rows) / stride), ceil((W + 2 columns) / stride)). padding: 0 reflect,
  // 1 replicate, 2 zeros. The first output is centred rows and columns before the first pixel; both are 0 unless stride
  // is 1 and padding 2. Channels-last if x's channels are dense and its columns are not, else contiguous.
  m.def("blur_pool(Tensor x, int taps, int stride, int padding, int rows, int columns) -> Tensor");
  // grad (N, C, H', W') of the result -> gradient of x, (N, C, height, width); its layout follows grad's.
  m.def(
      "blur_pool_backward(Tensor grad, int height, int width, int taps, int stride, int padding, int rows, int columns)"
      " -> Tensor");
}
