// Non-maximum suppression within classes, as a mask of fixed size; kernels in csrc/cpu and csrc/cuda.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m) {
  // boxes: (N, K, 4) float32, corners, best first. classes: (N, K) int64. valid: (N, K) bool.
  // Returns (N, K) bool: greedy suppression where the intersection over union exceeds the threshold, exact.
  m.def("nms_keep(Tensor boxes, Tensor classes, Tensor valid, float threshold) -> Tensor");
}
