// What the blend operators share on all devices: where a crop's samples lie, how small maps are brought to its size, and
// everything around the kernels.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <limits>
#include <tuple>

namespace adet_ext {

// What becomes of the attentions before they multiply the bases.
enum class Weighting : int64_t {
  softmax = 0, // over the bases; a single basis and its attention pass a sigmoid each
  as_is = 1,
  one_hot = 2, // cell (i, j) of side x side reads basis i * side + j alone; there are no attentions
};

// Sample i of n along a side of a box, in cells of the map: RoIAlign's with one sample a bin, in its order of
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

// The two cells of m that cell i of n reads, and their weights; F.interpolate's rule, corners not aligned.
template <typename acc>
ADET_HOST_DEVICE void resize_neighbours(int64_t i, int64_t m, int64_t n, bool nearest, int& i0, int& i1, acc& w0, acc& w1) {
  if (nearest) {
    // In float32 whatever the type, as PyTorch does.
    const int64_t at = n == m ? i : static_cast<int64_t>(static_cast<float>(i) * (static_cast<float>(m) / static_cast<float>(n)));
    i0 = i1 = static_cast<int>(at < m - 1 ? at : m - 1);
    w0 = acc(1);
    w1 = acc(0);
    return;
  }
  acc p = (acc(i) + acc(0.5)) * (acc(m) / acc(n)) - acc(0.5);
  p = p < acc(0) ? acc(0) : p;
  const int64_t low = static_cast<int64_t>(p) < m - 1 ? static_cast<int64_t>(p) : m - 1;
  i0 = static_cast<int>(low);
  i1 = static_cast<int>(low < m - 1 ? low + 1 : low);
  w1 = p - acc(low);
  w0 = acc(1) - w1;
}

inline void check_crops(const Tensor& bases, const Tensor& boxes, const Tensor& image) {
  check_dim(bases, "bases", 4);
  check_boxes(boxes, bases);
  check_index(image, "image", boxes);
  STD_TORCH_CHECK(boxes.size(0) == 0 || bases.numel() > 0, "bases has no cells to crop");
}

inline void check_mask_size(int64_t size) {
  STD_TORCH_CHECK(size > 0 && size <= 4096, "size is ", size, "; it can be 1 to 4096");
}

inline Weighting check_weighting(int64_t weighting) {
  STD_TORCH_CHECK(weighting >= 0 && weighting <= 2, "weighting is ", weighting, "; it can be 0, 1 or 2");
  return static_cast<Weighting>(weighting);
}

inline void check_like(const Tensor& t, const char* name, const Tensor& bases) {
  check_type(t, name, bases.scalar_type());
  check_same_device(t, name, bases);
}

// Inputs of the blend with attentions; one_hot takes none of them.
inline void check_blend(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, Weighting weighting) {
  check_crops(bases, boxes, image);
  check_dim(attentions, "attentions", 4);
  check_like(attentions, "attentions", bases);
  check_size(attentions, "attentions", 0, weighting == Weighting::one_hot ? 0 : boxes.size(0));
  check_size(attentions, "attentions", 1, bases.size(1));
  check_size(attentions, "attentions", 2, attentions.size(3));
  STD_TORCH_CHECK(attentions.size(3) > 0 && bases.size(1) > 0, "bases and attentions cannot be empty but for instances");
  STD_TORCH_CHECK(
      weighting != Weighting::one_hot || bases.size(1) == attentions.size(3) * attentions.size(3),
      "bases has ",
      bases.size(1),
      " planes; assembling takes one a cell of the attentions");
}

inline void check_factored(
    const Tensor& bases,
    const Tensor& t,
    const Tensor& sigma,
    const Tensor& u,
    const Tensor& v,
    const Tensor& boxes,
    const Tensor& image) {
  check_crops(bases, boxes, image);
  check_dim(u, "u", 3);
  check_like(u, "u", bases);
  check_mask_size(u.size(2));
  STD_TORCH_CHECK(u.size(0) > 0 && u.size(1) > 0 && bases.size(1) > 0, "bases, u and v cannot be empty");
  check_dim(v, "v", 3);
  check_like(v, "v", bases);
  check_dim(sigma, "sigma", 3);
  check_like(sigma, "sigma", bases);
  check_dim(t, "t", 3);
  check_like(t, "t", bases);
  check_size(t, "t", 0, boxes.size(0));
  check_size(t, "t", 1, u.size(0));
  check_size(t, "t", 2, bases.size(1));
  check_size(sigma, "sigma", 0, boxes.size(0));
  check_size(sigma, "sigma", 1, u.size(0));
  check_size(sigma, "sigma", 2, u.size(1));
  for (int64_t i = 0; i < 3; ++i) {
    check_size(v, "v", i, u.size(i));
  }
}

// The gradient of masks of side size (0: any).
inline void check_mask_grad(const Tensor& grad, const Tensor& bases, const Tensor& boxes, int64_t size) {
  check_dim(grad, "grad", 3);
  check_like(grad, "grad", bases);
  check_size(grad, "grad", 0, boxes.size(0));
  check_size(grad, "grad", 1, size > 0 ? size : grad.size(2));
  check_size(grad, "grad", 2, size > 0 ? size : grad.size(1));
  check_mask_size(grad.size(1));
}

// A call of blend. The tensors are in the type that the device computes in, and all but the bases contiguous.
struct BlendCall {
  Tensor bases, attentions, boxes, image;
  int64_t size;
  double scale;
  bool aligned, nearest;
  Weighting weighting;
};

struct FactoredCall {
  Tensor bases, t, sigma, u, v, boxes, image;
  double scale;
  bool aligned;
  Weighting weighting;
};

// Where the gradients go; null where one is not wanted.
struct FactorGrads {
  Tensor *t, *along_x, *along_y;
};

inline Tensor empty_or_none(const Tensor& like, bool wanted) {
  return wanted ? torch::stable::empty_like(like) : torch::stable::new_empty(like, {0});
}

// What follows are the operators of a Device with these functions: ready and ready_bases bring a tensor to what it
// computes with; forward and backward, called where there are instances, fill in what they are given.
template <class Device>
Tensor contiguous_on(const Tensor& t) {
  return torch::stable::contiguous(Device::ready(t));
}

template <class Device>
BlendCall blend_call(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, int64_t size, double scale,
    bool aligned, bool nearest, int64_t weighting) {
  const Weighting rule = check_weighting(weighting);
  check_mask_size(size);
  check_blend(bases, attentions, boxes, image, rule);
  return {
      Device::ready_bases(bases), contiguous_on<Device>(attentions), torch::stable::contiguous(boxes),
      torch::stable::contiguous(image), size, scale, aligned, nearest, rule};
}

template <class Device>
Tensor blend(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, int64_t size, double scale,
    bool aligned, bool nearest, int64_t weighting) {
  const BlendCall call =
      blend_call<Device>(bases, attentions, boxes, image, size, scale, aligned, nearest, weighting);
  Tensor out = torch::stable::new_empty(call.bases, {boxes.size(0), size, size});
  if (out.numel() > 0) {
    Device::forward(call, out);
  }
  return as(out, bases.scalar_type());
}

template <class Device>
std::tuple<Tensor, Tensor> blend_backward(
    const Tensor& grad, const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image,
    double scale, bool aligned, bool nearest, int64_t weighting, bool need_bases, bool need_attentions,
    bool deterministic) {
  check_mask_grad(grad, bases, boxes, 0);
  const BlendCall call =
      blend_call<Device>(bases, attentions, boxes, image, grad.size(1), scale, aligned, nearest, weighting);
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

template <class Device>
FactoredCall factored_call(
    const Tensor& bases, const Tensor& t, const Tensor& sigma, const Tensor& u, const Tensor& v, const Tensor& boxes,
    const Tensor& image, double scale, bool aligned, int64_t weighting) {
  const Weighting rule = check_weighting(weighting);
  check_factored(bases, t, sigma, u, v, boxes, image);
  return {
      Device::ready_bases(bases), contiguous_on<Device>(t), contiguous_on<Device>(sigma), contiguous_on<Device>(u),
      contiguous_on<Device>(v), torch::stable::contiguous(boxes), torch::stable::contiguous(image), scale, aligned, rule};
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
  check_mask_grad(grad, bases, boxes, u.size(2));
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
