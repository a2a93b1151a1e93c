// What the blend operators share on all devices: where a crop's samples lie, and how small maps are brought to its size.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <limits>

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

// Boxes (D, 4) and the image (D,) of each.
inline void check_boxes(const Tensor& bases, const Tensor& boxes, const Tensor& image, int64_t count) {
  const bool wide = bases.scalar_type() == ScalarType::Double;
  check_dim(bases, "bases", 4);
  STD_TORCH_CHECK(count == 0 || (bases.size(2) > 0 && bases.size(3) > 0), "bases has no cells to crop");
  check_dim(boxes, "boxes", 2);
  check_size(boxes, "boxes", 0, count);
  check_size(boxes, "boxes", 1, 4);
  check_type(boxes, "boxes", wide ? ScalarType::Double : ScalarType::Float);
  check_dim(image, "image", 1);
  check_size(image, "image", 0, count);
  check_type(image, "image", ScalarType::Long);
  check_same_device(boxes, "boxes", bases);
  check_same_device(image, "image", bases);
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
  check_dim(boxes, "boxes", 2);
  check_boxes(bases, boxes, image, boxes.size(0));
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
  check_dim(boxes, "boxes", 2);
  check_boxes(bases, boxes, image, boxes.size(0));
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

} // namespace adet_ext
