// Operator 3: masks from bases, boxes and attentions, without the crops and the up-sampled attentions in memory.
//
// N images, K bases of H x W, D instances, M side of an attention map, R side of a mask, C channels, r rank.
// Half and bfloat16 are computed in float32. boxes are float32, float64 where the bases are; (x0, y0, x1, y1) in pixels.
// size is R; scale 1 / stride of the bases; weighting as in blend.h. A box that is not finite samples zeros.
#include "common.h"

// Thesis 4.3.2, equations 4.1 to 4.4. bases (N, K, H, W) of any layout, attentions (D, K, M, M), boxes (D, 4),
// image (D,) int64 -> (D, R, R). Position-sensitive assembly (FCIS) is weighting one_hot, K = M^2, with attentions of
// shape (0, K, M, M).
//
// Thesis 5.4.2, equations 5.7 and 5.8. bases (N, C, H, W), t (D, K, C), sigma (D, K, r); u and v (K, r, R), brought to
// the mask's side already: interpolation is separable, so that of the factors gives that of their product.
//
// The backward passes compute what they need once more. Where a gradient is not asked for, it comes as an empty tensor.
// grad_u (D, K, r, R) and grad_v (D, K, r, R) are the instances' shares: sum_x grad Q v, not yet times sigma, and
// sum_y grad Q sigma u.
//
// paste_masks_: masks (D, R, R) of probabilities, boxes (D, 4) in pixels of the output, out (D, H, W) bool and all
// false: out becomes true where the mask, interpolated over its box, reaches the threshold.
STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m) {
  m.def(
      "blend(Tensor bases, Tensor attentions, Tensor boxes, Tensor image, int size, float scale, bool aligned, "
      "bool nearest, int weighting) -> Tensor");
  m.def(
      "blend_backward(Tensor grad, Tensor bases, Tensor attentions, Tensor boxes, Tensor image, float scale, "
      "bool aligned, bool nearest, int weighting, bool need_bases, bool need_attentions, bool deterministic) "
      "-> (Tensor, Tensor)");
  m.def(
      "blend_factored(Tensor bases, Tensor t, Tensor sigma, Tensor u, Tensor v, Tensor boxes, Tensor image, "
      "float scale, bool aligned, int weighting) -> Tensor");
  m.def(
      "blend_factored_backward(Tensor grad, Tensor bases, Tensor t, Tensor sigma, Tensor u, Tensor v, Tensor boxes, "
      "Tensor image, float scale, bool aligned, int weighting, bool need_bases, bool need_factors, "
      "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("paste_masks_(Tensor(a!) out, Tensor masks, Tensor boxes, float threshold) -> ()");
}
