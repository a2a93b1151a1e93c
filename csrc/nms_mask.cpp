// Non-maximum suppression within classes, as a mask of fixed size; kernels are in csrc/cpu and csrc/cuda.
//
// N images, K candidates an image.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // boxes (N, K, 4) float32, corners, best first; classes (N, K) int64; valid (N, K) bool.
  // Returns (N, K) bool: greedy suppression of boxes whose intersection over union with a kept one exceeds the
  // threshold, exact for chains of any length.
  m.def("nms_mask(Tensor boxes, Tensor classes, Tensor valid, float threshold) -> Tensor");
}
