// Group normalization and ReLU of all levels of a head (Wu and He, 2018), in inference; the kernel is in csrc/cuda.
//
// N images, C channels.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(adet_ext, m)
{
  // maps: one (N, C, H, W) a level; weight, bias (C,) of their type. Channels are normalized in `groups` of C / groups
  // neighbors, over the locations of their level and image, with the biased variance and eps.
  // Returns a channels-last map for each. It has no gradient.
  m.def("group_norm_relu(Tensor[] maps, Tensor weight, Tensor bias, int groups, float eps) -> Tensor[]");
}
