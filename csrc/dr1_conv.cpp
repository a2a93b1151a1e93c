// Dynamic rank-1 convolution (thesis 5.4.1, equation 5.4). With the kernel turned, it computes its own gradient.
//
// N images, C input channels, O output channels, H x W locations.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // sum = Conv(x * before) + bias, with a 3x3 kernel, stride 1 and padding 1.
  //   x, before (N, C, H, W); weight (O, C, 3, 3); bias (O); after, after2 (N, O, H, W); None stands for
  //   ones, and for a bias of zeros.
  //   turned: the adjoint of the convolution; x and before are then (N, O, H, W), bias is (C), all others (N, C, H, W).
  //   results: 1 -> (sum * after, empty); 2 -> (sum * after, sum * after2). Channels-last.
  //
  // Equation 5.4 is dr1_conv(x, A, weight, bias, False, B, None, 1). With g the gradient of its result and
  // c = Conv(x * A) + bias: the gradient of B is g * c; those of x and A are dr1_conv(g, B, weight, None, True, A, x,
  // 2).
  m.def(
      "dr1_conv(Tensor x, Tensor? before, Tensor weight, Tensor? bias, bool turned, Tensor? after, Tensor? after2, "
      "int results) -> (Tensor, Tensor)");
}
