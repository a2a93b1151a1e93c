// blend_factored: checks, and everything around the kernels. csrc/blend_factored.cpp describes the arguments.
#pragma once

#include "blend.h"

#include <tuple>
#include <vector>

namespace adet_ext {

inline void check_blend_factored(
    const Tensor& bases, const Tensor& t, const Tensor& sigma, const Tensor& u, const Tensor& v, const Tensor& boxes,
    const Tensor& image, double scale) {
  check_crops(bases, boxes, image, scale);
  check_shape(u, "u", {'K', 'r', 'R'});
  const int64_t num = u.size(0), rank = u.size(1), count = boxes.size(0);
  ADET_CHECK(num > 0 && rank > 0, "u must have K and r above 0; got ", shape_of(u));
  check_mask_size(u.size(2));
  check_shape(v, "v", {num, rank, u.size(2)});
  check_shape(t, "t", {count, num, bases.size(1)});
  check_shape(sigma, "sigma", {count, num, rank});
  check_like(u, "u", bases);
  check_like(v, "v", bases);
  check_like(t, "t", bases);
  check_like(sigma, "sigma", bases);
}

struct FactoredCall {
  Tensor bases, t, sigma, u, v, boxes, image;
  double scale;
  bool aligned;
  Weighting weighting;
};

// Where the gradients go.
struct FactorGrads {
  Tensor *t, *along_x, *along_y;
};

template <class Device>
FactoredCall factored_call(
    const Tensor& bases, const Tensor& t, const Tensor& sigma, const Tensor& u, const Tensor& v, const Tensor& boxes,
    const Tensor& image, double scale, bool aligned, int64_t weighting) {
  const Weighting rule = check_weighting(weighting);
  check_blend_factored(bases, t, sigma, u, v, boxes, image, scale);
  return {
      Device::ready_bases(bases),
      contiguous_on<Device>(t),
      contiguous_on<Device>(sigma),
      contiguous_on<Device>(u),
      contiguous_on<Device>(v),
      torch::stable::contiguous(boxes),
      torch::stable::contiguous(image),
      scale,
      aligned,
      rule};
}

template <class Device>
Tensor blend_factored(
    const Tensor& bases, const Tensor& t, const Tensor& sigma, const Tensor& u, const Tensor& v, const Tensor& boxes,
    const Tensor& image, double scale, bool aligned, int64_t weighting) {
  const FactoredCall call = factored_call<Device>(bases, t, sigma, u, v, boxes, image, scale, aligned, weighting);
  Tensor out = torch::stable::new_empty(call.bases, {boxes.size(0), u.size(2), u.size(2)});
  if (out.numel() > 0) {
    Device::forward(call, out);
  }
  return as(out, bases.scalar_type());
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> blend_factored_backward(
    const Tensor& grad, const Tensor& bases, const Tensor& t, const Tensor& sigma, const Tensor& u, const Tensor& v,
    const Tensor& boxes, const Tensor& image, double scale, bool aligned, int64_t weighting, bool need_bases,
    bool need_factors, bool deterministic) {
  const FactoredCall call = factored_call<Device>(bases, t, sigma, u, v, boxes, image, scale, aligned, weighting);
  check_mask_grad(grad, bases, boxes);
  check_shape(grad, "grad", {boxes.size(0), u.size(2), u.size(2)});
  std::vector<int64_t> planes{0}, shares{0};
  if (need_bases) {
    planes = {bases.size(0), bases.size(1), bases.size(2), bases.size(3)};
  }
  if (need_factors) {
    shares = {boxes.size(0), u.size(0), u.size(1), u.size(2)};
  }
  Tensor grad_bases = torch::stable::new_empty(call.bases, planes), grad_t = empty_or_none(call.t, need_factors);
  Tensor along_x = torch::stable::new_empty(u, shares, sum_type(u)), along_y = torch::stable::empty_like(along_x);
  if (boxes.size(0) > 0) {
    const FactorGrads grads{&grad_t, &along_x, &along_y};
    Device::backward(
        call, contiguous_on<Device>(grad), need_bases ? &grad_bases : nullptr, need_factors ? &grads : nullptr,
        deterministic);
  } else {
    torch::stable::zero_(grad_bases);
  }
  return {as(grad_bases, bases.scalar_type()), as(grad_t, bases.scalar_type()), along_x, along_y};
}

} // namespace adet_ext
