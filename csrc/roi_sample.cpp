// RoIPred's sampling (thesis 3.3.1, equations 3.2, 3.3 and 3.5); kernels in csrc/cpu and csrc/cuda.
//
// N images, C channels, L levels, D boxes, kh x kw points a box.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m) {
  // features: L maps (N, C, H_l, W_l), of any strides. boxes: (D, 4), float32, or float64 with float64 features.
  // image, level: (D,) int64. scales: 1 / stride of each level. border: see csrc/bilinear.h.
  // Returns (D, C, kh, kw), with the channels innermost in memory if channels_last.
  m.def(
      "roi_sample(Tensor[] features, Tensor boxes, Tensor image, Tensor level, float[] scales, int kh, int kw, "
      "int border, bool channels_last) -> Tensor");

  // The gradients of the features. grad: (D, C, kh, kw). sizes: N, then H_l, W_l of each level. Returns L tensors
  // (N, C, H_l, W_l), dense, with the channels innermost in memory if channels_last.
  m.def(
      "roi_sample_backward_features(Tensor grad, Tensor boxes, Tensor image, Tensor level, SymInt[] sizes, "
      "float[] scales, int border, bool channels_last, bool deterministic) -> Tensor[]");

  // The gradient of the boxes: (D, 4).
  m.def(
      "roi_sample_backward_boxes(Tensor grad, Tensor[] features, Tensor boxes, Tensor image, Tensor level, "
      "float[] scales, int border) -> Tensor");
}
