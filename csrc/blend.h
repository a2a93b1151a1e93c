// Shared by blend_masks and blend_factored on all devices: where the samples of a crop are, and the checks that both
// need.
//
// N images, K bases of H x W, D detections, M side of an attention map, R side of a mask, C channels, r rank.
// Half and bfloat16 are computed in float32. boxes are float32, or float64 if the bases are; (x0, y0, x1, y1) in
// pixels. size is R; scale is 1 / stride of the bases. A box that is not finite samples zeros.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <limits>

namespace adet_ext {

// What happens to the attentions before they multiply the bases.
enum class Weighting : int64_t {
  softmax = 0, // over the bases; a single basis and its attention each pass a sigmoid
  as_is = 1,
  one_hot = 2, // cell (i, j) of side x side reads only basis i * side + j; there are no attentions
};

// Sample i of n along a side of a box, in cells of the map: as RoIAlign with one sample a bin, in its order of
// operations. Without half-pixel correction a box is at least one cell long.
template <typename acc>
ADET_HOST_DEVICE acc crop_point(acc low, acc high, int64_t i, int64_t n, acc scale, bool aligned) {
  const acc offset = aligned ? acc(0.5) : acc(0);
  const acc start = low * scale - offset;
  acc length = (high * scale - offset) - start;
  if (!aligned && length < acc(1)) {
    length = acc(1);
  }
  const acc step = length / acc(n);
  return start + acc(i) * step + acc(0.5) * step;
}

inline void check_crops(const Tensor& bases, const Tensor& boxes, const Tensor& image, double scale) {
  check_floating(bases, "bases");
  check_shape(bases, "bases", {'N', 'K', 'H', 'W'});
  check_boxes(boxes, bases);
  check_index(image, "image", boxes);
  check_positive(scale, "scale");
  const int64_t most = std::numeric_limits<int32_t>::max();
  ADET_CHECK(
      bases.size(1) > 0 && bases.size(2) <= most && bases.size(3) <= most && (bases.numel() > 0 || boxes.size(0) == 0),
      "bases must have cells to crop, on sides below 2^31; got ", shape_of(bases));
}

inline void check_mask_size(int64_t size) {
  check_range(size, "size", 1, 4096);
}

inline Weighting check_weighting(int64_t weighting) {
  check_range(weighting, "weighting", 0, 2);
  return static_cast<Weighting>(weighting);
}

// The gradient of masks: (D, R, R), D boxes.
inline void check_mask_grad(const Tensor& grad, const Tensor& bases, const Tensor& boxes) {
  check_shape(grad, "grad", {boxes.size(0), 'R', 'R'});
  check_like(grad, "grad", bases);
}

inline Tensor empty_or_none(const Tensor& like, bool wanted) {
  return wanted ? torch::stable::empty_like(like) : torch::stable::new_empty(like, {0});
}

// ready and ready_bases of a Device bring a tensor to the type and layout that its kernels take.
template <class Device>
Tensor contiguous_on(const Tensor& t) {
  return torch::stable::contiguous(Device::ready(t));
}

} // namespace adet_ext
