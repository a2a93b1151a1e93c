// What the CPU and the CUDA kernels of roi_sample share: a description of the levels, and everything around the kernels.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <limits>

namespace adet_ext {

// More levels than any pyramid has; the description of all of them fits into a CUDA kernel's parameters.
constexpr int64_t kMaxLevels = 16;

// One map (N, C, H, W): where it lies, its size and its strides.
template <typename T, typename acc>
struct Level {
  T* data;
  int64_t height, width;
  int64_t stride_n, stride_c, stride_y, stride_x;
  acc scale;
};

template <typename T, typename acc>
struct Levels {
  Level<T, acc> at[kMaxLevels];
  int64_t count;
  int64_t images;
};

// The boxes, and how each is divided.
template <typename acc>
struct Boxes {
  const acc* corners; // (D, 4)
  const int64_t* image;
  const int64_t* level;
  int64_t count, kh, kw;
  Border border;
};

inline Border as_border(int64_t border) {
  STD_TORCH_CHECK(border == 0 || border == 1, "border is ", border, "; it takes 0 (clamp) or 1 (zeros)");
  return static_cast<Border>(border);
}

// The boxes as tensors, contiguous, and how each is divided.
struct RoiCall {
  Tensor corners, image, level;
  int64_t kh, kw;
  Border border;

  // first: of the features, or their gradient.
  RoiCall(
      const Tensor& first, const Tensor& boxes, const Tensor& image_, const Tensor& level_, int64_t kh_, int64_t kw_,
      int64_t border_)
      : kh(kh_), kw(kw_), border(as_border(border_)) {
    check_boxes(boxes, first);
    check_index(image_, "image", boxes);
    check_index(level_, "level", boxes);
    STD_TORCH_CHECK(kh > 0 && kw > 0, "size is ", kh, " x ", kw, "; it takes positive numbers");
    corners = torch::stable::contiguous(boxes);
    image = torch::stable::contiguous(image_);
    level = torch::stable::contiguous(level_);
  }

