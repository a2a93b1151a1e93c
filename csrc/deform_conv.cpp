// Modulated deformable convolution (Zhu et al., 2019), as adet_ext/utils/deform_conv.py uses it; CPUs alone.
//
// N images, C channels, G groups of channels with offsets of their own, F outputs, T = kh kw taps, H' x W' places.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // x (N, C, H, W), float32 or float64, read channels-last; offsets (N, 2 T G, H', W') in cells, y before x; mask
  // (N, T G, H', W') factors of the samples; weight (F, C, kh, kw). Two numbers each in stride, padding and dilation,
  // for rows before columns. Returns (N, F, H', W'), channels-last.
  m.def(
      "deform_conv(Tensor x, Tensor offsets, Tensor mask, Tensor weight, int[] stride, int[] padding, int[] dilation)"
      " -> Tensor");
  // grad (N, F, H', W'). Returns the gradients of x and weight (channels-last), and between them of offsets and mask.
  m.def(
      "deform_conv_backward(Tensor grad, Tensor x, Tensor offsets, Tensor mask, Tensor weight, int[] stride, "
      "int[] padding, int[] dilation) -> (Tensor, Tensor, Tensor, Tensor)");
}
