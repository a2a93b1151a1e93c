// blend_masks: checks, and everything around the kernels. csrc/blend_masks.cpp describes the arguments.
#pragma once

#include "blend.h"

#include <tuple>

namespace adet_ext {

inline void check_blend_masks(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, double scale,
    Weighting weighting) {
  check_crops(bases, boxes, image, scale);
  const bool one_hot = weighting == Weighting::one_hot;
  check_shape(attentions, "attentions", {one_hot ? 0 : boxes.size(0), bases.size(1), 'M', 'M'});
  check_like(attentions, "attentions", bases);
  const int64_t side = attentions.size(3);
  ADET_CHECK(side > 0, "attentions must have M above 0; got ", shape_of(attentions));
  ADET_CHECK(
      !one_hot || bases.size(1) == side * side, "bases must have a plane for each of the ", side, " x ", side,
      " parts; got ", bases.size(1));
}

// The tensors have the type that the device computes in; all but the bases are contiguous.
struct BlendCall {
  Tensor bases, attentions, boxes, image;
  int64_t size;
  double scale;
  bool aligned, nearest;
  Weighting weighting;
};

// The operators of a Device with these functions: ready and ready_bases, see blend.h; forward and backward, which are
// called if there are detections and fill in what they are given. Null stands for a gradient that is not wanted.
template <class Device>
BlendCall blend_call(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, int64_t size, double scale,
    bool aligned, bool nearest, int64_t weighting) {
  const Weighting rule = check_weighting(weighting);
  check_mask_size(size);
  check_blend_masks(bases, attentions, boxes, image, scale, rule);
  return {
      Device::ready_bases(bases),
      contiguous_on<Device>(attentions),
      torch::stable::contiguous(boxes),
      torch::stable::contiguous(image),
      size,
      scale,
      aligned,
      nearest,
      rule};
}

template <class Device>
Tensor blend_masks(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, int64_t size, double scale,
    bool aligned, bool nearest, int64_t weighting) {
  const BlendCall call = blend_call<Device>(bases, attentions, boxes, image, size, scale, aligned, nearest, weighting);
  Tensor out = torch::stable::new_empty(call.bases, {boxes.size(0), size, size});
  if (out.numel() > 0) {
    Device::forward(call, out);
  }
  return as(out, bases.scalar_type());
}

template <class Device>
std::tuple<Tensor, Tensor> blend_masks_backward(
    const Tensor& grad, const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image,
    double scale, bool aligned, bool nearest, int64_t weighting, bool need_bases, bool need_attentions,
    bool deterministic) {
  check_shape(grad, "grad", {'D', 'R', 'R'});
  const BlendCall call =
      blend_call<Device>(bases, attentions, boxes, image, grad.size(1), scale, aligned, nearest, weighting);
  check_mask_grad(grad, bases, boxes);
  need_attentions = need_attentions && call.weighting != Weighting::one_hot;
  Tensor grad_bases = empty_or_none(call.bases, need_bases);
  Tensor grad_attentions = empty_or_none(call.attentions, need_attentions);
  if (boxes.size(0) > 0) {
    Device::backward(
        call, contiguous_on<Device>(grad), need_bases ? &grad_bases : nullptr,
        need_attentions ? &grad_attentions : nullptr, deterministic);
  } else {
    torch::stable::zero_(grad_bases);
  }
  return {as(grad_bases, bases.scalar_type()), as(grad_attentions, bases.scalar_type())};
}

} // namespace adet_ext
