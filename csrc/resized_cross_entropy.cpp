// The cross-entropy of logits that are resized bilinearly to the size of their labels, without the resized logits.
//
// N images, C classes; logits of H x W, labels of H' x W'.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // logits (N, C, H, W), float32 or float64; labels (N, H', W') int64: 0 to C - 1, or `ignored`. The logits are resized
  // to H' x W' as by F.interpolate with align_corners=False.
  // Returns the sum over all labels that are not ignored, (), and its gradient with respect to the logits: of their
  // shape and strides where `gradient` is true, else (0,). On a GPU a label that is neither makes the sum NaN.
  m.def("resized_cross_entropy(Tensor logits, Tensor labels, int ignored, bool gradient) -> (Tensor, Tensor)");
}
