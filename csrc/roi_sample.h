// roi_sample: a description of the levels, checks, and everything around the kernels.
#pragma once

#include "bilinear.h"
#include "common.h"

#include <limits>
#include <string>

namespace adet_ext {

// No pyramid has more levels, and the description of this many fits into the parameters of a CUDA kernel.
constexpr int64_t kMaxLevels = 16;
constexpr int64_t kMaxPoints = 65536;         // of a box
constexpr double kMaxNumbers = 68719476736.0; // of a gradient, 2^36: no machine has the memory for more

// One map (N, C, H, W): its data, size and strides.
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
  const acc* corners; // (B, 4)
  const int64_t* image;
  const int64_t* level;
  int64_t count, kh, kw;
  Border border;
};

inline Border as_border(int64_t border) {
  check_range(border, "border", 0, 1);
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
    check_floating(first, "features");
    check_boxes(boxes, first);
    check_index(image_, "image", boxes);
    check_index(level_, "level", boxes);
    check_range(kh, "kh", 1, kMaxPoints);
    check_range(kw, "kw", 1, kMaxPoints);
    check_range(kh * kw, "kh * kw", 1, kMaxPoints);
    corners = torch::stable::contiguous(boxes);
    image = torch::stable::contiguous(image_);
    level = torch::stable::contiguous(level_);
  }

  template <typename acc>
  Boxes<acc> boxes() const {
    return {
        corners.const_data_ptr<acc>(),
        image.const_data_ptr<int64_t>(),
        level.const_data_ptr<int64_t>(),
        corners.size(0),
        kh,
        kw,
        border};
  }
};

inline void check_levels(int64_t levels, const std::vector<double>& scales) {
  check_range(levels, "the number of levels", 1, kMaxLevels);
  ADET_CHECK(
      static_cast<int64_t>(scales.size()) == levels, "scales must have ", levels, " numbers; got ", scales.size());
  for (double scale : scales) {
    check_positive(scale, "scales");
  }
}

// Kernels read at least one cell of every map, and keep positions within one image of it in 32 bits.
inline void check_map(const std::string& name, int64_t height, int64_t width, int64_t stride_y, int64_t stride_x) {
  const int64_t most = std::numeric_limits<int32_t>::max();
  check_range(height, (name + " height").c_str(), 1, most);
  check_range(width, (name + " width").c_str(), 1, most);
  const bool fits = stride_y <= most / height && stride_x <= most / width; // the products do not overflow
  ADET_CHECK(
      fits && (height - 1) * stride_y + (width - 1) * stride_x <= most, name,
      " must span less than 2^31 elements an image; got ", height, " x ", width);
}

inline void check_features(const std::vector<Tensor>& features, const std::vector<double>& scales) {
  check_levels(static_cast<int64_t>(features.size()), scales);
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor& x = features[l];
    const std::string name = "features[" + std::to_string(l) + "]";
    check_floating(x, name.c_str());
    if (l == 0) {
      check_shape(x, name.c_str(), {'N', 'C', 'H', 'W'});
    } else {
      check_shape(x, name.c_str(), {features[0].size(0), features[0].size(1), 'H', 'W'});
      check_like(x, name.c_str(), features[0]);
    }
    check_map(name, x.size(2), x.size(3), x.stride(2), x.stride(3));
  }
}

inline void check_images(int64_t images, const Tensor& boxes) {
  ADET_CHECK(images > 0 || boxes.size(0) == 0, "features must have images for ", boxes.size(0), " boxes; got 0");
}

