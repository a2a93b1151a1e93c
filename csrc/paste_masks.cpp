// Masks from their boxes into the image, as adet_ext/layers/paste_masks.py documents it.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // masks (D, R, R) of probabilities, boxes (D, 4) in pixels of the output, both float32 or both float64; out (D, H, W)
  // bool and contiguous, all false: becomes true where the mask, interpolated over its box, reaches the threshold.
  m.def("paste_masks(Tensor(a!) out, Tensor masks, Tensor boxes, float threshold) -> ()");
}
