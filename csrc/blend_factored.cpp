// DR1Mask's factored attention (thesis 5.4.2, equations 5.7 and 5.8). csrc/blend.h has the letters and what all blend
// operators share.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // bases (N, C, H, W), t (D, K, C), sigma (D, K, r), u and v (K, r, R) -> (D, R, R). u and v have the side of the
  // mask: interpolation is separable, so resizing the factors resizes their product.
  m.def(
      "blend_factored(Tensor bases, Tensor t, Tensor sigma, Tensor u, Tensor v, Tensor boxes, Tensor image, "
      "float scale, bool aligned, int weighting) -> Tensor");
  // Gradients of the bases and of t, and each detection's part of those of v and u, (D, K, r, R) in the type of sums:
  // sum_x grad Q v, not yet times sigma, and sum_y grad Q sigma u. A gradient that is not needed is an empty tensor.
  m.def(
      "blend_factored_backward(Tensor grad, Tensor bases, Tensor t, Tensor sigma, Tensor u, Tensor v, Tensor boxes, "
      "Tensor image, float scale, bool aligned, int weighting, bool need_bases, bool need_factors, "
      "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
}