// T: the features' type, const where they are read.
template <typename T, typename acc>
Levels<T, acc> make_levels(const std::vector<Tensor>& features, const std::vector<double>& scales) {
  Levels<T, acc> levels;
  levels.count = static_cast<int64_t>(features.size());
  levels.images = features[0].size(0);
  for (int64_t l = 0; l < levels.count; ++l) {
    const Tensor& x = features[l];
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

// (B, C, kh, kw), in the memory format asked for.
inline Tensor new_samples(const Tensor& like, int64_t d, int64_t c, int64_t kh, int64_t kw, bool channels_last) {
  if (!channels_last) {
    return torch::stable::new_empty(like, {d, c, kh, kw});
  }
  return torch::stable::permute(torch::stable::new_empty(like, {d, kh, kw, c}), {0, 3, 1, 2});
}

// grad in the layout that the kernels read: (B, kh, kw, C) or (B, C, kh, kw), contiguous.
inline Tensor dense_grad(const Tensor& grad, bool channels_last) {
  return torch::stable::contiguous(channels_last ? torch::stable::permute(grad, {0, 2, 3, 1}) : grad);
}

// Buffers of zeros in the type of sums, (N, H, W, C) or (N, C, H, W), and the description that kernels write with.
template <typename acc>
Levels<acc, acc> make_gradients(
    const Tensor& grad, const std::vector<int64_t>& sizes, const std::vector<double>& scales, bool channels_last,
    std::vector<Tensor>& buffers) {
  const int64_t count = (static_cast<int64_t>(sizes.size()) - 1) / 2;
  const int64_t n = sizes[0], c = grad.size(1);
  Levels<acc, acc> levels;
  levels.count = count;
  levels.images = n;
  for (int64_t l = 0; l < count; ++l) {
    const int64_t h = sizes[1 + 2 * l], w = sizes[2 + 2 * l];
    std::vector<int64_t> shape = channels_last ? std::vector<int64_t>{n, h, w, c} : std::vector<int64_t>{n, c, h, w};
    buffers.push_back(torch::stable::new_zeros(grad, shape, sum_type(grad)));
    const int64_t cell = channels_last ? c : 1;
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

// From buffers to the gradients: in the type of the features, and (N, C, H, W) for both layouts.
inline std::vector<Tensor> finish_gradients(std::vector<Tensor>& buffers, ScalarType type, bool channels_last) {
  std::vector<Tensor> gradients;
  for (Tensor& buffer : buffers) {
    Tensor x = buffer.scalar_type() == type ? buffer : torch::stable::to(buffer, type);
    gradients.push_back(channels_last ? torch::stable::permute(x, {0, 3, 1, 2}) : x);
  }
  return gradients;
}

// The gradient of a result: (B, C, kh, kw), with some points and not too many.
inline void check_points(const Tensor& grad) {
  check_shape(grad, "grad", {'B', 'C', 'h', 'w'});
  const int64_t kh = grad.size(2), kw = grad.size(3);
  ADET_CHECK(
      kh > 0 && kw > 0 && kh <= kMaxPoints && kw <= kMaxPoints && kh * kw <= kMaxPoints, "grad must have 1 to ",
      kMaxPoints, " points a box; got ", shape_of(grad));
}

// The operators of a Device. Its forward and backward_boxes fill in their last argument, and are called if that is not
// empty; backward_features makes the buffers.
template <class Device>
Tensor roi_sample(
    const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& image, const Tensor& level,
    const std::vector<double>& scales, int64_t kh, int64_t kw, int64_t border, bool channels_last) {
  check_features(features, scales);
  const RoiCall call(features[0], boxes, image, level, kh, kw, border);
  check_images(features[0].size(0), boxes);
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
  check_floating(grad, "grad");
  check_points(grad);
  const RoiCall call(grad, boxes, image, level, grad.size(2), grad.size(3), border);
  check_shape(grad, "grad", {boxes.size(0), 'C', 'h', 'w'});
  ADET_CHECK(sizes.size() % 2 == 1, "sizes must be N and two numbers a level; got ", sizes.size(), " numbers");
  check_levels((static_cast<int64_t>(sizes.size()) - 1) / 2, scales);
  check_range(sizes[0], "sizes[0]", 0, std::numeric_limits<int32_t>::max());
  for (size_t l = 0; 2 * l + 1 < sizes.size(); ++l) {
    const int64_t cell = channels_last ? grad.size(1) : 1;
    const int64_t width = sizes[2 * l + 2];
    const bool fits = width <= std::numeric_limits<int32_t>::max() / (cell > 0 ? cell : 1);
    check_map("sizes: level " + std::to_string(l), sizes[2 * l + 1], width, fits ? width * cell : width, cell);
    const double numbers = static_cast<double>(sizes[0]) * static_cast<double>(grad.size(1)) *
                           static_cast<double>(sizes[2 * l + 1]) * static_cast<double>(width);
    ADET_CHECK(numbers <= kMaxNumbers, "sizes must be of less than 2^36 numbers a level; got ", numbers);
  }
  check_images(sizes[0], boxes);
  std::vector<Tensor> buffers;
  Device::backward_features(call, grad, sizes, scales, channels_last, deterministic, buffers);
  return finish_gradients(buffers, grad.scalar_type(), channels_last);
}

template <class Device>
Tensor roi_sample_backward_boxes(
    const Tensor& grad, const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& image,
    const Tensor& level, const std::vector<double>& scales, int64_t border) {
  check_features(features, scales);
  check_points(grad);
  check_like(grad, "grad", features[0]);
  const RoiCall call(grad, boxes, image, level, grad.size(2), grad.size(3), border);
  check_shape(grad, "grad", {boxes.size(0), features[0].size(1), 'h', 'w'});
  check_images(features[0].size(0), boxes);
  Tensor out = torch::stable::new_empty(boxes, {boxes.size(0), 4});
  if (out.numel() > 0) {
    Device::backward_boxes(call, dense_grad(grad, true), features, scales, out);
  }
  return out;
}

} // namespace adet_ext
