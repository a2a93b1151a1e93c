// deform_conv: checks, and everything around the kernels. csrc/deform_conv.cpp describes the arguments.
#pragma once

#include "common.h"

#include <torch/headeronly/core/MemoryFormat.h>

#include <limits>
#include <tuple>

namespace adet_ext {

using Ints = std::vector<int64_t>;

// Sizes and steps. [0] is for rows, [1] for columns.
struct DeformShape {
  int64_t images, channels, groups, outputs;
  int64_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2];

  ADET_HOST_DEVICE int64_t taps() const {
    return kernel[0] * kernel[1];
  }
  ADET_HOST_DEVICE int64_t places() const { // of an image
    return out[0] * out[1];
  }
  ADET_HOST_DEVICE int64_t width() const { // of a group
    return channels / groups;
  }
  // Of the samples of a place.
  ADET_HOST_DEVICE int64_t row() const {
    return taps() * channels;
  }
};

// Channels-last, or dense where channels have no meaning.
struct DeformInputs {
  Tensor x, offsets, mask, weight;
};

inline void check_pair(const Ints& pair, const char* name, int64_t low) {
  ADET_CHECK(pair.size() == 2, name, " must have 2 numbers; got ", pair.size());
  check_range(pair[0], name, low, std::numeric_limits<int32_t>::max());
  check_range(pair[1], name, low, std::numeric_limits<int32_t>::max());
}

inline DeformShape check_deform(
    const Tensor& x, const Tensor& offsets, const Tensor& mask, const Tensor& weight, const Ints& stride,
    const Ints& padding, const Ints& dilation) {
  check_shape(x, "x", {'N', 'C', 'H', 'W'});
  ADET_CHECK(
      x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
      "x must be float32 or float64; got ", name_of(x.scalar_type()));
  check_shape(weight, "weight", {'F', x.size(1), 'k', 'l'});
  check_like(weight, "weight", x);
  check_range(weight.size(2), "the height of weight", 1, 1024);
  check_range(weight.size(3), "the width of weight", 1, 1024);
  check_pair(stride, "stride", 1);
  check_pair(padding, "padding", 0);
  check_pair(dilation, "dilation", 1);
  DeformShape shape;
  shape.images = x.size(0);
  shape.channels = x.size(1);
  shape.outputs = weight.size(0);
  for (int i = 0; i < 2; ++i) {
    shape.in[i] = x.size(2 + i);
    shape.kernel[i] = weight.size(2 + i);
    shape.stride[i] = stride[i];
    shape.padding[i] = padding[i];
    shape.dilation[i] = dilation[i];
    const int64_t room = shape.in[i] + 2 * padding[i] - dilation[i] * (shape.kernel[i] - 1) - 1;
    ADET_CHECK(room >= 0, "x must be at least as large as weight, with padding; got ", shape_of(x));
    shape.out[i] = room / stride[i] + 1;
  }
  check_shape(offsets, "offsets", {shape.images, 'O', shape.out[0], shape.out[1]});
  check_like(offsets, "offsets", x);
  const int64_t each = 2 * shape.taps();
  shape.groups = offsets.size(1) / each;
  ADET_CHECK(
      shape.groups > 0 && offsets.size(1) % each == 0 && shape.channels % shape.groups == 0, "offsets must have ", each,
      " channels for each group of the ", shape.channels, " channels of x; got ", shape_of(offsets));
  check_shape(mask, "mask", {shape.images, shape.taps() * shape.groups, shape.out[0], shape.out[1]});
  check_like(mask, "mask", x);
  return shape;
}

inline Tensor deform_zeros(const Tensor& x, const Ints& sizes, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  Tensor made = torch::stable::empty(sizes, x.scalar_type(), std::nullopt, x.device(), std::nullopt, format);
  return torch::stable::zero_(made);
}

inline DeformInputs deform_inputs(const Tensor& x, const Tensor& offsets, const Tensor& mask, const Tensor& weight) {
  using torch::headeronly::MemoryFormat;
  using torch::stable::contiguous;
  return {
      contiguous(x, MemoryFormat::ChannelsLast), contiguous(offsets), contiguous(mask),
      contiguous(weight, MemoryFormat::ChannelsLast)};
}

// The operators of a device; Device has its kernels.
template <typename Device>
Tensor deform_conv(
    const Tensor& x, const Tensor& offsets, const Tensor& mask, const Tensor& weight, Ints stride, Ints padding,
    Ints dilation) {
  const DeformShape shape = check_deform(x, offsets, mask, weight, stride, padding, dilation);
  Tensor out = deform_zeros(x, {shape.images, shape.outputs, shape.out[0], shape.out[1]}, true);
  if (out.numel() > 0 && x.numel() > 0) {
    Device::forward(shape, deform_inputs(x, offsets, mask, weight), out);
  }
  return out;
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv_backward(
    const Tensor& grad, const Tensor& x, const Tensor& offsets, const Tensor& mask, const Tensor& weight, Ints stride,
    Ints padding, Ints dilation) {
  const DeformShape shape = check_deform(x, offsets, mask, weight, stride, padding, dilation);
  check_shape(grad, "grad", {shape.images, shape.outputs, shape.out[0], shape.out[1]});
  check_like(grad, "grad", x);
  const int64_t parts = shape.taps() * shape.groups;
  DeformInputs by{
      deform_zeros(x, {shape.images, shape.channels, shape.in[0], shape.in[1]}, true),
      deform_zeros(x, {shape.images, 2 * parts, shape.out[0], shape.out[1]}, false),
      deform_zeros(x, {shape.images, parts, shape.out[0], shape.out[1]}, false),
      deform_zeros(x, {shape.outputs, shape.channels, shape.kernel[0], shape.kernel[1]}, true)};
  if (grad.numel() > 0 && x.numel() > 0) {
    Device::backward(
        shape, torch::stable::contiguous(grad, torch::headeronly::MemoryFormat::ChannelsLast),
        deform_inputs(x, offsets, mask, weight), by);
  }
  return {by.x, by.offsets, by.mask, by.weight};
}

} // namespace adet_ext
