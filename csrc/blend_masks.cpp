// BlendMask's blender and assembler (thesis 4.3.2, equations 4.1 to 4.4): masks from bases, boxes and attentions,
// without storing the crops and the resized attentions. csrc/blend.h has the letters and what all blend operators
// share.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // bases (N, K, H, W) of any layout, attentions (D, K, M, M), boxes (D, 4), image (D,) int64 -> (D, R, R).
  // weighting: see csrc/blend.h. Position-sensitive assembly (FCIS) is weighting one_hot, K = M^2, with attentions of
  // shape (0, K, M, M). nearest: how attentions are resized; else bilinear.
  m.def(
      "blend_masks(Tensor bases, Tensor attentions, Tensor boxes, Tensor image, int size, float scale, bool aligned, "
      "bool nearest, int weighting) -> Tensor");
  // Computes the intermediate results again. A gradient that is not needed is an empty tensor.
  m.def(
      "blend_masks_backward(Tensor grad, Tensor bases, Tensor attentions, Tensor boxes, Tensor image, float scale, "
      "bool aligned, bool nearest, int weighting, bool need_bases, bool need_attentions, bool deterministic) "
      "-> (Tensor, Tensor)");
}