  template <typename acc>
  Boxes<acc> boxes() const {
    return {
        corners.const_data_ptr<acc>(), image.const_data_ptr<int64_t>(), level.const_data_ptr<int64_t>(),
        corners.size(0), kh, kw, border};
  }
};

inline void check_levels(int64_t levels, const std::vector<double>& scales) {
  STD_TORCH_CHECK(levels >= 1 && levels <= kMaxLevels, "there are ", levels, " levels; it takes 1 to ", kMaxLevels);
  STD_TORCH_CHECK(
      static_cast<int64_t>(scales.size()) == levels, "scales has ", scales.size(), " numbers for ", levels, " levels");
}

// Something to read in every map; positions within one image of it are kept in 32 bits.
inline void check_map(int64_t level, int64_t height, int64_t width, int64_t stride_y, int64_t stride_x) {
  STD_TORCH_CHECK(height > 0 && width > 0, "features[", level, "] is ", height, " x ", width, "; it takes no empty maps");
  const int64_t span = (height - 1) * stride_y + (width - 1) * stride_x;
  STD_TORCH_CHECK(
      span <= std::numeric_limits<int32_t>::max(),
      "features[",
      level,
      "] spans ",
      span,
      " elements from the first pixel to the last; it takes less than 2^31");
}

// T: the features' type, const where they are read.
template <typename T, typename acc>
Levels<T, acc> make_levels(const std::vector<Tensor>& features, const std::vector<double>& scales) {
  const int64_t count = static_cast<int64_t>(features.size());
  check_levels(count, scales);
  Levels<T, acc> levels;
  levels.count = count;
  levels.images = features[0].size(0);
  for (int64_t l = 0; l < count; ++l) {
    const Tensor& x = features[l];
    check_dim(x, "every map of features", 4);
    check_type(x, "every map of features", features[0].scalar_type());
    check_same_device(x, "every map of features", features[0]);
    check_size(x, "every map of features", 0, levels.images);
    check_size(x, "every map of features", 1, features[0].size(1));
    check_map(l, x.size(2), x.size(3), x.stride(2), x.stride(3));
    levels.at[l] = {
        static_cast<T*>(const_cast<void*>(static_cast<const void*>(x.const_data_ptr()))),
        x.size(2),
        x.size(3),
        x.stride(0),
        x.stride(1),
        x.stride(2),
        x.stride(3),
        static_cast<acc>(scales[l])};
  }
  return levels;
}

// (D, C, kh, kw), in the memory format asked for.
inline Tensor new_samples(const Tensor& like, int64_t d, int64_t c, int64_t kh, int64_t kw, bool channels_last) {
  if (!channels_last) {
    return torch::stable::new_empty(like, {d, c, kh, kw});
  }
  return torch::stable::permute(torch::stable::new_empty(like, {d, kh, kw, c}), {0, 3, 1, 2});
}

// grad with the points' values where the kernels look for them: (D, kh, kw, C) or (D, C, kh, kw), contiguous.
inline Tensor dense_grad(const Tensor& grad, bool channels_last) {
  return torch::stable::contiguous(channels_last ? torch::stable::permute(grad, {0, 2, 3, 1}) : grad);
}

// Buffers of zeros in the type of sums, (N, H, W, C) or (N, C, H, W), and the description that kernels write through.
template <typename acc>
Levels<acc, acc> make_gradients(
    const Tensor& grad,
    const std::vector<int64_t>& sizes,
    const std::vector<double>& scales,
    bool channels_last,
    std::vector<Tensor>& buffers) {
  const int64_t count = (static_cast<int64_t>(sizes.size()) - 1) / 2;
  check_levels(count, scales);
  const int64_t n = sizes[0], c = grad.size(1);
  Levels<acc, acc> levels;
  levels.count = count;
  levels.images = n;
  for (int64_t l = 0; l < count; ++l) {
    const int64_t h = sizes[1 + 2 * l], w = sizes[2 + 2 * l];
    std::vector<int64_t> shape = channels_last ? std::vector<int64_t>{n, h, w, c} : std::vector<int64_t>{n, c, h, w};
    buffers.push_back(torch::stable::new_zeros(grad, shape, sum_type(grad)));
    const int64_t cell = channels_last ? c : 1;
    check_map(l, h, w, w * cell, cell);
    levels.at[l] = {
        static_cast<acc*>(buffers.back().mutable_data_ptr()),
        h,
        w,
        c * h * w,
        channels_last ? 1 : h * w,
        w * cell,
        cell,
        static_cast<acc>(scales[l])};
  }
  return levels;
}

// From buffers to the gradients: the features' type, and (N, C, H, W) whatever lies innermost.
inline std::vector<Tensor> finish_gradients(std::vector<Tensor>& buffers, ScalarType type, bool channels_last) {
  std::vector<Tensor> gradients;
  for (Tensor& buffer : buffers) {
    Tensor x = buffer.scalar_type() == type ? buffer : torch::stable::to(buffer, type);
    gradients.push_back(channels_last ? torch::stable::permute(x, {0, 3, 1, 2}) : x);
  }
  return gradients;
}

// The operators of a Device. Its forward and backward_boxes, called where there is something to compute, fill in their
// last argument; backward_features makes the buffers.
template <class Device>
Tensor roi_sample(
    const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& image, const Tensor& level,
    const std::vector<double>& scales, int64_t kh, int64_t kw, int64_t border, bool channels_last) {
  STD_TORCH_CHECK(!features.empty(), "features is empty; it takes one map per level");
  const RoiCall call(features[0], boxes, image, level, kh, kw, border);
  Tensor out = new_samples(features[0], boxes.size(0), features[0].size(1), kh, kw, channels_last);
  if (out.numel() > 0) {
    Device::forward(call, features, scales, channels_last, out);
  }
  return out;
}

template <class Device>
std::vector<Tensor> roi_sample_backward_features(
    const Tensor& grad, const Tensor& boxes, const Tensor& image, const Tensor& level,
    const std::vector<int64_t>& sizes, const std::vector<double>& scales, int64_t border, bool channels_last,
    bool deterministic) {
  check_dim(grad, "grad", 4);
  const RoiCall call(grad, boxes, image, level, grad.size(2), grad.size(3), border);
  check_size(grad, "grad", 0, boxes.size(0));
  std::vector<Tensor> buffers;
  Device::backward_features(call, grad, sizes, scales, channels_last, deterministic, buffers);
  return finish_gradients(buffers, grad.scalar_type(), channels_last);
}

template <class Device>
Tensor roi_sample_backward_boxes(
    const Tensor& grad, const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& image,
    const Tensor& level, const std::vector<double>& scales, int64_t border) {
  STD_TORCH_CHECK(!features.empty(), "features is empty; it takes one map per level");
  check_dim(grad, "grad", 4);
  check_type(grad, "grad", features[0].scalar_type());
  const RoiCall call(grad, boxes, image, level, grad.size(2), grad.size(3), border);
  check_size(grad, "grad", 0, boxes.size(0));
  check_size(grad, "grad", 1, features[0].size(1));
  Tensor out = torch::stable::new_empty(boxes, {boxes.size(0), 4});
  if (out.numel() > 0) {
    Device::backward_boxes(call, dense_grad(grad, true), features, scales, out);
  }
  return out;
}

} // namespace adet_ext
