// resized_cross_entropy: checks, and everything around the kernels. csrc/resized_cross_entropy.cpp describes the
// arguments.
#pragma once

#include "bilinear.h"

#include <limits>
#include <tuple>

namespace adet_ext {

// [0] is for rows, [1] for columns.
struct ResizedSizes {
  int64_t images, classes;
  int64_t in[2], out[2];

  ADET_HOST_DEVICE int64_t pixels() const { // of the labels of an image
    return out[0] * out[1];
  }
};

// Elements between neighbors of a map (N, C, H, W).
struct MapStrides {
  int64_t image, channel, row, column;

  explicit MapStrides(const Tensor& t)
      : image(t.stride(0)), channel(t.stride(1)), row(t.stride(2)), column(t.stride(3)) {}
};

inline ResizedSizes check_cross_entropy(const Tensor& logits, const Tensor& labels) {
  check_shape(logits, "logits", {'N', 'C', 'H', 'W'});
  ADET_CHECK(
      logits.scalar_type() == ScalarType::Float || logits.scalar_type() == ScalarType::Double,
      "logits must be float32 or float64; got ", name_of(logits.scalar_type()));
  check_shape(labels, "labels", {logits.size(0), 'H', 'W'});
  check_type(labels, "labels", ScalarType::Long);
  check_device(labels, "labels", logits);
  const ResizedSizes s{
      logits.size(0), logits.size(1), {logits.size(2), logits.size(3)}, {labels.size(1), labels.size(2)}};
  const int64_t most = std::numeric_limits<int32_t>::max();
  ADET_CHECK(
      labels.numel() == 0 || (logits.numel() > 0 && s.in[0] < most && s.in[1] < most && s.classes < most),
      "logits must have classes and places, on sides below 2^31; got ", shape_of(logits));
  return s;
}

// The neighbors of pixel i in one direction, and their weights.
template <typename T>
struct PixelNeighbors {
  int low, high;
  T low_weight, high_weight;

  ADET_HOST_DEVICE PixelNeighbors(int64_t i, int64_t in, int64_t out) {
    resize_neighbours(i, in, out, false, low, high, low_weight, high_weight);
  }
  ADET_HOST_DEVICE T weight_of(int64_t place) const {
    return (low == place ? low_weight : T(0)) + (high == place ? high_weight : T(0));
  }
};

// What the kernels of any device need of a call.
template <typename T>
struct CrossEntropyCall {
  ResizedSizes sizes;
  MapStrides read, written;
  const T* logits;
  const int64_t* labels;
  int64_t ignored;
  T* grad; // null where it is not wanted

  CrossEntropyCall(const ResizedSizes& s, const Tensor& logits_, const Tensor& labels_, int64_t ignored_, Tensor& by)
      : sizes(s),
        read(logits_),
        written(by.numel() > 0 ? by : logits_),
        logits(logits_.const_data_ptr<T>()),
        labels(labels_.const_data_ptr<int64_t>()),
        ignored(ignored_),
        grad(by.numel() > 0 ? by.mutable_data_ptr<T>() : nullptr) {}
};

// The operator of a device; Device::run writes the sum, and the gradient if it has elements.
template <typename Device>
std::tuple<Tensor, Tensor> resized_cross_entropy(
    const Tensor& logits, const Tensor& labels, int64_t ignored, bool gradient) {
  const ResizedSizes s = check_cross_entropy(logits, labels);
  Tensor total = torch::stable::new_zeros(logits, {});
  Tensor by = gradient ? torch::stable::empty_like(logits) : torch::stable::new_empty(logits, {0});
  if (labels.numel() > 0) {
    Device::run(s, logits, torch::stable::contiguous(labels), ignored, total, by);
  } else {
    torch::stable::zero_(by);
  }
  return {total, by};
}

} // namespace adet_ext
