// The sampling of RoIPred (thesis 3.3.1, equations 3.2, 3.3 and 3.5); kernels are in csrc/cpu and csrc/cuda.
//
// N images, C channels, B boxes, kh x kw points a box.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // features: one map (N, C, H, W) a level, with any strides. boxes: (B, 4), float32, or float64 with float64 features.
  // image, level: (B,) int64. scales: 1 / stride of each level. border: see csrc/bilinear.h.
  // Returns (B, C, kh, kw), with the channels innermost in memory if channels_last.
  m.def(
      "roi_sample(Tensor[] features, Tensor boxes, Tensor image, Tensor level, float[] scales, int kh, int kw, "
      "int border, bool channels_last) -> Tensor");

  // The gradients of the features. grad: (B, C, kh, kw). sizes: N, then H, W of each level. Returns a tensor (N, C, H,
  // W) for each level, dense, with the channels innermost in memory if channels_last.
  m.def(
      "roi_sample_backward_features(Tensor grad, Tensor boxes, Tensor image, Tensor level, SymInt[] sizes, "
      "float[] scales, int border, bool channels_last, bool deterministic) -> Tensor[]");

  // The gradient of the boxes: (B, 4).
  m.def(
      "roi_sample_backward_boxes(Tensor grad, Tensor[] features, Tensor boxes, Tensor image, Tensor level, "
      "float[] scales, int border) -> Tensor");
}
